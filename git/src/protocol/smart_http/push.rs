//! Pushing: commands, a pack, and the report of the server.

use bstr::{BString, ByteSlice};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};

use super::fetch::capabilities_with_values;
use super::transport::Payload;
use super::{ReceivePack, SmartHttp};
use crate::error::{Error, ErrorKind, Result};
use crate::pack::PackBody;
use crate::protocol::advertisement::{Service, Version};
use crate::protocol::pkt_line::{Band, Decoder, Encoder, Packet, demultiplex, server_error};
use crate::protocol::smart_http::body::ResponseReader;
use crate::refs::RefOutcome;
use crate::{ObjectId, check_ref_name, corrupt, escaped_excerpt, foreign_message};

/// The most bytes of the server's messages in a report.
const MAX_MESSAGE_BYTES: usize = 8 * 1024;

/// The largest pack in bytes that is sent from memory, so that a connector can send it again.
/// Git has an equal limit (`http.postBuffer`).
const MAX_BUFFERED_BYTES: usize = 1 << 20;

/// A command that changes a ref, if it is at `old`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefCommand {
    /// The full name of the ref.
    pub name: BString,
    /// The expected present id; null to create the ref.
    pub old: ObjectId,
    /// The new id; null to delete the ref.
    pub new: ObjectId,
}

impl RefCommand {
    /// Returns the command that creates a ref.
    pub fn create(name: impl Into<BString>, new: ObjectId) -> Self {
        Self {
            name: name.into(),
            old: new.kind().null(),
            new,
        }
    }

    /// Returns the command that moves a ref.
    pub fn update(name: impl Into<BString>, old: ObjectId, new: ObjectId) -> Self {
        Self {
            name: name.into(),
            old,
            new,
        }
    }

    /// Returns the command that deletes a ref.
    pub fn delete(name: impl Into<BString>, old: ObjectId) -> Self {
        Self {
            name: name.into(),
            old,
            new: old.kind().null(),
        }
    }
}

/// The commands and the pack of a push.
pub struct PushRequest {
    /// At least one command. The caller observes the server's limit.
    pub commands: Vec<RefCommand>,
    /// A pack of all objects that the server does not have, without offset deltas; required
    /// unless all commands delete.
    pub pack: Option<PackBody>,
}

impl std::fmt::Debug for PushRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PushRequest")
            .field("commands", &self.commands)
            .finish_non_exhaustive()
    }
}

/// The report of a server on a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportStatus {
    /// The reason why the server refused the pack, if it did.
    pub unpack_error: Option<String>,
    /// The result for each ref of the request, in its order.
    pub refs: Vec<(BString, RefOutcome)>,
    /// Messages of the server and its hooks, at most 8 KiB.
    pub messages: String,
}

impl ReportStatus {
    /// Returns whether all refs are reported as changed.
    pub fn is_complete(&self) -> bool {
        self.unpack_error.is_none()
            && self
                .refs
                .iter()
                .all(|(_, outcome)| *outcome == RefOutcome::Done)
    }

    /// Returns the first failure as an error.
    ///
    /// # Errors
    /// `Transport` when the pack was refused, `Conflict` for a ref that was refused or not
    /// reported.
    pub fn check(&self) -> Result<()> {
        if let Some(reason) = &self.unpack_error {
            return Err(Error::new(
                ErrorKind::Transport,
                format!("the server refused the pack: {reason}"),
            ));
        }
        for (name, outcome) in &self.refs {
            let reason = match outcome {
                RefOutcome::Done => continue,
                RefOutcome::Rejected(reason) => reason,
                RefOutcome::Unknown => "it sent no reason",
            };
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("the server did not change `{name}`: {reason}"),
            ));
        }
        Ok(())
    }
}

impl ReceivePack {
    /// Returns the client of the repository at its URL after redirects.
    pub fn client(&self) -> &SmartHttp {
        &self.client
    }

    /// Pushes. Capabilities that the server does not offer are not requested.
    ///
    /// # Errors
    /// `Config` when the server does not support a command; `Transport` and the pack's own
    /// errors. Refs that the server refuses are in the report.
    pub async fn push(&self, request: PushRequest) -> Result<ReportStatus> {
        let head = self.encode_commands(&request)?;
        let deletes_only = request.commands.iter().all(|command| command.new.is_null());
        let payload = match request.pack {
            Some(pack) if !deletes_only => match BufferedPack::from(pack).await? {
                BufferedPack::Whole(pack) => Payload::Bytes([&head[..], &pack].concat().into()),
                BufferedPack::More(pack) => {
                    self.probe().await?;
                    Payload::Stream(head, pack)
                }
            },
            None if !deletes_only => {
                let message = "a push that creates or moves refs needs a pack";
                return Err(Error::new(ErrorKind::Internal, message));
            }
            _ => Payload::Bytes(head),
        };
        let packets = self
            .client
            .post(Service::ReceivePack, Version::V0, payload)
            .await?;
        let mut report = ReportStatus {
            unpack_error: None,
            refs: request
                .commands
                .iter()
                .map(|command| (command.name.clone(), RefOutcome::Unknown))
                .collect(),
            messages: String::new(),
        };
        self.read_report(packets, &mut report).await?;
        Ok(report)
    }

    /// Sends an empty request, as git does before a body that cannot be sent twice, so that a
    /// redirect or a missing permission is reported before the pack is sent.
    async fn probe(&self) -> Result<()> {
        let mut nothing = Encoder::new();
        nothing.flush();
        let payload = Payload::Bytes(nothing.finish());
        self.client
            .post(Service::ReceivePack, Version::V0, payload)
            .await
            .map(drop)
    }

    /// Encodes the commands, with the capabilities after the first one.
    fn encode_commands(&self, request: &PushRequest) -> Result<Bytes> {
        let offered = &self.advertisement.capabilities;
        let unsupported = |what: &str| {
            Error::new(
                ErrorKind::Config,
                format!("{} does not support {what}", self.client.url),
            )
        };
        if request.commands.is_empty() {
            return Err(Error::new(ErrorKind::Internal, "a push has no commands"));
        }
        let deletes = request.commands.iter().any(|command| command.new.is_null());
        if deletes && !offered.has("delete-refs") {
            return Err(unsupported("deleting refs"));
        }
        let mut words = String::new();
        for name in self.requested_capabilities() {
            words.push(' ');
            words.push_str(name);
        }
        words.push_str(&capabilities_with_values(&self.advertisement));
        let mut out = Encoder::new();
        let mut first = format!("\0{words}");
        for command in &request.commands {
            check_ref_name(command.name.as_bstr())?;
            let hash = self.advertisement.hash;
            if command.new.kind() != hash || command.old.kind() != hash {
                return Err(unsupported(&format!(
                    "ids of another hash function than {hash}"
                )));
            }
            let RefCommand { name, old, new } = command;
            let mut line = format!("{old} {new} ").into_bytes();
            line.extend_from_slice(name);
            line.extend_from_slice(std::mem::take(&mut first).as_bytes());
            out.line(line)?;
        }
        out.flush();
        Ok(out.finish())
    }

    fn requested_capabilities(&self) -> Vec<&'static str> {
        let offered = &self.advertisement.capabilities;
        let mut asked = Vec::new();
        asked.extend(self.report_capability());
        asked.extend(offered.has("side-band-64k").then_some("side-band-64k"));
        asked.extend(offered.has("quiet").then_some("quiet"));
        asked
    }

    fn report_capability(&self) -> Option<&'static str> {
        ["report-status-v2", "report-status"]
            .into_iter()
            .find(|name| self.advertisement.capabilities.has(name))
    }

    async fn read_report(
        &self,
        mut packets: ResponseReader,
        report: &mut ReportStatus,
    ) -> Result<()> {
        if !self.advertisement.capabilities.has("side-band-64k") {
            let mut lines = Lines::default();
            while let Some(packet) = packets.packet().await? {
                if lines.push(&packet, report)? {
                    return Ok(());
                }
            }
            return self.end(&lines);
        }
        let mut lines = Lines::default();
        let mut decoder = Decoder::new();
        while let Some(packet) = packets.packet().await? {
            let Packet::Data(data) = packet else { break };
            match demultiplex(data)? {
                Band::Progress(text) => {
                    let text = String::from_utf8_lossy(&text);
                    let room = MAX_MESSAGE_BYTES.saturating_sub(report.messages.len());
                    report.messages.extend(text.chars().take(room / 4));
                }
                Band::Data(data) => {
                    decoder.push(&data);
                    while let Some(packet) = decoder.next_packet()? {
                        lines.push(&packet, report)?;
                    }
                }
            }
        }
        self.end(&lines)
    }

    fn end(&self, lines: &Lines) -> Result<()> {
        if lines.ended || self.report_capability().is_none() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Transport,
            format!("the report of {} on the push is cut off", self.client.url),
        )
        .with_hint("the push may have succeeded: read the refs again"))
    }
}

/// A pack whose start was read.
enum BufferedPack {
    Whole(Vec<u8>),
    More(PackBody),
}

impl BufferedPack {
    async fn from(mut pack: PackBody) -> Result<Self> {
        let mut chunks: Vec<Result<Bytes>> = Vec::new();
        let mut size = 0;
        while let Some(chunk) = pack.next().await {
            let chunk = chunk?;
            size += chunk.len();
            chunks.push(Ok(chunk));
            if size > MAX_BUFFERED_BYTES {
                let pack = stream::iter(chunks).chain(pack);
                return Ok(Self::More(pack.boxed()));
            }
        }
        let mut whole = Vec::with_capacity(size);
        for chunk in chunks {
            whole.extend_from_slice(&chunk?);
        }
        Ok(Self::Whole(whole))
    }
}

/// The state of a report while its lines are read.
#[derive(Default)]
struct Lines {
    unpacked: bool,
    ended: bool,
}

impl Lines {
    /// Reads a packet; returns `true` for the last one.
    fn push(&mut self, packet: &Packet, report: &mut ReportStatus) -> Result<bool> {
        let Some(line) = packet.text() else {
            self.ended = *packet == Packet::Flush;
            return Ok(self.ended);
        };
        if let Some(error) = server_error(line) {
            return Err(error);
        }
        if !self.unpacked {
            let status = line
                .strip_prefix(b"unpack ")
                .ok_or_else(|| corrupt("a report does not start with an `unpack` line"))?;
            self.unpacked = true;
            report.unpack_error = (status != b"ok").then(|| foreign_message(status));
            return Ok(false);
        }
        if let Some(name) = line.strip_prefix(b"ok ") {
            set(report, name, RefOutcome::Done);
        } else if let Some(rest) = line.strip_prefix(b"ng ") {
            let (name, reason) = rest.split_once_str(" ").unwrap_or((rest, b"refused"));
            set(report, name, RefOutcome::Rejected(foreign_message(reason)));
        } else if !line.starts_with(b"option ") {
            return Err(corrupt(format!(
                "unexpected line `{}` in report-status",
                escaped_excerpt(line)
            )));
        }
        Ok(false)
    }
}

fn set(report: &mut ReportStatus, name: &[u8], outcome: RefOutcome) {
    if let Some(found) = report.refs.iter_mut().find(|(other, _)| other == name) {
        found.1 = outcome;
    }
}
