//! Reads sections of a TOML document key by key; every complaint names the object and points at the text.
//!
//! Used by `draft`. A [`Section`] remembers which keys it was asked for: what is left over in the end is unknown, and
//! the likeliest of the known keys is suggested.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::syntax::touches;
use super::value::{Complaint, wrong_type};
use super::{Diagnostics, Source};

/// Where complaints go, and which parts of the file a syntax error has made unreadable.
pub(super) struct Reader<'a> {
    pub(super) source: &'a Source,
    pub(super) damage: Vec<Range<usize>>,
    pub(super) mistakes: &'a mut Diagnostics,
}

/// One table of the file while it is read.
pub(super) struct Section<'r, 'a, 'i> {
    reader: &'r mut Reader<'a>,
    label: String,
    span: Range<usize>,
    entries: DeTable<'i>,
    known: Vec<&'static str>,
}

impl<'a> Reader<'a> {
    /// Takes the single table `[key]` out of `root`; an empty one if it is absent.
    pub(super) fn take_table<'i>(
        &mut self,
        root: &mut DeTable<'i>,
        key: &str,
    ) -> Spanned<DeTable<'i>> {
        let empty = Spanned::new(0..0, DeTable::new());
        let Some(value) = root.remove(key) else {
            return empty;
        };
        let span = value.span();
        let DeValue::Table(table) = value.into_inner() else {
            self.complain(
                span,
                format!("`{key}` is one section, not a list or a value"),
                format!("write [{key}] with single brackets, once"),
            );
            return empty;
        };
        Spanned::new(span, table)
    }

    /// Takes the tables `[[key]]` out of `root`, in their order in the file.
    pub(super) fn take_tables<'i>(
        &mut self,
        root: &mut DeTable<'i>,
        key: &str,
    ) -> Vec<Spanned<DeTable<'i>>> {
        let Some(value) = root.remove(key) else {
            return Vec::new();
        };
        let help = format!("write [[{key}]] with double brackets, once for each");
        let span = value.span();
        let DeValue::Array(items) = value.into_inner() else {
            self.complain(span, format!("`{key}` is a list of sections"), help);
            return Vec::new();
        };
        let mut tables = Vec::with_capacity(items.len());
        for item in items {
            let span = item.span();
            match item.into_inner() {
                DeValue::Table(table) => tables.push(Spanned::new(span, table)),
                _ => self.complain(span, format!("`{key}` is a list of sections"), help.clone()),
            }
        }
        tables
    }

    /// Begins to read `table`, called `label` in complaints.
    pub(super) fn section<'r, 'i>(
        &'r mut self,
        label: String,
        table: Spanned<DeTable<'i>>,
    ) -> Section<'r, 'a, 'i> {
        Section {
            span: table.span(),
            entries: table.into_inner(),
            reader: self,
            label,
            known: Vec::new(),
        }
    }

    /// Complains about every key left over, called `what`; one of the `known` keys may have been meant.
    pub(super) fn unknown_keys(&mut self, what: &str, left: &DeTable<'_>, known: &[&str]) {
        for key in left.keys() {
            let name: &str = key.get_ref();
            let help = match nearest(name, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known here: {}", known.join(", ")),
            };
            let message = format!("{what} `{}`", name.escape_debug());
            self.complain(key.span(), message, help);
        }
    }

    fn complain(&mut self, span: Range<usize>, message: String, help: String) {
        if !self.is_damaged(&span) {
            self.mistakes.push(self.source.error(span, message, help));
        }
    }

    fn is_damaged(&self, span: &Range<usize>) -> bool {
        self.damage.iter().any(|range| touches(range, span))
    }
}

impl<'a, 'i> Section<'_, 'a, 'i> {
    /// The section's header in the file.
    pub(super) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// The value of a key that must be there; `None` if it is missing or wrong, which has then been said.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        example: &str,
        parse: impl Fn(&DeValue<'_>) -> Result<T, Complaint>,
    ) -> Option<Spanned<T>> {
        self.optional(key, parse)?
            .or_else(|| self.missing(key, example))
    }

    /// The value of a key that may be absent (`Some(None)`); `None` if it is wrong, which has then been said.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&DeValue<'_>) -> Result<T, Complaint>,
    ) -> Option<Option<Spanned<T>>> {
        match self.take(key)? {
            Some(value) => self.checked(key, &value, parse).map(Some),
            None => Some(None),
        }
    }

    /// The value of a key, or `default` if it is absent; `None` if it is wrong, which has then been said.
    pub(super) fn defaulted<T>(
        &mut self,
        key: &'static str,
        default: T,
        parse: impl Fn(&DeValue<'_>) -> Result<T, Complaint>,
    ) -> Option<T> {
        let value = self.optional(key, parse)?;
        Some(value.map_or(default, Spanned::into_inner))
    }

    /// What `read` makes of a key that must be there, with its place; `None` if it is missing or wrong, which has then
    /// been said.
    pub(super) fn required_value<T>(
        &mut self,
        key: &'static str,
        example: &str,
        read: impl Fn(&mut Self, Spanned<DeValue<'i>>) -> Option<T>,
    ) -> Option<Spanned<T>> {
        let Some(value) = self.take(key)? else {
            return self.missing(key, example);
        };
        let span = value.span();
        read(self, value).map(|value| Spanned::new(span, value))
    }

    /// The values of a list that must be there and not be empty; `None` as soon as one of them is wrong.
    pub(super) fn required_list<T>(
        &mut self,
        key: &'static str,
        example: &str,
        parse: impl Fn(&DeValue<'_>) -> Result<T, Complaint>,
    ) -> Option<Vec<Spanned<T>>> {
        self.optional_list(key, example, |section, element| {
            section.checked(key, &element, &parse)
        })?
        .or_else(|| self.missing(key, example))
    }

    /// What `read` makes of the elements of a list that may be absent (`Some(None)`) but not empty; `None` as soon as one
    /// of them is wrong.
    pub(super) fn optional_list<T>(
        &mut self,
        key: &'static str,
        example: &str,
        read: impl Fn(&mut Self, Spanned<DeValue<'i>>) -> Option<T>,
    ) -> Option<Option<Vec<T>>> {
        let Some(value) = self.take(key)? else {
            return Some(None);
        };
        let span = value.span();
        let elements = self.elements(key, value)?;
        if elements.is_empty() {
            let message = format!("{}: `{key}` is empty", self.label);
            let help = format!("write for example {key} = {example}");
            self.reader.complain(span, message, help);
            return None;
        }
        let read: Vec<_> = elements
            .into_iter()
            .map(|element| read(self, element))
            .collect();
        read.into_iter().collect::<Option<_>>().map(Some)
    }

    /// What `read` makes of the elements of a list that may be absent; `None` as soon as one of them is wrong.
    pub(super) fn optional_elements<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(&mut Self, Spanned<DeValue<'i>>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let Some(value) = self.take(key)? else {
            return Some(Vec::new());
        };
        let elements = self.elements(key, value)?;
        let read: Vec<_> = elements
            .into_iter()
            .map(|element| read(self, element))
            .collect();
        read.into_iter().collect()
    }

    /// Begins to read a table inside this section, called `what` of this section in complaints.
    pub(super) fn inner<'s>(
        &'s mut self,
        what: &str,
        table: Spanned<DeTable<'i>>,
    ) -> Section<'s, 'a, 'i> {
        self.reader
            .section(format!("{what} of {}", self.label), table)
    }

    /// A value as `parse` takes it; `None` if it is wrong, which has then been said of `key`.
    pub(super) fn checked<T>(
        &mut self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        parse: impl Fn(&DeValue<'_>) -> Result<T, Complaint>,
    ) -> Option<Spanned<T>> {
        match parse(value.get_ref()) {
            Ok(parsed) => Some(Spanned::new(value.span(), parsed)),
            Err(Complaint { problem, help }) => {
                let message = format!("{}: `{key}` {problem}", self.label);
                self.reader.complain(value.span(), message, help);
                None
            }
        }
    }

    /// Whether there are keys that nobody has asked for yet.
    pub(super) fn has_unknown_keys(&self) -> bool {
        !self.entries.is_empty()
    }

    /// Ends reading: keys that nobody asked for are unknown. Gives the section's label back.
    pub(super) fn finish(self) -> String {
        let what = format!("{}: unknown key", self.label);
        self.reader.unknown_keys(&what, &self.entries, &self.known);
        self.label
    }

    /// Complains about this section as a whole or a part of it.
    pub(super) fn complain(&mut self, span: Range<usize>, problem: &str, help: &str) {
        let message = format!("{}: {problem}", self.label);
        self.reader.complain(span, message, help.to_owned());
    }

    /// The raw value; `Some(None)` if absent, `None` if a syntax error has damaged it.
    fn take(&mut self, key: &'static str) -> Option<Option<Spanned<DeValue<'i>>>> {
        self.known.push(key);
        match self.entries.remove(key) {
            Some(value) if self.reader.is_damaged(&value.span()) => None,
            value => Some(value),
        }
    }

    fn elements(
        &mut self,
        key: &'static str,
        value: Spanned<DeValue<'i>>,
    ) -> Option<Vec<Spanned<DeValue<'i>>>> {
        let span = value.span();
        match value.into_inner() {
            DeValue::Array(elements) => Some(elements.into_iter().collect()),
            other => self
                .checked(key, &Spanned::new(span, other), |value| {
                    let complaint = wrong_type(value, "a list in brackets");
                    Err(match value.as_str() {
                        Some(text) => Complaint {
                            help: format!("put it in brackets: {key} = [\"{text}\"]"),
                            ..complaint
                        },
                        None => complaint,
                    })
                })
                .map(Spanned::into_inner),
        }
    }

    /// Says that `key` is missing, unless a syntax error may have hidden it.
    fn missing<T>(&mut self, key: &str, example: &str) -> Option<T> {
        if self.reader.damage.is_empty() {
            let message = format!("{}: `{key}` is missing", self.label);
            let help = format!("add a line such as {key} = {example}");
            self.reader.complain(self.span.clone(), message, help);
        }
        None
    }
}

/// The candidate most like `word`, if one is near enough to be meant.
pub(super) fn nearest<'c>(
    word: &str,
    candidates: impl Iterator<Item = &'c str>,
) -> Option<&'c str> {
    candidates
        .map(|candidate| (strsim::jaro_winkler(word, candidate), candidate))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}
