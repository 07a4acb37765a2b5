//! Requests of hostile clients to the server's side of git's protocol.

use std::collections::{BTreeSet, HashMap};
use std::io::Cursor;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use branchline_git::date::LocalTime;
use branchline_git::object::{ObjectKind, encode_loose, id_of};
use branchline_git::odb::{Database, DatabaseOptions, LooseObjects, whole};
use branchline_git::pack::{PackBody, PackIndexer, PackLimits, PackObject};
use branchline_git::pkt_line::{Decoder, Packet};
use branchline_git::refs::{Head, RefOutcome, RefValue, Refs};
use branchline_git::server::{
    ArchiveBody, ArchiveOptions, ArchivePiece, ProtocolVersion, PushReceiver, ReceiveCapabilities,
    ReceivePackOptions, ReceivedPush, RefSnapshot, Repository, TreeArchiver, UploadPackOptions,
    receive_pack, upload_archive, upload_pack,
};
use branchline_git::{HashKind, ObjectId, Result, check_ref_name};
use futures_util::StreamExt as _;

use crate::block_on;
use crate::byte_source::ByteSource;

/// The objects of a small repository by id, deflated.
#[derive(Clone)]
struct Objects(Arc<HashMap<ObjectId, Vec<u8>>>);

#[async_trait]
impl LooseObjects for Objects {
    async fn open(&self, id: ObjectId) -> Result<Option<PackBody>> {
        let found = self.0.get(&id);
        Ok(found.map(|bytes| whole(bytes.clone().into())))
    }
}

/// A repository with two branches, a merge and an annotated tag.
#[derive(Clone)]
pub(crate) struct SmallRepository {
    objects: Objects,
    snapshot: RefSnapshot,
    received: Arc<Mutex<Vec<ReceivedPush>>>,
}

impl SmallRepository {
    pub(crate) fn new() -> Self {
        let mut objects = HashMap::new();
        let mut add = |kind: ObjectKind, content: &[u8]| {
            let id = id_of(HashKind::Sha1, kind, content)
                .expect("because the content is not part of a collision");
            objects.insert(id, encode_loose(kind, content));
            id
        };
        let entry = |mode: &str, name: &str, id: ObjectId| {
            [format!("{mode} {name}\0").as_bytes(), id.as_slice()].concat()
        };
        let blob = add(ObjectKind::Blob, b"content\n");
        let inner = add(ObjectKind::Tree, &entry("100644", "file", blob));
        let tree = [entry("100644", "a", blob), entry("40000", "d", inner)].concat();
        let tree = add(ObjectKind::Tree, &tree);
        let mut commit = |parents: &[ObjectId], tree: ObjectId, time: u32| {
            let parents = parents.iter().map(|id| format!("parent {id}\n"));
            let parents = parents.collect::<Vec<_>>().concat();
            let who = format!("C <c@x> {time} +0000");
            let text = format!("tree {tree}\n{parents}author {who}\ncommitter {who}\n\nm\n");
            add(ObjectKind::Commit, text.as_bytes())
        };
        let first = commit(&[], inner, 1_600_000_000);
        let side = commit(&[first], tree, 1_600_000_060);
        let second = commit(&[first], inner, 1_600_000_120);
        let main = commit(&[second, side], tree, 1_600_000_180);
        let text = format!("object {main}\ntype commit\ntag v1\ntagger C <c@x> 1 +0000\n\nt\n");
        let tag = add(ObjectKind::Tag, text.as_bytes());
        let target = |id, peeled| RefValue { id, peeled };
        let refs = Refs::from([
            ("refs/heads/main".into(), target(main, None)),
            ("refs/heads/side".into(), target(side, None)),
            ("refs/tags/v1".into(), target(tag, Some(main))),
        ]);
        Self {
            objects: Objects(Arc::new(objects)),
            snapshot: RefSnapshot {
                hash: HashKind::Sha1,
                refs,
                head: Some(Head::Symbolic("refs/heads/main".into())),
            },
            received: Arc::default(),
        }
    }

    /// Returns the id that a ref names.
    pub(crate) fn id(&self, name: &str) -> ObjectId {
        let id = self.snapshot.resolve(name.as_bytes());
        id.expect("because the repository has the ref")
    }
}

#[async_trait]
impl Repository for SmallRepository {
    async fn refs(&self, _prefixes: &[bstr::BString]) -> Result<RefSnapshot> {
        Ok(self.snapshot.clone())
    }

    async fn objects(&self, _ids: &[ObjectId]) -> Result<Arc<Database>> {
        let loose: Arc<dyn LooseObjects> = Arc::new(self.objects.clone());
        let options = DatabaseOptions::default();
        Ok(Arc::new(Database::new(
            HashKind::Sha1,
            [],
            Some(loose),
            options,
        )?))
    }

    async fn push_receiver(&self) -> Result<Box<dyn PushReceiver>> {
        Ok(Box::new(self.clone()))
    }
}

#[async_trait]
impl PushReceiver for SmallRepository {
    fn snapshot(&self) -> &RefSnapshot {
        &self.snapshot
    }

    fn capabilities(&self) -> ReceiveCapabilities {
        ReceiveCapabilities {
            atomic: true,
            thin: false,
            offset_deltas: true,
        }
    }

    async fn receive(&mut self, mut push: ReceivedPush) -> Result<Vec<RefOutcome>> {
        if let Some(pack) = &mut push.pack {
            while pack.next().await.transpose()?.is_some() {}
        }
        let outcomes = push.updates.iter().map(|_| RefOutcome::Done).collect();
        let mut received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
        received.push(push);
        Ok(outcomes)
    }
}

#[async_trait]
impl TreeArchiver for SmallRepository {
    async fn archive(
        &self,
        objects: Arc<Database>,
        options: &ArchiveOptions,
    ) -> Result<ArchiveBody> {
        assert!(objects.contains(options.tree).await?, "the tree exists");
        if let Some(date) = &options.mtime {
            LocalTime::utc(1_700_000_000).parse(date)?;
        }
        let piece = ArchivePiece::Data(format!("{options:?}").into());
        Ok(Box::pin(futures_util::stream::once(async { Ok(piece) })))
    }
}

/// Returns the packets of an answer, which must be framed up to `PACK` without side-band.
fn answered(bytes: &[u8]) -> Vec<Packet> {
    let mut decoder = Decoder::new();
    decoder.push(bytes);
    let mut packets = Vec::new();
    while !decoder.remaining().starts_with(b"PACK") {
        match decoder.next_packet() {
            Ok(Some(packet)) => packets.push(packet),
            Ok(None) => break,
            Err(error) => panic!("the answer is not framed: {error}"),
        }
    }
    let rest = decoder.remaining();
    assert!(
        rest.is_empty() || rest.starts_with(b"PACK"),
        "the answer ends with a packet"
    );
    packets
}

/// Requests for refs and packs in versions 0, 1 and 2.
pub fn serve_fetch(bytes: &[u8]) {
    let mut choices = ByteSource::new(bytes);
    let version = match choices.byte() % 3 {
        0 => ProtocolVersion::V0,
        1 => ProtocolVersion::V1,
        _ => ProtocolVersion::V2,
    };
    let repository = SmallRepository::new();
    let mut answer = Vec::new();
    let options = UploadPackOptions::default();
    let request = choices.rest();
    let served = block_on(upload_pack(
        &repository,
        version,
        request,
        &mut answer,
        &options,
    ));
    let packets = answered(&answer);
    let data = |packet: &Packet| match packet {
        Packet::Data(data) => data.strip_prefix(b"\x01").map(<[u8]>::to_vec),
        _ => None,
    };
    let sent: Vec<u8> = packets.iter().filter_map(data).flatten().collect();
    let packs = sent
        .windows(8)
        .filter(|bytes| bytes == b"PACK\0\0\0\x02")
        .count();
    if served.is_ok() && packs == 1 && sent.starts_with(b"PACK") {
        let mut indexer = PackIndexer::new(HashKind::Sha1, PackLimits::default());
        let mut known = |object: PackObject<'_>| {
            assert!(
                repository.objects.0.contains_key(&object.id),
                "only its own objects"
            );
            Ok(())
        };
        let pushed = indexer.push(&sent, &mut known);
        pushed.expect("because a pack that is sent is valid");
        assert!(indexer.is_done(), "the pack is whole");
    }
}

/// Commands and packs of pushes.
pub fn serve_push(bytes: &[u8]) {
    let mut choices = ByteSource::new(bytes);
    let options = ReceivePackOptions {
        input_ends: choices.byte() & 1 == 0,
        ..ReceivePackOptions::default()
    };
    let repository = SmallRepository::new();
    let mut answer = Vec::new();
    let request = Cursor::new(choices.rest().to_vec());
    let version = ProtocolVersion::V0;
    let _ = block_on(receive_pack(
        &repository,
        version,
        request,
        &mut answer,
        &options,
    ));
    answered(&answer);
    let received = repository
        .received
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    for push in received.iter() {
        let mut names = BTreeSet::new();
        for update in &push.updates {
            let name = update.name.as_ref();
            check_ref_name(name).expect("because other names are rejected");
            assert!(name != "HEAD" && names.insert(name), "each ref once");
            assert!(
                name != "refs/heads/main" || update.new.is_some() || update.old.is_none(),
                "the branch that `HEAD` names is not deleted"
            );
        }
    }
}

/// Arguments of archives.
pub fn serve_archive(bytes: &[u8]) {
    let repository = SmallRepository::new();
    let mut answer = Vec::new();
    let _ = block_on(upload_archive(&repository, &repository, bytes, &mut answer));
    answered(&answer);
}
