//! gregw as a library.

pub mod adjacency;
pub mod api;
pub mod apply;
pub mod capability;
pub mod cli;
pub mod client;
pub mod config;
pub mod daemon;
pub mod dataplane;
pub mod error;
pub mod failure;
pub mod fib;
pub mod gateway;
mod id_pool;
pub mod instance;
mod inventory;
pub mod metrics;
pub mod neighbour;
pub mod netlink;
pub mod object;
pub mod peering;
pub mod plan;
mod remembered;
pub mod report;
pub mod request;
pub mod show;
pub mod solicitation;
