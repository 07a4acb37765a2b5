//! `git upload-pack`: serves fetches.

use std::collections::HashSet;

use bstr::BString;
use tokio::io::{AsyncRead, AsyncWrite};

use super::advertisement::{self, ProtocolVersion};
use super::connection::{PacketReader, PacketWriter, RequestSize, SideBand};
use super::ls_refs::LsRefs;
use super::needs::{MultiAck, Needs, refused};
use super::negotiation::{Boundary, Common, check_wants};
use super::repository::{RefSnapshot, Repository};
use super::send_pack::{OutgoingPack, make_pack, send_pack};
use crate::error::Result;
use crate::odb::{CommitReader, PackRequest};
use crate::protocol::pkt_line::Packet;
use crate::{HashKind, ObjectId, corrupt, escaped_excerpt};

/// Options of [`upload_pack`].
#[derive(Debug, Clone, Copy, Default)]
pub struct UploadPackOptions {
    /// The hash function of the client's own repository. Version 2 is then advertised before refs
    /// are read, so that only the refs are listed that the client asks for; a repository of
    /// another hash function is refused. `None` for clients without a repository.
    pub client_hash: Option<HashKind>,
}

/// Serves a fetch: advertises the repository, and answers requests until the client closes the
/// connection.
///
/// In version 2 any object of the repository may be asked for by its id, as from git.
///
/// # Errors
/// The first failure, which was reported to the client.
pub async fn upload_pack<R, W>(
    repository: &dyn Repository,
    version: ProtocolVersion,
    reader: R,
    writer: W,
    options: &UploadPackOptions,
) -> Result<()>
where
    R: AsyncRead + Send + Unpin,
    W: AsyncWrite + Send + Unpin,
{
    let mut service = UploadPack {
        repository,
        reader: PacketReader::new(reader),
        writer: PacketWriter::new(writer),
        hash: options.client_hash.unwrap_or(HashKind::Sha1),
        refs: None,
        objects: None,
    };
    let served = match version {
        ProtocolVersion::V2 => service.serve_v2(options.client_hash.is_some()).await,
        _ => service.serve_v0(version).await,
    };
    if let Err(error) = &served {
        service.writer.error(error);
        // The client may have closed the connection.
        let _ = service.writer.send().await;
    }
    served
}

/// One connection.
struct UploadPack<'a, R, W> {
    repository: &'a dyn Repository,
    reader: PacketReader<R>,
    writer: PacketWriter<W>,
    hash: HashKind,
    // The refs that were listed last, with the prefixes.
    refs: Option<(Vec<BString>, RefSnapshot)>,
    // The objects that were opened last, with the ids.
    objects: Option<(Vec<ObjectId>, CommitReader)>,
}

impl<R, W> UploadPack<'_, R, W>
where
    R: AsyncRead + Send + Unpin,
    W: AsyncWrite + Send + Unpin,
{
    /// Returns the refs with one of `prefixes`, and maybe others.
    async fn refs(&mut self, prefixes: &[BString]) -> Result<&RefSnapshot> {
        let covers = |listed: &[BString]| {
            let covered = |prefix: &BString| {
                let mut listed = listed.iter();
                listed.any(|listed| prefix.starts_with(listed))
            };
            listed.is_empty() || !prefixes.is_empty() && prefixes.iter().all(covered)
        };
        if !self.refs.as_ref().is_some_and(|(listed, _)| covers(listed)) {
            let snapshot = self.repository.refs(prefixes).await?;
            self.refs = Some((prefixes.to_vec(), snapshot));
        }
        let (_, snapshot) = self.refs.as_ref().expect("because it was just set");
        Ok(snapshot)
    }

    /// Opens the objects that `ids` need.
    async fn objects(&mut self, ids: &[ObjectId]) -> Result<&mut CommitReader> {
        if !self
            .objects
            .as_ref()
            .is_some_and(|(opened, _)| opened == ids)
        {
            let database = self.repository.objects(ids).await?;
            self.objects = Some((ids.to_vec(), CommitReader::new(database)));
        }
        let (_, commits) = self.objects.as_mut().expect("because it was just set");
        Ok(commits)
    }

    /// Serves commands of version 2 until the client has no more.
    async fn serve_v2(&mut self, knows_hash: bool) -> Result<()> {
        if !knows_hash {
            self.hash = self.refs(&[]).await?.hash;
        }
        advertisement::upload_pack_v2(&mut self.writer, self.hash).await?;
        while !self.reader.is_at_end().await? {
            let mut command = None;
            let mut size = RequestSize::default();
            let mut client_hash = HashKind::Sha1;
            let mut is_empty = true;
            let has_arguments = loop {
                let packet = self.reader.expect().await?;
                let Some(line) = packet.text() else {
                    match packet {
                        Packet::Flush => break false,
                        Packet::Delimiter => break true,
                        _ => return Err(corrupt("a request has an unexpected special packet")),
                    }
                };
                is_empty = false;
                size.add(line)?;
                if let Some(name) = line.strip_prefix(b"command=") {
                    if command.is_some() {
                        return Err(refused("a request has more than one command"));
                    }
                    command = Some(match name {
                        b"ls-refs" => Command::LsRefs,
                        b"fetch" => Command::Fetch,
                        _ => {
                            let shown = escaped_excerpt(name);
                            return Err(refused(format!("invalid command '{shown}'")));
                        }
                    });
                } else if let Some(format) = line.strip_prefix(b"object-format=") {
                    client_hash = match format {
                        b"sha1" => HashKind::Sha1,
                        b"sha256" => HashKind::Sha256,
                        _ => {
                            let shown = escaped_excerpt(format);
                            return Err(refused(format!("unknown object format '{shown}'")));
                        }
                    };
                } else if !(line.starts_with(b"agent=") || line.starts_with(b"server-option=")) {
                    let shown = escaped_excerpt(line);
                    return Err(refused(format!("unknown capability '{shown}'")));
                }
            };
            if is_empty {
                return Ok(());
            }
            if client_hash != self.hash {
                return Err(mismatched_hash(self.hash, client_hash));
            }
            match command {
                None => return Err(refused("no command requested")),
                Some(Command::LsRefs) => self.ls_refs(has_arguments, size).await?,
                Some(Command::Fetch) => self.fetch(has_arguments, size).await?,
            }
        }
        Ok(())
    }

    /// Passes each argument of a command to `add`.
    async fn arguments(
        &mut self,
        has_arguments: bool,
        mut size: RequestSize,
        mut add: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        if !has_arguments {
            return Ok(());
        }
        loop {
            let packet = self.reader.expect().await?;
            match packet.text() {
                Some(line) => {
                    size.add(line)?;
                    add(line)?;
                }
                None if packet == Packet::Flush => return Ok(()),
                None => return Err(corrupt("expected flush after the arguments of a command")),
            }
        }
    }

    async fn ls_refs(&mut self, has_arguments: bool, size: RequestSize) -> Result<()> {
        let mut request = LsRefs::default();
        self.arguments(has_arguments, size, |line| request.add(line))
            .await?;
        self.refs(request.prefixes()).await?;
        let (_, snapshot) = self.refs.as_ref().expect("because it was just listed");
        if snapshot.hash != self.hash && !snapshot.refs.is_empty() {
            return Err(mismatched_hash(snapshot.hash, self.hash));
        }
        request.answer(snapshot, &mut self.writer).await
    }

    /// Serves a request for a pack in version 2.
    async fn fetch(&mut self, has_arguments: bool, size: RequestSize) -> Result<()> {
        let mut needs = Needs::new(self.hash);
        self.arguments(has_arguments, size, |line| needs.add_argument(line))
            .await?;
        needs.check()?;
        self.writer.sideband_all = needs.sideband_all;
        let wanted_refs = self.resolve_want_refs(&mut needs).await?;
        if needs.wants.is_empty() && !needs.wait_for_done {
            return Ok(());
        }
        let mut common = Common::default();
        if !needs.haves.is_empty() && !self.acknowledge(&needs, &mut common).await? {
            return self.writer.send().await;
        }
        let is_plain = common.ids.is_empty() && self.is_plain(&needs).await?;
        let mut boundary = None;
        if !is_plain {
            boundary = self.boundary(&needs).await?;
        }
        if let Some(boundary) = &boundary {
            self.writer.line("shallow-info\n");
            self.write_boundary(boundary);
            self.writer.delimiter();
        }
        // In the order of the documentation and of git's client; git's own server sends this
        // section first, and its client then fails.
        if !wanted_refs.is_empty() {
            self.writer.line("wanted-refs\n");
            for (id, name) in wanted_refs {
                self.writer
                    .line([format!("{id} ").as_bytes(), &name, b"\n"].concat());
            }
            self.writer.delimiter();
        }
        let pack = self
            .pack(&needs, &common, boundary.as_ref(), is_plain)
            .await?;
        self.writer.line("packfile\n");
        let sent = send_pack(&mut self.writer, SideBand::Large, needs.no_progress, pack).await;
        self.writer.sideband_all = false;
        sent
    }

    /// Adds the objects of wanted refs to the wants, and returns them with the names of the refs.
    async fn resolve_want_refs(&mut self, needs: &mut Needs) -> Result<Vec<(ObjectId, BString)>> {
        if needs.want_refs.is_empty() {
            return Ok(Vec::new());
        }
        let names: Vec<BString> = needs.want_refs.iter().cloned().collect();
        let snapshot = self.refs(&names).await?;
        let mut wanted = Vec::new();
        for name in names {
            let found = snapshot.refs.get(&name).map(|target| target.id);
            let head = || snapshot.head_id().filter(|_| name == "HEAD");
            let Some(id) = found.or_else(head) else {
                let shown = escaped_excerpt(&name);
                return Err(refused(format!("unknown ref {shown}")));
            };
            needs.want(id);
            wanted.push((id, name));
        }
        Ok(wanted)
    }

    /// Finds the common objects and acknowledges them; returns whether the pack follows.
    async fn acknowledge(&mut self, needs: &Needs, common: &mut Common) -> Result<bool> {
        let mut ids = needs.wants.clone();
        if ids.is_empty() {
            // A client that only negotiates (`git fetch --negotiate-only`) wants nothing.
            let snapshot = self.refs(&[]).await?;
            ids.extend(snapshot.refs.values().map(|target| target.id));
        }
        let commits = self.objects(&ids).await?;
        check_wants(commits, &needs.wants).await?;
        for id in &needs.haves {
            common.add(commits, *id).await?;
        }
        if needs.done {
            return Ok(!needs.wants.is_empty());
        }
        let is_ready = !needs.wait_for_done && common.is_enough(commits, &needs.wants).await?;
        self.writer.line("acknowledgments\n");
        if common.ids.is_empty() {
            self.writer.line("NAK\n");
        }
        for id in &common.ids {
            self.writer.line(format!("ACK {id}\n"));
            self.writer.send_if_full().await?;
        }
        if is_ready {
            self.writer.line("ready\n");
            self.writer.delimiter();
        } else {
            self.writer.flush_packet();
        }
        Ok(is_ready)
    }

    /// Returns whether the repository can answer a request by itself: all wants are refs, no
    /// object is left out, and no tag is to be added.
    async fn is_plain(&mut self, needs: &Needs) -> Result<bool> {
        if needs.is_shallow() || needs.filter.is_some() {
            return Ok(false);
        }
        let Some((_, snapshot)) = &self.refs else {
            return Ok(false);
        };
        let tips: HashSet<ObjectId> = snapshot.refs.values().map(|target| target.id).collect();
        if !needs.wants.iter().all(|want| tips.contains(want)) {
            return Ok(false);
        }
        if !needs.include_tag {
            return Ok(true);
        }
        let wants: HashSet<ObjectId> = needs.wants.iter().copied().collect();
        let tags = self.refs(&[BString::from("refs/tags/")]).await?.refs.iter();
        let mut tags = tags.filter(|(name, _)| name.starts_with(b"refs/tags/"));
        Ok(tags.all(|(_, tag)| tag.peeled.is_none() || wants.contains(&tag.id)))
    }

    /// Computes the boundary of a request about a shallow history; `None` for other requests.
    async fn boundary(&mut self, needs: &Needs) -> Result<Option<Boundary>> {
        let mut excluded = Vec::new();
        if !needs.deepen_not.is_empty() {
            let snapshot = self.refs(&[]).await?;
            for name in &needs.deepen_not {
                excluded.push(snapshot.resolve(name).ok_or_else(|| {
                    let shown = escaped_excerpt(name);
                    refused(format!("deepen-not is not a ref: {shown}"))
                })?);
            }
        }
        let ids = [needs.wants.as_slice(), &excluded].concat();
        let commits = self.objects(&ids).await?;
        check_wants(commits, &needs.wants).await?;
        if !needs.is_shallow() {
            return Ok(None);
        }
        Ok(Some(Boundary::new(needs, &excluded, commits).await?))
    }

    fn write_boundary(&mut self, boundary: &Boundary) {
        for id in &boundary.shallow {
            self.writer.line(format!("shallow {id}"));
        }
        for id in &boundary.unshallow {
            self.writer.line(format!("unshallow {id}"));
        }
    }

    /// Makes the pack of a request.
    async fn pack(
        &mut self,
        needs: &Needs,
        common: &Common,
        boundary: Option<&Boundary>,
        is_plain: bool,
    ) -> Result<OutgoingPack> {
        if is_plain {
            let request = PackRequest {
                wants: needs.wants.clone(),
                haves: Vec::new(),
                thin: needs.thin_pack,
                offset_deltas: needs.offset_deltas,
            };
            let body = self.repository.fetch(&request).await?;
            return Ok(OutgoingPack {
                body,
                objects: None,
            });
        }
        if needs.include_tag {
            self.refs(&[BString::from("refs/tags/")]).await?;
        }
        let tags = self.refs.as_ref().filter(|_| needs.include_tag);
        let tags = tags.map(|(_, snapshot)| snapshot);
        let (_, commits) = self.objects.as_ref().expect("because they were opened");
        let (database, ids) = (commits.database(), &common.ids);
        make_pack(self.repository, database, needs, ids, boundary, tags).await
    }

    /// Serves one request of version 0 or 1.
    async fn serve_v0(&mut self, version: ProtocolVersion) -> Result<()> {
        self.refs(&[]).await?;
        let (_, snapshot) = self.refs.as_ref().expect("because they were just listed");
        self.hash = snapshot.hash;
        advertisement::upload_pack_refs(&mut self.writer, version, snapshot).await?;
        if self.reader.is_at_end().await? {
            return Ok(());
        }
        let mut needs = Needs::new(self.hash);
        let mut size = RequestSize::default();
        loop {
            let packet = self.reader.expect().await?;
            match packet.text() {
                Some(line) => {
                    size.add(line)?;
                    needs.add_line(line)?;
                }
                None if packet == Packet::Flush => break,
                None => return Err(corrupt("a request has an unexpected special packet")),
            }
        }
        needs.check()?;
        if needs.wants.is_empty() {
            return Ok(());
        }
        let mut is_plain = self.is_plain(&needs).await?;
        let mut boundary = None;
        if !is_plain {
            boundary = self.boundary(&needs).await?;
        }
        if let Some(boundary) = boundary.as_ref().filter(|boundary| boundary.is_requested) {
            self.write_boundary(boundary);
            self.writer.flush_packet();
            self.writer.send().await?;
        }
        // A client that asks only for the boundary closes the connection.
        if self.reader.is_at_end().await? {
            return Ok(());
        }
        let common = self.negotiate(&needs, size).await?;
        is_plain &= common.ids.is_empty();
        let pack = self
            .pack(&needs, &common, boundary.as_ref(), is_plain)
            .await?;
        send_pack(&mut self.writer, needs.side_band, needs.no_progress, pack).await
    }

    /// Finds common objects until the client is done.
    async fn negotiate(&mut self, needs: &Needs, mut size: RequestSize) -> Result<Common> {
        let mut common = Common::default();
        let mut last = None;
        let (mut got_common, mut got_other) = (false, false);
        loop {
            let packet = self.reader.expect().await?;
            let Some(line) = packet.text() else {
                if packet != Packet::Flush {
                    return Err(corrupt("a request has an unexpected special packet"));
                }
                if needs.multi_ack == MultiAck::Detailed && got_common && !got_other {
                    let commits = self.objects(&needs.wants).await?;
                    let is_enough = common.is_enough(commits, &needs.wants).await?;
                    if let Some(id) = last.filter(|_| is_enough) {
                        self.writer.line(format!("ACK {id} ready\n"));
                    }
                }
                if common.ids.is_empty() || needs.multi_ack != MultiAck::No {
                    self.writer.line("NAK\n");
                }
                self.writer.send().await?;
                (got_common, got_other) = (false, false);
                continue;
            };
            size.add(line)?;
            if line == b"done" {
                match last.filter(|_| !common.ids.is_empty()) {
                    Some(id) if needs.multi_ack != MultiAck::No => {
                        self.writer.line(format!("ACK {id}\n"));
                    }
                    Some(_) => {}
                    None => self.writer.line("NAK\n"),
                }
                return Ok(common);
            }
            let id = line.strip_prefix(b"have ").ok_or_else(|| {
                corrupt(format!(
                    "expected an object id, found '{}'",
                    escaped_excerpt(line)
                ))
            })?;
            let id = needs.id(id)?;
            let commits = self.objects(&needs.wants).await?;
            if common.add(commits, id).await? {
                got_common = true;
                last = Some(id);
                match needs.multi_ack {
                    MultiAck::Detailed => self.writer.line(format!("ACK {id} common\n")),
                    MultiAck::Continue => self.writer.line(format!("ACK {id} continue\n")),
                    MultiAck::No if common.ids.len() == 1 => {
                        self.writer.line(format!("ACK {id}\n"));
                    }
                    MultiAck::No => {}
                }
            } else {
                got_other = true;
                let ends = needs.multi_ack != MultiAck::No;
                if ends && common.is_enough(commits, &needs.wants).await? {
                    self.writer.line(match needs.multi_ack {
                        MultiAck::Detailed => format!("ACK {id} ready\n"),
                        _ => format!("ACK {id} continue\n"),
                    });
                }
            }
            self.writer.send_if_full().await?;
        }
    }
}

/// A command of version 2.
enum Command {
    LsRefs,
    Fetch,
}

fn mismatched_hash(server: HashKind, client: HashKind) -> crate::Error {
    refused(format!(
        "mismatched object format: server {server}; client {client}"
    ))
}
