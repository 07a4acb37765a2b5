//! Writes pack entries to the disk while they are uploaded or read.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::directory::CacheDir;
use super::segment::{SegmentId, SegmentWriter};
use crate::blocking;

/// Space to make for the first bytes of a segment.
const FIRST_RESERVE_BYTES: u64 = 1 << 20;
/// Space to make each time that the reserved space is used up.
const RESERVE_BYTES: u64 = 32 << 20;

/// Writes entries of a pack on a separate thread. Only [`finish`](Self::finish) reports
/// failures. The file is removed when this is dropped before.
pub(crate) struct EntryWriter {
    // `None` marks the end.
    sender: mpsc::Sender<Option<Bytes>>,
    task: JoinHandle<io::Result<Option<WrittenEntries>>>,
}

/// Entries that were written; removed on drop unless a record names them.
pub(crate) struct WrittenEntries {
    directory: Arc<CacheDir>,
    segment: Option<SegmentId>,
    is_recorded: bool,
}

impl EntryWriter {
    /// Starts a writer of about `expected_bytes`; 0 if the length is unknown.
    pub(super) fn new(directory: &Arc<CacheDir>, expected_bytes: u64) -> Self {
        let (sender, receiver) = mpsc::channel(1);
        let directory = Arc::clone(directory);
        let work = move || {
            // Because otherwise all other packs would be evicted in vain.
            if expected_bytes <= FIRST_RESERVE_BYTES || directory.fits(expected_bytes) {
                write(&directory, receiver)
            } else {
                Ok(None)
            }
        };
        Self {
            sender,
            task: blocking::spawn(work),
        }
    }

    /// Appends bytes.
    pub(crate) async fn push(&mut self, bytes: Bytes) {
        // The receiver is closed when the disk was full; `finish` reports that.
        let _ = self.sender.send(Some(bytes)).await;
    }

    /// Waits until everything is written; `None` when that failed.
    pub(crate) async fn finish(self) -> Option<WrittenEntries> {
        let _ = self.sender.send(None).await;
        match self.task.await {
            Ok(Ok(written)) => written,
            Ok(Err(error)) => {
                tracing::info!(%error, "a pack could not be cached");
                None
            }
            Err(_) => None,
        }
    }
}

fn write(
    directory: &Arc<CacheDir>,
    mut receiver: mpsc::Receiver<Option<Bytes>>,
) -> io::Result<Option<WrittenEntries>> {
    let mut writer: Option<SegmentWriter> = None;
    let mut reserved = 0;
    loop {
        let bytes = match receiver.blocking_recv() {
            Some(Some(bytes)) if bytes.is_empty() => continue,
            Some(Some(bytes)) => bytes,
            Some(None) => break,
            None => return Ok(None),
        };
        let size = writer.as_ref().map_or(0, SegmentWriter::size);
        let needed = size + bytes.len() as u64;
        if needed > reserved {
            let step = if reserved == 0 {
                FIRST_RESERVE_BYTES
            } else {
                RESERVE_BYTES
            };
            let minimum = needed - reserved;
            let mut more = step.max(minimum);
            if !directory.evict_for(more)? {
                // These may be the last bytes.
                more = minimum;
                if !directory.evict_for(more)? {
                    return Ok(None);
                }
            }
            reserved += more;
        }
        let writer = match &mut writer {
            Some(writer) => writer,
            none => none.insert(SegmentWriter::create(&directory.path)?),
        };
        writer.push(&bytes)?;
    }
    let segment = writer.map(SegmentWriter::finish).transpose()?;
    Ok(Some(WrittenEntries {
        directory: Arc::clone(directory),
        segment,
        is_recorded: false,
    }))
}

impl WrittenEntries {
    /// Ends the segment of `writer`.
    pub(super) fn finish(directory: &Arc<CacheDir>, writer: SegmentWriter) -> io::Result<Self> {
        Ok(Self {
            segment: Some(writer.finish()?),
            directory: Arc::clone(directory),
            is_recorded: false,
        })
    }

    /// Returns the directory of the cache.
    pub(super) fn directory_path(&self) -> &Path {
        &self.directory.path
    }

    /// Returns the segment; `None` if there were no entries.
    pub(super) fn segment(&self) -> Option<SegmentId> {
        self.segment
    }

    /// Keeps the file, because a record names it now.
    pub(super) fn keep_file(mut self) {
        self.is_recorded = true;
    }
}

impl Drop for WrittenEntries {
    fn drop(&mut self) {
        if let Some(segment) = self.segment.filter(|_| !self.is_recorded) {
            let _ = std::fs::remove_file(self.directory.path.join(segment.file_name()));
        }
    }
}
