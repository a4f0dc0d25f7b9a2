//! gregw as a library.

pub mod failure;
pub mod report;
pub mod request;
