//! Reads objects through a few long-lived `git cat-file` processes, so that a
//! request costs a write and a read on a pipe instead of a process.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::sync::Semaphore;

use super::git::{self, GitError};

/// Maximum number of processes per repository; more would only wait for the machine's cores.
const MAX_PROCESSES: usize = 4;

/// Time that a process may stay idle.
const MAX_IDLE: Duration = Duration::from_secs(20);

/// The longest header line of `cat-file`: a path of 4096 characters in UTF-8, and change.
const MAX_HEADER_BYTES: u64 = 20_000;

/// Trees and commits larger than this are refused instead of read into memory.
pub(crate) const MAX_METADATA_BYTES: u64 = 256 * 1024 * 1024;

/// Type of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ObjectType {
    Blob,
    Tree,
    Commit,
    Tag,
}

/// An object that was read.
#[derive(Debug)]
pub(crate) struct GitObject {
    pub(crate) id: String,
    pub(crate) kind: ObjectType,
    pub(crate) data: Vec<u8>,
}

/// Result of reading an object.
#[derive(Debug)]
pub(crate) enum ReadObject {
    Object(GitObject),
    Missing,
    /// Larger than the limit of the call: type and size.
    TooLarge(ObjectType, u64),
}

/// The `git cat-file` processes of one repository.
#[derive(Debug)]
pub(crate) struct Objects {
    dir: PathBuf,
    permits: Semaphore,
    idle: Mutex<Idle>,
}

#[derive(Debug, Default)]
struct Idle {
    processes: Vec<(CatFile, Instant)>,
    closed: bool,
    reaper_runs: bool,
}

impl Objects {
    pub(crate) fn new(dir: PathBuf) -> Arc<Self> {
        Arc::new(Self {
            dir,
            permits: Semaphore::new(MAX_PROCESSES),
            idle: Mutex::default(),
        })
    }

    /// Reads the object that `spec` names: an id, a ref, or `<tree id>:<path>`.
    ///
    /// `spec` must not contain a line feed. An object of more than `limit` bytes is not read.
    pub(crate) async fn read(
        self: &Arc<Self>,
        spec: &str,
        limit: u64,
    ) -> Result<ReadObject, GitError> {
        debug_assert!(!spec.contains('\n'), "a line feed ends a request");
        let _permit = self
            .permits
            .acquire()
            .await
            .map_err(|_| GitError::new("cat-file", "the repository was deleted"))?;
        // A process may have died while it was idle: that costs one retry on a new one.
        if let Some(mut process) = self.take_idle()
            && let Ok(found) = process.request(spec, limit).await
        {
            self.put_back(process, &found);
            return Ok(found);
        }
        let failed = |error: std::io::Error| GitError::new("cat-file", error);
        let mut process = CatFile::start(&self.dir).map_err(failed)?;
        let found = process.request(spec, limit).await.map_err(failed)?;
        self.put_back(process, &found);
        Ok(found)
    }

    /// Ends all processes; no new ones are started.
    pub(crate) fn close(&self) {
        self.permits.close();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.closed = true;
        idle.processes.clear();
    }

    fn take_idle(&self) -> Option<CatFile> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.processes.pop().map(|(process, _)| process)
    }

    fn put_back(self: &Arc<Self>, process: CatFile, found: &ReadObject) {
        if matches!(found, ReadObject::TooLarge(..)) {
            // The contents are still unread: dropping the process skips them.
            return;
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.closed {
            return;
        }
        idle.processes.push((process, Instant::now()));
        if !idle.reaper_runs {
            idle.reaper_runs = true;
            self.start_reaper();
        }
    }

    fn start_reaper(self: &Arc<Self>) {
        let weak = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(MAX_IDLE).await;
                let Some(objects) = weak.upgrade() else {
                    return;
                };
                let mut idle = objects.idle.lock().unwrap_or_else(PoisonError::into_inner);
                idle.processes
                    .retain(|(_, since)| since.elapsed() < MAX_IDLE);
                if idle.processes.is_empty() {
                    idle.reaper_runs = false;
                    return;
                }
            }
        });
    }
}

#[derive(Debug)]
struct CatFile {
    // Held for its Drop, which kills the process.
    _child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    line: Vec<u8>,
}

impl CatFile {
    fn start(dir: &std::path::Path) -> std::io::Result<Self> {
        let mut child = git::command(dir)
            .args(["cat-file", "--batch"])
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let stdin = child.stdin.take().expect("because stdin is piped above");
        let stdout = child.stdout.take().expect("because `command` pipes stdout");
        Ok(Self {
            _child: child,
            stdin,
            stdout: BufReader::with_capacity(64 * 1024, stdout),
            line: Vec::new(),
        })
    }

    async fn request(&mut self, spec: &str, limit: u64) -> std::io::Result<ReadObject> {
        self.line.clear();
        self.line.extend_from_slice(spec.as_bytes());
        self.line.push(b'\n');
        self.stdin.write_all(&self.line).await?;
        self.line.clear();
        (&mut self.stdout)
            .take(MAX_HEADER_BYTES)
            .read_until(b'\n', &mut self.line)
            .await?;
        let (id, kind, size) = match parse_header(&self.line)? {
            Header::Missing => return Ok(ReadObject::Missing),
            Header::Found(id, kind, size) => (id, kind, size),
        };
        if size > limit {
            return Ok(ReadObject::TooLarge(kind, size));
        }
        let length = usize::try_from(size)
            .map_err(|_| std::io::Error::other("the object is larger than memory"))?;
        let mut data = vec![0; length];
        self.stdout.read_exact(&mut data).await?;
        if self.stdout.read_u8().await? != b'\n' {
            return Err(std::io::Error::other("cat-file lost its place"));
        }
        Ok(ReadObject::Object(GitObject { id, kind, data }))
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Header {
    Missing,
    Found(String, ObjectType, u64),
}

/// Reads `<id> <type> <size>` or `<spec> missing`.
fn parse_header(line: &[u8]) -> std::io::Result<Header> {
    let broken = || {
        std::io::Error::new(
            std::io::ErrorKind::UnexpectedEof,
            "cat-file ended, or wrote something else than a header",
        )
    };
    let line = line.strip_suffix(b"\n").ok_or_else(broken)?;
    let parts: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    if let [id, kind, size] = parts.as_slice()
        && let Ok(id) = std::str::from_utf8(id)
        && is_object_id(id)
    {
        let kind = match *kind {
            b"blob" => ObjectType::Blob,
            b"tree" => ObjectType::Tree,
            b"commit" => ObjectType::Commit,
            b"tag" => ObjectType::Tag,
            _ => return Err(broken()),
        };
        let size = std::str::from_utf8(size)
            .ok()
            .and_then(|size| size.parse().ok());
        return Ok(Header::Found(id.to_owned(), kind, size.ok_or_else(broken)?));
    }
    if line.ends_with(b" missing") || line.ends_with(b" ambiguous") {
        return Ok(Header::Missing);
    }
    Err(broken())
}

/// Returns true if `text` is 40 hexadecimal digits.
pub(crate) fn is_object_id(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4b825dc642cb6eb9a060e54bf8d69288fbee4904";

    #[test]
    fn headers_are_distinguished_from_missing_objects_for_any_path() {
        let found = format!("{ID} tree 0\n");
        assert_eq!(
            parse_header(found.as_bytes()).unwrap(),
            Header::Found(ID.into(), ObjectType::Tree, 0)
        );
        for missing in [
            format!("{ID} missing\n"),
            format!("{ID}:a blob 12 missing\n"),
            format!("{ID}:{ID} blob missing\n"),
            "refs/heads/x missing\n".to_owned(),
        ] {
            assert_eq!(
                parse_header(missing.as_bytes()).unwrap(),
                Header::Missing,
                "{missing:?} names nothing"
            );
        }
    }

    #[test]
    fn an_ended_process_is_an_error_not_a_missing_object() {
        for line in [
            "",
            "4b82",
            "fatal: x\n",
            &format!("{ID} blob x\n"),
            &format!("{ID} blub 1\n"),
        ] {
            assert!(
                parse_header(line.as_bytes()).is_err(),
                "{line:?} is not a header"
            );
        }
    }
}
