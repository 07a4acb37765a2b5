//! A running git service: its pipes, and its termination when the client disconnects.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::task::JoinHandle;

use super::advertisement::GitService;
use crate::codecommit::git;

/// Bytes of a service's stderr that are kept for the log.
const MAX_STDERR_BYTES: u64 = 16 * 1024;

/// Time that `git receive-pack` has for its cleanup once its input has ended.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(30);

/// A running `git upload-pack` or `git receive-pack`, with the processes that it starts.
/// Dropping it ends all of them: `git upload-pack` by SIGTERM; `git receive-pack` by the end
/// of its input, which the owner drops too, because git removes its quarantine only when no
/// signal ends it.
pub(super) struct GitProcess {
    service: GitService,
    child: Option<Child>,
    stderr: JoinHandle<Vec<u8>>,
}

impl GitProcess {
    /// Starts a service on `dir` for one request, or for the list of refs alone.
    pub(super) fn start(
        service: GitService,
        dir: &Path,
        only_refs: bool,
    ) -> std::io::Result<(Self, ChildStdin, ChildStdout)> {
        let mut command = git::command(dir);
        for setting in settings(service) {
            command.args(["-c", setting]);
        }
        command.args([service.command(), "--stateless-rpc"]);
        if only_refs {
            command.arg("--http-backend-info-refs");
        }
        let mut child = command
            .arg(dir)
            .stdin(Stdio::piped())
            // SIGKILL would leave the child processes running; see `Drop`.
            .kill_on_drop(false)
            .process_group(0)
            .spawn()?;
        let stdin = child.stdin.take().expect("because stdin is piped above");
        let stdout = child.stdout.take().expect("because `command` pipes stdout");
        let stderr = child.stderr.take().expect("because `command` pipes stderr");
        let stderr = tokio::spawn(async move {
            let mut text = Vec::new();
            let mut head = stderr.take(MAX_STDERR_BYTES);
            let _ = head.read_to_end(&mut text).await;
            // A full pipe would block git, so stderr is always read.
            let _ = tokio::io::copy(&mut head.into_inner(), &mut tokio::io::sink()).await;
            text
        });
        let process = Self {
            service,
            child: Some(child),
            stderr,
        };
        Ok((process, stdin, stdout))
    }

    /// Waits for the end; returns the errors that git printed.
    pub(super) async fn finish(mut self) -> std::io::Result<(ExitStatus, String)> {
        let child = self.child.as_mut();
        let child = child.expect("because only `drop` takes it");
        let status = child.wait().await?;
        let stderr = (&mut self.stderr).await.unwrap_or_default();
        Ok((status, git::error_lines(&stderr)))
    }
}

impl Drop for GitProcess {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        // The id of a process that was waited for may be reused.
        let Some(group) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) else {
            return;
        };
        let patient = matches!(self.service, GitService::ReceivePack);
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) if patient => {
                runtime.spawn(async move {
                    if tokio::time::timeout(CLEANUP_TIMEOUT, child.wait())
                        .await
                        .is_err()
                    {
                        let _ = kill_process_group(group, Signal::TERM);
                    }
                });
            }
            // The process may have ended meanwhile; the runtime reaps it either way.
            _ => {
                let _ = kill_process_group(group, Signal::TERM);
            }
        }
    }
}

fn settings(service: GitService) -> &'static [&'static str] {
    match service {
        GitService::UploadPack => &[
            "uploadpack.allowTipSHA1InWant=true",
            "uploadpack.allowReachableSHA1InWant=true",
            "uploadpack.allowFilter=false",
        ],
        GitService::ReceivePack => &[
            "receive.advertiseAtomic=false",
            "receive.advertisePushOptions=false",
            // `gc` must not run in the background, after the server's own work.
            "receive.autoGC=false",
            "maintenance.auto=false",
            // Syncing 4000 refs would wait 4000 times for the disk. A push survives a crash of
            // the server without it, but not a crash of the machine.
            "core.fsync=none",
        ],
    }
}
