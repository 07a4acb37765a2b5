//! Persistent state: one file, replaced atomically.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::model::{Execution, Pipeline};

/// Pipelines by name, and executions in the order of their start.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) pipelines: BTreeMap<String, Pipeline>,
    pub(super) executions: Vec<Execution>,
}

/// File of the state.
#[derive(Debug)]
pub(super) struct StateFile(PathBuf);

impl StateFile {
    /// Opens the state in a folder; empty if there is none yet.
    pub(super) fn open(data: &std::path::Path) -> std::io::Result<(Self, State)> {
        std::fs::create_dir_all(data)?;
        let path = data.join("pipelines.json");
        let state = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => State::default(),
            Err(error) => return Err(error),
        };
        Ok((Self(path), state))
    }

    /// Replaces the stored state.
    pub(super) fn save(&self, state: &State) -> std::io::Result<()> {
        let temporary = self.0.with_extension("new");
        std::fs::write(&temporary, serde_json::to_vec(state)?)?;
        std::fs::rename(&temporary, &self.0)
    }
}
