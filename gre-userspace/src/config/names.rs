//! Names an operator gives: of gateways, tenants, networks, ports and tunnels, and of the kernel's devices.
//!
//! Both kinds are checked when they are made, so that they can stand in metrics, paths and tables without escaping.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The name of an object in the configuration: 1–63 of `A–Z a–z 0–9 . _ -`, beginning with a letter or a digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Arc<str>);

/// The name of a network device as the kernel accepts it (`dev_valid_name`): 1–15 bytes without `/`, `:` or
/// white space, neither `.` nor `..`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeviceName(Arc<str>);

/// A text that is no [`Name`] or no [`DeviceName`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Nothing between the quotes.
    #[error("is empty")]
    Empty,
    /// More characters than the limit given.
    #[error("is longer than {0} characters")]
    TooLong(usize),
    /// A character that is not allowed where it stands.
    #[error("must not contain {0:?} here")]
    Character(char),
    /// `.` and `..` are directories where devices are files.
    #[error("is a directory's name, not a device's")]
    Directory,
}

impl Name {
    /// Longest name, in characters (one DNS label).
    pub const MAX: usize = 63;

    /// Checks `text` and takes it as a name.
    pub fn new(text: &str) -> Result<Self, InvalidName> {
        if text.is_empty() {
            return Err(InvalidName::Empty);
        }
        let wrong = |(at, c): &(usize, char)| {
            !(c.is_ascii_alphanumeric() || (*at > 0 && matches!(c, '.' | '_' | '-')))
        };
        if let Some((_, c)) = text.char_indices().find(wrong) {
            return Err(InvalidName::Character(c));
        }
        if text.len() > Self::MAX {
            return Err(InvalidName::TooLong(Self::MAX));
        }
        Ok(Self(text.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl DeviceName {
    /// Longest name, in bytes (`IFNAMSIZ` − 1).
    pub const MAX: usize = 15;

    /// Checks `text` and takes it as a device's name; whether the device exists is not asked.
    pub fn new(text: &str) -> Result<Self, InvalidName> {
        if text.is_empty() {
            return Err(InvalidName::Empty);
        }
        if text == "." || text == ".." {
            return Err(InvalidName::Directory);
        }
        let wrong = |c: &char| matches!(c, '/' | ':') || c.is_whitespace() || c.is_control();
        if let Some(c) = text.chars().find(wrong) {
            return Err(InvalidName::Character(c));
        }
        if text.len() > Self::MAX {
            return Err(InvalidName::TooLong(Self::MAX));
        }
        Ok(Self(text.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

macro_rules! text_traits {
    ($type:ty) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $type {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, InvalidName> {
                Self::new(&text)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0.as_ref().to_owned()
            }
        }
    };
}

text_traits!(Name);
text_traits!(DeviceName);
