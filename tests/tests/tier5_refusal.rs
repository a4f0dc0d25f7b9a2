//! Tier 5, on kernels that are too old: gregw refuses to start before it has made anything, and says what would do.

#[test]
fn placeholder() {}
