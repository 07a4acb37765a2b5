//! One upload or download, with its progress.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use branchline_core::lfs::agent::{AgentAnswer, TransferDirection, TransferEvent};
use branchline_core::lfs::{LfsBody, LfsStore, Pointer, download, read_file, verify_stream};
use branchline_core::retry::Backoff;
use branchline_core::{Error, ErrorKind, Result};
use futures_util::TryStreamExt as _;

use super::location::OpenStore;

/// Time between two reports of the progress.
const REPORT_INTERVAL: Duration = Duration::from_millis(100);
/// Maximum number of tries of a transfer that is cut off.
const MAX_TRIES: u32 = 4;

/// Writes an answer to git-lfs.
pub(super) fn answer(answer: &AgentAnswer<'_>) -> Result<()> {
    let mut output = io::stdout().lock();
    let written = output.write_all(&answer.to_line());
    written
        .and_then(|()| output.flush())
        .map_err(|error| Error::new(ErrorKind::Transport, "writing to git-lfs").with_source(error))
}

/// Transfers an object; returns the path of a downloaded one.
pub(super) async fn transfer(open: &OpenStore, event: &TransferEvent) -> Result<Option<PathBuf>> {
    let pointer = event.pointer()?;
    let progress = Arc::new(Progress::new(&event.oid));
    match (event.direction, &event.path) {
        (TransferDirection::Download, _) => {
            let path = download_object(open, &pointer, &progress).await?;
            progress.report();
            Ok(Some(path))
        }
        (TransferDirection::Upload, Some(path)) => {
            upload(open, &pointer, path, &progress).await?;
            progress.report();
            Ok(None)
        }
        (TransferDirection::Upload, None) => Err(Error::new(
            ErrorKind::Config,
            "git-lfs sent an upload without a path",
        )),
    }
}

async fn download_object(
    open: &OpenStore,
    pointer: &Pointer,
    progress: &Progress,
) -> Result<PathBuf> {
    let count = |bytes| progress.add(bytes);
    let mut tries = 1;
    loop {
        progress.restart();
        match download(&*open.store, pointer, &open.directory, &count).await {
            Ok(path) => return Ok(path),
            // Single requests were retried; a body that was cut off was not.
            Err(error) => wait_for_retry(error, &mut tries).await?,
        }
    }
}

async fn upload(
    open: &OpenStore,
    pointer: &Pointer,
    path: &Path,
    progress: &Arc<Progress>,
) -> Result<()> {
    let store = &*open.store;
    let mut tries = 1;
    while let Some(upload) = store.resume(pointer).await? {
        if is_stored(store, pointer).await? {
            return Ok(());
        }
        progress.restart();
        progress.add(upload.position());
        let content = local_content(path, upload.position()).await?;
        match upload.write(content, &|bytes| progress.add(bytes)).await {
            Ok(()) => return Ok(()),
            // Another agent may have completed the same upload.
            Err(error) => wait_for_retry(error, &mut tries).await?,
        }
    }
    let content = verify_stream(pointer, local_content(path, 0).await?);
    let counted = Arc::clone(progress);
    let content = content.inspect_ok(move |bytes| counted.add(bytes.len() as u64));
    let written = store.write_if_missing(pointer, Box::pin(content)).await;
    written.map(drop)
}

async fn is_stored(store: &dyn LfsStore, pointer: &Pointer) -> Result<bool> {
    match store.missing(std::slice::from_ref(pointer)).await {
        Ok(missing) => Ok(missing.is_empty()),
        // S3 answers so for a missing object if its reader may not list the bucket.
        Err(error) if error.kind() == ErrorKind::AccessDenied => Ok(false),
        Err(error) => Err(error),
    }
}

/// Waits before the next try of a transfer that was cut off.
///
/// # Errors
/// `error`, if it does not say that the transfer was cut off, or after the last try.
async fn wait_for_retry(error: Error, tries: &mut u32) -> Result<()> {
    if error.kind() != ErrorKind::Transport || *tries == MAX_TRIES {
        return Err(error);
    }
    tokio::time::sleep(Backoff::TRANSPORT.wait(*tries, 0.5)).await;
    *tries += 1;
    Ok(())
}

async fn local_content(path: &Path, position: u64) -> Result<LfsBody> {
    let opened = read_file(path.to_owned(), position).await;
    opened.map_err(|error| match error.kind() {
        ErrorKind::NotFound => error.with_hint(
            "the object is not in this repository; fetch it by `git lfs fetch --all` from a \
             remote that has it",
        ),
        _ => error,
    })
}

/// Bytes of an object that were transferred, reported to git-lfs now and then.
struct Progress {
    oid: String,
    state: Mutex<Counts>,
}

struct Counts {
    so_far: u64,
    reported: u64,
    last: Instant,
}

impl Progress {
    fn new(oid: &str) -> Self {
        Self {
            oid: oid.to_owned(),
            state: Mutex::new(Counts {
                so_far: 0,
                reported: 0,
                last: Instant::now(),
            }),
        }
    }

    fn add(&self, bytes: u64) {
        let mut counts = self.lock();
        counts.so_far += bytes;
        if counts.last.elapsed() >= REPORT_INTERVAL {
            counts.report(&self.oid);
        }
    }

    /// Starts from the beginning; what was reported is not reported again.
    fn restart(&self) {
        self.lock().so_far = 0;
    }

    /// Reports what was not reported yet.
    fn report(&self) {
        self.lock().report(&self.oid);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn report(&mut self, oid: &str) {
        if self.so_far <= self.reported {
            return;
        }
        // If git-lfs is gone, the answer to the transfer fails as well.
        let _ = answer(&AgentAnswer::Progress {
            oid,
            so_far: self.so_far,
            since_last: self.so_far - self.reported,
        });
        self.reported = self.so_far;
        self.last = Instant::now();
    }
}
