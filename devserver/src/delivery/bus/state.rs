//! Buses and rules, in one file that is replaced atomically.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::pattern::EventPattern;
use super::target::Target;

/// A rule and its targets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct BusRule {
    pub(super) bus: String,
    pub(super) name: String,
    pub(super) pattern: String,
    #[serde(skip)]
    pub(super) parsed: Option<EventPattern>,
    pub(super) is_enabled: bool,
    /// By id.
    pub(super) targets: BTreeMap<String, Target>,
}

impl BusRule {
    pub(super) fn matches(&self, event: &Value) -> bool {
        let pattern = self.parsed.as_ref();
        pattern.is_some_and(|pattern| pattern.matches(event))
    }
}

/// Buses besides the default one, and rules by bus and name.
#[derive(Debug, Default)]
pub(super) struct BusState {
    pub(super) buses: BTreeSet<String>,
    pub(super) rules: BTreeMap<(String, String), BusRule>,
}

/// Content of the file.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Content {
    buses: BTreeSet<String>,
    rules: Vec<BusRule>,
}

/// File of the state.
#[derive(Debug)]
pub(super) struct BusStateFile(PathBuf);

impl BusStateFile {
    /// Opens the state in a folder; empty if there is none yet.
    pub(super) fn open(folder: &Path) -> std::io::Result<(Self, BusState)> {
        std::fs::create_dir_all(folder)?;
        let path = folder.join("rules.json");
        let content: Content = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Content::default(),
            Err(error) => return Err(error),
        };
        let mut state = BusState {
            buses: content.buses,
            rules: BTreeMap::new(),
        };
        for mut rule in content.rules {
            let parsed = EventPattern::parse(&rule.pattern);
            rule.parsed = Some(parsed.map_err(std::io::Error::other)?);
            state
                .rules
                .insert((rule.bus.clone(), rule.name.clone()), rule);
        }
        Ok((Self(path), state))
    }

    /// Replaces the stored state.
    pub(super) fn save(&self, state: &BusState) -> std::io::Result<()> {
        let content = Content {
            buses: state.buses.clone(),
            rules: state.rules.values().cloned().collect(),
        };
        let temporary = self.0.with_extension("new");
        std::fs::write(&temporary, serde_json::to_vec(&content)?)?;
        std::fs::rename(&temporary, &self.0)
    }
}
