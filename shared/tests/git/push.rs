//! Pushing to `git http-backend`.

use branchline_core::Error;
use branchline_core::git::advertisement::Version;
use branchline_core::git::pack::{
    EntryHeader, EntryKind, Index, NoBases, Pack, PackLimits, PackWriter,
};
use branchline_core::git::pack::{PackBody, PackBytes as _, PackIndexer};
use branchline_core::git::refs::RefOutcome;
use branchline_core::git::smart_http::{
    FetchRequest, PushRequest, ReceivePack, RefCommand, ReportStatus, TipNegotiator,
};
use branchline_core::git::{ErrorKind, HashKind, ObjectId, Result};
use bytes::Bytes;
use futures_util::StreamExt as _;

use super::http::{BOTH, all_tips, client};
use branchline_test_support::git_server::{GitServer, Response};
use branchline_test_support::repo::Repo;

fn outgoing(pack: impl Into<Bytes>) -> PackBody {
    let pack = pack.into();
    let mut pieces = Vec::new();
    for start in (0..pack.len()).step_by(10_000) {
        pieces.push(Ok(pack.slice(start..pack.len().min(start + 10_000))));
    }
    futures_util::stream::iter(pieces).boxed()
}

/// Makes a pack of the objects that `wanted` reaches and `had` does not, without offset deltas.
fn pack_of(source: &Repo, wanted: &str, had: &str) -> Vec<u8> {
    let revisions = format!("{wanted}\n{had}\n");
    let args = ["pack-objects", "--stdout", "--revs", "--thin", "-q"];
    source.input(&args, revisions.as_bytes())
}

async fn push(
    remote: &ReceivePack,
    commands: Vec<RefCommand>,
    pack: Option<Vec<u8>>,
) -> Result<ReportStatus> {
    let request = PushRequest {
        commands,
        pack: pack.map(outgoing),
    };
    remote.push(request).await
}

async fn remote(server: &GitServer) -> ReceivePack {
    client(&server.url(), Version::V2)
        .receive_pack()
        .await
        .unwrap()
}

#[tokio::test]
async fn refs_are_created_moved_and_deleted() {
    for hash in [HashKind::Sha1, HashKind::Sha256] {
        let source = Repo::with_history(hash, 30, 10);
        let target = Repo::new(hash);
        let server = GitServer::new(&target);
        let (old, new) = (source.id("main~3"), source.id("main"));

        let created = [RefCommand::create("refs/heads/main", old)].to_vec();
        let pack = pack_of(&source, "main~3", "");
        let report = push(&remote(&server).await, created, Some(pack))
            .await
            .unwrap();
        assert!(report.is_complete(), "{report:?}");
        assert_eq!(target.id("main"), old);

        let tag = source.id("nested");
        let moved = [
            RefCommand::update("refs/heads/main", old, new),
            RefCommand::create("refs/tags/nested", tag),
            RefCommand::create("refs/heads/feature/ü", old),
        ];
        let pack = pack_of(&source, "nested", "^main~3");
        let report = push(&remote(&server).await, moved.to_vec(), Some(pack))
            .await
            .unwrap();
        assert!(report.is_complete(), "{report:?}");
        assert_eq!((target.id("main"), target.id("nested")), (new, tag));
        target.fsck();

        let deleted = [RefCommand::delete("refs/tags/nested", tag)].to_vec();
        let report = push(&remote(&server).await, deleted, None).await.unwrap();
        assert!(report.is_complete(), "{report:?}");
        assert!(!target.refs().contains("nested"));

        let posts: Vec<_> = server
            .requests()
            .into_iter()
            .filter(|s| s.method == "POST")
            .collect();
        assert_eq!(posts.len(), 3, "what is small goes at once");
        assert!(posts[0].headers.contains_key("content-length"));
        assert!(!posts[2].body.windows(4).any(|four| four == b"PACK"));
    }
}

#[tokio::test]
async fn a_large_pack_is_streamed_after_a_probe() {
    let source = Repo::with_history(HashKind::Sha1, 3, 2);
    let mut noise = Vec::new();
    let mut state = 1_u64;
    while noise.len() < 2 << 20 {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        noise.extend_from_slice(&(state >> 16).to_le_bytes());
    }
    let blob = source.input(&["hash-object", "-w", "--stdin"], &noise);
    let blob = String::from_utf8(blob).unwrap();
    source.git(&["update-ref", "refs/tags/noise", blob.trim()]);
    let target = Repo::new(HashKind::Sha1);
    let server = GitServer::new(&target);
    let created = [RefCommand::create("refs/tags/noise", source.id("noise"))].to_vec();
    let pack = pack_of(&source, "noise", "");
    let report = push(&remote(&server).await, created, Some(pack))
        .await
        .unwrap();
    assert!(report.is_complete(), "{report:?}");
    target.fsck();
    let seen = server.requests();
    let posts: Vec<_> = seen.iter().filter(|s| s.method == "POST").collect();
    assert_eq!(posts.len(), 2);
    assert_eq!(posts[0].body, b"0000");
    assert_eq!(posts[1].headers["transfer-encoding"], "chunked");
}

#[tokio::test]
async fn refusals_of_the_server_are_reported_per_ref() {
    let source = Repo::with_history(HashKind::Sha1, 20, 5);
    let target = Repo::new(HashKind::Sha1);
    target.git(&[
        "fetch",
        "-q",
        source.path.to_str().unwrap(),
        "refs/heads/*:refs/heads/*",
    ]);
    target.git(&["config", "receive.denyNonFastForwards", "true"]);
    let server = GitServer::new(&target);
    let (tip, back) = (source.id("main"), source.id("main~2"));
    let empty = || {
        PackWriter::new(HashKind::Sha1, 0)
            .finish()
            .unwrap()
            .0
            .to_vec()
    };

    let commands = vec![
        RefCommand::update("refs/heads/main", tip, back),
        RefCommand::create("refs/heads/new", back),
        RefCommand::update("refs/heads/side", tip, back),
    ];
    let report = push(&remote(&server).await, commands, Some(empty()))
        .await
        .unwrap();
    assert_eq!(report.unpack_error, None);
    assert_eq!(
        report.refs[0].1,
        RefOutcome::Rejected("non-fast-forward".into())
    );
    assert_eq!(report.refs[1].1, RefOutcome::Done);
    assert!(
        matches!(report.refs[2].1, RefOutcome::Rejected(_)),
        "the old id is stale"
    );
    assert_eq!(report.check().unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!((target.id("main"), target.id("new")), (tip, back));

    let hook = target.path.join("hooks/pre-receive");
    std::fs::create_dir_all(hook.parent().unwrap()).unwrap();
    std::fs::write(&hook, "#!/bin/sh\necho 'ask the owner first' >&2\nexit 1\n").unwrap();
    let mut mode = std::fs::metadata(&hook).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o755);
    std::fs::set_permissions(&hook, mode).unwrap();
    let commands = vec![RefCommand::create("refs/heads/other", back)];
    let report = push(&remote(&server).await, commands, Some(empty()))
        .await
        .unwrap();
    let declined = RefOutcome::Rejected("pre-receive hook declined".into());
    assert_eq!(report.refs[0].1, declined);
    assert!(
        report.messages.contains("ask the owner first"),
        "{report:?}"
    );
}

#[tokio::test]
async fn unadvertised_capabilities_are_not_requested_in_a_push() {
    let source = Repo::with_history(HashKind::Sha1, 20, 5);
    for (offered, asked) in [
        (
            "report-status side-band-64k",
            " report-status side-band-64k",
        ),
        ("report-status", " report-status"),
        ("", ""),
    ] {
        let target = Repo::new(HashKind::Sha1);
        let server = GitServer::with(&target, move |seen| match seen.method.as_str() {
            "GET" => Response::Capabilities(offered),
            _ => Response::Git,
        });
        let tip = source.id("main");
        let commands = vec![RefCommand::create("refs/heads/main", tip)];
        let pack = pack_of(&source, "main", "");
        let report = push(&remote(&server).await, commands, Some(pack))
            .await
            .unwrap();
        let outcome = if asked.is_empty() {
            RefOutcome::Unknown
        } else {
            RefOutcome::Done
        };
        assert_eq!(report.refs, [("refs/heads/main".into(), outcome)]);
        assert_eq!(target.id("main"), tip);
        let request = server.requests().pop().unwrap().body;
        let first = format!("{} {tip} refs/heads/main\0{asked}0000PACK", "0".repeat(40));
        assert_eq!(&request[4..4 + first.len()], first.as_bytes());

        let deletes = vec![RefCommand::delete("refs/heads/main", tip)];
        let error = push(&remote(&server).await, deletes, None)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
    }
}

#[tokio::test]
async fn a_corrupt_pack_does_not_change_the_target() {
    let source = Repo::with_history(HashKind::Sha1, 20, 5);
    let target = Repo::new(HashKind::Sha1);
    let server = GitServer::new(&target);
    let create = || vec![RefCommand::create("refs/heads/main", source.id("main"))];
    let mut pack = pack_of(&source, "main", "");
    let middle = pack.len() / 2;
    pack[middle] ^= 0x55;
    let report = push(&remote(&server).await, create(), Some(pack.clone()))
        .await
        .unwrap();
    assert!(report.unpack_error.is_some(), "{report:?}");
    assert!(matches!(report.refs[0].1, RefOutcome::Rejected(_)));
    assert_eq!(report.check().unwrap_err().kind(), ErrorKind::Transport);

    // An error of our own pack is returned unchanged.
    let failing: PackBody = futures_util::stream::iter([
        Ok(Bytes::from(pack[..100].to_vec())),
        Err(Error::new(branchline_core::ErrorKind::Deadline, "no time left").into()),
    ])
    .boxed();
    let request = PushRequest {
        commands: create(),
        pack: Some(failing),
    };
    let error = Error::from(remote(&server).await.push(request).await.unwrap_err());
    let kind = branchline_core::ErrorKind::Deadline;
    assert_eq!(error.kind(), kind, "{}", error.report());
    assert_eq!(target.refs(), "");
}

#[tokio::test]
async fn a_cut_report_is_a_transport_error_although_the_push_happened() {
    let source = Repo::with_history(HashKind::Sha1, 20, 5);
    let target = Repo::new(HashKind::Sha1);
    let server = GitServer::with(&target, |seen| match seen.body.len() {
        5.. => Response::Cut(20),
        _ => Response::Git,
    });
    let tip = source.id("main");
    let commands = vec![RefCommand::create("refs/heads/main", tip)];
    let pack = pack_of(&source, "main", "");
    let error = push(&remote(&server).await, commands, Some(pack))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transport, "{}", error.report());
    let now = remote(&server).await.advertisement;
    assert_eq!(now.find("refs/heads/main").map(|r| r.id), Some(tip));
}

#[tokio::test]
async fn a_fetched_pack_is_pushed_without_being_buffered() {
    let source = Repo::with_history(HashKind::Sha1, 40, 20);
    let target = Repo::new(HashKind::Sha1);
    let (from, to) = (GitServer::new(&source), GitServer::new(&target));
    let upload = client(&from.url(), Version::V2)
        .upload_pack(&[])
        .await
        .unwrap();
    let request = FetchRequest {
        wants: all_tips(&upload.advertisement),
        ..FetchRequest::default()
    };
    let fetched = upload
        .fetch(&request, &mut TipNegotiator::default())
        .await
        .unwrap();
    let refs = upload
        .advertisement
        .refs
        .iter()
        .filter(|r| r.name != "HEAD");
    let request = PushRequest {
        commands: refs
            .map(|r| RefCommand::create(r.name.clone(), r.id))
            .collect(),
        pack: Some(fetched.pack.into_stream().boxed()),
    };
    let report = remote(&to).await.push(request).await.unwrap();
    assert!(report.is_complete(), "{report:?}");
    target.fsck();
    assert_eq!(target.refs(), source.refs());
}

#[tokio::test]
async fn deltas_of_a_fetched_pack_are_pushed_again_by_id() {
    for hash in [HashKind::Sha1, HashKind::Sha256] {
        let source = Repo::with_history(hash, 40, 20);
        source.git(&["repack", "-adfq"]);
        let (pack, index) = source.only_pack();
        let (pack, index) = (Bytes::from(pack), Index::parse(hash, index.into()).unwrap());
        let size = pack.len() as u64;
        let mut reader = Pack::new(index.clone(), size, PackLimits::default()).unwrap();
        let mut writer = PackWriter::new(hash, u32::try_from(index.len()).unwrap());
        let mut out = Vec::new();
        let mut deltas = 0;
        for (position, id) in index.ids().enumerate() {
            let range = reader.entry_range(id).unwrap().unwrap();
            let entry = pack.read_range(range.clone()).await.unwrap();
            let (header, length) = EntryHeader::parse(hash, &entry).unwrap().unwrap();
            let kind = match header.kind {
                EntryKind::OffsetDelta(distance) => {
                    deltas += 1;
                    let base = range.start - distance;
                    let base = (0..index.len())
                        .find(|at| index.offset(*at) == base)
                        .unwrap();
                    EntryKind::IdDelta(index.id(base))
                }
                kind => kind,
            };
            if position % 10 == 9 {
                let (kind, content) = reader.read(&pack, id).await.unwrap().unwrap();
                writer.object(id, kind, &content);
            } else {
                let header = EntryHeader { kind, ..header };
                writer.copy(id, header, &entry[length..]).unwrap();
            }
            if writer.waiting() > 5000 {
                out.extend_from_slice(&writer.take());
            }
        }
        assert!(deltas > 50, "{deltas} deltas");
        let (rest, written) = writer.finish().unwrap();
        out.extend_from_slice(&rest);

        let target = Repo::new(hash);
        target.git(&["config", "transfer.fsckObjects", "true"]);
        let server = GitServer::new(&target);
        let created = vec![RefCommand::create("refs/heads/main", source.id("main"))];
        let report = push(&remote(&server).await, created, Some(out.clone()))
            .await
            .unwrap();
        assert!(report.is_complete(), "{report:?}");
        target.fsck();
        let fresh = Repo::new(hash);
        assert_eq!(
            written.bytes(),
            &fresh.index_pack(&out, false),
            "our index is git's"
        );
        let mut receiver = PackIndexer::new(hash, PackLimits::default());
        let out = Bytes::from(out);
        receiver
            .push(&out, &mut |_: branchline_core::git::pack::PackObject<
                '_,
            >| Ok(()))
            .unwrap();
        let arrived = receiver.finish().unwrap();
        let again = arrived
            .resolve(
                &out,
                &NoBases,
                &mut |_: branchline_core::git::pack::PackObject<'_>| Ok(()),
            )
            .await
            .unwrap();
        assert_eq!(again.index, written);
    }
}

#[tokio::test]
async fn a_push_uses_version_0_from_clients_of_both_versions() {
    let target = Repo::new(HashKind::Sha1);
    let server = GitServer::new(&target);
    for version in BOTH {
        let remote = client(&server.url(), version).receive_pack().await.unwrap();
        assert_eq!(remote.advertisement.version, Version::V0);
        assert!(remote.advertisement.capabilities.has("report-status"));
    }
    let stranger = vec![RefCommand::create(
        "refs/heads/x",
        ObjectId::null(HashKind::Sha256),
    )];
    let error = push(&remote(&server).await, stranger, None)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
}
