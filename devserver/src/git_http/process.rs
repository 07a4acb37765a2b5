//! A running git service: its pipes, and its end when the client goes away.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::task::JoinHandle;

use super::advertisement::Service;
use crate::codecommit::git;

/// How much of a service's stderr is kept for the log.
const MAX_STDERR: u64 = 16 * 1024;

/// How long `git receive-pack` may take to clean up once its input has ended.
const CLEAN_UP: Duration = Duration::from_secs(30);

/// A running `git upload-pack` or `git receive-pack`, with the processes that it starts.
///
/// Dropping it ends all of them: the first by SIGTERM; the second by the end of its
/// input, which its owner drops too, since git removes its quarantine only when no
/// signal ends it.
pub(super) struct GitProcess {
    service: Service,
    child: Option<Child>,
    stderr: JoinHandle<Vec<u8>>,
}

impl GitProcess {
    /// Starts a service on `dir` for one request, or for the list of refs alone.
    pub(super) fn start(
        service: Service,
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
            // SIGKILL would leave the children behind; see `Drop`.
            .kill_on_drop(false)
            .process_group(0)
            .spawn()?;
        let stdin = child.stdin.take().expect("because stdin is piped above");
        let stdout = child.stdout.take().expect("because `command` pipes stdout");
        let stderr = child.stderr.take().expect("because `command` pipes stderr");
        let stderr = tokio::spawn(async move {
            let mut kept = Vec::new();
            let mut head = stderr.take(MAX_STDERR);
            let _ = head.read_to_end(&mut kept).await;
            // A pipe that nobody reads would stop git.
            let _ = tokio::io::copy(&mut head.into_inner(), &mut tokio::io::sink()).await;
            kept
        });
        let process = Self {
            service,
            child: Some(child),
            stderr,
        };
        Ok((process, stdin, stdout))
    }

    /// Waits for the end; returns what it complained about.
    pub(super) async fn finish(mut self) -> std::io::Result<(ExitStatus, String)> {
        let child = self.child.as_mut();
        let child = child.expect("because only `drop` takes it");
        let status = child.wait().await?;
        let stderr = (&mut self.stderr).await.unwrap_or_default();
        Ok((status, git::complaint(&stderr)))
    }
}

impl Drop for GitProcess {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        // A process that was waited for has no id any more.
        let Some(group) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) else {
            return;
        };
        let patient = matches!(self.service, Service::ReceivePack);
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) if patient => {
                runtime.spawn(async move {
                    if tokio::time::timeout(CLEAN_UP, child.wait()).await.is_err() {
                        let _ = kill_process_group(group, Signal::TERM);
                    }
                });
            }
            // It may have ended by itself meanwhile; the runtime reaps it either way.
            _ => {
                let _ = kill_process_group(group, Signal::TERM);
            }
        }
    }
}

fn settings(service: Service) -> &'static [&'static str] {
    match service {
        Service::UploadPack => &[
            "uploadpack.allowTipSHA1InWant=true",
            "uploadpack.allowReachableSHA1InWant=true",
            "uploadpack.allowFilter=false",
        ],
        Service::ReceivePack => &[
            "receive.advertiseAtomic=false",
            "receive.advertisePushOptions=false",
            // Nothing may run behind the server's back.
            "receive.autoGC=false",
            "maintenance.auto=false",
            // 4000 refs would take 4000 waits for the disk. A push survives the end of
            // the server all the same, though not that of the machine.
            "core.fsync=none",
        ],
    }
}
