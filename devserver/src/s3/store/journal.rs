//! A bucket's journal: one line a change, each with its own CRC-32, synchronised before
//! the change is valid.
//!
//! `<crc32 of the JSON, 8 hex> <JSON>\n`. A last line that a crash tore is dropped; a bad
//! line before others is reported as damage.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::durability::Durability;
use super::error::{Context as _, Error, Result};
use super::multipart::{MultipartUpload, StoredPart};
use super::object::{Tags, Version, Versioning};

/// One change of a bucket.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "op")]
pub(super) enum Record {
    /// The bucket itself; always the first record.
    Bucket { created: i64, region: String },
    /// Versioning was enabled or suspended.
    Versioning { status: Versioning },
    /// A version became the latest of its key: an object or a delete marker. One whose id
    /// is `null` replaces the key's other `null` version. Ends the upload that it came from.
    Put {
        key: String,
        version: Version,
        upload: Option<String>,
    },
    /// A version was removed.
    Remove { key: String, version_id: String },
    /// A version's tags were replaced.
    Tags {
        key: String,
        version_id: String,
        tags: Tags,
    },
    /// A multipart upload began.
    Begin { id: String, upload: MultipartUpload },
    /// A part arrived, in place of an earlier one of its number.
    Part {
        upload: String,
        number: u32,
        part: StoredPart,
    },
    /// A multipart upload was aborted.
    Abort { upload: String },
}

/// The open journal of a bucket.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    durability: Durability,
    len: u64,
    broken: bool,
}

impl Journal {
    /// Writes a journal of these records atomically, replacing the existing one.
    pub(super) fn create(path: &Path, records: &[Record], durability: Durability) -> Result<Self> {
        let fresh = path.with_extension("new");
        let mut file = File::create(&fresh).context("writing a journal")?;
        let lines = encode(records)?;
        file.write_all(&lines).context("writing a journal")?;
        durability.file(&file).context("writing a journal")?;
        fs::rename(&fresh, path).context("writing a journal")?;
        durability.folder(path.parent().unwrap_or(path))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            durability,
            len: lines.len() as u64,
            broken: false,
        })
    }

    /// Reads a journal back, dropping a torn last line.
    pub(super) fn open(path: &Path, durability: Durability) -> Result<(Self, Vec<Record>)> {
        let text = fs::read(path).context("reading a journal")?;
        let mut records = Vec::new();
        let mut len = 0;
        let mut lines = text.split_inclusive(|byte| *byte == b'\n').peekable();
        while let Some(line) = lines.next() {
            match decode(line) {
                Some(record) => {
                    records.push(record);
                    len += line.len() as u64;
                }
                None if lines.peek().is_none() => break,
                None => {
                    return Err(Error::Corrupt {
                        path: path.to_owned(),
                        reason: format!("line {}", records.len() + 1),
                    });
                }
            }
        }
        let mut file = OpenOptions::new()
            .write(true)
            .open(path)
            .context("opening a journal")?;
        if len < text.len() as u64 {
            file.set_len(len).context("repairing a journal")?;
            durability.file(&file).context("repairing a journal")?;
        }
        file.seek(SeekFrom::Start(len))
            .context("opening a journal")?;
        let journal = Self {
            path: path.to_owned(),
            file,
            durability,
            len,
            broken: false,
        };
        Ok((journal, records))
    }

    /// Appends records: all of them are on disk when this returns, or none is.
    pub(super) fn append(&mut self, records: &[Record]) -> Result<()> {
        if self.broken {
            return Err(Error::Corrupt {
                path: self.path.clone(),
                reason: "an earlier write failed half-way".into(),
            });
        }
        let lines = encode(records)?;
        let written = self
            .file
            .write_all(&lines)
            .and_then(|()| self.durability.file(&self.file));
        if let Err(source) = written {
            // A half-written line must not be followed by later ones.
            self.broken = self.file.set_len(self.len).is_err()
                || self.file.seek(SeekFrom::Start(self.len)).is_err();
            return Err(Error::Io {
                action: "writing a journal",
                source,
            });
        }
        self.len += lines.len() as u64;
        Ok(())
    }
}

fn encode(records: &[Record]) -> Result<Vec<u8>> {
    let mut lines = Vec::new();
    for record in records {
        let json = serde_json::to_vec(record)
            .map_err(std::io::Error::from)
            .context("writing a journal")?;
        lines.extend_from_slice(format!("{:08x} ", crc32fast::hash(&json)).as_bytes());
        lines.extend_from_slice(&json);
        lines.push(b'\n');
    }
    Ok(lines)
}

fn decode(line: &[u8]) -> Option<Record> {
    let line = line.strip_suffix(b"\n")?;
    let (crc, json) = line.split_at_checked(9)?;
    let crc = u32::from_str_radix(std::str::from_utf8(crc).ok()?.strip_suffix(' ')?, 16).ok()?;
    (crc == crc32fast::hash(json))
        .then(|| serde_json::from_slice(json).ok())
        .flatten()
}

/// Returns the records that rebuild the bucket.
pub(super) fn snapshot(
    head: Record,
    status: Versioning,
    keys: &BTreeMap<String, Vec<Version>>,
    uploads: &BTreeMap<String, MultipartUpload>,
) -> Vec<Record> {
    let mut records = vec![head, Record::Versioning { status }];
    for (key, versions) in keys {
        records.extend(versions.iter().map(|version| Record::Put {
            key: key.clone(),
            version: version.clone(),
            upload: None,
        }));
    }
    for (id, upload) in uploads {
        records.push(Record::Begin {
            id: id.clone(),
            upload: upload.clone(),
        });
    }
    records
}
