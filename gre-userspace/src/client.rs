//! The command line's side of the API: one connection to a daemon's socket.
//!
//! Called by `main`. Answers are handed on as the daemon wrote them, so that `-j` also shows what only a newer daemon
//! knows.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, Response, header};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::api::{APPLY, DETACH, PLAN, Resource};
use crate::failure::{ExitCode, Failure};
use crate::instance::Instance;
use crate::request::Document;

/// How long an answer may take unless [`Client::with_patience`] says otherwise. A large configuration is applied in less.
const PATIENCE: Duration = Duration::from_secs(120);

/// A connection to a daemon.
#[derive(Debug)]
pub struct Client {
    sender: SendRequest<Full<Bytes>>,
    socket: PathBuf,
    patience: Duration,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No daemon runs under this name.
    #[error(
        "no gregw daemon listens on {}: start one with `gregw{} run -c FILE`, or name another with --instance",
        socket.display(),
        instance_option(socket)
    )]
    NobodyListens {
        /// Where one was looked for.
        socket: PathBuf,
    },
    /// The socket is another user's.
    #[error("not allowed to use {}: run gregw as the daemon's user, usually root", socket.display())]
    Denied {
        /// The socket.
        socket: PathBuf,
    },
    /// Anything else.
    #[error("cannot reach the daemon on {}", socket.display())]
    Other {
        /// The socket.
        socket: PathBuf,
        /// Why it failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Client {
    /// Connects to the daemon that listens on `socket`.
    pub async fn connect(socket: &Path) -> Result<Self, ConnectError> {
        let stream = UnixStream::connect(socket)
            .await
            .map_err(|error| ConnectError::new(socket, error))?;
        let (sender, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(|error| ConnectError::other(socket, error))?;
        // Ends with the sender; what goes wrong on the way reaches the sender's caller, too.
        tokio::spawn(connection);
        Ok(Self {
            sender,
            socket: socket.to_owned(),
            patience: PATIENCE,
        })
    }

    /// Gives the daemon this long for each answer.
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// The JSON array of a resource, all or those of one name.
    ///
    /// # Errors
    /// [`ExitCode::NotFound`] if nothing has the name.
    pub async fn list<R: Resource>(&mut self, name: Option<&str>) -> Result<Bytes, Failure> {
        let query = name.map_or_else(String::new, |name| {
            let mut query = form_urlencoded::Serializer::new("?".to_owned());
            query.append_pair("name", name).finish()
        });
        self.send(Method::GET, &format!("{}{query}", R::PATH), Bytes::new())
            .await
    }

    /// The JSON array of the changes that [`Client::apply`] would make.
    pub async fn plan(&mut self, document: &Document) -> Result<Bytes, Failure> {
        self.send(Method::POST, PLAN, json(document)?).await
    }

    /// Makes the gateway what a configuration says; the JSON array of the changes made.
    pub async fn apply(&mut self, document: &Document) -> Result<Bytes, Failure> {
        self.send(Method::POST, APPLY, json(document)?).await
    }

    /// Makes the gateway remove itself and end.
    pub async fn detach(&mut self) -> Result<(), Failure> {
        self.send(Method::POST, DETACH, Bytes::new()).await?;
        Ok(())
    }

    /// Sends a request; the body of the answer if it is a success and comes in time.
    async fn send(&mut self, method: Method, path: &str, body: Bytes) -> Result<Bytes, Failure> {
        let patience = self.patience;
        timeout(patience, self.exchange(method, path, body))
            .await
            .unwrap_or_else(|_| {
                let text = format!(
                    "the daemon on {} has not answered within {patience:?}: it may be at work still; see its log, or \
                     wait longer with --timeout SECONDS",
                    self.socket.display()
                );
                Err(Failure::new(ExitCode::Failure, text))
            })
    }

    async fn exchange(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Bytes, Failure> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "gregw")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| self.broken(&error))?;
        let response = self.sender.send_request(request).await;
        let response = response.map_err(|error| self.broken(&error))?;
        let (head, body) = Response::into_parts(response);
        let body = body
            .collect()
            .await
            .map_err(|error| self.broken(&error))?
            .to_bytes();
        if head.status.is_success() {
            return Ok(body);
        }
        Err(serde_json::from_slice(&body).unwrap_or_else(|_| {
            let text = format!(
                "the daemon on {} answered {}",
                self.socket.display(),
                head.status
            );
            Failure::new(ExitCode::Failure, text)
        }))
    }

    fn broken(&self, error: &dyn std::fmt::Display) -> Failure {
        let text = format!(
            "the daemon on {} broke off before its answer: {error}; see its log",
            self.socket.display()
        );
        Failure::new(ExitCode::Failure, text)
    }
}

impl ConnectError {
    fn new(socket: &Path, error: io::Error) -> Self {
        let socket = socket.to_owned();
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                Self::NobodyListens { socket }
            }
            io::ErrorKind::PermissionDenied => Self::Denied { socket },
            _ => Self::other(&socket, error),
        }
    }

    fn other(socket: &Path, error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Other {
            socket: socket.to_owned(),
            source: Box::new(error),
        }
    }
}

/// What the command line takes to mean the instance of this socket.
fn instance_option(socket: &Path) -> String {
    match socket.file_stem().and_then(|name| name.to_str()) {
        None | Some(Instance::DEFAULT) => String::new(),
        Some(name) => format!(" --instance {name}"),
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        anyhow::Error::from(error).into()
    }
}

fn json(document: &Document) -> Result<Bytes, Failure> {
    let encode = |error| {
        Failure::new(
            ExitCode::Failure,
            format!("cannot encode the configuration: {error}"),
        )
    };
    serde_json::to_vec(document)
        .map(Bytes::from)
        .map_err(encode)
}
