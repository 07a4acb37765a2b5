//! Secrets and parameters, in one file that only its owner may read.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A secret.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Secret {
    pub(super) name: String,
    pub(super) arn: String,
    pub(super) version_id: String,
    /// Seconds since the epoch.
    pub(super) created: f64,
    /// Seconds since the epoch.
    pub(super) changed: f64,
    /// `SecretString` or `SecretBinary`.
    pub(super) value: Map<String, Value>,
}

/// A parameter.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Parameter {
    /// `String`, `StringList` or `SecureString`.
    pub(super) kind: String,
    pub(super) value: String,
    pub(super) version: u64,
    /// Seconds since the epoch.
    pub(super) changed: f64,
}

/// Everything that is kept.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Content {
    pub(super) secrets: Vec<Secret>,
    /// By name.
    pub(super) parameters: BTreeMap<String, Parameter>,
}

/// The file.
#[derive(Debug)]
pub(super) struct SecretFile {
    folder: PathBuf,
}

const FILE: &str = "secrets.json";

impl SecretFile {
    /// Opens the file in a folder; there is nothing in it at first.
    pub(super) fn open(folder: &Path) -> std::io::Result<(Self, Content)> {
        std::fs::create_dir_all(folder)?;
        let content = match std::fs::read(folder.join(FILE)) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Content::default(),
            Err(error) => return Err(error),
        };
        let folder = folder.to_owned();
        Ok((Self { folder }, content))
    }

    /// Replaces the stored content.
    pub(super) fn save(&self, content: &Content) -> std::io::Result<()> {
        // Temporary files are readable by their owner only.
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        file.write_all(&serde_json::to_vec(content)?)?;
        file.persist(self.folder.join(FILE))
            .map_err(|error| error.error)?;
        Ok(())
    }
}
