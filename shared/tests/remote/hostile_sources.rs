//! Hostile sources and concurrent writers: nothing invalid is published.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use branchline_core::git::HashKind;
use branchline_core::git::advertisement::Version;
use branchline_core::mirror::{MirrorOptions, mirror};
use branchline_core::remote::{PublishHook, ReceivedObjects, Remote as _};
use branchline_core::{Error, ErrorKind};

use crate::remote::http::{BOTH, assert_equal, everything, remote, strict};
use branchline_test_support::git_server::{GitServer, Response};
use branchline_test_support::repo::{Repo, history};

fn packet(out: &mut Vec<u8>, data: &[u8]) {
    out.extend_from_slice(format!("{:04x}", data.len() + 4).as_bytes());
    out.extend_from_slice(data);
}

/// Builds a server's version 0 answer to a fetch.
fn answer(pack: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    packet(&mut out, b"NAK\n");
    for piece in pack.chunks(1000) {
        packet(&mut out, &[b"\x01", piece].concat());
    }
    out.extend_from_slice(b"0000");
    out
}

/// Makes a pack of these objects, without deltas.
fn pack(repo: &Repo, objects: &[String]) -> Vec<u8> {
    let args = ["pack-objects", "--stdout", "--window=0", "-q"];
    repo.input(&args, objects.join("\n").as_bytes())
}

/// Mirrors from a server that advertises the refs of `source` and sends `pack`.
async fn send(source: &Repo, target: &Repo, pack: &[u8]) -> Error {
    let body = answer(pack);
    let from = GitServer::with(source, move |seen| match seen.method.as_str() {
        "GET" => Response::Git,
        _ => Response::Bytes(body.clone()),
    });
    let to = GitServer::new(target);
    let (from, to) = (
        remote(&from.url(), Version::V0),
        remote(&to.url(), Version::V2),
    );
    mirror(&from, &to, &everything(), None).await.unwrap_err()
}

#[tokio::test]
async fn a_corrupt_or_incomplete_pack_publishes_nothing() {
    let source = Repo::with_history(HashKind::Sha1, 15, 4);
    let objects = source.objects();
    let whole = pack(&source, &objects);
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x10;
    let mut trailer = whole.clone();
    *trailer.last_mut().unwrap() ^= 1;
    let without = |id: String| -> Vec<u8> {
        let rest: Vec<_> = objects
            .iter()
            .filter(|other| **other != id)
            .cloned()
            .collect();
        assert_eq!(rest.len() + 1, objects.len());
        pack(&source, &rest)
    };
    let other = Repo::with_history(HashKind::Sha1, 3, 2);
    let (corrupt, transport) = (ErrorKind::Corrupt, ErrorKind::Transport);
    for (what, bytes, kinds) in [
        ("a flipped bit", flipped, vec![corrupt]),
        ("a wrong trailer", trailer, vec![corrupt]),
        ("a cut", whole[..whole.len() / 2].to_vec(), vec![corrupt]),
        ("no pack at all", b"hello".to_vec(), vec![corrupt]),
        (
            "bytes behind it",
            [&whole[..], b"x"].concat(),
            vec![corrupt],
        ),
        (
            "no blob",
            without(source.git(&["rev-parse", "main:link"])),
            vec![corrupt],
        ),
        (
            "no tree",
            without(source.git(&["rev-parse", "main^{tree}"])),
            vec![corrupt],
        ),
        (
            "no parent",
            without(source.git(&["rev-parse", "main~3"])),
            vec![corrupt],
        ),
        (
            "no tip",
            without(source.git(&["rev-parse", "refs/tags/v1"])),
            vec![corrupt],
        ),
        (
            "another repository",
            pack(&other, &other.objects()),
            vec![corrupt],
        ),
        ("nothing", pack(&source, &[]), vec![corrupt]),
    ] {
        for strictly in [false, true] {
            let target = if strictly {
                strict(HashKind::Sha1)
            } else {
                Repo::new(HashKind::Sha1)
            };
            let error = send(&source, &target, &bytes).await;
            // A strict server checks packs too, and its message has no error kind.
            let expected = if strictly {
                vec![corrupt, transport]
            } else {
                kinds.clone()
            };
            assert!(
                expected.contains(&error.kind()),
                "{what}: {}",
                error.report()
            );
            let refs = target.refs();
            // A lax server accepts the refs that do not need the missing objects.
            let wrong = match what {
                "no tip" => "refs/tags/v1",
                _ => "refs/heads/main",
            };
            assert!(!refs.contains(wrong), "{what}: {refs}");
            target.fsck();
        }
    }
}

#[tokio::test]
async fn a_ref_that_is_listed_twice_is_refused() {
    let source = Repo::with_history(HashKind::Sha1, 4, 2);
    let target = Repo::new(HashKind::Sha1);
    let id = source.id("main");
    for name in ["refs/heads/twice"] {
        let mut body = Vec::new();
        packet(&mut body, b"# service=git-upload-pack\n");
        body.extend_from_slice(b"0000");
        packet(
            &mut body,
            format!("{id} refs/heads/twice\0side-band-64k\n").as_bytes(),
        );
        packet(&mut body, format!("{id} {name}\n").as_bytes());
        body.extend_from_slice(b"0000");
        let from = GitServer::with(&source, move |_| Response::Bytes(body.clone()));
        let to = GitServer::new(&target);
        let (from, to) = (
            remote(&from.url(), Version::V0),
            remote(&to.url(), Version::V2),
        );
        let error = mirror(&from, &to, &everything(), None).await.unwrap_err();
        assert_eq!(
            error.kind(),
            ErrorKind::Corrupt,
            "{name}: {}",
            error.report()
        );
    }
    assert_eq!(target.refs(), "");
}

#[tokio::test]
async fn a_shallow_source_is_refused_with_a_remedy() {
    for version in BOTH {
        let full = Repo::with_history(HashKind::Sha1, 8, 2);
        let source = Repo::new(HashKind::Sha1);
        let url = format!("file://{}", full.path.display());
        source.git(&["fetch", "-q", "--depth=2", &url, "main:main"]);
        let target = Repo::new(HashKind::Sha1);
        let (from, to) = (GitServer::new(&source), GitServer::new(&target));
        let (from, to) = (remote(&from.url(), version), remote(&to.url(), version));
        let error = mirror(&from, &to, &everything(), None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{}", error.report());
        assert!(error.report().contains("--unshallow"), "{}", error.report());
        assert_eq!(target.refs(), "");
    }
}

#[tokio::test]
async fn different_hash_functions_are_refused() {
    let (source, target) = (
        Repo::with_history(HashKind::Sha256, 4, 2),
        Repo::new(HashKind::Sha1),
    );
    let (from, to) = (GitServer::new(&source), GitServer::new(&target));
    let (from, to) = (
        remote(&from.url(), Version::V2),
        remote(&to.url(), Version::V2),
    );
    let error = mirror(&from, &to, &everything(), None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{}", error.report());
    assert_eq!(target.refs(), "");
}

/// Starts a server that runs `act` once, just before a service handles its request.
fn with_concurrent_writer(repo: &Repo, act: impl Fn() + Send + Sync + 'static) -> GitServer {
    let done = AtomicBool::new(false);
    GitServer::with(repo, move |seen| {
        let text = String::from_utf8_lossy(&seen.body);
        let works = text.contains("want ") || text.contains(" refs/");
        if works && !done.swap(true, Ordering::SeqCst) {
            act();
        }
        Response::Git
    })
}

fn git_in(repo: &Repo, args: &'static [&'static str]) -> impl Fn() + Send + Sync + use<> {
    let path = repo.path.clone();
    move || {
        branchline_test_support::git::git(&path, args).unwrap();
    }
}

#[tokio::test]
async fn a_source_that_moves_meanwhile_is_read_again() {
    let (source, target) = (
        Repo::with_history(HashKind::Sha1, 10, 3),
        strict(HashKind::Sha1),
    );
    for name in ["v1", "nested", "light"] {
        source.git(&["tag", "-d", name]);
    }
    source.git(&["update-ref", "-d", "refs/heads/side"]);
    source.git(&["update-ref", "-d", "refs/notes/commits"]);
    let rewind = git_in(
        &source,
        &["update-ref", "refs/heads/main", "refs/heads/main~2"],
    );
    let from = with_concurrent_writer(&source, rewind);
    let to = GitServer::new(&target);
    let tip = source.id("main");
    let (from, to) = (
        remote(&from.url(), Version::V0),
        remote(&to.url(), Version::V2),
    );
    let outcome = mirror(&from, &to, &everything(), None).await.unwrap();
    assert_ne!(
        target.id("main"),
        tip,
        "the deleted commit must not be mirrored"
    );
    assert_equal(&source, &target);
    assert_eq!((outcome.created, outcome.updated), (1, 0));
}

#[tokio::test]
async fn a_target_that_moves_meanwhile_is_read_again() {
    let (source, target) = (
        Repo::with_history(HashKind::Sha1, 10, 3),
        strict(HashKind::Sha1),
    );
    let (from, to) = (GitServer::new(&source), GitServer::new(&target));
    let from = remote(&from.url(), Version::V2);
    let first = remote(&to.url(), Version::V2);
    mirror(&from, &first, &everything(), None).await.unwrap();
    source.input(&["fast-import", "--quiet", "--force"], &history(10, 5, 3));
    let rewind = git_in(
        &target,
        &["update-ref", "refs/heads/main", "refs/heads/main~2"],
    );
    let to = with_concurrent_writer(&target, rewind);
    let to = remote(&to.url(), Version::V2);
    let outcome = mirror(&from, &to, &everything(), None).await.unwrap();
    assert_equal(&source, &target);
    assert_eq!((outcome.updated, outcome.created), (2, 0), "{outcome:?}");
    assert!(outcome.rejected.is_empty());

    // A target without a mirroring reports the conflict.
    source.input(&["fast-import", "--quiet", "--force"], &history(15, 5, 3));
    let rewind = git_in(
        &target,
        &["update-ref", "refs/heads/main", "refs/heads/main~2"],
    );
    let to = with_concurrent_writer(&target, rewind);
    let mut stale = remote(&to.url(), Version::V2).target().await.unwrap();
    let change = branchline_core::remote::RefUpdate {
        name: "refs/heads/main".into(),
        old: Some(target.id("main")),
        new: Some(branchline_core::remote::RefValue {
            id: target.id("main~4"),
            peeled: None,
        }),
    };
    let push = branchline_core::remote::Push {
        changes: vec![change],
        ..Default::default()
    };
    let error = stale.push(push).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{}", error.report());
}

struct Refusing(AtomicBool);

#[async_trait]
impl PublishHook for Refusing {
    async fn before_publish(&self, objects: &ReceivedObjects) -> branchline_core::git::Result<()> {
        assert!(
            !objects.tags.is_empty(),
            "all objects must have been received"
        );
        self.0.store(true, Ordering::SeqCst);
        Err(Error::new(ErrorKind::AccessDenied, "no room for large files").into())
    }
}

#[tokio::test]
async fn a_failing_hook_prevents_ref_updates() {
    let (source, target) = (
        Repo::with_history(HashKind::Sha1, 10, 3),
        Repo::new(HashKind::Sha1),
    );
    let (from, to) = (GitServer::new(&source), GitServer::new(&target));
    let (from, to) = (
        remote(&from.url(), Version::V2),
        remote(&to.url(), Version::V2),
    );
    let refusing = Arc::new(Refusing(AtomicBool::new(false)));
    let options = MirrorOptions {
        publish_hook: Some(refusing.clone()),
        ..everything()
    };
    let error = mirror(&from, &to, &options, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AccessDenied, "{}", error.report());
    assert!(refusing.0.load(Ordering::SeqCst));
    assert_eq!(target.refs(), "");
    target.fsck();
}
