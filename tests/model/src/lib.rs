//! A gateway in ordinary memory: what its tables say, and the pipeline run over them.
//!
//! [`Gateway`] says it once; [`HostGateway`] runs packets through it, and the kernel's maps are filled from the same.
//! Used by fixtures, differential runs, property tests and fuzz targets; depends on `gre-common` alone.

mod counters;
pub mod example;
mod gateway;
mod host;

pub use counters::{Action, Counters, Outcome};
pub use gateway::{Gateway, TunnelOptions};
pub use host::HostGateway;
