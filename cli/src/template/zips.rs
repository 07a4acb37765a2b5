//! The functions as zips: a directory for each processor, with a description and the plain template.

use std::path::{Path, PathBuf};

use branchline_core::{Error, ErrorKind, Result};
use clap::ValueEnum;
use serde::Deserialize;

use crate::invocation::Invocation;

/// Template in which AWS SAM's parts are written out.
const PLAIN_TEMPLATE: &str = "cloudformation.json";
/// Version and processor of the zips.
const DESCRIPTION: &str = "functions/functions.json";
/// Files that a stack has from a release, because they cannot be made without a compiler.
pub(super) const RELEASED: [&str; 5] = [
    PLAIN_TEMPLATE,
    DESCRIPTION,
    "functions/lifecycle.zip",
    "functions/migration.zip",
    "functions/update.zip",
];

/// Processor of the functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
pub(super) enum Architecture {
    /// Costs less in AWS Lambda.
    #[value(name = "arm64")]
    #[serde(rename = "arm64")]
    Arm64,
    /// As most servers have it.
    #[value(name = "x86_64")]
    #[serde(rename = "x86_64")]
    X86_64,
}

impl Architecture {
    /// Returns AWS Lambda's name of the processor.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Arm64 => "arm64",
            Self::X86_64 => "x86_64",
        }
    }
}

/// A directory with the zips of one processor, such as a stack.
#[derive(Debug)]
pub(super) struct Zips {
    pub(super) directory: PathBuf,
    pub(super) architecture: Architecture,
}

#[derive(Deserialize)]
struct Description {
    version: String,
    architecture: Architecture,
}

impl Zips {
    /// Reads a directory.
    ///
    /// # Errors
    /// `NotFound` for a file that is missing, `Config` for zips of another version.
    pub(super) fn read(directory: &Path) -> Result<Self> {
        let path = directory.join(DESCRIPTION);
        let shown = path.display();
        let text = std::fs::read(&path).map_err(|error| {
            Error::new(ErrorKind::NotFound, format!("`{shown}` cannot be read"))
                .with_source(error)
                .with_hint(
                    "name the stack of one processor, as a release has it unpacked and \
                     `cargo xtask dist` makes it",
                )
        })?;
        let description: Description = serde_json::from_slice(&text).map_err(|error| {
            Error::new(
                ErrorKind::Config,
                format!("`{shown}` does not describe zips"),
            )
            .with_source(error)
        })?;
        let own = env!("CARGO_PKG_VERSION");
        if description.version != own {
            let message = format!(
                "the zips in `{}` are of version {}, and this program is of version {own}",
                directory.display(),
                description.version.escape_debug()
            );
            return Err(Error::new(ErrorKind::Config, message)
                .with_hint("take the zips and the program from one release"));
        }
        for name in RELEASED {
            let path = directory.join(name);
            if !path.is_file() {
                let message = format!("`{}` is missing", path.display());
                return Err(Error::new(ErrorKind::NotFound, message)
                    .with_hint("unpack the release again, or run `cargo xtask dist`"));
            }
        }
        Ok(Self {
            directory: directory.to_owned(),
            architecture: description.architecture,
        })
    }

    /// Reads a directory that was installed with this program: `share/branchline/ARCHITECTURE`
    /// beside the directory of the program. Without a choice the first of [`Architecture`] is taken.
    pub(super) fn installed(
        invocation: &Invocation,
        architecture: Option<Architecture>,
    ) -> Result<Self> {
        let program = invocation.program.as_deref().map(Path::canonicalize);
        let prefix = match &program {
            Some(Ok(program)) => program.parent().and_then(Path::parent),
            _ => None,
        };
        let candidates = match architecture {
            Some(architecture) => vec![architecture],
            None => vec![Architecture::Arm64, Architecture::X86_64],
        };
        let share = prefix.map(|prefix| prefix.join("share/branchline"));
        let mut directories = candidates.iter().filter_map(|candidate| {
            let directory = share.as_ref()?.join(candidate.name());
            directory.is_dir().then_some(directory)
        });
        if let Some(directory) = directories.next() {
            return Self::read(&directory);
        }
        let wanted = architecture.map_or(String::new(), |it| format!(" for {}", it.name()));
        let message = format!("the functions{wanted} are not installed with this program");
        Err(Error::new(ErrorKind::NotFound, message).with_hint(
            "name a stack with their zips by `--zips`: a release has one for each processor, and \
             `cargo xtask dist` makes them",
        ))
    }
}
