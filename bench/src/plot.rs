//! Line charts as SVG, readable on light and dark ground, for the documentation.

use std::fmt::Write as _;

/// A chart with logarithmic axes.
#[derive(Clone, Debug)]
pub(crate) struct Chart {
    /// What it shows.
    pub(crate) title: String,
    /// What is from left to right.
    pub(crate) across: String,
    /// The lines, at most six.
    pub(crate) lines: Vec<Line>,
}

/// One line of a chart.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// What it is of.
    pub(crate) name: String,
    /// Its points, all above zero, from left to right.
    pub(crate) points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 400.0;
/// Around the axes: left, top, right, bottom.
const MARGIN: [f64; 4] = [64.0, 48.0, 200.0, 56.0];
const STYLE: &str = "\
svg{font:13px system-ui,sans-serif;fill:#1f2328}.grid{stroke:#d0d7de}.line{fill:none;stroke-width:2}\
.c0{stroke:#0969da}.c1{stroke:#cf222e}.c2{stroke:#1a7f37}.c3{stroke:#8250df}.c4{stroke:#bc4c00}.c5{stroke:#57606a}\
@media(prefers-color-scheme:dark){svg{fill:#e6edf3}.grid{stroke:#3d444d}.c0{stroke:#58a6ff}.c1{stroke:#ff7b72}\
.c2{stroke:#56d364}.c3{stroke:#d2a8ff}.c4{stroke:#ffa657}.c5{stroke:#9198a1}}";

impl Chart {
    /// The chart as a file.
    pub(crate) fn svg(&self) -> String {
        let (x, y) = (self.axis(|point| point.0), self.axis(|point| point.1));
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\
             <title>{title}</title><style>{STYLE}</style>\n\
             <text x=\"{left}\" y=\"24\" font-size=\"16\">{title}</text>\n",
            title = escaped(&self.title),
            left = MARGIN[0],
        );
        for value in x.marks() {
            mark(
                &mut svg,
                (x.across(value), bottom()),
                (x.across(value), MARGIN[1]),
                value,
            );
        }
        for value in y.marks() {
            mark(
                &mut svg,
                (MARGIN[0], y.up(value)),
                (right(), y.up(value)),
                value,
            );
        }
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            f64::midpoint(MARGIN[0], right()),
            HEIGHT - 12.0,
            escaped(&self.across)
        );
        for (number, line) in self.lines.iter().enumerate() {
            self.draw(&mut svg, number, line, (x, y));
        }
        svg.push_str("</svg>\n");
        svg
    }

    fn draw(&self, svg: &mut String, number: usize, line: &Line, (x, y): (Axis, Axis)) {
        let points: Vec<String> = line
            .points
            .iter()
            .map(|point| format!("{:.1},{:.1}", x.across(point.0), y.up(point.1)))
            .collect();
        let place = MARGIN[1] + 20.0 * number as f64;
        let _ = writeln!(
            svg,
            "<polyline class=\"line c{number}\" points=\"{}\"/>\
             <path class=\"line c{number}\" d=\"M{} {place}h20\"/>\
             <text x=\"{}\" y=\"{}\">{}</text>",
            points.join(" "),
            right() + 16.0,
            right() + 42.0,
            place + 4.0,
            escaped(&line.name)
        );
    }

    fn axis(&self, of: impl Fn(&(f64, f64)) -> f64) -> Axis {
        let values = || self.lines.iter().flat_map(|line| &line.points).map(&of);
        Axis {
            low: values().fold(f64::INFINITY, f64::min).log10().floor(),
            high: values().fold(1.0, f64::max).log10().ceil(),
        }
    }
}

/// A logarithmic axis between two powers of ten.
#[derive(Clone, Copy)]
struct Axis {
    low: f64,
    high: f64,
}

impl Axis {
    fn marks(self) -> impl Iterator<Item = f64> {
        let count = (self.high - self.low) as i32;
        (0..=count).map(move |step| 10_f64.powf(self.low + f64::from(step)))
    }

    fn across(self, value: f64) -> f64 {
        MARGIN[0] + self.part(value) * (right() - MARGIN[0])
    }

    fn up(self, value: f64) -> f64 {
        bottom() - self.part(value) * (bottom() - MARGIN[1])
    }

    fn part(self, value: f64) -> f64 {
        (value.log10() - self.low) / (self.high - self.low).max(1.0)
    }
}

/// A line across the chart, and the value beside its beginning.
fn mark(svg: &mut String, from: (f64, f64), to: (f64, f64), value: f64) {
    let upright = (from.0 - to.0).abs() < f64::EPSILON;
    let (anchor, x, y) = if upright {
        ("middle", from.0, from.1 + 18.0)
    } else {
        ("end", from.0 - 8.0, from.1 + 4.0)
    };
    let _ = writeln!(
        svg,
        "<path class=\"grid\" d=\"M{:.1} {:.1}L{:.1} {:.1}\"/>\
         <text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>",
        from.0,
        from.1,
        to.0,
        to.1,
        short(value)
    );
}

fn right() -> f64 {
    WIDTH - MARGIN[2]
}

fn bottom() -> f64 {
    HEIGHT - MARGIN[3]
}

fn short(value: f64) -> String {
    match value {
        1e6.. => format!("{} M", value / 1e6),
        1e3.. => format!("{} k", value / 1e3),
        _ => format!("{value}"),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greater_values_are_further_up_and_to_the_right() {
        let chart = Chart {
            title: "a < b".to_owned(),
            across: "routes".to_owned(),
            lines: vec![Line {
                name: "one".to_owned(),
                points: vec![(10.0, 5.0), (1e6, 50.0)],
            }],
        };
        let svg = chart.svg();
        let (_, rest) = svg.split_once("points=\"").unwrap();
        let (points, _) = rest.split_once('"').unwrap();
        let numbers: Vec<f64> = points
            .split([' ', ','])
            .map(|number| number.parse().unwrap())
            .collect();
        assert!(
            numbers[0] < numbers[2] && numbers[1] > numbers[3],
            "{points}"
        );
        assert!(svg.contains("a &lt; b") && svg.contains(">1 M<"));
    }
}
