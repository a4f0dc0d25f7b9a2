//! From bytes to a TOML document, with every syntax error located once.
//!
//! The parser recovers from an error and goes on, which tells more mistakes at once but also invents consequences of
//! the first one. [`parse`] keeps one error per damaged value or line and hands the damaged places on, so that nothing
//! else complains about them.

use std::net::IpAddr;
use std::ops::Range;

use ipnet::IpNet;
use toml::de::{DeTable, DeValue};

use super::{Diagnostic, Diagnostics, Source};

/// A parsed file: what could be read, where it could not, and the complaints about that.
pub(super) struct Document<'a> {
    pub(super) root: DeTable<'a>,
    pub(super) damage: Vec<Range<usize>>,
    pub(super) mistakes: Diagnostics,
}

/// Takes the bytes as UTF-8 (TOML 1.0, "a TOML file must be a valid UTF-8 encoded Unicode document").
pub(super) fn decode(file: &str, bytes: &[u8]) -> Result<Source, Diagnostics> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(Source::new(file, text.to_owned())),
        Err(error) => {
            let at = error.valid_up_to();
            let source = Source::new(file, String::from_utf8_lossy(bytes).into_owned());
            let message = format!("byte {:#04x} is not valid UTF-8", bytes[at]);
            let help = "save the file in UTF-8 encoding";
            Err(source.error(at..at + 1, message, help).into())
        }
    }
}

pub(super) fn parse(source: &Source) -> Document<'_> {
    let (root, mut errors) = DeTable::parse_recoverable(source.text());
    let root = root.into_inner();
    errors.sort_by_key(|error| error.span().map_or(0, |span| span.start));

    let mut damage: Vec<Range<usize>> = Vec::new();
    let mut mistakes = Diagnostics::default();
    for (index, error) in errors.iter().enumerate() {
        let span = error.span().unwrap_or(0..0);
        if damage.iter().any(|range| touches(range, &span)) {
            continue;
        }
        let place = value_around(&root, &span).unwrap_or(span.clone());
        let unclosed = errors[index..].iter().any(|later| {
            later.message().starts_with("unclosed array")
                && later.span().is_some_and(|span| touches(&place, &span))
        });
        let shown = if unclosed {
            place.start..place.start
        } else {
            span
        };
        let line = line_around(source.text(), shown.start);
        mistakes.push(complaint(source, shown, &line, unclosed, error.message()));
        damage.push(place.start.min(line.start)..place.end.max(line.end));
    }
    Document {
        root,
        damage,
        mistakes,
    }
}

/// Whether two ranges share a byte or a border.
pub(super) fn touches(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start <= b.end && b.start <= a.end
}

/// The span of the outermost value of a section that surrounds `span`: an unclosed array swallows all that follows.
fn value_around(root: &DeTable<'_>, span: &Range<usize>) -> Option<Range<usize>> {
    let surrounds = |range: &Range<usize>| range.start <= span.start && span.end <= range.end;
    let sections = root.values().flat_map(|value| match value.get_ref() {
        DeValue::Array(items) => items.iter().map(toml::Spanned::get_ref).collect(),
        single => vec![single],
    });
    sections
        .filter_map(DeValue::as_table)
        .flat_map(|section| section.values())
        .map(toml::Spanned::span)
        .find(surrounds)
}

/// The line that holds byte `at`, without its end.
fn line_around(text: &str, at: usize) -> Range<usize> {
    let at = text.floor_char_boundary(at.min(text.len()));
    let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let end = text[at..].find('\n').map_or(text.len(), |next| at + next);
    start..end
}

fn trimmed(text: &str, range: Range<usize>) -> Range<usize> {
    let line = &text[range.clone()];
    let start = range.start + (line.len() - line.trim_start().len());
    start..start + line.trim().len()
}

/// Words for an error at `span` of `line`, from the looks of the line where they tell more than the parser does.
fn complaint(
    source: &Source,
    span: Range<usize>,
    line: &Range<usize>,
    unclosed: bool,
    parser: &str,
) -> Diagnostic {
    let whole = trimmed(source.text(), line.clone());
    let text = &source.text()[whole.clone()];
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    let (key, value) = (key.trim(), value.trim());
    let bare = looks_boolean(value) || needs_quotes(value);
    let shown = if bare {
        whole.end - value.len()..whole.end
    } else if span.is_empty() && !whole.is_empty() {
        whole
    } else {
        span
    };

    let (message, help) = if parser.contains("duplicate key") {
        (
            "a key is stated twice".to_owned(),
            "keep one of the two".to_owned(),
        )
    } else if unclosed {
        (
            "a list is never closed".to_owned(),
            format!("close the list of `{key}` with `]`"),
        )
    } else if text.ends_with('=') {
        (
            format!("`{key}` has no value"),
            format!("write a value after `{key} =`"),
        )
    } else if looks_boolean(value) {
        (
            format!("`{key}` is neither true nor false"),
            format!("write {key} = true or {key} = false"),
        )
    } else if needs_quotes(value) {
        (
            format!("the value of `{key}` needs quotes"),
            format!("write {key} = \"{value}\""),
        )
    } else if text.starts_with('[') {
        let help = "write a section as [gateway] or [[tunnel]], alone on its line";
        (parser.to_owned(), help.to_owned())
    } else if text.contains('=') {
        let help = "check quotes, brackets and commas of this line";
        (parser.to_owned(), help.to_owned())
    } else {
        let help = "write `key = value`, or `# text` for a comment";
        (parser.to_owned(), help.to_owned())
    };
    source.error(shown, format!("not valid TOML: {message}"), help)
}

/// Whether a bare value is another language's boolean.
fn looks_boolean(value: &str) -> bool {
    let value = value.to_ascii_lowercase();
    matches!(
        value.as_str(),
        "true" | "false" | "yes" | "no" | "on" | "off"
    )
}

/// Whether a bare value looks like an address, a prefix or a name.
fn needs_quotes(value: &str) -> bool {
    let address = value.parse::<IpAddr>().is_ok() || value.parse::<IpNet>().is_ok();
    let word = value.starts_with(|c: char| c.is_alphabetic())
        && value
            .chars()
            .all(|c| c.is_alphanumeric() || "-_.".contains(c));
    address || word
}
