//! Bytes on disk: written once under their own name, then only read.
//!
//! A blob is valid only when a bucket's journal names it. Until then its guard removes it,
//! and a crash's leftovers are removed when the bucket is opened.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use md5::{Digest as _, Md5};
use serde::{Deserialize, Serialize};

use super::checksum::{Algorithm, Hasher, base64};
use super::durability::Durability;
use super::error::{Context as _, Error, Result};

/// A section of an object: one blob, whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Segment {
    pub(super) blob: String,
    pub(super) size: u64,
}

/// Removes a blob's file on drop unless it was kept.
#[derive(Debug)]
pub(super) struct Guard {
    path: PathBuf,
    id: String,
    kept: bool,
}

impl Guard {
    /// Returns the blob's name.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Keeps the file, because the journal names it.
    pub(super) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.kept {
            // A file that cannot be removed now is removed at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A blob being written.
pub struct Staged {
    guard: Guard,
    file: File,
    durability: Durability,
    size: u64,
    md5: Md5,
    crc64: Hasher,
    asked: Option<(Algorithm, Hasher)>,
}

impl Staged {
    /// Starts a blob in `folder`, computing `algorithm` in addition to the fixed digests.
    pub(super) fn create(
        folder: &Path,
        algorithm: Option<Algorithm>,
        durability: Durability,
    ) -> Result<Self> {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let path = folder.join(&id);
        let file = File::create_new(&path).context("creating a blob")?;
        Ok(Self {
            guard: Guard {
                path,
                id,
                kept: false,
            },
            file,
            durability,
            size: 0,
            md5: Md5::new(),
            crc64: Hasher::new(Algorithm::Crc64Nvme),
            asked: algorithm
                .filter(|algorithm| *algorithm != Algorithm::Crc64Nvme)
                .map(|algorithm| (algorithm, Hasher::new(algorithm))),
        })
    }

    /// Adds bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).context("writing a blob")?;
        self.size += bytes.len() as u64;
        self.md5.update(bytes);
        self.crc64.update(bytes);
        if let Some((_, hasher)) = &mut self.asked {
            hasher.update(bytes);
        }
        Ok(())
    }

    /// Adds the remaining bytes of `reader`.
    pub fn copy_from(&mut self, reader: &mut impl Read) -> Result<()> {
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let count = reader.read(&mut buffer).context("reading a blob")?;
            if count == 0 {
                return Ok(());
            }
            self.write(&buffer[..count])?;
        }
    }

    /// Completes the blob: its bytes are on disk when this returns.
    pub fn seal(self) -> Result<Sealed> {
        let folder = self.guard.path.parent().unwrap_or(&self.guard.path);
        self.durability.file(&self.file).context("writing a blob")?;
        self.durability.folder(folder)?;
        let mut digests = vec![(Algorithm::Crc64Nvme, self.crc64.finish())];
        digests.extend(
            self.asked
                .map(|(algorithm, hasher)| (algorithm, hasher.finish())),
        );
        Ok(Sealed {
            guard: self.guard,
            size: self.size,
            md5: self.md5.finalize().into(),
            digests,
            asked: None,
        })
    }
}

/// A complete blob that no journal names yet.
#[derive(Debug)]
pub struct Sealed {
    pub(super) guard: Guard,
    pub(super) size: u64,
    pub(super) md5: [u8; 16],
    pub(super) digests: Vec<(Algorithm, Vec<u8>)>,
    /// Returns the algorithm that is stored with the object.
    pub(super) asked: Option<Algorithm>,
}

impl Sealed {
    /// Returns the size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Compares with the client's `Content-MD5` (base64).
    pub fn verify_md5(&self, text: &str) -> Result<()> {
        use base64::Engine as _;
        let given = base64::engine::general_purpose::STANDARD
            .decode(text)
            .ok()
            .filter(|digest| digest.len() == 16)
            .ok_or_else(|| Error::InvalidDigest("Content-MD5".into()))?;
        if given == self.md5 {
            Ok(())
        } else {
            Err(Error::BadDigest("Content-MD5".into()))
        }
    }

    /// Compares with a checksum (base64) that the client sent, and selects its algorithm.
    pub fn verify(&mut self, algorithm: Algorithm, text: &str) -> Result<()> {
        let given = algorithm.decode(text)?;
        if self.digest(algorithm) != Some(&given[..]) {
            return Err(Error::BadDigest(algorithm.name().into()));
        }
        self.asked = Some(algorithm);
        Ok(())
    }

    /// Stores the computed checksum of `algorithm` with the object.
    pub fn keep_checksum(&mut self, algorithm: Algorithm) {
        self.asked = Some(algorithm);
    }

    /// Returns the checksum that the client sent, if any: the algorithm and base64.
    pub fn checksum(&self) -> Option<(Algorithm, String)> {
        let algorithm = self.asked?;
        Some((algorithm, base64(self.digest(algorithm)?)))
    }

    pub(super) fn digest(&self, algorithm: Algorithm) -> Option<&[u8]> {
        self.digests
            .iter()
            .find(|(of, _)| *of == algorithm)
            .map(|(_, digest)| &digest[..])
    }

    pub(super) fn etag(&self) -> String {
        hex::encode(self.md5)
    }

    pub(super) fn segment(&self) -> Segment {
        Segment {
            blob: self.guard.id().to_owned(),
            size: self.size,
        }
    }
}

/// Blobs with readers; they are removed only when their last reader is done.
#[derive(Debug)]
pub(super) struct Pins {
    folder: PathBuf,
    state: Mutex<PinState>,
}

#[derive(Debug, Default)]
struct PinState {
    readers: HashMap<String, usize>,
    doomed: HashSet<String>,
}

impl Pins {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            state: Mutex::default(),
        }
    }

    /// Removes a blob now, or after its last reader. Blobs that cannot be removed, or that a
    /// crash leaves, are removed at the next start.
    pub(super) fn remove(&self, blob: String) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.readers.contains_key(&blob) {
            state.doomed.insert(blob);
        } else {
            let _ = fs::remove_file(self.folder.join(blob));
        }
    }

    fn pin(&self, segments: &[Segment]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for segment in segments {
            *state.readers.entry(segment.blob.clone()).or_default() += 1;
        }
    }

    fn unpin(&self, segments: &[Segment]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for Segment { blob, .. } in segments {
            let left = state.readers.get(blob).map_or(0, |count| count - 1);
            if left > 0 {
                state.readers.insert(blob.clone(), left);
                continue;
            }
            state.readers.remove(blob);
            if state.doomed.remove(blob) {
                let _ = fs::remove_file(self.folder.join(blob));
            }
        }
    }
}

/// Reads an object's bytes from its blobs; deleting the object does not disturb it.
/// One file is open at a time, however many parts the object has.
#[derive(Debug)]
pub struct Reader {
    pins: Arc<Pins>,
    segments: Vec<Segment>,
    open: Option<(usize, File)>,
    size: u64,
    position: u64,
}

impl Reader {
    /// Opens the blobs. Must be called while nothing can remove them.
    pub(super) fn new(pins: &Arc<Pins>, segments: &[Segment]) -> Self {
        pins.pin(segments);
        Self {
            pins: Arc::clone(pins),
            segments: segments.to_vec(),
            open: None,
            size: segments.iter().map(|segment| segment.size).sum(),
            position: 0,
        }
    }

    /// Returns the size of the object in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    fn file(&mut self, at: usize) -> io::Result<&mut File> {
        let file = match self.open.take() {
            Some((open, file)) if open == at => file,
            _ => {
                let segment = &self.segments[at];
                let path = self.pins.folder.join(&segment.blob);
                let file = File::open(&path)?;
                let found = file.metadata()?.len();
                if found != segment.size {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!(
                            "`{}` has {found} bytes where {} were written",
                            path.display(),
                            segment.size
                        ),
                    ));
                }
                file
            }
        };
        Ok(&mut self.open.insert((at, file)).1)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.pins.unpin(&self.segments);
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (position, mut start) = (self.position, 0);
        for at in 0..self.segments.len() {
            let end = start + self.segments[at].size;
            if position < end && !buffer.is_empty() {
                let left = end - position;
                let wanted =
                    usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
                let file = self.file(at)?;
                file.seek(SeekFrom::Start(position - start))?;
                let count = file.read(&mut buffer[..wanted])?;
                if count == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                self.position += count as u64;
                return Ok(count);
            }
            start = end;
        }
        Ok(0)
    }
}

impl Seek for Reader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(by) => self.size.checked_add_signed(by),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}
