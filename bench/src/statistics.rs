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

/// What many measurements of one difference say of it, whatever they are spread like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Shift {
    /// The median of the means of all pairs of them (Hodges and Lehmann).
    pub(crate) middle: f64,
    /// Where it lies with a probability of 95 % (Wilcoxon's signed ranks). `None`: they are too few.
    pub(crate) interval: Option<(f64, f64)>,
}

impl Shift {
    /// Of independent differences.
    pub(crate) fn of(differences: &[f64]) -> Self {
        let mut means = Vec::new();
        for (number, first) in differences.iter().enumerate() {
            means.extend(
                differences[number..]
                    .iter()
                    .map(|second| first.midpoint(*second)),
            );
        }
        let means = sorted(&means);
        let interval = means_outside(differences.len())
            .map(|outside| (means[outside], means[means.len() - 1 - outside]));
        Self {
            middle: median(&means),
            interval,
        }
    }
}

/// How many means of pairs lie on each side of the interval, for `count` differences.
///
/// If the middle is 0, the number of means below 0 is a sum of ranks that have been chosen with a probability of a half
/// each; the interval leaves out as many as are below only once in forty times.
fn means_outside(count: usize) -> Option<usize> {
    let mut probabilities: Vec<f64> = vec![1.0];
    for rank in 1..=count {
        let unchosen = probabilities.iter().chain(std::iter::repeat_n(&0.0, rank));
        let chosen = std::iter::repeat_n(&0.0, rank).chain(&probabilities);
        probabilities = unchosen.zip(chosen).map(|(a, b)| a.midpoint(*b)).collect();
    }
    let mut below = 0.0;
    let fits = probabilities.iter().take_while(|probability| {
        below += **probability;
        below <= 0.025
    });
    fits.count().checked_sub(1)
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
    fn intervals_are_those_of_the_tables_of_signed_ranks() {
        // Critical values for a two-sided probability of 5 %.
        let critical = [(6, 0), (7, 2), (8, 3), (9, 5), (10, 8), (20, 52)];
        for (count, value) in critical {
            assert_eq!(means_outside(count), Some(value), "{count}");
        }
        assert_eq!(means_outside(5), None);
    }

    #[test]
    fn a_spoilt_measurement_moves_a_shift_little() {
        let mut differences = [9.0, 10.0, 11.0, 10.5, 9.5, 10.2, 9.8, 10.1, 9.9, 10.0];
        let before = Shift::of(&differences);
        differences[0] = 500.0;
        let after = Shift::of(&differences);
        assert!((before.middle - 10.0).abs() < 0.1, "{before:?}");
        assert!((after.middle - 10.0).abs() < 0.3, "{after:?}");
        let (low, high) = before.interval.unwrap();
        assert!(low > 9.0 && high < 11.0, "{before:?}");
    }

    #[test]
    fn one_measurement_has_no_interval() {
        let shift = Shift::of(&[3.0]);
        assert_eq!((shift.middle, shift.interval), (3.0, None));
    }
}
