//! gregw as a library.

pub mod api;
pub mod capability;
pub mod cli;
pub mod client;
pub mod config;
pub mod error;
pub mod failure;
pub mod fib;
pub mod instance;
pub mod metrics;
pub mod peering;
pub mod plan;
pub mod report;
pub mod request;
pub mod show;
