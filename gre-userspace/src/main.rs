//! The gregw command.
fn main() {}
