//! What the API asks of the daemon's gateway: messages of one channel, each with the sender of its answer.
//!
//! Made by `api` and `metrics`, answered by the single owner of all state in the daemon. Whoever asked may have gone:
//! an answer that nobody takes is no error.

use tokio::sync::{mpsc, oneshot};

use crate::failure::{ExitCode, Failure};
use crate::report::{
    Change, Device, DropCounter, Neighbour, Network, Peering, Port, Route, Snapshot, Tunnel,
};

/// Where an answer goes.
pub type Reply<T> = oneshot::Sender<T>;

/// Where requests go.
pub type Requests = mpsc::Sender<Request>;

/// One request. Lists are complete and ordered by name, unless said otherwise; those that take a `name` hold only what is
/// called so, which may be nothing, and cost no more than that.
#[derive(Debug)]
pub enum Request {
    /// Tunnels.
    Tunnels {
        /// Only this one.
        name: Option<String>,
        /// Takes the tunnels.
        reply: Reply<Vec<Tunnel>>,
    },
    /// Networks.
    Networks {
        /// Only this one.
        name: Option<String>,
        /// Takes the networks.
        reply: Reply<Vec<Network>>,
    },
    /// Ports.
    Ports {
        /// Only this one.
        name: Option<String>,
        /// Takes the ports.
        reply: Reply<Vec<Port>>,
    },
    /// All stated sides of peerings, ordered by network, then remote.
    Peerings(Reply<Vec<Peering>>),
    /// The routes of one network, or of all, ordered by network, then prefix, then preference. Routes of an unknown
    /// network are none.
    Routes {
        /// Only those of this network.
        network: Option<String>,
        /// Takes the routes.
        reply: Reply<Vec<Route>>,
    },
    /// All known machines, ordered by port, then address.
    Neighbours(Reply<Vec<Neighbour>>),
    /// All drop counters that are not zero, ordered by owner, then reason.
    Drops(Reply<Vec<DropCounter>>),
    /// Devices of underlays and ports.
    Devices {
        /// Only this one.
        name: Option<String>,
        /// Takes the devices.
        reply: Reply<Vec<Device>>,
    },
    /// All that is exported as metrics; tunnels and drops in no order.
    Snapshot(Reply<Snapshot>),
    /// The difference between what runs and a configuration, which is validated.
    Plan {
        /// The configuration.
        document: Document,
        /// Takes the difference.
        reply: Reply<Result<Vec<Change>, Failure>>,
    },
    /// The same, made.
    Apply {
        /// The configuration.
        document: Document,
        /// Takes the difference that was made.
        reply: Reply<Result<Vec<Change>, Failure>>,
    },
    /// Removes programs and pins; after a success the daemon ends.
    Detach(Reply<Result<(), Failure>>),
}

/// A configuration file that was read elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Document {
    /// Its name, for diagnostics.
    pub name: String,
    /// Its contents.
    pub text: String,
}

/// Asks the gateway and waits for its answer.
///
/// # Errors
/// The gateway is ending and answers nobody any more.
pub async fn ask<T>(
    requests: &Requests,
    request: impl FnOnce(Reply<T>) -> Request,
) -> Result<T, Failure> {
    let gone = || {
        Failure::new(
            ExitCode::Failure,
            "the gateway is ending and did not answer",
        )
    };
    let (reply, answer) = oneshot::channel();
    requests.send(request(reply)).await.map_err(|_| gone())?;
    answer.await.map_err(|_| gone())
}
