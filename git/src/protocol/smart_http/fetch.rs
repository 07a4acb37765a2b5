//! Fetching: what is wanted, what is had, and the pack in between.

use std::collections::{HashMap, VecDeque};

use super::body::{PackStream, PacketReader};
use super::transport::Payload;
use super::{SmartHttp, UploadPack};
use crate::error::{Error, ErrorKind, Result};
use crate::protocol::advertisement::{Advertisement, Service, Version, common_lines};
use crate::protocol::pkt_line::{Encoder, Packet, server_error};
use crate::{AGENT, ObjectId, corrupt, escaped_excerpt, parse_id};

/// How many haves go into the first round; each further one takes twice as many.
const FIRST_WINDOW: usize = 16;
/// The most haves of one round.
const LAST_WINDOW: usize = 16 * 1024;
/// So many haves in a row that the server does not know end the search, once it has
/// known one.
const MAX_IN_VAIN: usize = 256;

/// What to fetch.
#[expect(
    clippy::struct_excessive_bools,
    reason = "the protocol's options are independent"
)]
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FetchRequest {
    /// Objects that are wanted. Others than tips of refs need a server that allows it.
    pub wants: Vec<ObjectId>,
    /// So many commits of each line of history, instead of all.
    pub depth: Option<u32>,
    /// Commits that are had without their parents.
    pub shallow: Vec<ObjectId>,
    /// Deltas may stand on objects that are had.
    pub thin: bool,
    /// Deltas may name their bases by distance, which is smaller.
    pub offset_deltas: bool,
    /// Only commits and tags are sent (`filter tree:0`).
    pub without_trees: bool,
}

/// Knows what is had, for the server to leave out.
pub trait Negotiator: Send {
    /// The next object that is had, newest first.
    fn next_have(&mut self) -> Option<ObjectId>;

    /// The server has it too: what it leads to need not be told.
    fn is_common(&mut self, _id: ObjectId) {}
}

/// Tells objects one by one.
#[derive(Debug, Clone, Default)]
pub struct TipNegotiator(VecDeque<ObjectId>);

impl TipNegotiator {
    /// Tells these.
    pub fn new(ids: impl IntoIterator<Item = ObjectId>) -> Self {
        Self(ids.into_iter().collect())
    }
}

impl Negotiator for TipNegotiator {
    fn next_have(&mut self) -> Option<ObjectId> {
        self.0.pop_front()
    }
}

/// The answer to a fetch.
#[derive(Debug)]
pub struct FetchResponse {
    /// Commits that come without their parents from now on.
    pub shallow: Vec<ObjectId>,
    /// Commits whose parents come now.
    pub unshallow: Vec<ObjectId>,
    /// What both sides had, as far as the server told: not all of the last request.
    pub common: Vec<ObjectId>,
    /// How many requests it took.
    pub rounds: u32,
    /// The pack.
    pub pack: PackStream,
}

/// A fetch under way.
struct Negotiation<'a> {
    client: &'a SmartHttp,
    server: &'a Advertisement,
    request: &'a FetchRequest,
    common: Vec<ObjectId>,
    // What the server was told, and whether it has acknowledged that.
    told: HashMap<ObjectId, bool>,
    shallow: Vec<ObjectId>,
    unshallow: Vec<ObjectId>,
    rounds: u32,
}

/// What a round led to.
enum Round {
    /// More haves are welcome; whether these brought something new.
    More { news: bool },
    /// The server has heard enough.
    Ready,
    /// The pack follows.
    Pack(Box<PacketReader>),
}

impl UploadPack {
    /// Where the repository is, after redirects.
    pub fn client(&self) -> &SmartHttp {
        &self.client
    }

    /// Whether the server can leave objects out.
    pub fn can_filter(&self) -> bool {
        let server = &self.advertisement;
        match server.version {
            Version::V0 => server.capabilities.has("filter"),
            Version::V2 => server.capabilities.has_feature("fetch", "filter"),
        }
    }

    /// Fetches. The answer is there as soon as the pack starts.
    ///
    /// # Errors
    /// `NotFound` when the server does not have, or does not give, what is wanted;
    /// `Config` when it cannot do what is asked.
    pub async fn fetch(
        &self,
        request: &FetchRequest,
        haves: &mut dyn Negotiator,
    ) -> Result<FetchResponse> {
        let server = &self.advertisement;
        if request.wants.is_empty() {
            let message = "a fetch wants nothing";
            return Err(Error::new(ErrorKind::Internal, message));
        }
        let offers_shallow = match server.version {
            Version::V0 => server.capabilities.has("shallow"),
            Version::V2 => server.capabilities.has_feature("fetch", "shallow"),
        };
        let asks_shallow = request.depth.is_some() || !request.shallow.is_empty();
        if asks_shallow && !offers_shallow {
            return Err(Error::new(
                ErrorKind::Config,
                format!("{} cannot fetch to a depth", self.client.url),
            ));
        }
        if request.without_trees && !self.can_filter() {
            return Err(Error::new(
                ErrorKind::Config,
                format!("{} cannot leave objects out", self.client.url),
            )
            .with_hint("set `uploadpack.allowFilter` at the server"));
        }
        let mut negotiation = Negotiation {
            client: &self.client,
            server,
            request,
            common: Vec::new(),
            told: HashMap::new(),
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

/// The capabilities that have values, as far as they are offered.
pub(super) fn values(server: &Advertisement) -> String {
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
    async fn run(&mut self, haves: &mut dyn Negotiator) -> Result<PacketReader> {
        let mut window = FIRST_WINDOW;
        let mut in_vain = 0;
        let mut ready = false;
        // Without detailed answers there is one round, and what fits into it.
        let rounds = self.server.version == Version::V2
            || self.server.capabilities.has("multi_ack_detailed");
        loop {
            let mut batch = Vec::new();
            while !ready && batch.len() < if rounds { window } else { MAX_IN_VAIN } {
                let Some(id) = haves.next_have() else { break };
                if !*self.told.entry(id).or_default() {
                    batch.push(id);
                }
            }
            let gave_up = !self.common.is_empty() && in_vain > MAX_IN_VAIN;
            let done = ready || gave_up || !rounds || batch.len() < window;
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
                Round::More { news: true } => in_vain = 0,
                Round::More { news: false } => {}
            }
            window = (window * 2).min(LAST_WINDOW);
        }
    }

    async fn post(&mut self, request: Encoder) -> Result<PacketReader> {
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
        if self.request.without_trees {
            out.line("filter tree:0\n")?;
        }
        Ok(())
    }

    fn have_lines(&self, batch: &[ObjectId], out: &mut Encoder) -> Result<()> {
        // Each request stands alone, so it repeats what is known to be common.
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
        word(self.request.without_trees, "filter");
        word(true, "no-progress");
        words.push_str(&values(self.server));
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

    async fn read_acks_v0(&mut self, mut packets: PacketReader, done: bool) -> Result<Round> {
        let side_band = side_band(self.server).is_some();
        let mut news = false;
        let mut ready = false;
        let mut heard = false;
        loop {
            let packet = match packets.packet().await? {
                Some(packet) => packet,
                None if !done => break,
                None => {
                    let message = format!("{} sent no pack", self.client.url);
                    return Err(Error::new(ErrorKind::Transport, message));
                }
            };
            let Some(line) = packet.text() else {
                if done {
                    return Err(corrupt("a pack does not follow its acknowledgments"));
                }
                continue;
            };
            if let Some(error) = server_error(line) {
                return Err(error);
            }
            if line == b"NAK" {
                heard = true;
                // Without side-band the pack follows at once, unframed.
                if done && !side_band {
                    return Ok(Round::Pack(Box::new(packets)));
                }
            } else if let Some(rest) = line.strip_prefix(b"ACK ") {
                heard = true;
                let mut words = rest.splitn(2, |&byte| byte == b' ');
                let id = parse_id(words.next().unwrap_or_default())?;
                let status = words.next();
                // Once a server has heard enough, it says `ready` to whatever it is told,
                // known or not.
                if status == Some(b"ready") {
                    ready = true;
                } else {
                    news |= self.note_common(id)?;
                }
                if done && !side_band && status.is_none() {
                    return Ok(Round::Pack(Box::new(packets)));
                }
            } else if done && heard {
                packets.put_back(packet);
                return Ok(Round::Pack(Box::new(packets)));
            } else {
                let shown = escaped_excerpt(line);
                return Err(corrupt(format!("`{shown}` is no acknowledgment")));
            }
        }
        Ok(if ready {
            Round::Ready
        } else {
            Round::More { news }
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
        let mut outcome = Round::More { news: false };
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
                    return Err(corrupt(format!("`{shown}` is no part of a fetch")));
                }
            };
            if last {
                break;
            }
        }
        if done {
            let message = format!("{} sent no pack", self.client.url);
            return Err(Error::new(ErrorKind::Transport, message));
        }
        Ok(outcome)
    }

    /// Reads to the end of the section; `true` when it was the last one.
    async fn read_acks_v2(
        &mut self,
        packets: &mut PacketReader,
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
                let news = self.note_common(parse_id(id)?)?;
                if let Round::More { news: before } = outcome {
                    *before |= news;
                }
            } else if line != b"NAK" {
                let shown = escaped_excerpt(line);
                return Err(corrupt(format!("`{shown}` is no acknowledgment")));
            }
        }
    }

    /// Reads to the end of the section; `true` when a flush ended it.
    async fn read_shallow(&mut self, packets: &mut PacketReader) -> Result<bool> {
        // Each round repeats them.
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
                return Err(corrupt(format!("`{shown}` is no end of history")));
            };
            if list.len() >= 1_000_000 {
                return Err(corrupt("a server tells too many ends of history"));
            }
            list.push(parse_id(id)?);
        }
    }

    /// Whether it is news that the server has that object too.
    fn note_common(&mut self, id: ObjectId) -> Result<bool> {
        // What else it names is not had here, and could be named without end.
        let Some(acknowledged) = self.told.get_mut(&id) else {
            return Err(corrupt(format!(
                "the server acknowledges {id}, of which it was not told"
            )));
        };
        let news = !std::mem::replace(acknowledged, true);
        if news {
            self.common.push(id);
        }
        Ok(news)
    }
}
