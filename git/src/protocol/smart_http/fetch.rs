//! Fetching: the negotiation of wants and haves, and the pack.

use std::collections::{HashMap, VecDeque};

use super::body::{PackStream, ResponseReader};
use super::transport::Payload;
use super::{SmartHttp, UploadPack};
use crate::error::{Error, ErrorKind, Result};
use crate::protocol::advertisement::{Advertisement, Service, Version, common_lines};
use crate::protocol::pkt_line::{Encoder, Packet, server_error};
use crate::{AGENT, ObjectId, corrupt, escaped_excerpt, parse_id};

/// The haves of the first round; each further round has twice as many.
const FIRST_ROUND_HAVES: usize = 16;
/// The most haves of a round.
const MAX_ROUND_HAVES: usize = 16 * 1024;
/// The number of haves without an acknowledgment that ends the negotiation, once the server
/// has acknowledged one.
const MAX_IN_VAIN: usize = 256;

/// The objects to fetch, and the options of the pack.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FetchRequest {
    /// Objects to send, with all objects that they need. The server must allow those that are
    /// not tips of refs.
    pub wants: Vec<ObjectId>,
    /// Truncates history to this many commits (`deepen`).
    pub depth: Option<u32>,
    /// Commits that the client has without their parents (`shallow`).
    pub shallow: Vec<ObjectId>,
    /// Allows deltas whose bases the client has (`thin-pack`).
    pub thin: bool,
    /// Allows deltas that name their bases by distance (`ofs-delta`), which is shorter.
    pub offset_deltas: bool,
    /// Leaves objects out (`filter`), except for wanted ones.
    pub filter: Option<FetchFilter>,
}

/// Objects that a fetch leaves out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FetchFilter {
    /// Trees and blobs: commits and tags only.
    WithoutTrees,
    /// Blobs.
    WithoutBlobs,
}

impl FetchFilter {
    /// Returns the filter as the protocol names it.
    fn specification(self) -> &'static str {
        match self {
            Self::WithoutTrees => "tree:0",
            Self::WithoutBlobs => "blob:none",
        }
    }
}

/// Yields the `have` lines of a negotiation.
pub trait Negotiator: Send {
    /// Returns the next object that the client has, newest first.
    fn next_have(&mut self) -> Option<ObjectId>;

    /// Notes that the server has the object too, so that its ancestors need not be sent.
    fn is_common(&mut self, _id: ObjectId) {}
}

/// Yields a fixed list of tips.
#[derive(Debug, Clone, Default)]
pub struct TipNegotiator(VecDeque<ObjectId>);

impl TipNegotiator {
    /// Creates a negotiator that yields `ids` in their order.
    pub fn new(ids: impl IntoIterator<Item = ObjectId>) -> Self {
        Self(ids.into_iter().collect())
    }
}

impl Negotiator for TipNegotiator {
    fn next_have(&mut self) -> Option<ObjectId> {
        self.0.pop_front()
    }
}

/// The response to a fetch.
#[derive(Debug)]
pub struct FetchResponse {
    /// Commits whose parents are not sent.
    pub shallow: Vec<ObjectId>,
    /// Commits whose parents were missing and are sent now.
    pub unshallow: Vec<ObjectId>,
    /// Objects that the server acknowledged; not complete for the last request.
    pub common: Vec<ObjectId>,
    /// The number of requests.
    pub rounds: u32,
    /// The pack, whose first bytes have arrived.
    pub pack: PackStream,
}

/// A negotiation in progress.
struct Negotiation<'a> {
    client: &'a SmartHttp,
    server: &'a Advertisement,
    request: &'a FetchRequest,
    common: Vec<ObjectId>,
    // The haves that were sent, and whether the server has acknowledged each.
    sent_haves: HashMap<ObjectId, bool>,
    shallow: Vec<ObjectId>,
    unshallow: Vec<ObjectId>,
    rounds: u32,
}

/// The result of a round.
enum Round {
    /// The server wants more haves; `is_new` if it acknowledged one for the first time.
    More { is_new: bool },
    /// The server has enough haves.
    Ready,
    /// The pack follows.
    Pack(Box<ResponseReader>),
}

impl UploadPack {
    /// Returns the client of the repository at its URL after redirects.
    pub fn client(&self) -> &SmartHttp {
        &self.client
    }

    /// Returns whether the server supports filters.
    pub fn can_filter(&self) -> bool {
        let server = &self.advertisement;
        match server.version {
            Version::V0 => server.capabilities.has("filter"),
            Version::V2 => server.capabilities.has_feature("fetch", "filter"),
        }
    }

    /// Returns whether the server supports fetches of a part of the history.
    pub fn can_be_shallow(&self) -> bool {
        let server = &self.advertisement;
        match server.version {
            Version::V0 => server.capabilities.has("shallow"),
            Version::V2 => server.capabilities.has_feature("fetch", "shallow"),
        }
    }

    /// Fetches, and returns when the pack starts.
    ///
    /// # Errors
    /// `NotFound` when the server does not have or does not allow a wanted object; `Config`
    /// when it does not support an option.
    pub async fn fetch(
        &self,
        request: &FetchRequest,
        haves: &mut dyn Negotiator,
    ) -> Result<FetchResponse> {
        let server = &self.advertisement;
        if request.wants.is_empty() {
            let message = "a fetch has no wants";
            return Err(Error::new(ErrorKind::Internal, message));
        }
        let asks_shallow = request.depth.is_some() || !request.shallow.is_empty();
        if asks_shallow && !self.can_be_shallow() {
            return Err(Error::new(
                ErrorKind::Config,
                format!("{} does not support shallow fetches", self.client.url),
            ));
        }
        if request.filter.is_some() && !self.can_filter() {
            return Err(Error::new(
                ErrorKind::Config,
                format!("{} does not support filters", self.client.url),
            )
            .with_hint("set `uploadpack.allowFilter` at the server"));
        }
        let mut negotiation = Negotiation {
            client: &self.client,
            server,
            request,
            common: Vec::new(),
            sent_haves: HashMap::new(),
            shallow: Vec::new(),
            unshallow: Vec::new(),
            rounds: 0,
        };
        let packets = negotiation.run(haves).await?;
        let side_band = match server.version {
            Version::V0 => side_band(server).is_some(),
            Version::V2 => true,
        };
        Ok(FetchResponse {
            shallow: negotiation.shallow,
            unshallow: negotiation.unshallow,
            common: negotiation.common,
            rounds: negotiation.rounds,
            pack: PackStream::new(packets, side_band),
        })
    }
}

/// Returns the capabilities with values, as far as the server offers them.
pub(super) fn capabilities_with_values(server: &Advertisement) -> String {
    let mut words = String::new();
    if server.capabilities.has("object-format") {
        words.push_str(" object-format=");
        words.push_str(&server.hash.to_string());
    }
    if server.capabilities.has("agent") {
        words.push_str(" agent=");
        words.push_str(AGENT);
    }
    words
}

fn side_band(server: &Advertisement) -> Option<&'static str> {
    ["side-band-64k", "side-band"]
        .into_iter()
        .find(|band| server.capabilities.has(band))
}

impl Negotiation<'_> {
    async fn run(&mut self, haves: &mut dyn Negotiator) -> Result<ResponseReader> {
        let mut window = FIRST_ROUND_HAVES;
        let mut in_vain = 0;
        let mut ready = false;
        // Without detailed acknowledgments there is only one round.
        let rounds = self.server.version == Version::V2
            || self.server.capabilities.has("multi_ack_detailed");
        loop {
            let mut batch = Vec::new();
            while !ready && batch.len() < if rounds { window } else { MAX_IN_VAIN } {
                let Some(id) = haves.next_have() else { break };
                if !*self.sent_haves.entry(id).or_default() {
                    batch.push(id);
                }
            }
            let is_in_vain = !self.common.is_empty() && in_vain > MAX_IN_VAIN;
            let done = ready || is_in_vain || !rounds || batch.len() < window;
            in_vain += batch.len();
            let known = self.common.len();
            let round = match self.server.version {
                Version::V0 => self.round_v0(&batch, done).await?,
                Version::V2 => self.round_v2(&batch, done).await?,
            };
            for id in &self.common[known..] {
                haves.is_common(*id);
            }
            match round {
                Round::Pack(packets) => return Ok(*packets),
                Round::Ready => ready = true,
                Round::More { is_new: true } => in_vain = 0,
                Round::More { is_new: false } => {}
            }
            window = (window * 2).min(MAX_ROUND_HAVES);
        }
    }

    async fn post(&mut self, request: Encoder) -> Result<ResponseReader> {
        self.rounds += 1;
        let payload = Payload::Bytes(request.finish());
        self.client
            .post(Service::UploadPack, self.server.version, payload)
            .await
    }

    fn shallow_lines(&self, out: &mut Encoder) -> Result<()> {
        for id in &self.request.shallow {
            out.line(format!("shallow {id}\n"))?;
        }
        if let Some(depth) = self.request.depth {
            out.line(format!("deepen {depth}\n"))?;
        }
        if let Some(filter) = self.request.filter {
            out.line(format!("filter {}\n", filter.specification()))?;
        }
        Ok(())
    }

    fn have_lines(&self, batch: &[ObjectId], out: &mut Encoder) -> Result<()> {
        // The protocol is stateless, so each request repeats the common objects.
        for id in self.common.iter().chain(batch) {
            out.line(format!("have {id}\n"))?;
        }
        Ok(())
    }

    async fn round_v0(&mut self, batch: &[ObjectId], done: bool) -> Result<Round> {
        let offered = &self.server.capabilities;
        let mut out = Encoder::new();
        let mut words = String::new();
        let mut word = |asked: bool, name: &str| {
            if asked && offered.has(name) {
                words.push(' ');
                words.push_str(name);
            }
        };
        word(true, "multi_ack_detailed");
        word(true, side_band(self.server).unwrap_or_default());
        word(self.request.thin, "thin-pack");
        word(self.request.offset_deltas, "ofs-delta");
        word(self.request.filter.is_some(), "filter");
        word(true, "no-progress");
        words.push_str(&capabilities_with_values(self.server));
        for id in &self.request.wants {
            out.line(format!("want {id}{words}\n"))?;
            words.clear();
        }
        self.shallow_lines(&mut out)?;
        out.flush();
        self.have_lines(batch, &mut out)?;
        if done {
            out.line("done\n")?;
        } else {
            out.flush();
        }
        let mut packets = self.post(out).await?;
        if self.request.depth.is_some() {
            self.read_shallow(&mut packets).await?;
        }
        self.read_acks_v0(packets, done).await
    }

    async fn read_acks_v0(&mut self, mut packets: ResponseReader, done: bool) -> Result<Round> {
        let side_band = side_band(self.server).is_some();
        let mut is_new = false;
        let mut ready = false;
        let mut has_ack = false;
        loop {
            let packet = match packets.packet().await? {
                Some(packet) => packet,
                None if !done => break,
                None => {
                    let message = format!("{} ended its response before the pack", self.client.url);
                    return Err(Error::new(ErrorKind::Transport, message));
                }
            };
            let Some(line) = packet.text() else {
                if done {
                    return Err(corrupt("acknowledgments end without a pack"));
                }
                continue;
            };
            if let Some(error) = server_error(line) {
                return Err(error);
            }
            if line == b"NAK" {
                has_ack = true;
                // Without side-band the pack follows at once, and unframed.
                if done && !side_band {
                    return Ok(Round::Pack(Box::new(packets)));
                }
            } else if let Some(rest) = line.strip_prefix(b"ACK ") {
                has_ack = true;
                let mut words = rest.splitn(2, |&byte| byte == b' ');
                let id = parse_id(words.next().unwrap_or_default())?;
                let status = words.next();
                // A server that has enough haves sends `ready` for each further one, also for
                // objects that it does not have.
                if status == Some(b"ready") {
                    ready = true;
                } else {
                    is_new |= self.note_common(id)?;
                }
                if done && !side_band && status.is_none() {
                    return Ok(Round::Pack(Box::new(packets)));
                }
            } else if done && has_ack {
                packets.put_back(packet);
                return Ok(Round::Pack(Box::new(packets)));
            } else {
                let shown = escaped_excerpt(line);
                return Err(corrupt(format!(
                    "unexpected line `{shown}` among the acknowledgments"
                )));
            }
        }
        Ok(if ready {
            Round::Ready
        } else {
            Round::More { is_new }
        })
    }

    async fn round_v2(&mut self, batch: &[ObjectId], done: bool) -> Result<Round> {
        let mut out = Encoder::new();
        out.line("command=fetch\n")?;
        common_lines(self.server, &mut out)?;
        out.delimiter();
        for (asked, line) in [
            (self.request.thin, "thin-pack\n"),
            (self.request.offset_deltas, "ofs-delta\n"),
            (true, "no-progress\n"),
        ] {
            if asked {
                out.line(line)?;
            }
        }
        self.shallow_lines(&mut out)?;
        for id in &self.request.wants {
            out.line(format!("want {id}\n"))?;
        }
        self.have_lines(batch, &mut out)?;
        if done {
            out.line("done\n")?;
        }
        out.flush();
        let mut packets = self.post(out).await?;
        let mut outcome = Round::More { is_new: false };
        loop {
            let packet = packets.expect_packet().await?;
            let section = packet.text().unwrap_or_default();
            if let Some(error) = server_error(section) {
                return Err(error);
            }
            let last = match section {
                b"acknowledgments" => self.read_acks_v2(&mut packets, &mut outcome).await?,
                b"shallow-info" => self.read_shallow(&mut packets).await?,
                b"packfile" => return Ok(Round::Pack(Box::new(packets))),
                _ => {
                    let shown = escaped_excerpt(section);
                    return Err(corrupt(format!(
                        "unexpected section `{shown}` in the fetch response"
                    )));
                }
            };
            if last {
                break;
            }
        }
        if done {
            let message = format!("{} ended its response before the pack", self.client.url);
            return Err(Error::new(ErrorKind::Transport, message));
        }
        Ok(outcome)
    }

    /// Reads a section to its end; returns `true` when it was the last one.
    async fn read_acks_v2(
        &mut self,
        packets: &mut ResponseReader,
        outcome: &mut Round,
    ) -> Result<bool> {
        loop {
            let packet = packets.expect_packet().await?;
            let Some(line) = packet.text() else {
                return Ok(packet == Packet::Flush);
            };
            if line == b"ready" {
                *outcome = Round::Ready;
            } else if let Some(id) = line.strip_prefix(b"ACK ") {
                let is_new = self.note_common(parse_id(id)?)?;
                if let Round::More { is_new: before } = outcome {
                    *before |= is_new;
                }
            } else if line != b"NAK" {
                let shown = escaped_excerpt(line);
                return Err(corrupt(format!(
                    "unexpected line `{shown}` among the acknowledgments"
                )));
            }
        }
    }

    /// Reads a section to its end; returns `true` when a flush packet ended it.
    async fn read_shallow(&mut self, packets: &mut ResponseReader) -> Result<bool> {
        // Each round repeats the section.
        self.shallow.clear();
        self.unshallow.clear();
        loop {
            let packet = packets.expect_packet().await?;
            let Some(line) = packet.text() else {
                return Ok(packet == Packet::Flush);
            };
            if let Some(error) = server_error(line) {
                return Err(error);
            }
            let (list, id) = if let Some(id) = line.strip_prefix(b"shallow ") {
                (&mut self.shallow, id)
            } else if let Some(id) = line.strip_prefix(b"unshallow ") {
                (&mut self.unshallow, id)
            } else {
                let shown = escaped_excerpt(line);
                return Err(corrupt(format!(
                    "unexpected line `{shown}` in `shallow-info`"
                )));
            };
            if list.len() >= 1_000_000 {
                return Err(corrupt(
                    "a server sends more than 1,000,000 shallow commits",
                ));
            }
            list.push(parse_id(id)?);
        }
    }

    /// Notes an acknowledged object; returns whether it was not acknowledged before.
    fn note_common(&mut self, id: ObjectId) -> Result<bool> {
        // Other ids are refused, because a hostile server could send them without end.
        let Some(acknowledged) = self.sent_haves.get_mut(&id) else {
            return Err(corrupt(format!(
                "the server acknowledges {id}, which the client did not send"
            )));
        };
        let is_new = !std::mem::replace(acknowledged, true);
        if is_new {
            self.common.push(id);
        }
        Ok(is_new)
    }
}
