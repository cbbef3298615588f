//! The file of a `[[list]]`: one prefix on each line.

use std::borrow::Cow;
use std::path::Path;

use ipnet::IpNet;

use super::guard::prefix;

/// Errors that are reported of one file.
const MOST_ERRORS: usize = 10;
/// What an error shows of a bad line, in characters; no prefix is as long.
const SHOWN: usize = 64;

/// Reads a file of prefixes, ADDRESS or ADDRESS/LENGTH, one on a line. What follows `#` or `;` is a
/// comment; empty lines do not matter.
///
/// # Errors
/// That it cannot be read, or what is wrong in its first bad lines, each with file and line.
pub(super) fn read(path: &Path) -> Result<Vec<IpNet>, Vec<String>> {
    let text =
        std::fs::read(path).map_err(|e| vec![format!("{} cannot be read: {e}", path.display())])?;
    // Some editors begin a file with the byte order mark.
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&text);
    let mut prefixes = Vec::with_capacity(text.len() / 16);
    let mut errors = Vec::new();
    let mut bad = 0;
    for (line, number) in text.split(|&byte| byte == b'\n').zip(1..) {
        let line = line.split(|byte| b"#;".contains(byte)).next().unwrap_or_default();
        let text = String::from_utf8_lossy(line.trim_ascii());
        let text: Cow<'_, str> = match text.char_indices().nth(SHOWN) {
            Some((end, _)) => format!("{}…", &text[..end]).into(),
            None => text,
        };
        if text.is_empty() {
            continue;
        }
        match prefix(&text) {
            Ok(prefix) => prefixes.push(prefix),
            Err(error) => {
                bad += 1;
                if bad <= MOST_ERRORS {
                    errors.push(format!("{}:{number}: {error}", path.display()));
                }
            }
        }
    }
    if bad > MOST_ERRORS {
        errors.push(format!("{}: {} more bad lines", path.display(), bad - MOST_ERRORS));
    }
    if errors.is_empty() { Ok(prefixes) } else { Err(errors) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &[u8]) -> Result<Vec<String>, Vec<String>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list");
        std::fs::write(&path, text).unwrap();
        let directory = format!("{}/", dir.path().display());
        read(&path)
            .map(|prefixes| prefixes.iter().map(IpNet::to_string).collect())
            .map_err(|errors| errors.iter().map(|e| e.replace(&directory, "")).collect())
    }

    #[test]
    fn prefixes_addresses_and_comments() {
        let text = b"# blocked\n\n10.0.0.0/8 ; all of it\r\n 192.0.2.1\n2001:db8::/32 # docs\n::1";
        assert_eq!(
            read_text(text).unwrap(),
            ["10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32", "::1/128"]
        );
        assert_eq!(read_text(b"").unwrap(), [] as [&str; 0]);
    }

    #[test]
    fn bad_lines_are_named() {
        assert_eq!(
            read_text(b"10.0.0.0/8\n10.0.0.1/8\nhost\n\xff\n").unwrap_err(),
            [
                "list:2: 10.0.0.1/8 has bits set behind its prefix; expected 10.0.0.0/8",
                "list:3: \"host\" is not ADDRESS/LENGTH; expected one like 192.0.2.2/24 or 2001:db8::2/64",
                "list:4: \"\u{fffd}\" is not ADDRESS/LENGTH; expected one like 192.0.2.2/24 or 2001:db8::2/64",
            ]
        );
        let errors = read_text(&b"x\n".repeat(25)).unwrap_err();
        assert_eq!(errors.len(), 11);
        assert_eq!(errors[10], "list: 15 more bad lines");
    }

    /// A file of something else does not fill the screen.
    #[test]
    fn long_lines_are_cut_and_the_byte_order_mark_is_not_text() {
        let long = [b'x'; 100_000];
        let shown = "x".repeat(64);
        assert_eq!(
            read_text(&long).unwrap_err(),
            [format!(
                "list:1: \"{shown}…\" is not ADDRESS/LENGTH; expected one like 192.0.2.2/24 or 2001:db8::2/64"
            )]
        );
        let longest = "abcd:abcd:abcd:abcd:abcd:abcd:255.255.255.255/128";
        assert_eq!(read_text(longest.as_bytes()).unwrap().len(), 1);
        assert_eq!(read_text(b"\xef\xbb\xbf10.0.0.0/8\n").unwrap(), ["10.0.0.0/8"]);
    }

    #[test]
    fn a_file_that_is_not_there() {
        let errors = read(Path::new("/nowhere/list")).unwrap_err();
        assert_eq!(
            errors,
            ["/nowhere/list cannot be read: No such file or directory (os error 2)"]
        );
    }
}
