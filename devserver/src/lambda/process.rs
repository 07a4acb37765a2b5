//! The process of an execution environment.

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

use super::output::{Output, Tail};

/// Time between SIGTERM and SIGKILL.
const TERMINATION_GRACE: Duration = Duration::from_millis(500);

/// A running process in its own process group: a Ctrl-C at the terminal reaches only the
/// server, which then stops its functions in order.
pub(super) struct Process {
    child: Child,
    group: Option<Pid>,
    pub(super) tail: Tail,
    outputs: Vec<Output>,
}

impl Process {
    /// Starts `command`, whose output also goes to the file `log`.
    pub(super) fn spawn(mut command: Command, function: &str, log: &Path) -> io::Result<Self> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn()?;
        let group = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw);
        let pipes = [
            child.stdout.take().map(ChildStdout::into_owned_fd),
            child.stderr.take().map(ChildStderr::into_owned_fd),
        ];
        // From here on an early return drops it, which kills the process.
        let mut process = Self {
            child,
            group,
            tail: Tail::default(),
            outputs: Vec::new(),
        };
        let log = File::options().create(true).append(true).open(log)?;
        for pipe in pipes.into_iter().flatten() {
            let log = log.try_clone().ok();
            let output = Output::read(pipe?, process.tail.clone(), function, log)?;
            process.outputs.push(output);
        }
        Ok(process)
    }

    /// Returns the maximum memory of the process so far, in bytes.
    pub(super) fn peak_memory(&self) -> Option<u64> {
        peak_memory(self.child.id()?)
    }

    /// Returns true while the process runs.
    pub(super) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until the process exits.
    pub(super) async fn exited(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Moves everything printed until now to the tail.
    pub(super) fn drain(&self) {
        for output in &self.outputs {
            output.drain();
        }
    }

    /// Kills the process, and the processes that it started.
    pub(super) async fn kill(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.kill().await;
    }

    /// Sends SIGTERM, and kills the process if it does not exit.
    pub(super) async fn stop(&mut self) {
        if self.is_running() {
            self.signal(Signal::TERM);
            let _ = tokio::time::timeout(TERMINATION_GRACE, self.child.wait()).await;
        }
        self.kill().await;
    }

    fn signal(&self, signal: Signal) {
        // The leader's id is not reused for another group until `wait` has reaped it.
        if let Some(group) = self.group
            && self.child.id().is_some()
        {
            let _ = kill_process_group(group, signal);
        }
    }
}

/// Returns the maximum physical memory of a process, in bytes (`VmHWM` of proc(5));
/// `None` where the system does not report it.
pub fn peak_memory(process_id: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process_id}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}
