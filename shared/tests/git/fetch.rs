//! Fetching from `git http-backend`.

use std::sync::Mutex;

use async_trait::async_trait;
use branchline_core::git::advertisement::Version;
use branchline_core::git::object::ObjectKind;
use branchline_core::git::pack::{Bases, PackIndexer, PackLimits};
use branchline_core::git::refs::Head;
use branchline_core::git::smart_http::{FetchRequest, TipNegotiator};
use branchline_core::git::{ErrorKind, HashKind, ObjectId, Result};
use bytes::Bytes;

use super::http::{BOTH, all_tips, client, collect, verify};
use branchline_test_support::git_server::{GitServer, Response};
use branchline_test_support::repo::{Repo, history};

/// Capabilities that CodeCommit advertises for fetching.
const CODECOMMIT: &str = "multi_ack_detailed shallow side-band-64k thin-pack \
                          allow-tip-sha1-in-want allow-reachable-sha1-in-want";

/// Clones over the wire and compares with the source.
async fn clones(source: &Repo, url: &str, version: Version) {
    let upload = client(url, version).upload_pack(&[]).await.unwrap();
    let server = &upload.advertisement;
    assert_eq!(server.version, version);
    assert_eq!(server.hash, source.hash);
    let advertised: Vec<_> = server
        .refs
        .iter()
        .filter(|r| r.name != "HEAD")
        .map(|r| format!("{} {}", r.id, r.name))
        .collect();
    assert_eq!(advertised.join("\n"), source.refs());
    for r in server
        .refs
        .iter()
        .filter(|r| r.name.starts_with(b"refs/tags/"))
    {
        let peeled = source.id(&format!("{}^{{}}", r.name));
        assert_eq!(
            r.peeled.unwrap_or(r.id),
            peeled,
            "{} peels as git says",
            r.name
        );
    }
    assert_eq!(
        server.head(),
        Some(Head::Symbolic("refs/heads/main".into()))
    );

    let request = FetchRequest {
        wants: all_tips(server),
        offset_deltas: true,
        ..FetchRequest::default()
    };
    let mut fetched = upload
        .fetch(&request, &mut TipNegotiator::default())
        .await
        .unwrap();
    assert_eq!(fetched.rounds, 1, "a clone takes one request");
    let pack = collect(&mut fetched).await.unwrap();

    let target = Repo::new(source.hash);
    let index = target.index_pack(&pack, false);
    for r in &server.refs {
        if r.name != "HEAD" {
            target.git(&["update-ref", &r.name.to_string(), &r.id.to_string()]);
        }
    }
    target.fsck();
    assert_eq!(target.objects(), source.objects());
    let resolved = verify(source, &pack, &[]).await;
    assert_eq!(resolved.index.bytes(), &index, "our index is git's");
}

#[tokio::test]
async fn a_clone_is_complete_in_both_versions_and_hashes() {
    for hash in [HashKind::Sha1, HashKind::Sha256] {
        let source = Repo::with_history(hash, 40, 20);
        source.git(&["repack", "-adfq"]);
        let server = GitServer::new(&source);
        for version in BOTH {
            clones(&source, &server.url(), version).await;
        }
    }
}

#[tokio::test]
async fn unadvertised_capabilities_are_not_requested_in_a_fetch() {
    let source = Repo::with_history(HashKind::Sha1, 30, 10);
    let server = GitServer::with(&source, |seen| match seen.method.as_str() {
        "GET" => Response::Capabilities(CODECOMMIT),
        _ => Response::Git,
    });
    clones(&source, &server.url(), Version::V0).await;
    let seen = server.requests();
    let request = String::from_utf8_lossy(&seen[1].body).into_owned();
    let first = request.lines().next().unwrap();
    assert!(
        first.ends_with(" multi_ack_detailed side-band-64k"),
        "{first}"
    );
    assert!(!seen[1].headers.contains_key("git-protocol"));
}

#[tokio::test]
async fn a_server_without_side_band_and_multi_ack_is_fetched_from() {
    let source = Repo::with_history(HashKind::Sha1, 30, 10);
    let server = GitServer::with(&source, |seen| match seen.method.as_str() {
        "GET" => Response::Capabilities("thin-pack"),
        _ => Response::Git,
    });
    clones(&source, &server.url(), Version::V0).await;

    let upload = client(&server.url(), Version::V0)
        .upload_pack(&[])
        .await
        .unwrap();
    let request = FetchRequest {
        wants: vec![source.id("main")],
        ..FetchRequest::default()
    };
    let mut haves = TipNegotiator::new([source.id("main~3")]);
    let mut fetched = upload.fetch(&request, &mut haves).await.unwrap();
    assert_eq!(fetched.common, [source.id("main~3")]);
    let pack = collect(&mut fetched).await.unwrap();
    assert!(pack.starts_with(b"PACK"));
}

/// Objects of a repository, read with git.
struct GitBases<'a>(&'a Repo, Mutex<usize>);

#[async_trait]
impl Bases for GitBases<'_> {
    async fn base(&self, id: ObjectId) -> Result<Option<(ObjectKind, Bytes)>> {
        *self.1.lock().unwrap() += 1;
        let id = id.to_string();
        let (found, kind, _) = self.0.run(&["cat-file", "-t", &id], b"");
        if !found {
            return Ok(None);
        }
        let kind = ObjectKind::from_name(kind.trim_ascii_end()).unwrap();
        let content = self.0.bytes(&["cat-file", kind.name(), &id]);
        Ok(Some((kind, content.into())))
    }
}

#[tokio::test]
async fn only_what_is_new_is_fetched_and_a_thin_pack_is_completed() {
    for hash in [HashKind::Sha1, HashKind::Sha256] {
        let source = Repo::with_history(hash, 30, 20);
        let target = Repo::new(hash);
        let path = source.path.to_str().unwrap();
        target.git(&["fetch", "-q", path, "refs/*:refs/*"]);
        let old = target.id("main");
        source.input(&["fast-import", "--quiet", "--force"], &history(30, 12, 20));
        source.git(&["repack", "-adfq"]);
        let server = GitServer::new(&source);
        for version in BOTH {
            let upload = client(&server.url(), version)
                .upload_pack(&[])
                .await
                .unwrap();
            let request = FetchRequest {
                wants: vec![source.id("main")],
                thin: true,
                ..FetchRequest::default()
            };
            // Enough unknown commits that finding the common one takes several rounds.
            let mut haves: Vec<_> = (0..100_u32)
                .map(|n| {
                    let mut bytes = [7; 32];
                    bytes[..4].copy_from_slice(&n.to_be_bytes());
                    ObjectId::from_bytes_or_panic(&bytes[..hash.len_in_bytes()])
                })
                .collect();
            haves.insert(20, old);
            let mut haves = TipNegotiator::new(haves);
            let mut fetched = upload.fetch(&request, &mut haves).await.unwrap();
            assert!(fetched.rounds > 1, "{} rounds", fetched.rounds);
            assert_eq!(fetched.common, [old]);
            let pack = collect(&mut fetched).await.unwrap();

            let bases = GitBases(&target, Mutex::default());
            let mut receiver = PackIndexer::new(hash, PackLimits::default());
            let mut count = 0;
            let mut visitor = |_: branchline_core::git::pack::PackObject<'_>| {
                count += 1;
                Ok(())
            };
            receiver.push(&pack, &mut visitor).unwrap();
            let arrived = receiver.finish().unwrap();
            let objects = arrived.objects();
            let resolved = arrived.resolve(&pack, &bases, &mut visitor).await.unwrap();
            let completed = resolved.completed.expect("the pack is thin");
            assert_eq!(count, objects, "each object is shown once");
            let range = |n: u64| usize::try_from(n).unwrap();
            let body = &pack[range(completed.body.start)..range(completed.body.end)];
            let whole = [&completed.header[..], body, &completed.tail].concat();
            assert_eq!(resolved.index.len(), objects + completed.added.len());

            let fresh = Repo::new(hash);
            let index = fresh.index_pack_alone(&whole);
            assert_eq!(resolved.index.bytes(), &index, "our index is git's");
            // Git completes the same thin pack with the same objects.
            let completing = Repo::new(hash);
            completing.git(&[
                "fetch",
                "-q",
                target.path.to_str().unwrap(),
                "refs/*:refs/*",
            ]);
            let gits = completing.index_pack(&pack, true);
            let ids = |index: &[u8]| {
                let shown = completing.input(&["show-index"], index);
                let shown = String::from_utf8(shown).unwrap();
                let mut ids: Vec<_> = shown
                    .lines()
                    .map(|line| line.split(' ').nth(1).unwrap().to_owned())
                    .collect();
                ids.sort();
                ids
            };
            assert_eq!(ids(&gits), ids(&index));
        }
    }
}

#[tokio::test]
async fn a_shallow_fetch_ends_at_its_depth_and_can_be_deepened() {
    let source = Repo::with_history(HashKind::Sha1, 20, 10);
    let server = GitServer::new(&source);
    for version in BOTH {
        let upload = client(&server.url(), version)
            .upload_pack(&[])
            .await
            .unwrap();
        let tip = source.id("main");
        let mut request = FetchRequest {
            wants: vec![tip],
            depth: Some(1),
            ..FetchRequest::default()
        };
        let mut fetched = upload
            .fetch(&request, &mut TipNegotiator::default())
            .await
            .unwrap();
        assert_eq!(fetched.shallow, [tip]);
        let pack = collect(&mut fetched).await.unwrap();
        let target = Repo::new(HashKind::Sha1);
        verify(&target, &pack, &fetched.shallow).await;
        std::fs::write(target.path.join("shallow"), format!("{tip}\n")).unwrap();
        target.index_pack(&pack, false);
        target.git(&["update-ref", "refs/heads/main", &tip.to_string()]);
        target.fsck();
        assert_eq!(target.git(&["rev-list", "--count", "main"]), "1");

        request.shallow = vec![tip];
        request.depth = Some(i32::MAX.unsigned_abs());
        let mut fetched = upload
            .fetch(&request, &mut TipNegotiator::new([tip]))
            .await
            .unwrap();
        assert_eq!(
            (fetched.unshallow.clone(), fetched.shallow.clone()),
            (vec![tip], vec![])
        );
        let pack = collect(&mut fetched).await.unwrap();
        std::fs::remove_file(target.path.join("shallow")).unwrap();
        target.index_pack(&pack, true);
        target.fsck();
        assert_eq!(
            target.git(&["rev-list", "--count", "main"]),
            source.git(&["rev-list", "--count", "main"])
        );
    }
}

#[tokio::test]
async fn commits_are_wanted_by_id() {
    let source = Repo::with_history(HashKind::Sha1, 20, 10);
    let server = GitServer::new(&source);
    let request = FetchRequest {
        wants: vec![source.id("main~4")],
        depth: Some(1),
        ..FetchRequest::default()
    };
    // `git http-backend` serves reachable commits; CodeCommit advertises that explicitly.
    for version in BOTH {
        let upload = client(&server.url(), version)
            .upload_pack(&[])
            .await
            .unwrap();
        let mut fetched = upload
            .fetch(&request, &mut TipNegotiator::default())
            .await
            .unwrap();
        let pack = collect(&mut fetched).await.unwrap();
        let resolved = verify(&source, &pack, &fetched.shallow).await;
        assert!(resolved.index.find(source.id("main~4")).is_some());
        assert!(resolved.index.find(source.id("main~5")).is_none());
    }
    let orphan = source.git(&["commit-tree", "-m", "orphan", "main^{tree}"]);
    for (version, want) in [
        (Version::V0, orphan),
        (Version::V0, "7".repeat(40)),
        (Version::V2, "7".repeat(40)),
    ] {
        let mut request = request.clone();
        request.wants = vec![ObjectId::from_hex(want.as_bytes()).unwrap()];
        let upload = client(&server.url(), version)
            .upload_pack(&[])
            .await
            .unwrap();
        let error = upload
            .fetch(&request, &mut TipNegotiator::default())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{}", error.report());
    }
}

#[tokio::test]
async fn empty_repositories_have_no_refs_and_perhaps_an_unborn_head() {
    for hash in [HashKind::Sha1, HashKind::Sha256] {
        let source = Repo::new(hash);
        let server = GitServer::new(&source);
        for version in BOTH {
            let upload = client(&server.url(), version)
                .upload_pack(&[])
                .await
                .unwrap();
            assert_eq!(upload.advertisement.refs, []);
            assert_eq!(upload.advertisement.hash, hash);
            let head = Head::Symbolic("refs/heads/main".into());
            let expected = (version == Version::V2).then_some(head);
            assert_eq!(upload.advertisement.head(), expected);
        }
    }
}

#[tokio::test]
async fn only_refs_with_a_prefix_are_listed_in_version_2() {
    let source = Repo::with_history(HashKind::Sha1, 10, 3);
    source.git(&["update-ref", "--no-deref", "HEAD", "main~2"]);
    let server = GitServer::new(&source);
    let prefixes = ["refs/tags/".into(), "HEAD".into()];
    let upload = client(&server.url(), Version::V2)
        .upload_pack(&prefixes)
        .await
        .unwrap();
    let names: Vec<_> = upload
        .advertisement
        .refs
        .iter()
        .map(|r| r.name.to_string())
        .collect();
    assert_eq!(
        names,
        [
            "HEAD",
            "refs/tags/light",
            "refs/tags/nested",
            "refs/tags/v1"
        ]
    );
    let detached = Some(Head::Detached(source.id("main~2")));
    assert_eq!(upload.advertisement.head(), detached);
}

#[tokio::test]
async fn a_gzip_response_is_decoded() {
    let source = Repo::with_history(HashKind::Sha1, 30, 10);
    let server = GitServer::with(&source, |_| Response::Gzip);
    for version in BOTH {
        let client = client(&server.url(), version);
        let upload = client.upload_pack(&[]).await.unwrap();
        let request = FetchRequest {
            wants: all_tips(&upload.advertisement),
            ..FetchRequest::default()
        };
        let mut fetched = upload
            .fetch(&request, &mut TipNegotiator::default())
            .await
            .unwrap();
        let pack = collect(&mut fetched).await.unwrap();
        verify(&source, &pack, &[]).await;
    }
}
