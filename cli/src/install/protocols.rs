//! Keys in git's global configuration: `protocol.<scheme>.allow`, without which git refuses
//! submodules at the scheme of a remote helper, and those by which git-lfs finds its agent.

use std::process::{Output, Stdio};

use branchline_core::{Error, ErrorKind, Result};
use bstr::ByteSlice as _;
use serde::Serialize;
use tokio::process::Command;

use super::record::{Record, RecordedSetting};
use crate::lfs::GLOBAL_SETTINGS;
use crate::names::NAMES;

/// Value of `protocol.<scheme>.allow`.
const ALWAYS: &str = "always";

/// Result of one setting.
#[derive(Debug, Serialize)]
pub(super) struct ProtocolReport {
    key: String,
    result: SettingResult,
    /// The value after this; `None` where it is not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum SettingResult {
    Set,
    Unchanged,
    Removed,
}

impl ProtocolReport {
    /// Prints the result for people.
    pub(super) fn print(&self) {
        let key = &self.key;
        match (self.result, &self.value) {
            (SettingResult::Set, Some(value)) => println!("set       {key} = {value}"),
            (SettingResult::Removed, _) => println!("removed   {key}"),
            (_, Some(value)) => println!("unchanged {key} = {value}"),
            (_, None) => println!("unchanged {key}"),
        }
    }
}

async fn config(arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new("git");
    command.args(["config", "--global"]).args(arguments);
    command
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(|error| {
            Error::new(ErrorKind::Config, "`git` cannot be started")
                .with_source(error)
                .with_hint("install git, or put its directory into PATH")
        })
}

async fn get(key: &str) -> Result<Option<String>> {
    let output = config(&["--get", key]).await?;
    let value = output.stdout.trim().to_str_lossy().into_owned();
    Ok(output.status.success().then_some(value))
}

async fn change(arguments: &[&str]) -> Result<()> {
    let output = config(arguments).await?;
    if output.status.success() {
        return Ok(());
    }
    let said = output.stderr.trim().to_str_lossy().into_owned();
    let message = format!("git's global configuration cannot be changed: {said}");
    Err(Error::new(ErrorKind::Config, message))
}

/// Returns the keys with their values.
fn settings() -> impl Iterator<Item = (String, &'static str)> {
    let schemes = NAMES.iter().filter_map(|(_, _, scheme)| *scheme);
    let protocols = schemes.map(|scheme| (format!("protocol.{scheme}.allow"), ALWAYS));
    let of_lfs = GLOBAL_SETTINGS.iter();
    protocols.chain(of_lfs.map(|(key, value)| ((*key).to_owned(), *value)))
}

/// Sets each key that is not set.
pub(super) async fn set(record: &mut Record) -> Result<Vec<ProtocolReport>> {
    let mut reports = Vec::new();
    for (key, wanted) in settings() {
        let (result, value) = if let Some(value) = get(&key).await? {
            (SettingResult::Unchanged, value)
        } else {
            change(&[&key, wanted]).await?;
            record.settings.push(RecordedSetting {
                key: key.clone(),
                value: wanted.to_owned(),
            });
            (SettingResult::Set, wanted.to_owned())
        };
        reports.push(ProtocolReport {
            key,
            result,
            value: Some(value),
        });
    }
    Ok(reports)
}

/// Removes the recorded settings that have their recorded values.
pub(super) async fn unset(record: &mut Record) -> Result<Vec<ProtocolReport>> {
    let mut reports = Vec::new();
    for setting in std::mem::take(&mut record.settings) {
        let value = get(&setting.key).await?;
        let is_ours = value.as_ref() == Some(&setting.value);
        if is_ours {
            change(&["--unset", &setting.key]).await?;
        }
        reports.push(ProtocolReport {
            key: setting.key,
            result: if is_ours {
                SettingResult::Removed
            } else {
                SettingResult::Unchanged
            },
            value: value.filter(|_| !is_ours),
        });
    }
    Ok(reports)
}
