//! Pushing: commands, a pack, and the server's report.

use bstr::{BString, ByteSlice};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};

use super::fetch::values;
use super::transport::Payload;
use super::{ReceivePack, SmartHttp};
use crate::error::{Error, ErrorKind, Result};
use crate::pack::PackBody;
use crate::protocol::advertisement::{Service, Version};
use crate::protocol::pkt_line::{Band, Decoder, Encoder, Packet, demultiplex, server_error};
use crate::protocol::smart_http::body::PacketReader;
use crate::refs::RefOutcome;
use crate::{ObjectId, check_ref_name, corrupt, escaped_excerpt};

/// How much of what the server says for people is kept for the report.
const MESSAGES: usize = 8 * 1024;

/// A pack up to this size is sent when it is there as a whole, and so can be sent again:
/// git does the same (`http.postBuffer`).
const WHOLE: usize = 1 << 20;

/// A ref to be changed, if it still is what we think.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefCommand {
    /// Its full name.
    pub name: BString,
    /// What it is now; null when it is to be created.
    pub old: ObjectId,
    /// What it shall be; null when it is to be deleted.
    pub new: ObjectId,
}

impl RefCommand {
    /// Creates a ref.
    pub fn create(name: impl Into<BString>, new: ObjectId) -> Self {
        Self {
            name: name.into(),
            old: new.kind().null(),
            new,
        }
    }

    /// Moves a ref.
    pub fn update(name: impl Into<BString>, old: ObjectId, new: ObjectId) -> Self {
        Self {
            name: name.into(),
            old,
            new,
        }
    }

    /// Deletes a ref.
    pub fn delete(name: impl Into<BString>, old: ObjectId) -> Self {
        Self {
            name: name.into(),
            old,
            new: old.kind().null(),
        }
    }
}

/// What to push.
pub struct PushRequest {
    /// At least one. How many a server takes at once is the caller's to know.
    pub commands: Vec<RefCommand>,
    /// A pack of all that the server lacks, without offset deltas; needed unless all
    /// commands delete.
    pub pack: Option<PackBody>,
}

impl std::fmt::Debug for PushRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PushRequest")
            .field("commands", &self.commands)
            .finish_non_exhaustive()
    }
}

/// What became of a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportStatus {
    /// Why the pack was not taken in, if it was not.
    pub unpack_error: Option<String>,
    /// Each ref of the request, in its order.
    pub refs: Vec<(BString, RefOutcome)>,
    /// What the server and its hooks said for people; at most 8 KiB.
    pub messages: String,
}

impl ReportStatus {
    /// Whether all refs are known to be as they should be.
    pub fn is_complete(&self) -> bool {
        self.unpack_error.is_none()
            && self
                .refs
                .iter()
                .all(|(_, outcome)| *outcome == RefOutcome::Done)
    }

    /// The first failure as an error.
    ///
    /// # Errors
    /// `Transport` when the pack was not taken in, `Conflict` for a ref that was refused
    /// or of which nothing is known.
    pub fn check(&self) -> Result<()> {
        if let Some(reason) = &self.unpack_error {
            return Err(Error::new(
                ErrorKind::Transport,
                format!("the server could not take the pack in: {reason}"),
            ));
        }
        for (name, outcome) in &self.refs {
            let reason = match outcome {
                RefOutcome::Done => continue,
                RefOutcome::Rejected(reason) => reason,
                RefOutcome::Unknown => "it does not tell",
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
    /// Where the repository is, after redirects.
    pub fn client(&self) -> &SmartHttp {
        &self.client
    }

    /// Pushes. Nothing is asked for that the server did not offer.
    ///
    /// # Errors
    /// `Config` when the server cannot do what is asked, and failures on the way. Refs
    /// that it refuses are in the report.
    pub async fn push(&self, request: PushRequest) -> Result<ReportStatus> {
        let head = self.head(&request)?;
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

    /// Asks with next to nothing, as git does before a body that cannot be sent twice:
    /// what stands in the way is known before the pack is on its way.
    async fn probe(&self) -> Result<()> {
        let mut nothing = Encoder::new();
        nothing.flush();
        let payload = Payload::Bytes(nothing.finish());
        self.client
            .post(Service::ReceivePack, Version::V0, payload)
            .await
            .map(drop)
    }

    /// The commands, with the capabilities behind the first one.
    fn head(&self, request: &PushRequest) -> Result<Bytes> {
        let offered = &self.advertisement.capabilities;
        let cannot = |what: &str| {
            Error::new(
                ErrorKind::Config,
                format!("{} cannot {what}", self.client.url),
            )
        };
        if request.commands.is_empty() {
            return Err(Error::new(ErrorKind::Internal, "a push changes nothing"));
        }
        let deletes = request.commands.iter().any(|command| command.new.is_null());
        if deletes && !offered.has("delete-refs") {
            return Err(cannot("delete refs"));
        }
        let mut words = String::new();
        for name in self.requested_capabilities() {
            words.push(' ');
            words.push_str(name);
        }
        words.push_str(&values(&self.advertisement));
        let mut out = Encoder::new();
        let mut first = format!("\0{words}");
        for command in &request.commands {
            check_ref_name(command.name.as_bstr())?;
            let hash = self.advertisement.hash;
            if command.new.kind() != hash || command.old.kind() != hash {
                return Err(cannot(&format!("take ids of another hash than {hash}")));
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
        mut packets: PacketReader,
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
                    let room = MESSAGES.saturating_sub(report.messages.len());
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
            format!("{} did not report on the push to its end", self.client.url),
        )
        .with_hint("the push may have happened all the same: look at the refs again"))
    }
}

/// A pack as far as it was waited for.
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
            if size > WHOLE {
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

/// Reads the lines of a report.
#[derive(Default)]
struct Lines {
    unpacked: bool,
    ended: bool,
}

impl Lines {
    /// Takes in a packet; `true` when it was the last one.
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
                .ok_or_else(|| corrupt("a report does not start with the pack"))?;
            self.unpacked = true;
            report.unpack_error = (status != b"ok").then(|| escaped_excerpt(status));
            return Ok(false);
        }
        if let Some(name) = line.strip_prefix(b"ok ") {
            set(report, name, RefOutcome::Done);
        } else if let Some(rest) = line.strip_prefix(b"ng ") {
            let (name, reason) = rest.split_once_str(" ").unwrap_or((rest, b"refused"));
            set(report, name, RefOutcome::Rejected(escaped_excerpt(reason)));
        } else if !line.starts_with(b"option ") {
            return Err(corrupt(format!("`{}` is no report", escaped_excerpt(line))));
        }
        Ok(false)
    }
}

fn set(report: &mut ReportStatus, name: &[u8], outcome: RefOutcome) {
    if let Some(found) = report.refs.iter_mut().find(|(other, _)| other == name) {
        found.1 = outcome;
    }
}
