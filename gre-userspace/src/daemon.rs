//! The daemon: `gregw run` and `gregw detach`.
//!
//! One thread, one event loop, one owner of all state ([`Gateway`]). The API and the metrics only send messages to the
//! loop. Ending the daemon leaves the data plane running; only `detach` removes it.

use std::path::PathBuf;
use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use sd_notify::NotifyState;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, yield_now};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until, timeout};

use crate::api;
use crate::capability;
use crate::config::{Config, printed};
use crate::dataplane::{self, Streams};
use crate::descriptors;
use crate::error::Error;
use crate::failure::{ExitCode, Failure};
use crate::gateway::{Gateway, ROUND_INTERVAL, release_all_on};
use crate::instance::Instance;
use crate::kernel;
use crate::metrics;
use crate::multicast;
use crate::netlink::{self, Notifications};
use crate::pace::Pace;
use crate::request::{Document, Request, Requests};
use crate::snapshots::Snapshots;

/// How long a killed daemon may take to go.
pub const DYING: Duration = Duration::from_secs(1);
/// How long requests that have begun may take to come to their end when the daemon ends.
const CLOSING: Duration = Duration::from_secs(5);
/// Requests that may wait for the loop.
const REQUESTS: usize = 64;
/// Records of the data plane worked off before the loop looks at anything else.
const EVENTS_AT_ONCE: usize = 1024;

/// Runs a gateway until it is told to end.
///
/// # Errors
/// It could not start: the exit code says which kind of reason; nothing is left half-done.
pub fn run(instance: Instance, file: PathBuf) -> Result<(), Failure> {
    let config = Config::load(&file)?;
    kernel::check_version()?;
    capability::require()?;
    // The first thing taken is the last one given up: whoever has the lock meets no socket and no map of this daemon.
    let lock = instance.lock_within(DYING)?;
    let result = run_locked(instance, file, config);
    let unlocked = lock.remove();
    result?;
    Ok(unlocked?)
}

/// Removes what an instance without a running daemon has left behind. Returns whether there was anything.
///
/// # Errors
/// [`ExitCode::Busy`] if a daemon still runs after `patience`: ask that one.
pub fn detach(instance: &Instance, patience: Duration) -> Result<bool, Failure> {
    let lock = instance.lock_within(patience)?;
    // The links of all devices are open for a moment.
    descriptors::room_for_devices()?;
    let devices = dataplane::devices_left(instance)?;
    if !devices.is_empty() {
        runtime()?.block_on(async {
            let (netlink, _notifications) = netlink::connect()?;
            release_all_on(&netlink, &devices).await;
            Ok::<_, Error>(())
        })?;
        multicast::synchronise(std::iter::empty(), &devices);
    }
    Ok(dataplane::remove_leftovers(instance, lock)?)
}

fn runtime() -> Result<Runtime, Error> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::system("start the event loop", source))
}

fn run_locked(instance: Instance, file: PathBuf, config: Config) -> Result<(), Failure> {
    runtime()?.block_on(async {
        let (daemon, gateway) = Daemon::start(instance, file, config).await?;
        daemon.serve(gateway).await
    })
}

/// Everything of the daemon but the gateway: where news come from and where answers go.
struct Daemon {
    file: PathBuf,
    inbox: mpsc::Receiver<Request>,
    requests: Requests,
    notifications: Notifications,
    streams: Streams,
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
    api: Api,
    metrics: Option<metrics::Endpoint>,
    snapshots: Snapshots,
}

struct Api {
    task: JoinHandle<std::io::Result<()>>,
    stop: watch::Sender<bool>,
}

/// Whether the loop goes on.
enum Step {
    Continue,
    /// End and leave the data plane running.
    Leave,
    /// End and remove the data plane; whoever asked wants to know.
    Detach(crate::request::Reply<Result<(), Failure>>),
}

impl Daemon {
    async fn start(
        instance: Instance,
        file: PathBuf,
        config: Config,
    ) -> Result<(Self, Gateway), Failure> {
        let (netlink, notifications) = netlink::connect()?;
        let socket = api::Socket::bind(&instance.socket())?;
        let metrics = match config.gateway.metrics {
            Some(address) => Some(metrics::listen(address, None)?),
            None => None,
        };
        let (hangup, terminate, interrupt) = (
            watch_signal(SignalKind::hangup())?,
            watch_signal(SignalKind::terminate())?,
            watch_signal(SignalKind::interrupt())?,
        );
        let (gateway, streams) = Gateway::start(instance, netlink, config).await?;
        if let Err(error) = capability::drop_unneeded() {
            tracing::error!(
                "ending; the data plane goes on without a daemon, `gregw detach` removes it"
            );
            gateway.leave()?;
            return Err(error.into());
        }

        let (requests, inbox) = mpsc::channel(REQUESTS);
        let api = Api::serve(socket, requests.clone());
        let metrics = metrics
            .map(|listener| metrics::Endpoint::serve(listener, requests.clone()))
            .transpose()?;
        let daemon = Self {
            file,
            inbox,
            requests,
            notifications,
            streams,
            hangup,
            terminate,
            interrupt,
            api,
            metrics,
            snapshots: Snapshots::default(),
        };
        Ok((daemon, gateway))
    }

    async fn serve(mut self, mut gateway: Gateway) -> Result<(), Failure> {
        notify(&[NotifyState::Ready]);
        tracing::info!("running");
        let mut rounds = interval(ROUND_INTERVAL);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pace = Pace::default();
        // Half of what the service manager bears, as sd_watchdog_enabled(3) asks for.
        let mut watchdog = sd_notify::watchdog_enabled().map(|limit| interval(limit / 2));
        let step = loop {
            tokio::select! {
                _ = self.terminate.recv() => break Step::Leave,
                _ = self.interrupt.recv() => break Step::Leave,
                _ = self.hangup.recv() => self.reload_file(&mut gateway).await,
                Some(request) = self.inbox.recv() => {
                    match self.answer(&mut gateway, request).await {
                        Step::Continue => {}
                        end => break end,
                    }
                }
                notification = self.notifications.next() => {
                    let Some(notification) = notification else {
                        return Err(Failure::new(ExitCode::Failure, "the kernel's notifications have ended"));
                    };
                    if gateway.notice(notification) {
                        pace.note(Instant::now());
                    }
                }
                () = at(pace.due()) => {
                    gateway.refresh().await;
                    pace.done(Instant::now());
                }
                Ok(mut guard) = self.streams.events.readable_mut() => {
                    if hear(&mut gateway, guard.get_inner_mut()) {
                        guard.clear_ready();
                    }
                    gateway.carry_out();
                }
                () = flush_log(self.streams.logger.as_mut()) => {}
                _ = rounds.tick() => gateway.round().await,
                // Lets connections be served meanwhile.
                () = yield_now(), if self.snapshots.is_at_work() => {
                    self.snapshots.go_on(&gateway);
                }
                () = tick(watchdog.as_mut()) => notify(&[NotifyState::Watchdog]),
            }
        };
        self.end(gateway, step).await
    }

    async fn end(self, gateway: Gateway, step: Step) -> Result<(), Failure> {
        let Self {
            inbox,
            streams,
            api,
            metrics,
            ..
        } = self;
        notify(&[NotifyState::Stopping]);
        // Whoever waits for an answer is told that there will be none.
        drop(inbox);
        // Whoever asks for a detach finds no map in the kernel once it is answered.
        drop(streams);
        let result = match step {
            Step::Detach(reply) => {
                let result = gateway.detach().await;
                tracing::info!("detached");
                // Whoever asked may have gone.
                let _ = reply.send(result.clone());
                result
            }
            Step::Continue | Step::Leave => {
                tracing::info!("ending; the data plane goes on without a daemon");
                gateway.leave()
            }
        };
        drop(metrics);
        api.close().await;
        result
    }

    async fn reload_file(&mut self, gateway: &mut Gateway) {
        let result = match Config::load(&self.file) {
            Ok(config) => self.reload(gateway, config).await,
            Err(error) => Err(error.into()),
        };
        match result {
            Ok(changes) => tracing::info!(
                "{} reloaded: {} changes",
                self.file.display(),
                changes.len()
            ),
            Err(failure) => {
                tracing::error!("{} is refused: {failure}", self.file.display());
                let (diagnostics, note) = printed(&failure.diagnostics);
                for diagnostic in diagnostics {
                    tracing::error!("line {}: {}", diagnostic.place.line, diagnostic.message);
                }
                if let Some(line) = note {
                    tracing::error!("{line}");
                }
            }
        }
    }

    async fn reload(
        &mut self,
        gateway: &mut Gateway,
        config: Config,
    ) -> Result<Vec<crate::report::Change>, Failure> {
        let now = NotifyState::monotonic_usec_now();
        match now {
            Ok(now) => notify(&[NotifyState::Reloading, now]),
            Err(_) => notify(&[NotifyState::Reloading]),
        }
        let result = self.reload_all(gateway, config).await;
        self.snapshots.begin_anew(gateway);
        notify(&[NotifyState::Ready]);
        result
    }

    /// Metrics move only once all else has changed, to an address that was found free before.
    async fn reload_all(
        &mut self,
        gateway: &mut Gateway,
        config: Config,
    ) -> Result<Vec<crate::report::Change>, Failure> {
        let address = config.gateway.metrics;
        if self.metrics.as_ref().map(metrics::Endpoint::address) == address {
            return gateway.reload(config).await;
        }
        let listener = address
            .map(|address| metrics::listen(address, self.metrics.as_ref()))
            .transpose()?;
        let changes = gateway.reload(config).await?;
        self.metrics = listener
            .map(|listener| metrics::Endpoint::serve(listener, self.requests.clone()))
            .transpose()?;
        Ok(changes)
    }

    async fn answer(&mut self, gateway: &mut Gateway, request: Request) -> Step {
        match request {
            Request::Tunnels { name, reply } => {
                let _ = reply.send(gateway.tunnels(name.as_deref()));
            }
            Request::Networks { name, reply } => {
                let _ = reply.send(gateway.networks(name.as_deref()));
            }
            Request::Ports { name, reply } => {
                let _ = reply.send(gateway.ports(name.as_deref()));
            }
            Request::Peerings(reply) => {
                let _ = reply.send(gateway.peerings());
            }
            Request::Routes { network, reply } => {
                let _ = reply.send(gateway.routes(network.as_deref()));
            }
            Request::Neighbours(reply) => {
                let _ = reply.send(gateway.neighbours());
            }
            Request::Drops(reply) => {
                let _ = reply.send(gateway.drops(&gateway.read_drops()));
            }
            Request::Devices { name, reply } => {
                let _ = reply.send(gateway.devices_report(name.as_deref()));
            }
            Request::Snapshot(reply) => self.snapshots.ask(gateway, reply),
            Request::Plan { document, reply } => {
                let result = match parse(&document) {
                    Ok(config) => gateway.compare(config).await,
                    Err(failure) => Err(failure),
                };
                let _ = reply.send(result);
            }
            Request::Apply { document, reply } => {
                let result = match parse(&document) {
                    Ok(config) => self.reload(gateway, config).await,
                    Err(failure) => Err(failure),
                };
                let _ = reply.send(result);
            }
            Request::Detach(reply) => return Step::Detach(reply),
        }
        Step::Continue
    }
}

impl Api {
    fn serve(socket: api::Socket, requests: Requests) -> Self {
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(api::serve(socket, requests, until(stopped)));
        Self { task, stop }
    }

    /// Lets requests that have begun come to their end, if they do so in time.
    async fn close(mut self) {
        self.stop.send_replace(true);
        match timeout(CLOSING, &mut self.task).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::error!("the API has failed: {error}"),
            Ok(Err(error)) => tracing::error!("the API has failed: {error}"),
            Err(_) => {
                tracing::warn!("connections to the API are cut off: their requests do not end");
                self.task.abort();
                // The socket's file goes with the task.
                let _ = self.task.await;
            }
        }
    }
}

fn parse(document: &Document) -> Result<Config, Failure> {
    Config::parse(&document.name, document.text.as_bytes())
        .map_err(|diagnostics| Failure::from(&diagnostics))
}

fn watch_signal(kind: SignalKind) -> Result<Signal, Error> {
    signal(kind).map_err(|source| Error::system("receive signals", source))
}

/// Ready once the channel says so, or its sender has gone.
async fn until(mut stopped: watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// Ready at an instant, or never.
async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// Ready once an interval, or never.
async fn tick(interval: Option<&mut Interval>) {
    match interval {
        Some(interval) => {
            interval.tick().await;
        }
        None => std::future::pending().await,
    }
}

/// Returns whether all records have been worked off.
fn hear(gateway: &mut Gateway, events: &mut RingBuf<MapData>) -> bool {
    for _ in 0..EVENTS_AT_ONCE {
        let Some(record) = events.next() else {
            return true;
        };
        if let Some(event) = dataplane::event(&record) {
            gateway.hear(&event);
        }
    }
    false
}

async fn flush_log(logger: Option<&mut AsyncFd<aya_log::EbpfLogger<&'static dyn log::Log>>>) {
    let Some(logger) = logger else {
        return std::future::pending().await;
    };
    if let Ok(mut guard) = logger.readable_mut().await {
        guard.get_inner_mut().flush();
        guard.clear_ready();
    }
}

/// Without systemd there is nobody to tell.
fn notify(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!("cannot notify the service manager: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    #[tokio::test(start_paused = true)]
    async fn a_request_that_never_ends_does_not_keep_the_daemon() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("sock");
        let socket = api::Socket::bind(&path).expect("bound");
        let (requests, _inbox) = mpsc::channel(1);
        let api = Api::serve(socket, requests);
        let mut client = UnixStream::connect(&path).expect("served");
        client
            .write_all(b"POST /v1/plan HTTP/1.1\r\nHost: gregw\r\nContent-Length: 9\r\n\r\n")
            .expect("sent");
        // Until the request has been taken up: this clock moves on only when no task has anything left to do.
        tokio::time::sleep(Duration::from_millis(1)).await;
        api.close().await;
        assert!(!path.exists());
    }
}
