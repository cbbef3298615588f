//! What is wrong with a configuration file: every error, and every warning, with its line, section
//! and key.

use std::fmt;

/// One error or warning, rendered as `FILE:LINE: [section] key: what is wrong; what would be right`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file, as it was named by the caller.
    pub file: String,
    /// The line, from 1; `None` when the file could not be read at all. Something missing is
    /// reported on the line of its section, and a missing section on line 1.
    pub line: Option<usize>,
    /// The section as its header stands in the file, like `[[port]]`; empty for a syntax error.
    pub section: String,
    /// The key; empty when the whole section is meant.
    pub key: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        match (self.section.as_str(), self.key.as_str()) {
            ("", "") => {}
            ("", key) => write!(f, ": {key}")?,
            (section, "") => write!(f, ": {section}")?,
            (section, key) => write!(f, ": {section} {key}")?,
        }
        write!(f, ": {}", self.message)
    }
}

/// All errors of a file, in the order of its lines; never empty. Displayed one to a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    /// Sorts the errors by line; several on one line keep the order in which they were found.
    ///
    /// # Panics
    /// When `errors` is empty.
    pub(super) fn new(mut errors: Vec<ConfigError>) -> Self {
        assert!(!errors.is_empty(), "a failure needs an error that says why");
        errors.sort_by_key(|e| e.line);
        ConfigErrors(errors)
    }

    /// The errors.
    pub fn iter(&self) -> std::slice::Iter<'_, ConfigError> {
        self.0.iter()
    }

    /// How many there are.
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
