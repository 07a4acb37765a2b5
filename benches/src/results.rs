//! Results of a measurement, kept for `docs/benchmarks.md`.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

/// One measured run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Row {
    /// The program and its circumstances.
    pub name: String,
    /// Requests to the services that were counted.
    pub requests: Option<u64>,
    /// Duration of the run.
    pub wall: Duration,
    /// Peak memory of the process, in bytes.
    pub peak_bytes: Option<u64>,
    /// Bytes that were sent or received.
    pub bytes: Option<u64>,
}

/// Runs that are compared with one of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Section {
    /// Subject of the comparison.
    pub title: String,
    /// Start of the name of the run that the others are compared with; the first run if none
    /// begins so.
    pub reference: String,
    /// The runs, in the order of their measurement.
    pub rows: Vec<Row>,
}

static SECTIONS: Mutex<Vec<Section>> = Mutex::new(Vec::new());

fn sections<T>(act: impl FnOnce(&mut Vec<Section>) -> T) -> T {
    act(&mut SECTIONS.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Starts a section, to which the following runs belong.
pub fn start_section(title: impl Into<String>, reference: &str) {
    let section = Section {
        title: title.into(),
        reference: reference.to_owned(),
        rows: Vec::new(),
    };
    sections(|sections| sections.push(section));
}

/// Records a run of the last section.
pub fn record(row: Row) {
    sections(|sections| {
        if sections.is_empty() {
            sections.push(Section::default());
        }
        if let Some(section) = sections.last_mut() {
            section.rows.push(row);
        }
    });
}

/// Option of every measurement.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Output {
    /// File that receives the results, for `docs/benchmarks.md`.
    #[arg(long)]
    results: Option<PathBuf>,
}

impl Output {
    /// Writes all sections, if they are wanted.
    pub fn save(&self) -> Result<()> {
        self.results.as_deref().map_or(Ok(()), save)
    }
}

/// Writes all sections to `path`.
fn save(path: &Path) -> Result<()> {
    let value = sections(|sections| sections.iter().map(Section::to_json).collect::<Vec<_>>());
    let text = serde_json::to_string_pretty(&value)?;
    std::fs::write(path, text).with_context(|| path.display().to_string())
}

/// Reads the sections of a file that [`Output::save`] wrote.
pub fn read(path: &Path) -> Result<Vec<Section>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let value: Vec<Value> = serde_json::from_str(&text)?;
    let sections = value.iter().map(Section::from_json);
    sections
        .collect::<Option<_>>()
        .with_context(|| format!("{} has no results", path.display()))
}

impl Section {
    /// Returns the run that the others are compared with.
    pub fn reference_row(&self) -> Option<&Row> {
        let mut rows = self.rows.iter();
        let named = rows.find(|row| row.name.starts_with(&self.reference));
        named
            .filter(|_| !self.reference.is_empty())
            .or(self.rows.first())
    }

    fn to_json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            json!({
                "name": row.name,
                "requests": row.requests,
                "wall_us": u64::try_from(row.wall.as_micros()).unwrap_or(u64::MAX),
                "peak_bytes": row.peak_bytes,
                "bytes": row.bytes,
            })
        });
        json!({
            "title": self.title,
            "reference": self.reference,
            "rows": rows.collect::<Vec<_>>(),
        })
    }

    fn from_json(value: &Value) -> Option<Self> {
        let row = |row: &Value| {
            Some(Row {
                name: row["name"].as_str()?.to_owned(),
                requests: row["requests"].as_u64(),
                wall: Duration::from_micros(row["wall_us"].as_u64()?),
                peak_bytes: row["peak_bytes"].as_u64(),
                bytes: row["bytes"].as_u64(),
            })
        };
        Some(Self {
            title: value["title"].as_str()?.to_owned(),
            reference: value["reference"].as_str()?.to_owned(),
            rows: value["rows"]
                .as_array()?
                .iter()
                .map(row)
                .collect::<Option<_>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saved_results_are_read_unchanged() {
        let section = Section {
            title: "Archive".into(),
            reference: "git".into(),
            rows: vec![
                Row {
                    name: "update".into(),
                    requests: Some(7),
                    wall: Duration::from_micros(1234),
                    peak_bytes: Some(1 << 20),
                    bytes: None,
                },
                Row {
                    name: "git archive".into(),
                    ..Row::default()
                },
            ],
        };
        let read = Section::from_json(&section.to_json());
        assert_eq!(read.as_ref(), Some(&section));
        let reference = section.reference_row().map(|row| row.name.as_str());
        assert_eq!(reference, Some("git archive"));
    }
}
