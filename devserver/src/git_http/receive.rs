//! Pushes: checks the commands, scans the pack while it streams into
//! `git receive-pack`, and reports the changes once.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{ChildStdin, ChildStdout};
use tokio::task::JoinHandle;

use super::advertisement::GitService;
use super::body::RequestBody;
use super::pack_scanner::PackScanner;
use super::pkt_line::{self, BadLength, Packet};
use super::process::GitProcess;
use crate::codecommit::{CodeCommitService, Repository};
use crate::http_body::BoxError;

/// Maximum number of refs that one push may create, update and delete.
pub(super) const MAX_COMMANDS: usize = 4000;

/// Maximum size of a command list that is kept to answer each of its commands.
const MAX_COMMANDS_BYTES: usize = 32 * 1024 * 1024;

/// Maximum size of git's answer: a report of 4000 refs, and progress.
const MAX_ANSWER_BYTES: u64 = 64 * 1024 * 1024;

const ZERO_ID: &[u8] = b"0000000000000000000000000000000000000000";

/// The commands of a push.
#[derive(Debug, Default)]
struct Commands {
    /// Bytes up to the flush, and the start of the pack if it was read with them.
    buffer: BytesMut,
    /// Offset at which the commands end and the pack starts.
    end: usize,
    refs: Vec<String>,
    has_pack: bool,
    report_status: bool,
    side_band: bool,
    refused: Option<String>,
}

/// Serves one push to its end; returns the answer's body.
pub(super) async fn serve(
    service: &CodeCommitService,
    repository: &Arc<Repository>,
    principal_arn: &str,
    mut body: RequestBody,
) -> Result<Vec<u8>, BoxError> {
    let commands = read_commands(&mut body).await?;
    if let Some(why) = &commands.refused {
        body.drain().await?;
        tracing::info!(repository.name = repository.name, "push refused: {why}");
        return Ok(refusal(&commands, why));
    }
    if commands.refs.is_empty() {
        // Git sends this probe before a large push.
        body.drain().await?;
        return Ok(Vec::new());
    }
    let (process, stdin, stdout) =
        GitProcess::start(GitService::ReceivePack, &repository.dir, false)?;
    let mut push = Push {
        stdin,
        answer: tokio::spawn(read_answer(stdout)),
        process,
        held: Bytes::new(),
    };
    if let Err(why) = push.forward(&commands, &mut body).await? {
        // Git's input ends without the rest of the pack, so git aborts and removes its
        // quarantine.
        drop(push);
        body.drain().await?;
        tracing::info!(repository.name = repository.name, "push refused: {why}");
        return Ok(refusal(&commands, &why));
    }
    // From here on the push is completed even when the client disconnects.
    let (service, repository) = (service.clone(), Arc::clone(repository));
    let principal_arn = principal_arn.to_owned();
    let change = async move { push.commit(&service, &repository, &principal_arn).await };
    tokio::spawn(change).await?
}

/// A push whose last piece was not sent to git yet.
struct Push {
    stdin: ChildStdin,
    answer: JoinHandle<std::io::Result<Vec<u8>>>,
    process: GitProcess,
    held: Bytes,
}

impl Push {
    /// Sends all but the last piece to git. The inner error is the reason to refuse the push.
    ///
    /// Git cannot move a ref without the last piece, so the refs are locked only when a
    /// slow client has sent everything, and a refused pack is never completed.
    async fn forward(
        &mut self,
        commands: &Commands,
        body: &mut RequestBody,
    ) -> Result<Result<(), String>, BoxError> {
        let (head, rest) = commands.buffer.split_at(commands.end);
        if !commands.has_pack {
            let trailing = !rest.is_empty() || body.next().await?.is_some();
            if trailing {
                return Ok(Err(
                    "error: protocol error (a pack for deletions only)".into()
                ));
            }
            self.held = Bytes::copy_from_slice(head);
            return Ok(Ok(()));
        }
        self.stdin.write_all(head).await?;
        let mut scanner = PackScanner::new();
        let mut next = Some(Bytes::copy_from_slice(rest)).filter(|rest| !rest.is_empty());
        if next.is_none() {
            next = body.next().await?;
        }
        while let Some(piece) = next {
            if let Err(error) = scanner.feed(&piece) {
                return Ok(Err(error.message()));
            }
            let ready = std::mem::replace(&mut self.held, piece);
            if let Err(error) = self.stdin.write_all(&ready).await {
                // Git stopped reading early (a full disk); its report has the reason.
                tracing::debug!("git receive-pack stopped reading: {error}");
                body.drain().await?;
                self.held = Bytes::new();
                return Ok(Ok(()));
            }
            next = body.next().await?;
        }
        if !scanner.is_done() {
            return Ok(Err("error: protocol error (the pack is cut off)".into()));
        }
        Ok(Ok(()))
    }

    /// Lets git finish while no other change of refs is running.
    async fn commit(
        mut self,
        service: &CodeCommitService,
        repository: &Arc<Repository>,
        principal_arn: &str,
    ) -> Result<Vec<u8>, BoxError> {
        let change = service.begin_ref_change(repository).await?;
        // If git does not read the piece, its report has the reason.
        let _ = self.stdin.write_all(&self.held).await;
        drop(self.stdin);
        let answer = self.answer.await;
        let (status, error_lines) = self.process.finish().await?;
        let updates = change.finish(principal_arn).await?;
        tracing::debug!(
            repository.name = repository.name,
            references = updates.len(),
            "received a pack"
        );
        if !status.success() {
            tracing::warn!(
                repository.name = repository.name,
                "git receive-pack: {error_lines}"
            );
        }
        Ok(answer??)
    }
}

async fn read_answer(stdout: ChildStdout) -> std::io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    stdout
        .take(MAX_ANSWER_BYTES)
        .read_to_end(&mut answer)
        .await?;
    Ok(answer)
}

/// Reads the commands up to their flush, and checks them.
async fn read_commands(body: &mut RequestBody) -> Result<Commands, BoxError> {
    let mut commands = Commands::default();
    loop {
        let rest = commands.buffer.get(commands.end..).unwrap_or_default();
        let used = match pkt_line::take(rest) {
            Err(BadLength) => {
                let why = "error: protocol error (bad line length)";
                commands.refused.get_or_insert(why.into());
                return Ok(commands);
            }
            Ok(Some((Packet::Flush, used))) => {
                commands.end += used;
                return Ok(commands);
            }
            Ok(Some((Packet::Line(line), used))) => {
                let line = line.to_vec();
                commands.add(&line);
                used
            }
            Ok(None) => {
                if commands.buffer.len() > MAX_COMMANDS_BYTES {
                    let why = "Too many reference update commands";
                    commands.refused.get_or_insert(why.into());
                    return Ok(commands);
                }
                match body.next().await? {
                    Some(piece) => commands.buffer.extend_from_slice(&piece),
                    None if commands.buffer.is_empty() => return Ok(commands),
                    None => return Err("the push ends within its commands".into()),
                }
                0
            }
        };
        commands.end += used;
    }
}

impl Commands {
    fn add(&mut self, line: &[u8]) {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        if line.starts_with(b"shallow ") {
            return;
        }
        let mut halves = line.splitn(2, |byte| *byte == 0);
        let command = halves.next().unwrap_or_default();
        if let Some(capabilities) = halves.next() {
            let text = String::from_utf8_lossy(capabilities);
            self.report_status |= text.split(' ').any(|word| word == "report-status");
            self.side_band |= text.split(' ').any(|word| word == "side-band-64k");
            if let Some(name) = GitService::ReceivePack.unoffered(text.split(' ')) {
                let why = format!("error: protocol error (the capability {name} is not offered)");
                self.refused.get_or_insert(why);
            }
        }
        let Some((new, name)) = split_command(command) else {
            let why = "error: protocol error (a command has no shape)";
            self.refused.get_or_insert(why.into());
            return;
        };
        self.has_pack |= new != ZERO_ID;
        self.refs.push(String::from_utf8_lossy(name).into_owned());
        if self.refs.len() > MAX_COMMANDS {
            let why = "Too many reference update commands";
            self.refused.get_or_insert(why.into());
        }
    }
}

/// Splits `<old> SP <new> SP <name>` into the new id and the name.
fn split_command(command: &[u8]) -> Option<(&[u8], &[u8])> {
    let is_id = |id: &[u8]| id.len() == 40 && id.iter().all(u8::is_ascii_hexdigit);
    let (old, rest) = command.split_at_checked(40)?;
    let (new, name) = rest.strip_prefix(b" ")?.split_at_checked(40)?;
    let name = name.strip_prefix(b" ")?;
    (is_id(old) && is_id(new) && !name.is_empty()).then_some((new, name))
}

/// Builds the answer to a push that is refused as a whole.
fn refusal(commands: &Commands, why: &str) -> Vec<u8> {
    let mut report = Vec::new();
    pkt_line::write(&mut report, format!("unpack {why}\n").as_bytes());
    let reason = why.strip_prefix("error: ").map_or_else(
        || why.to_owned(),
        |protocol| format!("unpack error: {protocol}"),
    );
    for name in &commands.refs {
        pkt_line::write(&mut report, format!("ng {name} {reason}\n").as_bytes());
    }
    pkt_line::flush(&mut report);
    let mut out = Vec::new();
    match (commands.report_status, commands.side_band) {
        (true, false) => return report,
        (true, true) => pkt_line::write_band(&mut out, 1, &report),
        (false, true) => pkt_line::write_band(&mut out, 3, format!("{why}\n").as_bytes()),
        (false, false) => pkt_line::write(&mut out, format!("ERR {why}\n").as_bytes()),
    }
    pkt_line::flush(&mut out);
    out
}
