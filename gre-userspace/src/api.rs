//! HTTP and JSON over a unix socket: how `gregw show`, `plan`, `apply` and `detach` reach a running daemon.
//!
//! Started by the daemon. Holds no state: each request becomes a message to the gateway, whose answer is sent as
//! JSON. Encoding runs beside the daemon's thread, so that a long list does not hold it up.

use std::fmt;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use nix::sys::stat::{Mode, umask};
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;

use crate::failure::{ExitCode, Failure};
use crate::report::{Device, DropCounter, Neighbour, Network, Peering, Port, Route, Tunnel};
use crate::request::{Document, Request, Requests, ask};
use crate::server;

/// Where differences are asked for: POST a [`Document`], get an array of [`crate::report::Change`].
pub const PLAN: &str = "/v1/plan";
/// Where differences are made; as [`PLAN`].
pub const APPLY: &str = "/v1/apply";
/// Where the gateway is told to remove itself: POST nothing, get nothing.
pub const DETACH: &str = "/v1/detach";

/// Largest configuration that is taken, in bytes: some hundred thousand tunnels.
const MAX_DOCUMENT: usize = 64 << 20;

/// A list that can be asked for: GET an array of it, all or, with `?name=`, those of one name.
pub trait Resource {
    /// Its path.
    const PATH: &str;
}

/// The daemon's socket. The file is removed when this is dropped.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    file: SocketFile,
}

impl Socket {
    /// Listens at `path`, for the user of this process only. A file that a crash left behind is replaced.
    ///
    /// # Errors
    /// [`ExitCode::Busy`] if somebody listens there already.
    pub fn bind(path: &Path) -> Result<Self, Failure> {
        let failure = |error: io::Error| {
            let text = format!("cannot listen on {}: {error}", path.display());
            Failure::new(ExitCode::Failure, text)
        };
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(failure)?;
        }
        remove_stale(path)?;

        // From its first moment nobody else may connect.
        let before = umask(Mode::from_bits_truncate(0o177));
        let listener = UnixListener::bind(path);
        umask(before);

        let listener = listener.map_err(failure)?;
        let file = SocketFile::new(path).map_err(failure)?;
        Ok(Self { listener, file })
    }
}

/// Serves the API until `stop`, and then to the end of the requests that have begun.
pub async fn serve(
    socket: Socket,
    requests: Requests,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let Socket { listener, file } = socket;
    let result = server::serve(listener, router(requests), stop).await;
    drop(file);
    result
}

fn router(requests: Requests) -> Router {
    Router::new()
        .route(Tunnel::PATH, get(tunnels))
        .route(Network::PATH, get(networks))
        .route(Port::PATH, get(ports))
        .route(Peering::PATH, get(peerings))
        .route(Route::PATH, get(routes))
        .route(Neighbour::PATH, get(neighbours))
        .route(DropCounter::PATH, get(drops))
        .route(Device::PATH, get(devices))
        .route(PLAN, post(plan))
        .route(APPLY, post(apply))
        .route(DETACH, post(detach))
        .fallback(unknown_path)
        .layer(DefaultBodyLimit::max(MAX_DOCUMENT))
        .with_state(requests)
}

pub(crate) type Answer = Result<Response, Failure>;
type Filter = Result<Query<Name>, QueryRejection>;

/// The query of every list.
#[derive(Debug, Deserialize)]
struct Name {
    name: Option<String>,
}

async fn tunnels(State(requests): State<Requests>, filter: Filter) -> Answer {
    json(named_tunnels(&requests, name(filter)?).await?).await
}

async fn networks(State(requests): State<Requests>, filter: Filter) -> Answer {
    json(named_networks(&requests, name(filter)?).await?).await
}

async fn ports(State(requests): State<Requests>, filter: Filter) -> Answer {
    json(named_ports(&requests, name(filter)?).await?).await
}

async fn devices(State(requests): State<Requests>, filter: Filter) -> Answer {
    json(named_devices(&requests, name(filter)?).await?).await
}

async fn peerings(State(requests): State<Requests>, filter: Filter) -> Answer {
    let mut peerings = ask(&requests, Request::Peerings).await?;
    if let Some(name) = name(filter)? {
        peerings.retain(|peering| peering.network == name || peering.remote == name);
        if peerings.is_empty() {
            named_networks(&requests, Some(name)).await?;
        }
    }
    json(peerings).await
}

async fn routes(State(requests): State<Requests>, filter: Filter) -> Answer {
    let name = name(filter)?;
    let network = name.clone();
    let routes = ask(&requests, |reply| Request::Routes { network, reply }).await?;
    if name.is_some() && routes.is_empty() {
        named_networks(&requests, name).await?;
    }
    json(routes).await
}

async fn neighbours(State(requests): State<Requests>, filter: Filter) -> Answer {
    let mut neighbours = ask(&requests, Request::Neighbours).await?;
    if let Some(name) = name(filter)? {
        neighbours.retain(|neighbour| neighbour.port == name);
        if neighbours.is_empty() {
            named_ports(&requests, Some(name)).await?;
        }
    }
    json(neighbours).await
}

async fn drops(State(requests): State<Requests>, filter: Filter) -> Answer {
    let mut drops = ask(&requests, Request::Drops).await?;
    if let Some(name) = name(filter)? {
        drops.retain(|drop| drop.name == name);
        if drops.is_empty() {
            require_owner(&requests, &name).await?;
        }
    }
    json(drops).await
}

async fn plan(
    State(requests): State<Requests>,
    document: Result<Json<Document>, JsonRejection>,
) -> Answer {
    let document = document?.0;
    let changes = ask(&requests, |reply| Request::Plan { document, reply }).await??;
    json(changes).await
}

async fn apply(
    State(requests): State<Requests>,
    document: Result<Json<Document>, JsonRejection>,
) -> Answer {
    let document = document?.0;
    let changes = ask(&requests, |reply| Request::Apply { document, reply }).await??;
    json(changes).await
}

async fn detach(State(requests): State<Requests>) -> Answer {
    ask(&requests, Request::Detach).await??;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn unknown_path() -> Failure {
    let text = "no such path: are daemon and command line of the same version?";
    Failure::new(ExitCode::NotFound, text)
}

fn name(filter: Filter) -> Result<Option<String>, Failure> {
    Ok(filter?.0.name)
}

async fn named_tunnels(requests: &Requests, name: Option<String>) -> Result<Vec<Tunnel>, Failure> {
    let only = name.clone();
    let found = ask(requests, |reply| Request::Tunnels { name: only, reply }).await?;
    found_all("tunnel", found, name)
}

async fn named_networks(
    requests: &Requests,
    name: Option<String>,
) -> Result<Vec<Network>, Failure> {
    let only = name.clone();
    let found = ask(requests, |reply| Request::Networks { name: only, reply }).await?;
    found_all("network", found, name)
}

async fn named_ports(requests: &Requests, name: Option<String>) -> Result<Vec<Port>, Failure> {
    let only = name.clone();
    let found = ask(requests, |reply| Request::Ports { name: only, reply }).await?;
    found_all("port", found, name)
}

async fn named_devices(requests: &Requests, name: Option<String>) -> Result<Vec<Device>, Failure> {
    let only = name.clone();
    let found = ask(requests, |reply| Request::Devices { name: only, reply }).await?;
    found_all("device", found, name)
}

/// What was found, which is something if a name was asked for.
fn found_all<T>(kind: &str, found: Vec<T>, name: Option<String>) -> Result<Vec<T>, Failure> {
    match name {
        Some(name) if found.is_empty() => {
            let text = format!("there is no {kind} `{name}`: `gregw show {kind}` lists all");
            Err(Failure::new(ExitCode::NotFound, text))
        }
        _ => Ok(found),
    }
}

/// Fails unless a tunnel, port or device is called `name`.
async fn require_owner(requests: &Requests, name: &str) -> Result<(), Failure> {
    let wanted = || Some(name.to_owned());
    if named_tunnels(requests, wanted()).await.is_ok()
        || named_ports(requests, wanted()).await.is_ok()
        || named_devices(requests, wanted()).await.is_ok()
    {
        return Ok(());
    }
    let text = format!("there is no tunnel, port or device `{name}`");
    Err(Failure::new(ExitCode::NotFound, text))
}

/// A list as JSON, encoded on a thread of its own.
async fn json<T: Serialize + Send + 'static>(items: Vec<T>) -> Answer {
    let failure = |error: &dyn fmt::Display| {
        let text = format!("cannot encode the answer: {error}");
        Failure::new(ExitCode::Failure, text)
    };
    let body = tokio::task::spawn_blocking(move || serde_json::to_vec(&items))
        .await
        .map_err(|error| failure(&error))?
        .map_err(|error| failure(&error))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = match self.exit_code {
            ExitCode::Failure => StatusCode::INTERNAL_SERVER_ERROR,
            ExitCode::Configuration => StatusCode::UNPROCESSABLE_ENTITY,
            ExitCode::NotFound => StatusCode::NOT_FOUND,
            ExitCode::MissingCapability => StatusCode::FORBIDDEN,
            ExitCode::Busy => StatusCode::CONFLICT,
            ExitCode::MissingKernelFeature => StatusCode::NOT_IMPLEMENTED,
        };
        (status, Json(self)).into_response()
    }
}

impl From<JsonRejection> for Failure {
    fn from(rejection: JsonRejection) -> Self {
        let text = format!(
            "the configuration did not arrive: {}",
            rejection.body_text()
        );
        Self::new(ExitCode::Configuration, text)
    }
}

impl From<QueryRejection> for Failure {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(ExitCode::Configuration, rejection.body_text())
    }
}

impl Resource for Tunnel {
    const PATH: &str = "/v1/tunnels";
}

impl Resource for Network {
    const PATH: &str = "/v1/networks";
}

impl Resource for Port {
    const PATH: &str = "/v1/ports";
}

impl Resource for Peering {
    const PATH: &str = "/v1/peerings";
}

impl Resource for Route {
    const PATH: &str = "/v1/routes";
}

impl Resource for Neighbour {
    const PATH: &str = "/v1/neighbours";
}

impl Resource for DropCounter {
    const PATH: &str = "/v1/drops";
}

impl Resource for Device {
    const PATH: &str = "/v1/devices";
}

/// Removes the socket at `path` if nobody listens on it.
fn remove_stale(path: &Path) -> Result<(), Failure> {
    let shown = path.display();
    let busy = |text| Err(Failure::new(ExitCode::Busy, text));
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return busy(format!(
                "{shown} is in the way: it is not a socket, remove it"
            ));
        }
        _ => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => busy(format!(
            "another daemon listens on {shown}: end it first, or choose another name with --instance"
        )),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|error| {
                let text = format!("cannot remove {shown}, on which nobody listens: {error}");
                Failure::new(ExitCode::Failure, text)
            })
        }
        Err(error) => {
            let text = format!("cannot tell whether a daemon listens on {shown}: {error}");
            Err(Failure::new(ExitCode::Failure, text))
        }
    }
}

/// Removes the file when dropped, if it is still the one that was made.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            inode: std::fs::symlink_metadata(path)?.ino(),
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| metadata.ino() == self.inode);
        if is_ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}
