//! What is wrong with the settings, in the operator's words, every fault at once. Never carries a secret.

use std::fmt::{self, Write as _};

use config::{Value, ValueKind};

use crate::domain::masking::{MASK, masked};

/// Columns are no wider than this, so that one long cell does not push all others off the screen.
const COLUMN_CHARS_MAX: usize = 64;
/// Characters of a value that are shown.
const SHOWN_CHARS_MAX: usize = 48;

/// Why a text or value is not what its key wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    /// In a few words.
    pub(crate) why: String,
    /// What to do.
    pub(crate) hint: Option<String>,
}

impl Fault {
    pub(super) fn new(why: impl Into<String>) -> Self {
        Self { why: why.into(), hint: None }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// One fault of the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Path of the key, such as `bus.amqp.url`; a file's path if the fault is the file's.
    pub key: String,
    /// The value as found, secrets as `***`; `None` where it says nothing or might be a secret.
    pub found: Option<String>,
    /// File and line, environment variable or flag; empty = nowhere, such as a key that is missing.
    pub origin: String,
    /// What is wrong with it.
    pub why: String,
    /// What to try.
    pub hint: Option<String>,
}

impl Problem {
    pub(super) fn new(key: impl Into<String>, origin: impl Into<String>, fault: Fault) -> Self {
        // Keys and origins are what somebody wrote, and people write addresses into the wrong place. Hints are words of
        // ours, which show what an address looks like.
        Self {
            key: shown_words(key),
            found: None,
            origin: shown_words(origin),
            why: shown_words(fault.why),
            hint: fault.hint,
        }
    }

    pub(super) fn found(mut self, found: impl Into<String>) -> Self {
        self.found = Some(found.into());
        self
    }

    fn subject(&self) -> String {
        self.found.as_ref().map_or_else(|| self.key.clone(), |found| format!("{} = {found}", self.key))
    }
}

/// Every fault of the settings; at least one when `load` returns it. Prints one line each, in aligned columns, and then what
/// there is to say besides.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Problems {
    faults: Vec<Problem>,
    unreadable: Unreadable,
    /// A misspelt variable may well be why something is missing.
    warnings: Vec<Warning>,
}

/// What a file that cannot be read is, which holds a secret or a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum Unreadable {
    /// A fault like any other.
    #[default]
    Fault,
    /// Kept apart: who only looks at the settings need not have the secrets.
    Apart(Vec<Problem>),
}

impl Problems {
    /// The faults, by key.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.faults.iter()
    }

    /// True when nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.faults.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.faults.len()
    }

    pub(super) fn push(&mut self, problem: Problem) {
        self.faults.push(problem);
    }

    /// Problems that keep files apart which cannot be read.
    pub(super) fn without_files() -> Self {
        Self { unreadable: Unreadable::Apart(Vec::new()), ..Self::default() }
    }

    /// A file of a secret or certificate that cannot be read.
    pub(super) fn push_unreadable(&mut self, problem: Problem) {
        match &mut self.unreadable {
            Unreadable::Fault => self.faults.push(problem),
            Unreadable::Apart(apart) => apart.push(problem),
        }
    }

    /// What was kept apart.
    pub(super) fn unreadable(&self) -> &[Problem] {
        match &self.unreadable {
            Unreadable::Fault => &[],
            Unreadable::Apart(apart) => apart,
        }
    }

    pub(super) fn append(&mut self, mut others: Self) {
        self.faults.append(&mut others.faults);
    }

    /// With what there is to say besides.
    pub(super) fn with(self, mut warnings: Vec<Warning>) -> Self {
        warnings.sort();
        warnings.dedup();
        Self { warnings, ..self.sorted() }
    }

    /// Sorted by key and without repetition: a fault in a key that several settings use is told once.
    pub(super) fn sorted(mut self) -> Self {
        self.faults.sort_by(|a, b| (&a.key, &a.origin, &a.why).cmp(&(&b.key, &b.origin, &b.why)));
        self.faults.dedup();
        self
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "settings: {} problem{}", self.faults.len(), if self.faults.len() == 1 { "" } else { "s" })?;
        let rows: Vec<[String; 4]> = self
            .faults
            .iter()
            .map(|problem| {
                let hint = problem.hint.as_ref().map(|hint| format!("hint: {hint}")).unwrap_or_default();
                [problem.subject(), problem.origin.clone(), problem.why.clone(), hint]
            })
            .collect();
        let width = |column: usize| {
            let widest = rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
            widest.min(COLUMN_CHARS_MAX)
        };
        let widths = [width(0), width(1), width(2)];
        for [subject, origin, why, hint] in &rows {
            let mut line = format!("  {subject:<0$}    {origin:<1$}    {why:<2$}    ", widths[0], widths[1], widths[2]);
            line.write_str(hint)?;
            write!(f, "\n{}", line.trim_end())?;
        }
        self.warnings.iter().try_for_each(|warning| write!(f, "\nwarning: {warning}"))
    }
}

impl std::error::Error for Problems {}

/// Something that works and may still surprise. Never stops a start.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Warning {
    /// Path of the key, or the name of a variable.
    pub key: String,
    /// File and line, environment variable or flag; empty = nowhere.
    pub origin: String,
    /// What may surprise, and what to do about it.
    pub what: String,
}

impl Warning {
    pub(super) fn new(key: impl Into<String>, origin: impl Into<String>, what: impl Into<String>) -> Self {
        Self { key: shown_words(key), origin: shown_words(origin), what: shown_words(what) }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.what)?;
        if self.origin.is_empty() || self.origin == self.key { Ok(()) } else { write!(f, " ({})", self.origin) }
    }
}

/// A key, an origin or a sentence on them: with no login of an address.
fn shown_words(text: impl Into<String>) -> String {
    masked(&text.into()).into_owned()
}

/// Why a file cannot be read. The standard library's word for a missing one is "entity not found".
pub(super) fn unreadable_why(error: &std::io::Error) -> String {
    if error.kind() == std::io::ErrorKind::NotFound { "no such file".to_owned() } else { error.kind().to_string() }
}

/// A value for the eye: as TOML would write it, short, and never with what looks like credentials in a URL, since
/// people put URLs into the wrong key.
pub(super) fn shown(value: &Value) -> String {
    if let ValueKind::String(text) = &value.kind {
        return shown_text(text);
    }
    if matches!(value.kind, ValueKind::Table(_)) {
        return "{ … }".to_owned();
    }
    if matches!(value.kind, ValueKind::Array(_)) {
        return "[ … ]".to_owned();
    }
    value.kind.to_string()
}

/// A text for the eye; see [`shown`].
pub(super) fn shown_text(text: &str) -> String {
    if text.contains('@') {
        return MASK.to_owned();
    }
    if text.chars().count() > SHOWN_CHARS_MAX {
        let start: String = text.chars().take(SHOWN_CHARS_MAX).collect();
        return format!("{:?}", format!("{start}…"));
    }
    format!("{text:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_print_in_columns_and_count_themselves() {
        let mut problems = Problems::default();
        problems.push(
            Problem::new(
                "bus.amqp.heartbeat",
                "BUS__AMQP__HEARTBEAT",
                Fault::new("not a duration").hint("write \"30s\""),
            )
            .found("\"soon\""),
        );
        problems.push(Problem::new("bus.amqp.urll", "config/prod.toml:4", Fault::new("unknown key")));
        insta::assert_snapshot!(problems, @r#"
        settings: 2 problems
          bus.amqp.heartbeat = "soon"    BUS__AMQP__HEARTBEAT    not a duration    hint: write "30s"
          bus.amqp.urll                  config/prod.toml:4      unknown key
        "#);
    }

    #[test]
    fn a_url_in_the_wrong_key_is_masked() {
        assert_eq!(shown_text("amqp://app:canary@rabbit"), MASK);
        assert_eq!(shown_text("rabbit"), "\"rabbit\"");
    }
}
