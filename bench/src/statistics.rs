//! Figures from many measurements of the same thing.

/// The middle one; of two in the middle, what lies between.
pub(crate) fn median(values: &[f64]) -> f64 {
    let sorted = sorted(values);
    let middle = sorted.len() / 2;
    match sorted.len() % 2 {
        1 => sorted[middle],
        _ => sorted[middle - 1].midpoint(sorted[middle]),
    }
}

/// The value that a quarter of them is below.
pub(crate) fn quartile(values: &[f64]) -> f64 {
    sorted(values)[values.len() / 4]
}

/// What two groups of measurements say of one difference, where an unknown bias adds to it in one group and is taken from
/// it in the other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Shift {
    /// The median of the means of all pairs across the groups, which are free of the bias (Hodges and Lehmann).
    pub(crate) middle: f64,
    /// Where the difference lies with a probability of 95 % (Mann and Whitney). `None`: the groups are too small.
    pub(crate) interval: Option<(f64, f64)>,
}

impl Shift {
    /// Of the group to which the bias adds, and the other one. One alone keeps it.
    pub(crate) fn of(plus: &[f64], minus: &[f64]) -> Self {
        if plus.is_empty() || minus.is_empty() {
            return Self {
                middle: median(&[plus, minus].concat()),
                interval: None,
            };
        }
        let pairs = |first: &f64| minus.iter().map(|second| first.midpoint(*second)).collect();
        let means: Vec<f64> = plus.iter().flat_map::<Vec<f64>, _>(pairs).collect();
        let means = sorted(&means);
        let outside = means_outside(plus.len(), minus.len());
        Self {
            middle: median(&means),
            interval: outside.map(|outside| (means[outside], means[means.len() - 1 - outside])),
        }
    }
}

/// How many means of pairs lie on each side of the interval: as many as are below the true difference only once in forty
/// times.
///
/// If the order of all measurements is chance, the ways in which `below` means are below are the coefficients of a
/// Gaussian binomial, the product of (1 - q^(minus + i)) / (1 - q^i).
fn means_outside(plus: usize, minus: usize) -> Option<usize> {
    let mut ways = vec![0_i128; plus * minus + 1];
    ways[0] = 1;
    for factor in 1..=plus {
        for below in (minus + factor..ways.len()).rev() {
            ways[below] -= ways[below - minus - factor];
        }
        for below in factor..ways.len() {
            ways[below] += ways[below - factor];
        }
    }
    let all: i128 = ways.iter().sum();
    let mut fewest = 0;
    let rare = ways.iter().take_while(|ways| {
        fewest += **ways;
        fewest * 40 <= all
    });
    rare.count().checked_sub(1)
}

/// Rounds to so many digits behind the point.
pub(crate) fn round(value: f64, digits: i32) -> f64 {
    let factor = 10_f64.powi(digits);
    (value * factor).round() / factor
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_those_of_the_tables_of_mann_and_whitney() {
        // Critical values for a two-sided probability of 5 %.
        let critical = [
            (4, 4, 0),
            (4, 5, 1),
            (5, 5, 2),
            (6, 7, 6),
            (10, 10, 23),
            (20, 20, 127),
        ];
        for (plus, minus, value) in critical {
            assert_eq!(means_outside(plus, minus), Some(value), "{plus} {minus}");
        }
        assert_eq!(means_outside(3, 3), None);
        assert!(means_outside(50, 50).is_some());
    }

    #[test]
    fn neither_a_bias_nor_a_spoilt_measurement_moves_a_shift() {
        let mut plus = [14.0, 14.2, 13.9, 14.1, 13.8];
        let minus = [6.0, 6.1, 5.9, 5.8, 6.2];
        let close = |shift: Shift, tolerance: f64| (shift.middle - 10.0).abs() < tolerance;
        let shift = Shift::of(&plus, &minus);
        assert!(close(shift, 0.1), "{shift:?}");
        let (low, high) = shift.interval.unwrap();
        assert!(low > 9.7 && high < 10.3, "{shift:?}");
        plus[0] = 500.0;
        let shift = Shift::of(&plus, &minus);
        assert!(close(shift, 0.3), "{shift:?}");
    }

    #[test]
    fn one_measurement_has_no_interval() {
        let shift = Shift::of(&[3.0], &[]);
        assert_eq!((shift.middle, shift.interval), (3.0, None));
    }
}
