//! gregw as a library.

pub mod capability;
pub mod config;
pub mod error;
pub mod failure;
pub mod instance;
pub mod peering;
pub mod report;
pub mod request;
