//! Why a command failed, in the form in which it crosses the unix socket and ends the process.
//!
//! Made by whoever finds the fault (the daemon, the client, the dataplane), sent by the API as the body of an error
//! response, and turned into standard error and exit status by `main`.

use serde::{Deserialize, Serialize};

use crate::config::{Diagnostics, FlatDiagnostic, LoadError, Severity};

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
    pub diagnostics: Vec<FlatDiagnostic>,
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

/// A configuration file that is refused.
impl From<&Diagnostics> for Failure {
    fn from(diagnostics: &Diagnostics) -> Self {
        let errors = diagnostics
            .iter()
            .filter(|diagnostic| diagnostic.severity() == Severity::Error);
        let mistakes = match errors.count() {
            1 => "1 mistake".to_owned(),
            number => format!("{number} mistakes"),
        };
        Self {
            error: format!("the configuration has {mistakes}; nothing was changed"),
            exit_code: ExitCode::Configuration,
            diagnostics: diagnostics.iter().map(FlatDiagnostic::from).collect(),
        }
    }
}

/// A configuration file that is refused or cannot be read.
impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Invalid(diagnostics) => Self::from(&diagnostics),
            LoadError::Read { .. } => Self::new(
                ExitCode::Configuration,
                format!("{:#}", anyhow::Error::from(error)),
            ),
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
    fn warnings_are_told_but_are_no_mistakes() {
        let source = crate::config::Source::new("gregw.toml", "mtu = 9000".to_owned());
        let diagnostics = [
            source.warning(0..3, "too large", "leave it out"),
            source.error(6..10, "not here", "write it elsewhere"),
        ];
        let failure = Failure::from(&Diagnostics::from_iter(diagnostics));
        assert_eq!(failure.diagnostics.len(), 2);
        assert_eq!(
            failure.error,
            "the configuration has 1 mistake; nothing was changed"
        );
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
