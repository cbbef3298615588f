//! The file of `ha.key_file`: the keys that datagrams between the two nodes are signed with.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// What the mode of a file says that others than its owner may do.
const OTHERS: u32 = 0o077;
/// A file of two keys and their comments is shorter; a device or a wrong file may be endless.
const LONGEST: u64 = 65_536;

/// The text of a key file, which nobody but its owner may read or write.
///
/// # Errors
/// That it cannot be read or that others can read it, and what mends it.
pub(crate) fn read(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let cannot = |cause: std::io::Error| match cause.kind() {
        ErrorKind::NotFound => format!(
            "{shown} does not exist; make it on one node, (umask 077; openssl rand -hex 32 > {shown}), \
             and copy it to the other"
        ),
        ErrorKind::PermissionDenied => format!("{shown} cannot be read: {cause}; are you root?"),
        _ => format!("{shown} cannot be read: {cause}; give the path of the key file"),
    };
    let file = File::open(path).map_err(cannot)?;
    // Of the file that is open, not of what the path may lead to by now.
    let metadata = file.metadata().map_err(cannot)?;
    if !metadata.is_file() {
        return Err(format!("{shown} is not a file; give the path of the key file"));
    }
    let mode = metadata.permissions().mode();
    if mode & OTHERS != 0 {
        return Err(format!(
            "{shown} is open to others (mode {:03o}), who could forge or read what the nodes tell \
             each other; chmod 600 {shown}",
            mode & 0o777
        ));
    }
    let mut text = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut text).map_err(cannot)?;
    if text.len() as u64 > LONGEST {
        return Err(format!("{shown} is no key file: it is longer than {LONGEST} bytes"));
    }
    let wrong = |_| format!("{shown} is no key file: it is not text");
    String::from_utf8(text).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;

    #[test]
    fn only_a_file_that_its_owner_alone_can_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sync.key");
        let shown = path.display();
        let error = || read(&path).unwrap_err();
        assert_eq!(
            error(),
            format!(
                "{shown} does not exist; make it on one node, (umask 077; openssl rand -hex 32 > \
                 {shown}), and copy it to the other"
            )
        );
        fs::write(&path, "00ff\n").unwrap();
        for (mode, good) in
            [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o620, false)]
        {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            match good {
                true => assert_eq!(read(&path).as_deref(), Ok("00ff\n")),
                false => assert_eq!(
                    error(),
                    format!(
                        "{shown} is open to others (mode {mode:03o}), who could forge or read what \
                         the nodes tell each other; chmod 600 {shown}"
                    )
                ),
            }
        }
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, b"\xff\xfe").unwrap();
        assert_eq!(error(), format!("{shown} is no key file: it is not text"));
        fs::write(&path, [b'0'; 65_537]).unwrap();
        assert_eq!(error(), format!("{shown} is no key file: it is longer than 65536 bytes"));
        let directory = read(dir.path()).unwrap_err();
        assert!(directory.ends_with("is not a file; give the path of the key file"), "{directory}");
    }
}
