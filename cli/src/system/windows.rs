//! Signals, links and terminals of Windows.

use std::fs::{File, Metadata};
use std::io;
use std::os::windows::io::AsHandle;
use std::path::Path;

use tokio::signal::windows::{CtrlBreak, CtrlC, ctrl_break, ctrl_c};

/// Ctrl-C and Ctrl-Break.
pub(crate) struct Signals {
    ctrl_c: Option<CtrlC>,
    ctrl_break: Option<CtrlBreak>,
}

impl Signals {
    pub(crate) fn new() -> Self {
        Self {
            ctrl_c: ctrl_c().ok(),
            ctrl_break: ctrl_break().ok(),
        }
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) {
        let ctrl_c = async {
            match &mut self.ctrl_c {
                Some(signal) => signal.recv().await,
                None => std::future::pending().await,
            }
        };
        let ctrl_break = async {
            match &mut self.ctrl_break {
                Some(signal) => signal.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = ctrl_c => {}
            _ = ctrl_break => {}
        }
    }
}

/// Returns nothing, because the standard library does not know the width of a terminal.
pub(crate) fn columns_of_stderr() -> Option<usize> {
    None
}

/// Returns an open stream as a file, which is written without a buffer.
pub(crate) fn file_of(stream: &impl AsHandle) -> io::Result<File> {
    Ok(stream.as_handle().try_clone_to_owned()?.into())
}

/// Copies the program `target`, which may be relative to the copy, because links need rights that
/// users do not have.
pub(crate) fn link(target: &Path, path: &Path) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new(""));
    std::fs::copy(folder.join(target), path).map(drop)
}

/// Returns whether a file is a copy of a program.
pub(crate) fn is_link_to(path: &Path, program: &Path) -> bool {
    let is_same = || -> io::Result<bool> {
        let (one, other) = (std::fs::metadata(path)?, std::fs::metadata(program)?);
        Ok(one.len() == other.len() && std::fs::read(path)? == std::fs::read(program)?)
    };
    is_same().unwrap_or(false)
}

/// Returns whether a copy at `path` is as [`link`] made it, and the program the same.
pub(crate) fn is_unchanged_link(path: &Path, target: &Path) -> io::Result<bool> {
    std::fs::metadata(path)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    Ok(is_link_to(path, &folder.join(target)))
}

/// Returns whether a file may be a program.
pub(crate) fn runs(found: &Metadata) -> bool {
    found.is_file()
}
