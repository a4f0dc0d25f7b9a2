//! Why a command failed, in the form in which it crosses the unix socket and ends the process.
//!
//! Made by whoever finds the fault (the daemon, the client, the dataplane), sent by the API as the body of an error
//! response, and turned into standard error and exit status by `main`.

use serde::{Deserialize, Serialize};

/// A failed command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{error}")]
pub struct Failure {
    /// What failed, on which object, and what to do about it.
    pub error: String,
    /// Exit status of the command line.
    pub exit_code: ExitCode,
    /// Complaints about a configuration file; empty unless one was refused.
    #[serde(default)]
    pub diagnostics: Vec<Diagnostic>,
}

/// Exit status of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
#[repr(u8)]
pub enum ExitCode {
    /// Anything without a number of its own.
    Failure = 1,
    /// Usage or configuration.
    Configuration = 2,
    /// No object of that name.
    NotFound = 3,
    /// A Linux capability is missing, which the message names.
    MissingCapability = 4,
    /// Another XDP program or daemon, which the message names, holds what is needed.
    Busy = 5,
    /// The kernel lacks a feature, which the message names.
    MissingKernelFeature = 6,
}

/// A located complaint about a configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// `error` refuses the file, `warning` does not.
    pub severity: Severity,
    /// Name of the file as given on the command line.
    pub file: String,
    /// Line of the offending text's beginning, from 1.
    pub line: usize,
    /// Column of the offending text's beginning in characters, from 1.
    pub column: usize,
    /// What is wrong, and with which object.
    pub message: String,
    /// What to do about it.
    pub help: String,
    /// The offending text.
    pub text: String,
}

/// How bad a [`Diagnostic`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file is taken, but does something its author hardly meant.
    Warning,
}

impl Failure {
    /// A failure that is not about the contents of a configuration file.
    pub fn new(exit_code: ExitCode, error: impl Into<String>) -> Self {
        Self {
            error: error.into(),
            exit_code,
            diagnostics: Vec::new(),
        }
    }
}

/// Keeps the exit code of a [`Failure`] anywhere in the chain; other errors are [`ExitCode::Failure`].
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        let inner = error.chain().find_map(|cause| cause.downcast_ref::<Self>());
        Self {
            error: format!("{error:#}"),
            exit_code: inner.map_or(ExitCode::Failure, |inner| inner.exit_code),
            diagnostics: inner.map_or_else(Vec::new, |inner| inner.diagnostics.clone()),
        }
    }
}

impl From<ExitCode> for u8 {
    fn from(code: ExitCode) -> Self {
        code as Self
    }
}

/// A number that is not an exit status of gregw.
#[derive(Debug, thiserror::Error)]
#[error("{0} is not an exit code of gregw: are daemon and command line of the same version?")]
pub struct UnknownExitCode(u8);

impl TryFrom<u8> for ExitCode {
    type Error = UnknownExitCode;

    fn try_from(number: u8) -> Result<Self, UnknownExitCode> {
        [
            Self::Failure,
            Self::Configuration,
            Self::NotFound,
            Self::MissingCapability,
            Self::Busy,
            Self::MissingKernelFeature,
        ]
        .into_iter()
        .find(|code| *code as u8 == number)
        .ok_or(UnknownExitCode(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn exit_codes_survive_json_and_unknown_ones_are_refused() {
        for number in 1..=6 {
            let code = ExitCode::try_from(number).expect("a code of the contract");
            let json = serde_json::to_string(&code).expect("serialisable");
            assert_eq!(json, number.to_string());
            assert_eq!(
                serde_json::from_str::<ExitCode>(&json).expect("parsable"),
                code
            );
        }
        for number in [0, 7, 255] {
            assert!(serde_json::from_str::<ExitCode>(&number.to_string()).is_err());
        }
    }

    #[test]
    fn context_around_a_failure_keeps_its_exit_code() {
        let busy = Failure::new(ExitCode::Busy, "eth0 holds program 7");
        let error = Err::<(), _>(busy)
            .context("cannot attach")
            .expect_err("an error");
        let failure = Failure::from(error);
        assert_eq!(failure.exit_code, ExitCode::Busy);
        assert_eq!(failure.error, "cannot attach: eth0 holds program 7");

        assert_eq!(
            Failure::from(anyhow::anyhow!("other")).exit_code,
            ExitCode::Failure
        );
    }
}
