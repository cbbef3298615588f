//! Standard output, whose reader may go away (`shunt sessions | head`).

use std::io::{self, Write};

use anyhow::{Context, Result};

/// Prints `text`. A reader that has closed the pipe has seen enough: that is no error.
pub(super) fn print(text: &str) -> Result<()> {
    write_all(&mut io::stdout().lock(), text).context("cannot write to standard output")
}

/// Prints JSON, indented.
pub(super) fn print_json(value: &impl serde::Serialize) -> Result<()> {
    print(&(serde_json::to_string_pretty(value)? + "\n"))
}

fn write_all(to: &mut impl Write, text: &str) -> io::Result<()> {
    match to.write_all(text.as_bytes()).and_then(|()| to.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Failing(io::ErrorKind);

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_closed_pipe_is_no_error_but_a_full_disk_is() {
        assert!(write_all(&mut Failing(io::ErrorKind::BrokenPipe), "x").is_ok());
        assert!(write_all(&mut Failing(io::ErrorKind::StorageFull), "x").is_err());
        let mut out = Vec::new();
        write_all(&mut out, "text").unwrap();
        assert_eq!(out, b"text");
    }
}
