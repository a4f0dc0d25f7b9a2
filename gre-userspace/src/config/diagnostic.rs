//! Located complaints about a configuration file, for people (carets under the text) and for programs (JSON).
//!
//! Made by this module and by later stages that find a valid file wrong for this machine (a device that does not
//! exist). A [`Diagnostics`] keeps all of them, so that one run shows every mistake.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use miette::{
    GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteError, MietteSpanContents,
    SourceCode, SourceSpan, SpanContents,
};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

/// The text of a configuration file and its name; cheap to clone.
#[derive(Clone, Debug)]
pub struct Source(Arc<File>);

#[derive(Debug)]
struct File {
    name: String,
    text: String,
    /// Where each line begins: complaints are located in logarithmic time, however long the file is.
    lines: Vec<usize>,
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

/// One complaint: what is wrong, where, and what to do about it.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    severity: Severity,
    message: String,
    help: String,
    span: Range<usize>,
    related: Option<(Range<usize>, String)>,
    source: Source,
}

/// A [`Diagnostic`] away from its file: its JSON, and what a daemon answers to whoever sent it the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlatDiagnostic {
    /// Whether it refuses the file.
    pub severity: Severity,
    /// Name of the file.
    pub file: String,
    /// What is wrong, and with which object.
    pub message: String,
    /// What to do about it.
    pub help: String,
    /// The offending text.
    #[serde(flatten)]
    pub place: Place,
    /// Another place that explains the first, and what is there.
    pub related: Option<Related>,
}

/// A piece of text in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Line of its beginning, from 1.
    pub line: usize,
    /// Column of its beginning in characters, from 1.
    pub column: usize,
    /// The text.
    pub text: String,
}

/// Another place that explains a [`Diagnostic`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Related {
    /// What is there.
    pub label: String,
    /// Where it is.
    #[serde(flatten)]
    pub place: Place,
}

/// Two places at most so many lines apart are drawn together; a farther one is only named by its line.
const NEAR: usize = 10;

/// So many complaints about one file are printed: whoever repairs those has forgotten the others by then.
const PRINTED: usize = 100;

/// Complaints about one file. `Display` draws each with its line and the text underlined, without colour,
/// as far as they are [printed](printed).
#[derive(Clone, Debug, Default)]
pub struct Diagnostics(Vec<Diagnostic>);

/// The first of `complaints`, which are printed, and what is said about the others, if there are any.
pub fn printed<T>(complaints: &[T]) -> (&[T], Option<String>) {
    let (first, others) = complaints.split_at(complaints.len().min(PRINTED));
    let note = match others.len() {
        0 => None,
        1 => Some("1 more is not shown".to_owned()),
        number => Some(format!("{number} more are not shown")),
    };
    (first, note)
}

impl Source {
    /// A file called `name` with contents `text`.
    pub fn new(name: &str, text: String) -> Self {
        let ends = text.match_indices('\n').map(|(newline, _)| newline + 1);
        Self(Arc::new(File {
            name: name.to_owned(),
            lines: std::iter::once(0).chain(ends).collect(),
            text,
        }))
    }

    /// The name given at the start, usually the path.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The whole text.
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// A complaint about the bytes `span` of this file that refuses the file.
    pub fn error(
        &self,
        span: Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            message: message.into(),
            help: help.into(),
            span: self.clamp(span),
            related: None,
            source: self.clone(),
        }
    }

    /// A complaint about the bytes `span` of this file that lets the file pass.
    pub fn warning(
        &self,
        span: Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Diagnostic {
        Diagnostic {
            severity: Severity::Warning,
            ..self.error(span, message, help)
        }
    }

    /// The bytes `span` for somebody who counts lines and columns.
    fn place(&self, span: &Range<usize>) -> Place {
        let (line, column) = self.line_column(span.start);
        Place {
            line: line + 1,
            column: column + 1,
            text: self.text()[span.clone()].to_owned(),
        }
    }

    /// The inverse of [`Source::place`]; a place outside the text ends up at its end.
    fn span(&self, place: &Place) -> Range<usize> {
        let line_start = self.0.lines.get(place.line.saturating_sub(1));
        let line_start = line_start.copied().unwrap_or(self.text().len());
        let line = self.text()[line_start..].chars();
        let before: usize = line
            .take(place.column.saturating_sub(1))
            .map(char::len_utf8)
            .sum();
        let start = line_start + before;
        self.clamp(start..start + place.text.len())
    }

    /// The line that holds byte `at`, and the character of that line that begins there; both count from 0.
    fn line_column(&self, at: usize) -> (usize, usize) {
        let line = self.0.lines.partition_point(|start| *start <= at) - 1;
        let before = &self.text()[self.0.lines[line]..at];
        (line, before.chars().count())
    }

    /// `span` moved inside the text and onto character borders.
    fn clamp(&self, span: Range<usize>) -> Range<usize> {
        let text = self.text();
        let start = text.floor_char_boundary(span.start.min(text.len()));
        let end = text.ceil_char_boundary(span.end.clamp(start, text.len()));
        start..end
    }
}

/// What `miette` draws of the file.
impl SourceCode for Source {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        lines_before: usize,
        lines_after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let (start, end) = (span.offset(), span.offset() + span.len());
        let File { name, text, lines } = self.0.as_ref();
        if end > text.len() {
            return Err(MietteError::OutOfBounds);
        }
        let (line, column) = self.line_column(start);
        let first = line.saturating_sub(lines_before);
        // Without context `miette` asks for the place alone.
        let (from, column) = match lines_before {
            0 => (start, column),
            _ => (lines[first], 0),
        };
        let (last, _) = self.line_column(end);
        let to = lines
            .get(last + lines_after + 1)
            .copied()
            .unwrap_or(text.len());
        Ok(Box::new(MietteSpanContents::new_named(
            name.clone(),
            &text.as_bytes()[from..to],
            (from, to - from).into(),
            first,
            column,
            // Whether two excerpts are drawn as one is decided by this count alone.
            last + lines_after + 1 - first + NEAR,
        )))
    }
}

impl Diagnostic {
    /// Also shows the bytes `span`, for example the first of two statements that contradict each other.
    pub fn with_related(mut self, span: Range<usize>, label: impl Into<String>) -> Self {
        self.related = Some((self.source.clamp(span), label.into()));
        self
    }

    /// What is wrong, and with which object.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to do about it.
    pub fn help(&self) -> &str {
        &self.help
    }

    /// Whether it refuses the file.
    pub fn severity(&self) -> Severity {
        self.severity
    }

    /// Line and column of the offending text's beginning; both count from 1, columns in characters.
    pub fn line_column(&self) -> (usize, usize) {
        let (line, column) = self.source.line_column(self.span.start);
        (line + 1, column + 1)
    }

    fn is_near(&self, other: &Range<usize>) -> bool {
        let line = |at| self.source.line_column(at).0;
        line(self.span.start).abs_diff(line(other.start)) <= NEAR
    }

    /// The offending text.
    pub fn text(&self) -> &str {
        &self.source.text()[self.span.clone()]
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Diagnostic {}

impl miette::Diagnostic for Diagnostic {
    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.severity {
            Severity::Error => miette::Severity::Error,
            Severity::Warning => miette::Severity::Warning,
        })
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(match &self.related {
            Some((span, label)) if !self.is_near(span) => {
                let (line, _) = self.source.line_column(span.start);
                Box::new(format!("{} ({label}: line {})", self.help, line + 1))
            }
            _ => Box::new(&self.help),
        })
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(&self.source)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let primary = LabeledSpan::new_primary_with_span(None, self.span.clone());
        let related = self
            .related
            .as_ref()
            .filter(|(span, _)| self.is_near(span))
            .map(|(span, label)| LabeledSpan::new_with_span(Some(label.clone()), span.clone()));
        Some(Box::new(std::iter::once(primary).chain(related)))
    }
}

/// As [`FlatDiagnostic`].
impl Serialize for Diagnostic {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        FlatDiagnostic::from(self).serialize(serializer)
    }
}

impl FlatDiagnostic {
    /// The complaint about `source`, which is the file that it was made for.
    pub fn locate(self, source: &Source) -> Diagnostic {
        let related = self.related;
        Diagnostic {
            severity: self.severity,
            message: self.message,
            help: self.help,
            span: source.span(&self.place),
            related: related.map(|related| (source.span(&related.place), related.label)),
            source: source.clone(),
        }
    }
}

impl From<&Diagnostic> for FlatDiagnostic {
    fn from(diagnostic: &Diagnostic) -> Self {
        let source = &diagnostic.source;
        let related = diagnostic.related.as_ref().map(|(span, label)| Related {
            label: label.clone(),
            place: source.place(span),
        });
        Self {
            severity: diagnostic.severity,
            file: source.name().to_owned(),
            message: diagnostic.message.clone(),
            help: diagnostic.help.clone(),
            place: source.place(&diagnostic.span),
            related,
        }
    }
}

impl Diagnostics {
    /// No complaint.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many complaints.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The complaints in their order.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.0.iter()
    }

    /// Writes those that are [printed] to the log, as warnings.
    pub fn warn(&self) {
        let (complaints, note) = printed(&self.0);
        for complaint in complaints {
            let (line, _) = complaint.line_column();
            tracing::warn!("line {line}: {complaint}: {}", complaint.help());
        }
        if let Some(line) = note {
            tracing::warn!("{line}");
        }
    }

    /// Adds one.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.0.push(diagnostic);
    }

    /// Ordered by place in the file; what complains twice about the same text in the same words is said once.
    pub fn into_sorted(mut self) -> Self {
        self.0
            .sort_by_key(|d| (d.span.start, d.span.end, d.message.clone()));
        self.0
            .dedup_by(|a, b| a.span == b.span && a.message == b.message);
        self
    }

    /// Draws each [printed] complaint with its source line in the given theme (`GraphicalTheme::default()` suits a
    /// terminal).
    pub fn render(&self, theme: GraphicalTheme) -> String {
        let handler = GraphicalReportHandler::new_themed(theme)
            .with_width(100)
            .with_context_lines(1);
        let mut drawing = String::new();
        let (diagnostics, note) = printed(&self.0);
        for diagnostic in diagnostics {
            // Spans are clamped to the text and a String takes any character, so neither can fail.
            if handler.render_report(&mut drawing, diagnostic).is_err() {
                drawing.push_str(&diagnostic.message);
                drawing.push('\n');
            }
        }
        if let Some(line) = note {
            drawing.push_str(&line);
            drawing.push('\n');
        }
        drawing
    }
}

impl FromIterator<Diagnostic> for Diagnostics {
    fn from_iter<I: IntoIterator<Item = Diagnostic>>(diagnostics: I) -> Self {
        Self(diagnostics.into_iter().collect())
    }
}

impl From<Diagnostic> for Diagnostics {
    fn from(diagnostic: Diagnostic) -> Self {
        Self(vec![diagnostic])
    }
}

impl Extend<Diagnostic> for Diagnostics {
    fn extend<I: IntoIterator<Item = Diagnostic>>(&mut self, more: I) {
        self.0.extend(more);
    }
}

impl<'a> IntoIterator for &'a Diagnostics {
    type Item = &'a Diagnostic;
    type IntoIter = std::slice::Iter<'a, Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(GraphicalTheme::unicode_nocolor()))
    }
}

impl std::error::Error for Diagnostics {}

impl miette::Diagnostic for Diagnostics {
    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn miette::Diagnostic> + 'a>> {
        Some(Box::new(
            self.0.iter().map(|d| d as &dyn miette::Diagnostic),
        ))
    }
}

/// An array of the complaints.
impl Serialize for Diagnostics {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(&self.0)
    }
}
