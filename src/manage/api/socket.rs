//! The control socket and its file.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use log::error;

/// Owner and group may talk to it.
const PERMISSIONS: u32 = 0o660;

/// Why the control socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// A live process answers on it: stop that one, or give this one another `api.socket`.
    #[error("another shunt runs on {0}; stop it, or set another api.socket")]
    InUse(PathBuf),
    /// Something that is not a socket has that name: remove it, or set another `api.socket`.
    #[error("{0} exists and is not a socket; remove it, or set another api.socket")]
    NotASocket(PathBuf),
    /// The directory is missing or not writable.
    #[error("cannot create the control socket {path}: {cause}; {}", mend(cause))]
    Create {
        /// The path.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
}

fn mend(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::PermissionDenied => "run shunt as root, or set another api.socket",
        io::ErrorKind::NotFound => "make its directory, or set another api.socket",
        _ => "set another api.socket",
    }
}

/// The control socket, which listens. Its file goes away with it.
///
/// It is also what tells two processes with one configuration apart: whoever has it may touch the
/// ports and the taps.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ControlSocket {
    /// Listens on `path`. The socket that a dead process left there is replaced. A client that
    /// connects waits until [`ControlSocket::listener`] is served.
    ///
    /// The socket gets its permissions and listens under another name before it gets this one, so a
    /// socket that refuses connections under this name is dead, not just being made.
    ///
    /// # Errors
    /// See [`SocketError`].
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let failed = |cause| SocketError::Create { path: path.to_path_buf(), cause };
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let mut draft = path.as_os_str().to_owned();
        draft.push(format!(".{}.{serial}", std::process::id()));
        let draft = PathBuf::from(draft);

        let listener = UnixListener::bind(&draft).map_err(failed)?;
        let named = fs::set_permissions(&draft, fs::Permissions::from_mode(PERMISSIONS))
            .and_then(|()| listener.set_nonblocking(true))
            .map_err(failed)
            .and_then(|()| name(&draft, path));
        let removed = fs::remove_file(&draft).map_err(failed);
        named.and(removed).map(|()| ControlSocket { listener, path: path.to_path_buf() })
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The listener, for the runtime that this is called in.
    ///
    /// # Errors
    /// [`SocketError::Create`], when the system has no more file descriptors.
    pub fn listener(&self) -> Result<tokio::net::UnixListener, SocketError> {
        let failed = |cause| SocketError::Create { path: self.path.clone(), cause };
        let listener = self.listener.try_clone().map_err(failed)?;
        tokio::net::UnixListener::from_std(listener).map_err(failed)
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_file(&self.path) {
            error!("cannot remove {}: {e}", self.path.display());
        }
    }
}

/// Gives the socket `draft` the name `path` too, unless a live one has it.
fn name(draft: &Path, path: &Path) -> Result<(), SocketError> {
    let failed = |cause| SocketError::Create { path: path.to_path_buf(), cause };
    loop {
        match fs::hard_link(draft, path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other.map_err(failed),
        }
        if fs::symlink_metadata(path).is_ok_and(|meta| !meta.file_type().is_socket()) {
            return Err(SocketError::NotASocket(path.to_path_buf()));
        }
        match UnixStream::connect(path) {
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(path).map_err(failed)?;
            }
            // Its process has just removed it.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            // Also when it is too busy, or ours to see but not to talk to.
            _ => return Err(SocketError::InUse(path.to_path_buf())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shunt.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a process that is killed leaves it behind");
        let first = ControlSocket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        let error = ControlSocket::bind(&path).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("another shunt runs on {}; stop it, or set another api.socket", path.display())
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no draft is left");
        drop(first);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shunt.sock");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(ControlSocket::bind(&path), Err(SocketError::NotASocket(_))));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        let missing = dir.path().join("no/shunt.sock");
        let error = ControlSocket::bind(&missing).unwrap_err().to_string();
        let mend =
            "No such file or directory (os error 2); make its directory, or set another api.socket";
        assert!(error.ends_with(mend), "{error}");
    }
}
