//! The file or pipe that an archive is written to.

use std::fs::{File, OpenOptions};
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use branchline_core::{Error, ErrorKind, Result};
use bytes::Bytes;

use crate::system;

/// A file or a pipe. A file that is not finished is removed, and what it replaces stays.
pub(super) struct Output {
    file: Option<File>,
    shown: String,
    /// Temporary name of a file, and its final name.
    names: Option<(PathBuf, PathBuf)>,
}

impl Output {
    /// Opens the file at `path`, or standard output.
    ///
    /// # Errors
    /// `Config` for a file that cannot be created, and for a terminal.
    pub(super) fn open(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path else {
            return Self::standard();
        };
        let shown = format!("`{}`", path.display());
        let failed = |error| {
            let message = format!("{shown} cannot be created");
            Error::new(ErrorKind::Config, message).with_source(error)
        };
        // A pipe or a device is written as it is.
        if std::fs::metadata(path).is_ok_and(|found| !found.is_file()) {
            let file = OpenOptions::new().write(true).open(path).map_err(failed)?;
            return Ok(Self {
                file: Some(file),
                shown,
                names: None,
            });
        }
        let Some(name) = path.file_name() else {
            let why = std::io::Error::from(std::io::ErrorKind::InvalidInput);
            return Err(failed(why));
        };
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".{}", std::process::id()));
        let temporary = path.with_file_name(temporary);
        let file = File::create_new(&temporary).map_err(failed)?;
        Ok(Self {
            file: Some(file),
            shown,
            names: Some((temporary, path.to_owned())),
        })
    }

    fn standard() -> Result<Self> {
        let output = std::io::stdout();
        if output.is_terminal() {
            let message = "an archive is not printed on a terminal";
            return Err(Error::new(ErrorKind::Config, message)
                .with_hint("name a file with `--output`, or redirect the output"));
        }
        let file = system::file_of(&output).map_err(|error| {
            Error::new(ErrorKind::Internal, "standard output is not open").with_source(error)
        })?;
        Ok(Self {
            file: Some(file),
            shown: "standard output".to_owned(),
            names: None,
        })
    }

    /// Writes the next bytes.
    ///
    /// # Errors
    /// `Config` for a full disk, or a reader that has gone away.
    pub(super) async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let Some(mut file) = self.file.take() else {
            return Err(Error::new(ErrorKind::Internal, "the archive was closed"));
        };
        let written = branchline_core::blocking::run(move || {
            let written = file.write_all(&bytes);
            (file, written)
        });
        let (file, written) = written.await?;
        self.file = Some(file);
        written.map_err(|error| self.failed(error))
    }

    fn failed(&self, error: std::io::Error) -> Error {
        let message = format!("{} cannot be written", self.shown);
        Error::new(ErrorKind::Config, message).with_source(error)
    }

    /// Gives a file its name.
    pub(super) fn finish(mut self) -> Result<()> {
        let Some((temporary, path)) = &self.names else {
            return Ok(());
        };
        let renamed = std::fs::rename(temporary, path);
        renamed.map_err(|error| self.failed(error))?;
        self.names = None;
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some((temporary, _)) = &self.names {
            // It may have been removed by someone else.
            let _ = std::fs::remove_file(temporary);
        }
    }
}
