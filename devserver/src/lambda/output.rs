//! Output of a function: written to the invocation's tail, the function's log file and, at
//! debug level, the server's own log.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::unix::pipe;
use tokio::task::JoinHandle;

/// Bytes of output that an invocation's answer can carry.
const TAIL_BYTES: usize = 4096;

/// Maximum bytes of a line that are buffered until it ends: CloudWatch's largest event.
const MAX_LINE_BYTES: usize = 256 * 1024;

/// End of the function's output since the last reset.
#[derive(Debug, Clone, Default)]
pub(super) struct Tail(Arc<Mutex<VecDeque<u8>>>);

impl Tail {
    pub(super) fn push(&self, text: &[u8]) {
        let mut bytes = lock(&self.0);
        bytes.extend(text);
        let excess = bytes.len().saturating_sub(TAIL_BYTES);
        bytes.drain(..excess);
    }

    pub(super) fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *lock(&self.0)).into()
    }
}

/// One output stream of a process, read as soon as data is available.
pub(super) struct Output {
    pipe: Arc<Pipe>,
    task: JoinHandle<()>,
}

struct Pipe {
    /// Waits until data is available.
    receiver: pipe::Receiver,
    /// A duplicate of the pipe, whose reads ask the pipe itself and not its last known state.
    direct: File,
    tail: Tail,
    function: String,
    /// Held while reading, so that bytes taken by one reader are in the tail before another
    /// reader finds the pipe empty.
    reading: Mutex<Reading>,
}

struct Reading {
    log: Option<File>,
    line: Vec<u8>,
}

impl Output {
    /// Reads `stream` until its end. Must be called within a tokio runtime.
    pub(super) fn read(
        stream: OwnedFd,
        tail: Tail,
        function: &str,
        log: Option<File>,
    ) -> io::Result<Self> {
        let direct = File::from(stream.try_clone()?);
        let pipe = Arc::new(Pipe {
            // Makes the pipe non-blocking, and with it the duplicate.
            receiver: pipe::Receiver::from_owned_fd(stream)?,
            direct,
            tail,
            function: function.to_owned(),
            reading: Mutex::new(Reading {
                log,
                line: Vec::new(),
            }),
        });
        let task = tokio::spawn({
            let pipe = Arc::clone(&pipe);
            async move {
                while pipe.receiver.readable().await.is_ok() {
                    // Read through the receiver, so that it learns when the pipe is empty.
                    if pipe.drain(|buffer| pipe.receiver.try_read(buffer)) {
                        return;
                    }
                }
            }
        });
        Ok(Self { pipe, task })
    }

    /// Reads everything that was printed until now.
    pub(super) fn drain(&self) {
        self.pipe.drain(|buffer| (&self.pipe.direct).read(buffer));
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Pipe {
    /// Reads the available bytes; returns true at the end of the stream.
    fn drain(&self, mut read: impl FnMut(&mut [u8]) -> io::Result<usize>) -> bool {
        let mut reading = lock(&self.reading);
        let mut buffer = [0; 4096];
        loop {
            match read(&mut buffer) {
                Ok(0) => {
                    self.end_line(&mut reading);
                    return true;
                }
                Ok(length) => {
                    if let Some(text) = buffer.get(..length) {
                        self.take(&mut reading, text);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
            }
        }
    }

    fn take(&self, reading: &mut Reading, text: &[u8]) {
        self.tail.push(text);
        for part in text.split_inclusive(|byte| *byte == b'\n') {
            reading.line.extend_from_slice(part);
            // A stream without line ends must not fill the memory.
            if part.ends_with(b"\n") || reading.line.len() > MAX_LINE_BYTES {
                self.end_line(reading);
            }
        }
    }

    /// Writes the buffered part of a line at once, because environments of one function
    /// share a log file.
    fn end_line(&self, reading: &mut Reading) {
        if reading.line.is_empty() {
            return;
        }
        if let Some(log) = &mut reading.log {
            // A full disk must not stop the function.
            let _ = log.write_all(&reading.line);
        }
        let line = String::from_utf8_lossy(&reading.line);
        tracing::debug!(function.name = self.function, "{}", line.trim_end());
        reading.line.clear();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
