//! The API over a real unix socket in a directory of its own.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use gre_userspace::api::{self, Resource, Socket};
use gre_userspace::client::{Client, ConnectError};
use gre_userspace::config::{Config, Diagnostics, Source};
use gre_userspace::failure::{ExitCode, Failure};
use gre_userspace::report::{
    Change, Device, DropCounter, Neighbour, Network, Peering, Port, Route, Tunnel,
};
use gre_userspace::request::Document;
use serde::de::DeserializeOwned;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::sample;

/// A served API with a gateway behind it.
struct Daemon {
    directory: TempDir,
    stop: oneshot::Sender<()>,
    task: JoinHandle<std::io::Result<()>>,
}

impl Daemon {
    fn start() -> Self {
        let directory = TempDir::new().expect("a directory");
        let socket = Socket::bind(&socket_in(&directory)).expect("a free path");
        let (stop, stopped) = oneshot::channel();
        let stopped = async { stopped.await.unwrap_or(()) };
        let task = tokio::spawn(api::serve(socket, sample::gateway(), stopped));
        Self {
            directory,
            stop,
            task,
        }
    }

    fn socket(&self) -> PathBuf {
        socket_in(&self.directory)
    }

    async fn client(&self) -> Client {
        Client::connect(&self.socket())
            .await
            .expect("a listening daemon")
    }

    async fn list<R: Resource + DeserializeOwned>(
        &self,
        name: Option<&str>,
    ) -> Result<Vec<R>, Failure> {
        let answer = self.client().await.list::<R>(name).await?;
        Ok(serde_json::from_slice(&answer).expect("an array of the resource"))
    }
}

fn socket_in(directory: &TempDir) -> PathBuf {
    directory.path().join("run/default.sock")
}

fn document(text: &str) -> Document {
    Document {
        name: "gregw.toml".to_owned(),
        text: text.to_owned(),
    }
}

#[tokio::test]
async fn every_list_arrives_as_the_gateway_gave_it() {
    let daemon = Daemon::start();
    assert_eq!(daemon.list::<Tunnel>(None).await, Ok(sample::tunnels()));
    assert_eq!(daemon.list::<Network>(None).await, Ok(sample::networks()));
    assert_eq!(daemon.list::<Port>(None).await, Ok(sample::ports()));
    assert_eq!(daemon.list::<Peering>(None).await, Ok(sample::peerings()));
    assert_eq!(daemon.list::<Route>(None).await, Ok(sample::routes()));
    assert_eq!(
        daemon.list::<Neighbour>(None).await,
        Ok(sample::neighbours())
    );
    assert_eq!(daemon.list::<DropCounter>(None).await, Ok(sample::drops()));
    assert_eq!(daemon.list::<Device>(None).await, Ok(sample::devices()));
}

#[tokio::test]
async fn a_name_selects_the_object_or_what_belongs_to_it() {
    let daemon = Daemon::start();
    let tunnels = daemon.list::<Tunnel>(Some(sample::LONG_NAME)).await;
    assert_eq!(tunnels, Ok(sample::tunnels()[1..2].to_vec()));
    let networks = daemon.list::<Network>(Some("contoso-hub")).await;
    assert_eq!(networks, Ok(sample::networks()[..1].to_vec()));
    let ports = daemon.list::<Port>(Some("spare")).await;
    assert_eq!(ports, Ok(sample::ports()[1..].to_vec()));
    let devices = daemon.list::<Device>(Some("eth7")).await;
    assert_eq!(devices, Ok(sample::devices()[1..].to_vec()));
    let drops = daemon.list::<DropCounter>(Some("hub-branch")).await;
    assert_eq!(drops, Ok(sample::drops()[2..].to_vec()));
    let neighbours = daemon.list::<Neighbour>(Some("hub-vms")).await;
    assert_eq!(neighbours, Ok(sample::neighbours()));
    let routes = daemon.list::<Route>(Some("contoso-hub")).await;
    assert_eq!(routes, Ok(sample::routes()));
    // Either side of a peering.
    let peerings = daemon.list::<Peering>(Some("contoso-lab")).await;
    assert_eq!(peerings, Ok(sample::peerings()[1..2].to_vec()));
}

#[tokio::test]
async fn an_object_without_entries_is_empty_and_an_unknown_one_is_not_found() {
    let daemon = Daemon::start();
    assert_eq!(
        daemon.list::<Route>(Some("fabrikam-net")).await,
        Ok(Vec::new())
    );
    assert_eq!(
        daemon.list::<Peering>(Some("fabrikam-net")).await,
        Ok(Vec::new())
    );
    assert_eq!(
        daemon.list::<Neighbour>(Some("spare")).await,
        Ok(Vec::new())
    );
    for owner in ["unkeyed", "spare", "eth7"] {
        assert_eq!(
            daemon.list::<DropCounter>(Some(owner)).await,
            Ok(Vec::new()),
            "{owner}"
        );
    }

    for name in ["nosuch", "", "a&name=hub-branch", "ä b/?%"] {
        assert_not_found(daemon.list::<Tunnel>(Some(name)).await, name);
        assert_not_found(daemon.list::<Network>(Some(name)).await, name);
        assert_not_found(daemon.list::<Port>(Some(name)).await, name);
        assert_not_found(daemon.list::<Peering>(Some(name)).await, name);
        assert_not_found(daemon.list::<Route>(Some(name)).await, name);
        assert_not_found(daemon.list::<Neighbour>(Some(name)).await, name);
        assert_not_found(daemon.list::<DropCounter>(Some(name)).await, name);
        assert_not_found(daemon.list::<Device>(Some(name)).await, name);
    }
}

fn assert_not_found<T>(answer: Result<Vec<T>, Failure>, name: &str) {
    let failure = answer.err().expect("a failure");
    assert_eq!(failure.exit_code, ExitCode::NotFound);
    assert!(failure.error.contains(&format!("`{name}`")), "{failure}");
}

#[tokio::test]
async fn a_plan_and_its_application_answer_with_the_changes() {
    let daemon = Daemon::start();
    let document = document(include_str!("../../../dist/examples/minimal.toml"));
    let planned = daemon
        .client()
        .await
        .plan(&document)
        .await
        .expect("a valid file");
    let applied = daemon
        .client()
        .await
        .apply(&document)
        .await
        .expect("a valid file");
    for answer in [planned, applied] {
        let changes: Vec<Change> = serde_json::from_slice(&answer).expect("changes");
        assert_eq!(changes, sample::changes());
    }
}

#[tokio::test]
async fn complaints_about_a_file_come_back_and_are_drawn_as_by_check() {
    let daemon = Daemon::start();
    for text in [
        include_str!("../broken/three-mistakes.toml"),
        include_str!("../broken/port-on-underlay.toml"),
        "[[tenant]]\nname = \"ä\"  # two bytes\n",
        "[[tenant]",
    ] {
        let checked = Config::parse("gregw.toml", text.as_bytes()).expect_err("a broken file");
        let failure = daemon.client().await.apply(&document(text)).await;
        let failure = failure.expect_err("a broken file");
        assert_eq!(failure.exit_code, ExitCode::Configuration);

        let source = Source::new("gregw.toml", text.to_owned());
        let redrawn: Diagnostics = failure
            .diagnostics
            .into_iter()
            .map(|diagnostic| diagnostic.locate(&source))
            .collect();
        assert_eq!(redrawn.len(), checked.len());
        assert_eq!(redrawn.to_string(), checked.to_string());
    }
}

#[tokio::test]
async fn a_configuration_of_many_megabytes_arrives() {
    let daemon = Daemon::start();
    let minimal = include_str!("../../../dist/examples/minimal.toml");
    let text = format!("{minimal}\n{}", "# filler\n".repeat(1 << 20));
    daemon
        .client()
        .await
        .apply(&document(&text))
        .await
        .expect("a valid file");
}

#[tokio::test]
async fn only_the_daemons_user_may_connect() {
    let daemon = Daemon::start();
    let metadata = std::fs::metadata(daemon.socket()).expect("a socket");
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_second_daemon_is_refused_and_harms_nothing() {
    let daemon = Daemon::start();
    let refused = Socket::bind(&daemon.socket()).expect_err("a listening daemon");
    assert_eq!(refused.exit_code, ExitCode::Busy);
    assert_eq!(daemon.list::<Port>(None).await, Ok(sample::ports()));
}

#[tokio::test]
async fn a_socket_that_a_crash_left_behind_is_replaced_and_other_files_are_not() {
    let directory = TempDir::new().expect("a directory");
    let stale = directory.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).expect("a free path"));
    assert!(stale.exists());
    Socket::bind(&stale).expect("nobody listens");

    let file = directory.path().join("file.sock");
    std::fs::write(&file, "precious").expect("a writable directory");
    let refused = Socket::bind(&file).expect_err("a file in the way");
    assert_eq!(refused.exit_code, ExitCode::Busy);
    assert_eq!(
        std::fs::read_to_string(&file).expect("still there"),
        "precious"
    );
}

#[tokio::test]
async fn the_socket_goes_with_its_daemon() {
    let daemon = Daemon::start();
    let path = daemon.socket();
    daemon
        .client()
        .await
        .detach()
        .await
        .expect("a gateway that ends");
    let late = daemon
        .list::<Tunnel>(None)
        .await
        .expect_err("nobody answers");
    assert_eq!(late.exit_code, ExitCode::Failure);

    daemon.stop.send(()).expect("a serving task");
    daemon.task.await.expect("no panic").expect("a clean end");
    assert!(!path.exists());
    assert_nobody_listens(&path).await;
}

#[tokio::test]
async fn without_a_daemon_the_message_names_the_socket_and_the_remedy() {
    let directory = TempDir::new().expect("a directory");
    assert_nobody_listens(&socket_in(&directory)).await;
}

async fn assert_nobody_listens(path: &Path) {
    let error = Client::connect(path).await.expect_err("nobody listens");
    assert!(matches!(error, ConnectError::NobodyListens { .. }));
    let failure = Failure::from(error);
    assert_eq!(failure.exit_code, ExitCode::Failure);
    assert!(
        failure.error.contains(&path.display().to_string()),
        "{failure}"
    );
    assert!(failure.error.contains("gregw run -c"), "{failure}");
}

/// The clock moves on only when no task has anything left to do.
#[tokio::test(start_paused = true)]
async fn a_daemon_that_does_not_answer_is_given_up_and_what_to_do_is_said() {
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("sock");
    let _listener = std::os::unix::net::UnixListener::bind(&path).expect("a free path");
    let client = Client::connect(&path).await.expect("a listener");
    let mut client = client.with_patience(std::time::Duration::from_secs(7));
    let failure = client.list::<Tunnel>(None).await.expect_err("no answer");
    assert_eq!(failure.exit_code, ExitCode::Failure);
    for part in [&*path.to_string_lossy(), "7s", "--timeout"] {
        assert!(failure.error.contains(part), "{part}: {failure}");
    }
}

/// The clock moves on only when no task has anything left to do.
#[tokio::test(start_paused = true)]
async fn a_configuration_that_never_arrives_is_refused_in_time() {
    let daemon = Daemon::start();
    let mut stream = tokio::net::UnixStream::connect(daemon.socket())
        .await
        .expect("a listening daemon");
    let begun = b"POST /v1/plan HTTP/1.1\r\nHost: gregw\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{";
    stream.write_all(begun).await.expect("an open connection");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("text");
    assert!(answer.starts_with("HTTP/1.1 422 "), "{answer}");
    assert!(
        answer.contains("the configuration did not arrive"),
        "{answer}"
    );
}
