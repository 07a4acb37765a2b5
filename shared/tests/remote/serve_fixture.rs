//! A server of git's own protocol over TCP (`git://`), and stock git as its client.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use branchline_core::archive::ServedArchives;
use branchline_core::git::date::LocalTime;
use branchline_core::git::server::{
    ProtocolVersion, ReceivePackOptions, UploadPackOptions, receive_pack, upload_archive,
    upload_pack,
};
use branchline_core::remote::Remote;
use branchline_core::remote::serve::{ServeOptions, ServedRemote};
use branchline_test_support::git;
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// The time of archives of trees without a commit.
pub(crate) const NOW: i64 = 1_700_000_000;

/// A server of one remote, stopped with this value.
pub(crate) struct Daemon {
    address: SocketAddr,
    task: JoinHandle<()>,
    failures: Arc<Mutex<Vec<String>>>,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Daemon {
    pub(crate) async fn start(remote: Arc<dyn Remote>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let failures = Arc::new(Mutex::new(Vec::new()));
        let reported = Arc::clone(&failures);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (remote, reported) = (Arc::clone(&remote), Arc::clone(&reported));
                tokio::spawn(async move {
                    if let Err(error) = serve(remote, stream).await {
                        reported.lock().unwrap().push(error.report());
                    }
                });
            }
        });
        Self {
            address,
            task,
            failures,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("git://{}/r.git", self.address)
    }

    /// Takes the failures of the connections so far.
    pub(crate) fn failures(&self) -> Vec<String> {
        std::mem::take(&mut self.failures.lock().unwrap())
    }
}

async fn serve(remote: Arc<dyn Remote>, mut stream: TcpStream) -> branchline_core::git::Result<()> {
    let mut digits = [0; 4];
    stream.read_exact(&mut digits).await.unwrap();
    let length = usize::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap();
    let mut request = vec![0; length - 4];
    stream.read_exact(&mut request).await.unwrap();
    let request = String::from_utf8(request).unwrap();
    let (service, parameters) = request.split_once(' ').unwrap();
    let parameters = parameters.replace('\0', ":");
    let version = ProtocolVersion::requested(&parameters);
    let options = ServeOptions {
        missing_is_empty: true,
        ..ServeOptions::default()
    };
    let repository = ServedRemote::new(remote, options);
    let (reader, writer) = stream.into_split();
    match service {
        "git-upload-pack" => {
            let options = UploadPackOptions::default();
            upload_pack(&repository, version, reader, writer, &options).await
        }
        "git-receive-pack" => {
            let options = ReceivePackOptions {
                set_head_hint: Some("choose another branch with `set-head`".to_owned()),
                ..ReceivePackOptions::default()
            };
            receive_pack(&repository, version, reader, writer, &options).await
        }
        "git-upload-archive" => {
            let archiver = ServedArchives::new(LocalTime::utc(NOW));
            upload_archive(&repository, &archiver, reader, writer).await
        }
        _ => panic!("{service} is not a service"),
    }
}

/// A folder in which git commands run.
pub(crate) struct Client {
    folder: TempDir,
}

/// The state of a client's repository.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) refs: String,
    pub(crate) head: String,
    pub(crate) objects: BTreeSet<String>,
    pub(crate) shallow: BTreeSet<String>,
}

/// The result of a git command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ran {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Client {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// Runs git; the server runs meanwhile.
    pub(crate) async fn git(&self, args: &[&str]) -> Ran {
        run(&self.path(), args).await
    }

    /// Runs git, which must succeed, and returns its standard output.
    pub(crate) async fn ok(&self, args: &[&str]) -> String {
        let ran = self.git(args).await;
        assert_eq!(ran.status, Some(0), "git {args:?}: {}", ran.stderr);
        ran.stdout
    }
}

pub(crate) async fn run(folder: &Path, args: &[&str]) -> Ran {
    let folder = folder.to_owned();
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    let ran = tokio::task::spawn_blocking(move || {
        let mut command = git::command(&folder);
        git::output(command.args(&args), b"").unwrap()
    });
    let output = ran.await.unwrap();
    Ran {
        status: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Returns the state of the repository in `folder`; `None` when there is none.
pub(crate) fn state(folder: &Path) -> Option<State> {
    let git = |args: &[&str]| git::git(folder, args);
    let directory = folder.join(git(&["rev-parse", "--git-dir"]).ok()?);
    // Lazy fetches would change what is looked at.
    let listed = git::run(
        git::command(folder)
            .args([
                "cat-file",
                "--batch-all-objects",
                "--batch-check=%(objectname)",
            ])
            .env("GIT_NO_LAZY_FETCH", "1"),
    );
    let shallow = std::fs::read_to_string(directory.join("shallow")).unwrap_or_default();
    Some(State {
        refs: git(&[
            "for-each-ref",
            "--format=%(objectname) %(refname) %(symref)",
        ])
        .unwrap(),
        head: std::fs::read_to_string(directory.join("HEAD")).unwrap(),
        objects: listed.unwrap().lines().map(str::to_owned).collect(),
        shallow: shallow.lines().map(str::to_owned).collect(),
    })
}
