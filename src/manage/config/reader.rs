//! Reads the tables of a TOML file key by key, recording every error instead of stopping at the
//! first.
//!
//! A [`Section`] is one table. Each key is taken with a parser from [`super::values`]; a wrong
//! value is recorded in the [`Report`] and becomes `None`, so that reading goes on. What is left
//! when the section is [finished](Section::finish) is unknown.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeSet;

use toml::de::{DeTable, DeValue};

use super::error::ConfigError;

/// A value and the line it stands on.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) line: usize,
}

/// The items of an array that could be read.
#[derive(Clone, Debug)]
pub(super) struct List<T> {
    pub(super) items: Vec<At<T>>,
    /// Whether that is all of them: no item was wrong.
    pub(super) whole: bool,
}

impl<T> List<T> {
    /// The values, if all could be read.
    pub(super) fn into_values(self) -> Option<Vec<T>> {
        self.whole.then(|| self.items.into_iter().map(|item| item.value).collect())
    }
}

/// Collects the errors and warnings of a file.
pub(super) struct Report<'a> {
    file: &'a str,
    /// Where each line but the first begins, in bytes.
    line_starts: Vec<usize>,
    errors: RefCell<Vec<ConfigError>>,
    warnings: RefCell<Vec<ConfigError>>,
    /// Every (section, key) that was asked for: the schema, as far as the file touches it.
    asked: RefCell<BTreeSet<(&'static str, &'static str)>>,
}

impl<'a> Report<'a> {
    /// A report on `text`, which came from `file`.
    pub(super) fn new(file: &'a str, text: &str) -> Self {
        let line_starts = text.match_indices('\n').map(|(at, _)| at + 1).collect();
        Report {
            file,
            line_starts,
            errors: RefCell::default(),
            warnings: RefCell::default(),
            asked: RefCell::default(),
        }
    }

    /// Records an error.
    pub(super) fn error(&self, line: usize, section: &str, key: &str, message: impl Into<String>) {
        self.errors.borrow_mut().push(self.finding(line, section, key, message.into()));
    }

    /// Records what is right but does nothing.
    pub(super) fn warning(
        &self,
        line: usize,
        section: &str,
        key: &str,
        message: impl Into<String>,
    ) {
        self.warnings.borrow_mut().push(self.finding(line, section, key, message.into()));
    }

    /// Whether there is no error so far.
    pub(super) fn is_good(&self) -> bool {
        self.errors.borrow().is_empty()
    }

    fn finding(&self, line: usize, section: &str, key: &str, message: String) -> ConfigError {
        ConfigError {
            file: self.file.to_owned(),
            line: Some(line),
            section: section.to_owned(),
            key: key.to_owned(),
            message,
        }
    }

    /// The line, from 1, of a byte offset into the text.
    pub(super) fn line_of(&self, offset: usize) -> usize {
        1 + self.line_starts.partition_point(|&start| start <= offset)
    }

    /// The errors, in the order in which they were found.
    pub(super) fn into_errors(self) -> Vec<ConfigError> {
        self.errors.into_inner()
    }

    /// Takes the warnings, in the order of their lines.
    pub(super) fn take_warnings(&self) -> Vec<ConfigError> {
        let mut warnings = self.warnings.take();
        warnings.sort_by_key(|w| w.line);
        warnings
    }

    /// Every (section, key) that was asked for.
    #[cfg(test)]
    pub(super) fn asked(&self) -> Vec<(&'static str, &'static str)> {
        self.asked.borrow().iter().copied().collect()
    }
}

/// One table of the file, or a table that is not there and so has no keys.
pub(super) struct Section<'a> {
    header: &'static str,
    line: usize,
    table: Option<&'a DeTable<'a>>,
    report: &'a Report<'a>,
    supported: Vec<&'static str>,
    later: Vec<&'static str>,
}

impl<'a> Section<'a> {
    /// The table behind `header`, which is what errors call it.
    pub(super) fn new(
        header: &'static str,
        line: usize,
        table: Option<&'a DeTable<'a>>,
        report: &'a Report<'a>,
    ) -> Self {
        Section { header, line, table, report, supported: Vec::new(), later: Vec::new() }
    }

    /// The line of the section's header.
    pub(super) fn line(&self) -> usize {
        self.line
    }

    /// A key that must be there; `example` says what would be right.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&DeValue<'_>) -> Result<T, String>,
        example: &str,
    ) -> Option<At<T>> {
        if !self.has(key) {
            self.missing(key, example);
        }
        self.maybe(key, parse)
    }

    /// A key that has a default. `None` only when it is there and wrong.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&DeValue<'_>) -> Result<T, String>,
        default: T,
    ) -> Option<At<T>> {
        if self.has(key) {
            return self.maybe(key, parse);
        }
        self.ask(key);
        Some(At { value: default, line: self.line })
    }

    /// A key that may be absent: `None` then, and when it is wrong.
    pub(super) fn maybe<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&DeValue<'_>) -> Result<T, String>,
    ) -> Option<At<T>> {
        self.ask(key);
        let (value, line) = self.value(key)?;
        match parse(value) {
            Ok(value) => Some(At { value, line }),
            Err(message) => {
                self.report.error(line, self.header, key, message);
                None
            }
        }
    }

    /// An array; each item that is wrong is an error on its own line. Absent is empty.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&DeValue<'_>) -> Result<T, String>,
    ) -> List<T> {
        self.ask(key);
        let mut list = List { items: Vec::new(), whole: true };
        let Some((value, line)) = self.value(key) else { return list };
        let Some(array) = value.as_array() else {
            let message = format!("{} is not a list; write [ … ]", described(value));
            self.report.error(line, self.header, key, message);
            list.whole = false;
            return list;
        };
        for item in array.iter() {
            let line = self.report.line_of(item.span().start);
            match parse(item.get_ref()) {
                Ok(value) => list.items.push(At { value, line }),
                Err(message) => {
                    self.report.error(line, self.header, key, message);
                    list.whole = false;
                }
            }
        }
        list
    }

    /// An array that must be there and have an item; `example` says what would be right.
    pub(super) fn required_list<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&DeValue<'_>) -> Result<T, String>,
        example: &str,
    ) -> List<T> {
        let mut list = self.list(key, parse);
        if list.whole && list.items.is_empty() {
            match self.value(key) {
                Some((_, line)) => {
                    let message = format!("is empty; give {example}");
                    self.report.error(line, self.header, key, message);
                }
                None => self.missing(key, example),
            }
            list.whole = false;
        }
        list
    }

    /// A key of the design of which this version only has the value that asks for nothing; `shown`
    /// is how that is written, `is_off` knows it.
    pub(super) fn not_yet_but(
        &mut self,
        key: &'static str,
        shown: &str,
        is_off: impl Fn(&DeValue<'_>) -> bool,
    ) {
        self.later.push(key);
        let Some((value, line)) = self.value(key) else { return };
        if is_off(value) {
            return;
        }
        let message = format!("not supported yet; only {shown} is accepted");
        let (section, key) = self.place(key, value);
        self.report.error(line, &section, key, message);
    }

    /// The table `[key]`; an empty one when it is absent. `None` when it is something else.
    pub(super) fn table(&mut self, key: &'static str, header: &'static str) -> Option<Section<'a>> {
        self.supported.push(key);
        let Some((value, line)) = self.value(key) else {
            return Some(Section::new(header, self.line, None, self.report));
        };
        let Some(table) = value.as_table() else {
            let message = format!("is {}; write {header}", described(value));
            self.report.error(line, header, "", message);
            return None;
        };
        Some(Section::new(header, line, Some(table), self.report))
    }

    /// Makes the name of an absent table known.
    pub(super) fn accept(&mut self, key: &'static str) {
        self.supported.push(key);
    }

    /// Whether the key is there.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|t| t.contains_key(key))
    }

    /// The tables `[[key]]`, and whether that is all of them. Absent is none.
    pub(super) fn tables(
        &mut self,
        key: &'static str,
        header: &'static str,
    ) -> (Vec<Section<'a>>, bool) {
        self.supported.push(key);
        let Some((value, line)) = self.value(key) else { return (Vec::new(), true) };
        let Some(array) = value.as_array() else {
            let message = format!("is {}; write {header}", described(value));
            self.report.error(line, header, "", message);
            return (Vec::new(), false);
        };
        let mut sections = Vec::new();
        let mut whole = true;
        for item in array.iter() {
            let line = self.report.line_of(item.span().start);
            match item.get_ref().as_table() {
                Some(table) => sections.push(Section::new(header, line, Some(table), self.report)),
                None => {
                    let message = format!("is {}; write {header}", described(item.get_ref()));
                    self.report.error(line, header, "", message);
                    whole = false;
                }
            }
        }
        (sections, whole)
    }

    /// Records an error at a key of this section, or at its header when the key is absent.
    pub(super) fn error(&self, key: &str, message: impl Into<String>) {
        let line = self.value(key).map_or(self.line, |(_, line)| line);
        self.report.error(line, self.header, key, message);
    }

    /// Records that a key of this section is right but does nothing.
    pub(super) fn warning(&self, key: &str, message: impl Into<String>) {
        let line = self.value(key).map_or(self.line, |(_, line)| line);
        self.report.warning(line, self.header, key, message);
    }

    /// Reports every key that was not asked for.
    pub(super) fn finish(self) {
        for (key, value) in self.table.into_iter().flat_map(|t| t.iter()) {
            let name: &str = key.get_ref();
            if self.supported.contains(&name) || self.later.contains(&name) {
                continue;
            }
            let line = self.report.line_of(key.span().start);
            let (section, key) = self.place(name, value.get_ref());
            self.report.error(line, &section, key, self.unknown(name));
        }
    }

    /// What an error calls a key: a table at the top of the file is a section of its own.
    fn place<'k>(&self, key: &'k str, value: &DeValue<'_>) -> (Cow<'static, str>, &'k str) {
        match value {
            _ if !self.header.is_empty() => (self.header.into(), key),
            DeValue::Table(_) => (format!("[{key}]").into(), ""),
            DeValue::Array(_) => (format!("[[{key}]]").into(), ""),
            _ => ("".into(), key),
        }
    }

    fn unknown(&self, name: &str) -> String {
        let near = self
            .supported
            .iter()
            .map(|key| (strsim::damerau_levenshtein(key, name), *key))
            .filter(|(distance, key)| *distance <= key.len().max(name.len()).div_ceil(3))
            .min();
        let what = if self.header.is_empty() { "section" } else { "key" };
        match near {
            Some((_, key)) => format!("unknown {what}; did you mean {key:?}?"),
            None => format!("unknown {what}; known here: {}", self.supported.join(", ")),
        }
    }

    /// Records that a key is missing; `example` says what would be right.
    pub(super) fn missing(&self, key: &str, example: &str) {
        self.report.error(self.line, self.header, key, format!("missing; give {example}"));
    }

    fn ask(&mut self, key: &'static str) {
        self.supported.push(key);
        self.report.asked.borrow_mut().insert((self.header, key));
    }

    /// The value of a key, and the line of the key.
    fn value(&self, key: &str) -> Option<(&'a DeValue<'a>, usize)> {
        let (key, value) = self.table?.get_key_value(key)?;
        // A table's own span is its header's; a value may begin on a later line than its key.
        let offset = match value.get_ref() {
            DeValue::Table(_) => value.span().start,
            _ => key.span().start,
        };
        Some((value.get_ref(), self.report.line_of(offset)))
    }
}

/// A value's type with its article.
pub(super) fn described(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
