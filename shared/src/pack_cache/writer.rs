//! Entries on their way to the disk.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::directory::CacheDir;
use super::segment::{SegmentId, SegmentWriter};

/// How much room is made at first, and then each time.
const FIRST_ROOM: u64 = 1 << 20;
const ROOM: u64 = 32 << 20;

/// Takes entries of a pack as they pass, and writes them on a thread of its own. What fails
/// is told by [`finish`](Self::finish) alone. Dropped before, it leaves nothing.
pub(crate) struct Writer {
    // `None` ends it.
    sender: mpsc::Sender<Option<Bytes>>,
    task: JoinHandle<io::Result<Option<WrittenEntries>>>,
}

/// Entries that were written, removed again unless they are to stay.
pub(crate) struct WrittenEntries {
    folder: Arc<CacheDir>,
    segment: Option<SegmentId>,
    stays: bool,
}

impl Writer {
    /// Takes about so many bytes, as far as that is known.
    pub(super) fn new(folder: &Arc<CacheDir>, expected: u64) -> Self {
        let (sender, receiver) = mpsc::channel(1);
        let folder = Arc::clone(folder);
        let work = move || {
            // Else all others would go first, and then there would be no room all the same.
            if expected <= FIRST_ROOM || folder.fits(expected) {
                write(&folder, receiver)
            } else {
                Ok(None)
            }
        };
        Self {
            sender,
            task: tokio::task::spawn_blocking(work),
        }
    }

    /// Takes the next bytes.
    pub(crate) async fn push(&mut self, bytes: Bytes) {
        // Nobody listens any more where the disk was full.
        let _ = self.sender.send(Some(bytes)).await;
    }

    /// Ends it; `None` when it failed.
    pub(crate) async fn finish(self) -> Option<WrittenEntries> {
        let _ = self.sender.send(None).await;
        match self.task.await {
            Ok(Ok(written)) => written,
            Ok(Err(error)) => {
                tracing::info!(%error, "a copy of a pack was given up");
                None
            }
            Err(_) => None,
        }
    }
}

fn write(
    folder: &Arc<CacheDir>,
    mut receiver: mpsc::Receiver<Option<Bytes>>,
) -> io::Result<Option<WrittenEntries>> {
    let mut writer: Option<SegmentWriter> = None;
    let mut room = 0;
    loop {
        let bytes = match receiver.blocking_recv() {
            Some(Some(bytes)) if bytes.is_empty() => continue,
            Some(Some(bytes)) => bytes,
            Some(None) => break,
            None => return Ok(None),
        };
        let size = writer.as_ref().map_or(0, SegmentWriter::size);
        let needed = size + bytes.len() as u64;
        if needed > room {
            let step = if room == 0 { FIRST_ROOM } else { ROOM };
            let least = needed - room;
            let mut more = step.max(least);
            if !folder.evict_for(more)? {
                // It may be the last bit.
                more = least;
                if !folder.evict_for(more)? {
                    return Ok(None);
                }
            }
            room += more;
        }
        let writer = match &mut writer {
            Some(writer) => writer,
            none => none.insert(SegmentWriter::create(&folder.path)?),
        };
        writer.push(&bytes)?;
    }
    let segment = writer.map(SegmentWriter::finish).transpose()?;
    Ok(Some(WrittenEntries {
        folder: Arc::clone(folder),
        segment,
        stays: false,
    }))
}

impl WrittenEntries {
    pub(super) fn of(folder: &Arc<CacheDir>, writer: SegmentWriter) -> io::Result<Self> {
        Ok(Self {
            segment: Some(writer.finish()?),
            folder: Arc::clone(folder),
            stays: false,
        })
    }

    /// The segment; `None` where there was nothing to write.
    pub(super) fn segment(&self) -> Option<SegmentId> {
        self.segment
    }

    /// A record names it now.
    pub(super) fn keep_file(mut self) {
        self.stays = true;
    }
}

impl Drop for WrittenEntries {
    fn drop(&mut self) {
        if let Some(segment) = self.segment.filter(|_| !self.stays) {
            let _ = std::fs::remove_file(self.folder.path.join(segment.file_name()));
        }
    }
}
