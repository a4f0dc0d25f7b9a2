//! HTTP/1 connections of the API and of the metrics: how many there are, and how long a peer may keep one waiting.
//!
//! Used by `api` and `metrics`, which bring listener and paths. Holds: whoever connects and stays silent has one of a
//! fixed number of descriptors, and that only for a while; the others wait in the kernel for their turn.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::sync::Semaphore;
use tower_http::timeout::RequestBodyTimeoutLayer;

/// Connections that a listener serves at a time.
pub const CONNECTIONS: usize = 64;

/// How long a peer may take from its connection or its last request to the end of a request's head.
const HEAD: Duration = Duration::from_secs(10);
/// How long it may take between two pieces of a request's body; longer than the event loop is ever busy with another one.
const BODY: Duration = Duration::from_secs(60);

/// Serves `router` until `stop`, and then to the end of the requests that have begun.
///
/// # Errors
/// The listener can take no more connections.
pub(crate) async fn serve<L: Listener>(
    mut listener: L,
    router: Router,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    let router = router.layer(RequestBodyTimeoutLayer::new(BODY));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD);
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let begun = GracefulShutdown::new();
    let mut stop = pin!(stop);
    loop {
        let next = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            let (stream, _) = listener.accept().await;
            slot.map(|slot| (slot, stream))
        };
        let (slot, stream) = tokio::select! {
            next = next => next.map_err(io::Error::other)?,
            () = &mut stop => break,
        };
        let service = TowerToHyperService::new(router.clone());
        let connection = begun.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!("a connection has ended early: {error}");
            }
            drop(slot);
        });
    }
    drop(listener);
    begun.shutdown().await;
    Ok(())
}
