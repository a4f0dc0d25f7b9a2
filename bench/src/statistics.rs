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
