//! Signals, links and terminals of Unix.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGINT and SIGTERM.
pub(crate) struct Signals(Vec<Signal>);

impl Signals {
    pub(crate) fn new() -> Self {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate()];
        Self(
            kinds
                .into_iter()
                .filter_map(|kind| signal(kind).ok())
                .collect(),
        )
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) {
        let each = self.0.iter_mut().map(|signal| Box::pin(signal.recv()));
        if each.len() == 0 {
            std::future::pending::<()>().await;
        }
        futures_util::future::select_all(each).await;
    }
}

/// Returns the width of the terminal at standard error, if it is known.
pub(crate) fn columns_of_stderr() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stderr()).ok()?;
    (size.ws_col > 0).then(|| usize::from(size.ws_col))
}

/// Returns an open stream as a file, which is written without a buffer.
pub(crate) fn file_of(stream: &impl AsFd) -> io::Result<File> {
    Ok(stream.as_fd().try_clone_to_owned()?.into())
}

/// Creates a link at `path` to the program `target`, which may be relative to the link.
pub(crate) fn link(target: &Path, path: &Path) -> io::Result<()> {
    symlink(target, path)
}

/// Returns whether a path leads to a program without links.
pub(crate) fn is_link_to(path: &Path, program: &Path) -> bool {
    path.canonicalize().is_ok_and(|path| path == program)
}

/// Returns whether a link at `path` is as [`link`] created it.
pub(crate) fn is_unchanged_link(path: &Path, target: &Path) -> io::Result<bool> {
    Ok(std::fs::read_link(path)? == target)
}

/// Returns whether a file is a program.
pub(crate) fn runs(found: &Metadata) -> bool {
    found.is_file() && found.permissions().mode() & 0o111 != 0
}
