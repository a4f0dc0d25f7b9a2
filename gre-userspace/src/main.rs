//! The gregw command: does what the command line says and turns failures into standard error and exit status.
//!
//! Results go to standard output and nothing else does; logs and failures go to standard error.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process;
use std::time::Duration;

use clap::{CommandFactory, Parser};
use gre_userspace::api::Resource;
use gre_userspace::cli::{Cli, Command, Object, Options};
use gre_userspace::client::Client;
use gre_userspace::config::{Config, Diagnostics, LoadError, Source};
use gre_userspace::daemon;
use gre_userspace::failure::{ExitCode, Failure};
use gre_userspace::kernel;
use gre_userspace::report::{
    Change, Device, DropCounter, Neighbour, Network, Peering, Port, Route, Tunnel,
};
use gre_userspace::request::Document;
use gre_userspace::show::{self, Row};
use miette::GraphicalTheme;
use serde::de::DeserializeOwned;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

fn main() -> process::ExitCode {
    let Cli { options, command } = Cli::parse();
    log_to_standard_error(match command {
        Command::Run { .. } => LevelFilter::INFO,
        _ => LevelFilter::WARN,
    });
    match execute(&options, command) {
        Ok(code) => code,
        Err(failure) => {
            complain(&options, &failure);
            process::ExitCode::from(u8::from(failure.exit_code))
        }
    }
}

/// Logs what `GREGW_LOG` asks for, without it `level` and worse.
fn log_to_standard_error(level: LevelFilter) {
    let filter = EnvFilter::builder()
        .with_default_directive(level.into())
        .with_env_var("GREGW_LOG")
        .from_env_lossy();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(may_colour())
        .with_writer(io::stderr)
        .init();
}

fn execute(options: &Options, command: Command) -> Result<process::ExitCode, Failure> {
    match command {
        Command::Run { config } => run(options, &config)?,
        Command::Check { file } => return check(options, &file),
        Command::Plan { file } => plan(options, &file)?,
        Command::Apply { file } => apply(options, &file)?,
        Command::Show { object, name } => show(options, object, name.as_deref())?,
        Command::Detach => detach(options)?,
        Command::Completions { shell } => completions(shell)?,
        Command::Man { command } => man(command.as_deref())?,
    }
    Ok(process::ExitCode::SUCCESS)
}

fn run(options: &Options, file: &Path) -> Result<(), Failure> {
    daemon::run(options.instance.clone(), file.to_owned()).inspect_err(|failure| {
        if let Ok(document) = read(file) {
            redraw(options, failure, &document);
        }
    })
}

/// Standard output gets the list of mistakes as JSON, or what the file holds in words. The file may be for another
/// machine, so that this one's kernel is worth a warning only.
fn check(options: &Options, file: &Path) -> Result<process::ExitCode, Failure> {
    if let Err(error) = kernel::check_version() {
        tracing::warn!("{error}");
    }
    match Config::load(file) {
        Ok(_) if options.json => print("[]\n")?,
        Ok(config) => print(&contents(&config))?,
        Err(LoadError::Invalid(diagnostics)) if options.json => {
            print(&(json(&diagnostics)? + "\n"))?;
            return Ok(process::ExitCode::from(u8::from(ExitCode::Configuration)));
        }
        Err(error) => {
            if let LoadError::Invalid(diagnostics) = &error {
                draw(diagnostics);
            }
            return Err(error.into());
        }
    }
    Ok(process::ExitCode::SUCCESS)
}

/// The sections of a configuration by number.
fn contents(config: &Config) -> String {
    let sections = [
        (config.tenants.len(), "tenant"),
        (config.networks.len(), "network"),
        (config.ports.len(), "port"),
        (config.tunnels.len(), "tunnel"),
        (config.peerings.len(), "peering"),
        (config.routes.len(), "route"),
        (config.underlays.len(), "underlay"),
    ];
    let phrases: Vec<_> = sections
        .iter()
        .map(|(number, word)| match number {
            1 => format!("1 {word}"),
            _ => format!("{number} {word}s"),
        })
        .collect();
    format!("ok: {}\n", phrases.join(", "))
}

fn plan(options: &Options, file: &Path) -> Result<(), Failure> {
    let document = read(file)?;
    let answer = with_daemon(options, async |client| client.plan(&document).await);
    print_changes(
        options,
        &answer.inspect_err(|failure| redraw(options, failure, &document))?,
    )
}

fn apply(options: &Options, file: &Path) -> Result<(), Failure> {
    let document = read(file)?;
    let answer = with_daemon(options, async |client| client.apply(&document).await);
    print_changes(
        options,
        &answer.inspect_err(|failure| redraw(options, failure, &document))?,
    )
}

fn show(options: &Options, object: Object, name: Option<&str>) -> Result<(), Failure> {
    match object {
        Object::Tunnel => show_all::<Tunnel>(options, name),
        Object::Network => show_all::<Network>(options, name),
        Object::Port => show_all::<Port>(options, name),
        Object::Peering => show_all::<Peering>(options, name),
        Object::Route => show_all::<Route>(options, name),
        Object::Neighbour => show_all::<Neighbour>(options, name),
        Object::Drop => show_all::<DropCounter>(options, name),
        Object::Device => show_all::<Device>(options, name),
    }
}

fn show_all<R: Resource + Row + DeserializeOwned>(
    options: &Options,
    name: Option<&str>,
) -> Result<(), Failure> {
    let answer = with_daemon(options, async |client| client.list::<R>(name).await)?;
    if options.json {
        print_answer(&answer)
    } else {
        print(&show::table::<R>(&parse(&answer)?))
    }
}

/// By the daemon if one runs, else in its place.
fn detach(options: &Options) -> Result<(), Failure> {
    let Options { instance, json, .. } = options;
    let anything = match daemon::detach(instance, Duration::ZERO) {
        Err(failure) if failure.exit_code == ExitCode::Busy => {
            let asked = with_daemon(options, async |client| client.detach().await);
            // One that was killed just now answers nobody, and is gone soon.
            asked
                .map(|()| {
                    // It has answered and takes its last files with it; who takes its place meanwhile keeps them.
                    let _ = daemon::detach(instance, daemon::DYING);
                    true
                })
                .or_else(|failure| daemon::detach(instance, daemon::DYING).map_err(|_| failure))?
        }
        other => other?,
    };
    match (json, anything) {
        (true, _) => Ok(()),
        (false, true) => print(&format!("instance {instance} is removed\n")),
        (false, false) => print(&format!("instance {instance} had left nothing to remove\n")),
    }
}

fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "gregw", &mut script);
    print_bytes(&script)
}

fn man(command: Option<&str>) -> Result<(), Failure> {
    let mut gregw = Cli::command();
    // Gives subcommands their full names and the options that all share.
    gregw.build();
    let page = match command {
        None => gregw,
        Some(name) => gregw.find_subcommand(name).cloned().ok_or_else(|| {
            let text = format!("gregw has no command `{name}`: `gregw --help` lists all");
            Failure::new(ExitCode::Configuration, text)
        })?,
    };
    let mut roff = Vec::new();
    clap_mangen::Man::new(page)
        .render(&mut roff)
        .map_err(|error| {
            Failure::new(ExitCode::Failure, format!("cannot write the page: {error}"))
        })?;
    print_bytes(&roff)
}

fn read(file: &Path) -> Result<Document, Failure> {
    let name = file.display().to_string();
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(Document { name, text }),
        Err(error) => {
            let text = format!("cannot read configuration file {name}: {error}");
            Err(Failure::new(ExitCode::Configuration, text))
        }
    }
}

/// What `work` makes of a connection to the daemon.
fn with_daemon<T>(
    options: &Options,
    work: impl AsyncFnOnce(&mut Client) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(ExitCode::Failure, format!("cannot start: {error}")))?;
    runtime.block_on(async {
        let mut client = Client::connect(&options.instance.socket()).await?;
        if let Some(seconds) = options.timeout {
            client = client.with_patience(Duration::from_secs(seconds));
        }
        work(&mut client).await
    })
}

fn print_changes(options: &Options, answer: &[u8]) -> Result<(), Failure> {
    if options.json {
        print_answer(answer)
    } else {
        print(&show::changes(&parse::<Change>(answer)?))
    }
}

/// The daemon's JSON as it is.
fn print_answer(answer: &[u8]) -> Result<(), Failure> {
    print_bytes(&[answer, b"\n"].concat())
}

fn parse<T: DeserializeOwned>(answer: &[u8]) -> Result<Vec<T>, Failure> {
    serde_json::from_slice(answer).map_err(|error| {
        let text = format!(
            "cannot read the daemon's answer: {error}; are daemon and command line of the same version?"
        );
        Failure::new(ExitCode::Failure, text)
    })
}

fn print(text: &str) -> Result<(), Failure> {
    print_bytes(text.as_bytes())
}

/// A reader that has seen enough (`| head`) is no failure.
fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            let text = format!("cannot write to standard output: {error}");
            Err(Failure::new(ExitCode::Failure, text))
        }
        _ => Ok(()),
    }
}

fn complain(options: &Options, failure: &Failure) {
    if options.json
        && let Ok(object) = json(failure)
    {
        eprintln!("{object}");
    } else {
        eprintln!("error: {failure}");
    }
}

/// Draws the daemon's complaints about a file as `check` does.
fn redraw(options: &Options, failure: &Failure, document: &Document) {
    if options.json {
        return;
    }
    let source = Source::new(&document.name, document.text.clone());
    let located = failure.diagnostics.iter().cloned();
    draw(
        &located
            .map(|diagnostic| diagnostic.locate(&source))
            .collect(),
    );
}

fn draw(diagnostics: &Diagnostics) {
    let theme = if may_colour() {
        GraphicalTheme::unicode()
    } else {
        GraphicalTheme::unicode_nocolor()
    };
    eprint!("{}", diagnostics.render(theme));
}

/// Whether standard error is a terminal whose user takes colours (<https://no-color.org>).
fn may_colour() -> bool {
    let is_refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    io::stderr().is_terminal() && !is_refused
}

fn json(value: &impl serde::Serialize) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|error| {
        Failure::new(
            ExitCode::Failure,
            format!("cannot encode the answer: {error}"),
        )
    })
}
