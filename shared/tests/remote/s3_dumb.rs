//! Files and requests of mirrors in the dumb layout.

use branchline_core::ErrorKind;
use branchline_core::git::HashKind;
use branchline_core::git::dumb_http::parse_info_refs;
use branchline_core::mirror::{MirrorOptions, mirror};
use branchline_core::remote::Remote as _;
use branchline_core::remote::s3_dumb::DumbOptions;
use bstr::ByteSlice as _;

use crate::remote::s3_dumb_fixture::{DumbFixture, PREFIX, StaticServer, bucket, mirror_options};
use branchline_test_support::repo::{Repo, history};
use branchline_test_support::wrapped_remote::WrappedRemote;
use branchline_test_support::{git::git, git_remote::GitRemote};

fn puts(world: &DumbFixture) -> Vec<String> {
    let journal = world.store.journal();
    let paths = journal
        .iter()
        .map(|line| line.replace(&format!("mirror/{PREFIX}"), ""));
    paths.collect()
}

/// "A repository ... with at most 12 S3 requests, a second run with nothing new at most 3."
#[tokio::test]
async fn a_first_mirror_takes_eight_requests_and_one_with_nothing_new_two() {
    for hash in [HashKind::Sha1, HashKind::Sha256] {
        let world = DumbFixture::new();
        let repo = Repo::with_history(hash, 30, 20);
        let (outcome, calls) = world.mirror(&repo).await;
        assert_eq!(
            calls,
            ["get", "get", "list", "put", "put", "put", "put", "put"]
        );
        let pack = world.packs()[0];
        assert_eq!(
            puts(&world),
            [
                format!("put objects/pack/pack-{pack}.pack"),
                format!("put objects/pack/pack-{pack}.idx"),
                "put objects/info/packs".into(),
                "put info/refs".into(),
                "put HEAD".into(),
            ],
            "objects first, refs last"
        );
        assert!(outcome.complete);
        assert_eq!(outcome.objects, repo.objects().len() as u64);
        assert_eq!(outcome.created, 6);
        world.assert_clones_equal(&repo);

        let (outcome, calls) = world.mirror(&repo).await;
        assert_eq!(calls, ["get", "get"], "nothing new is two requests");
        assert_eq!((outcome.unchanged, outcome.objects), (6, 0));
    }
}

#[tokio::test]
async fn later_mirrors_send_only_new_objects_and_stock_git_fetches_only_those() {
    let world = DumbFixture::new();
    let repo = Repo::with_history(HashKind::Sha1, 60, 20);
    world.mirror(&repo).await;
    let server = StaticServer::start(world.clone(), 404);
    let dir = tempfile::tempdir().unwrap();
    let clone = dir.path().join("c");
    git(dir.path(), ["clone", "-q", &server.url(), "c"]).unwrap();
    let head = git(&clone, ["symbolic-ref", "HEAD"]).unwrap();
    assert_eq!(head, "refs/heads/main", "HEAD is the source's");

    repo.input(&["fast-import", "--quiet"], &history(60, 2, 20));
    let (outcome, calls) = world.mirror(&repo).await;
    assert_eq!(
        calls,
        ["get", "get", "get", "get", "put", "put", "put", "put"],
        "the list and one index are read; pack, index, list and refs are written"
    );
    let old = outcome.objects;
    assert!(
        old < repo.objects().len() as u64 / 4,
        "only new objects are sent: {old} objects"
    );
    let asked = server.requests();
    git(&clone, ["fetch", "-q"]).unwrap();
    let main = git(&clone, ["rev-parse", "refs/remotes/origin/main"]).unwrap();
    assert_eq!(main, repo.git(&["rev-parse", "main"]));
    let report = git(&clone, ["fsck", "--full", "--strict", "--no-dangling"]).unwrap();
    assert_eq!(report, "");
    let fresh: Vec<_> = server.requests().into_keys().collect();
    let fresh: Vec<_> = fresh
        .iter()
        .filter(|path| {
            path.starts_with("objects/pack/pack-")
                && path.ends_with('k')
                && !asked.contains_key(*path)
        })
        .collect();
    assert_eq!(fresh.len(), 1, "the fetch reads the new pack alone");
    world.assert_clones_equal(&repo);
}

#[tokio::test]
async fn files_have_media_types_and_cache_headers() {
    let world = DumbFixture::new();
    let repo = Repo::with_history(HashKind::Sha1, 5, 3);
    let options = DumbOptions {
        kms_key_id: Some("alias/k".into()),
        ..world.options()
    };
    world
        .mirror_with(&repo, options, mirror_options(false))
        .await;
    let pack = world.packs()[0];
    let text = ("text/plain; charset=utf-8", "no-cache, must-revalidate");
    let forever = "public, max-age=31536000, immutable";
    for (path, (media, cache)) in [
        ("info/refs".to_owned(), text),
        ("HEAD".into(), text),
        ("objects/info/packs".into(), text),
        (
            format!("objects/pack/pack-{pack}.pack"),
            ("application/x-git-packed-objects", forever),
        ),
        (
            format!("objects/pack/pack-{pack}.idx"),
            ("application/x-git-packed-objects-toc", forever),
        ),
    ] {
        let versions = world.store.versions(&bucket(), &format!("{PREFIX}{path}"));
        let stored = versions.last().unwrap();
        let metadata = &stored.metadata;
        assert_eq!(metadata.content_type.as_deref(), Some(media), "{path}");
        assert_eq!(metadata.cache_control.as_deref(), Some(cache), "{path}");
        assert_eq!(stored.kms_key_id.as_deref(), Some("alias/k"), "{path}");
    }
    assert_eq!(world.text("HEAD"), "ref: refs/heads/main\n");
    let refs = world.file("info/refs").unwrap();
    repo.git(&["update-server-info"]);
    let gits = std::fs::read(repo.path.join("info/refs")).unwrap();
    assert_eq!(
        refs.as_bstr(),
        gits.as_bstr(),
        "as `git update-server-info` writes it"
    );
    let dir = tempfile::tempdir().unwrap();
    for end in ["pack", "idx"] {
        let name = format!("pack-{pack}.{end}");
        let bytes = world.file(&format!("objects/pack/{name}")).unwrap();
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    let idx = format!("pack-{pack}.idx");
    git(dir.path(), ["verify-pack", &idx]).unwrap();
    git(
        dir.path(),
        [
            "index-pack",
            "--strict",
            "-o",
            "again.idx",
            &format!("pack-{pack}.pack"),
        ],
    )
    .unwrap();
    let again = std::fs::read(dir.path().join("again.idx")).unwrap();
    let ours = std::fs::read(dir.path().join(idx)).unwrap();
    assert!(again == ours, "the index equals git's index of the pack");
}

#[tokio::test]
async fn refs_deleted_at_the_source_are_pruned_on_request() {
    let world = DumbFixture::new();
    let repo = Repo::with_history(HashKind::Sha1, 10, 3);
    world.mirror(&repo).await;
    repo.git(&["update-ref", "-d", "refs/heads/side"]);
    repo.git(&["tag", "-d", "v1"]);
    let (outcome, _) = world
        .mirror_with(&repo, world.options(), mirror_options(false))
        .await;
    assert_eq!(outcome.deleted, 0);
    assert!(world.text("info/refs").contains("refs/heads/side"));
    let (outcome, calls) = world.mirror(&repo).await;
    assert_eq!(outcome.deleted, 2);
    assert_eq!(calls, ["get", "get", "put"], "only `info/refs` is written");
    world.assert_clones_equal(&repo);

    // Created again: its objects are still stored, and its tag is peeled again.
    repo.git(&["branch", "side", "main~2"]);
    repo.git(&["tag", "-a", "v1", "-m", "one", "main"]);
    world.mirror(&repo).await;
    world.assert_clones_equal(&repo);
}

#[tokio::test]
async fn head_is_that_of_the_source_or_of_a_branch_that_is_there() {
    let world = DumbFixture::new();
    let repo = Repo::with_history(HashKind::Sha1, 10, 3);
    world.mirror(&repo).await;
    repo.git(&["symbolic-ref", "HEAD", "refs/heads/not-yet"]);
    let (_, calls) = world.mirror(&repo).await;
    assert_eq!(calls, ["get", "get"]);
    let head = "ref: refs/heads/main\n";
    assert_eq!(world.text("HEAD"), head, "a missing branch does not spread");
    world.put("HEAD", "ref: refs/heads/gone\n").await;
    let (_, calls) = world.mirror(&repo).await;
    assert_eq!(calls, ["get", "get", "put"]);
    assert_eq!(world.text("HEAD"), head, "a missing branch is replaced");
    world.assert_clones_equal(&repo);

    // Detached at a commit that no ref leads to.
    let tree = repo.git(&["rev-parse", "main^{tree}"]);
    let alone = repo.git(&["commit-tree", &tree, "-p", "main", "-m", "alone"]);
    repo.git(&["update-ref", "--no-deref", "HEAD", &alone]);
    world.mirror(&repo).await;
    assert_eq!(world.text("HEAD"), format!("{alone}\n"));
    let server = StaticServer::start(world.clone(), 404);
    let dir = tempfile::tempdir().unwrap();
    git(
        dir.path(),
        [
            "clone",
            "-q",
            "-c",
            "advice.detachedHead=false",
            &server.url(),
            "c",
        ],
    )
    .unwrap();
    let head = git(&dir.path().join("c"), ["rev-parse", "HEAD"]).unwrap();
    assert_eq!(head, alone, "the clone is detached where the source is");
}

#[tokio::test]
async fn an_empty_repository_is_a_repository() {
    let world = DumbFixture::new();
    let repo = Repo::new(HashKind::Sha1);
    let (_, calls) = world.mirror(&repo).await;
    assert_eq!(calls, ["get", "get", "list", "put", "put"]);
    assert_eq!(world.text("info/refs"), "");
    assert_eq!(world.text("HEAD"), "ref: refs/heads/main\n");
    let (_, calls) = world.mirror(&repo).await;
    assert_eq!(calls, ["get", "get"]);
    let server = StaticServer::start(world.clone(), 404);
    let dir = tempfile::tempdir().unwrap();
    git(dir.path(), ["clone", "-q", &server.url(), "c"]).unwrap();
    assert!(
        dir.path().join("c/.git").is_dir(),
        "stock git clones an empty repository"
    );

    repo.input(&["fast-import", "--quiet"], &history(0, 4, 3));
    world.mirror(&repo).await;
    world.assert_clones_equal(&repo);
    for name in ["main", "side"] {
        repo.git(&["update-ref", "-d", &format!("refs/heads/{name}")]);
    }
    let everything = MirrorOptions {
        prune_all: true,
        ..mirror_options(true)
    };
    world.mirror_with(&repo, world.options(), everything).await;
    assert_eq!(world.text("info/refs"), "", "it may become empty again");
}

#[tokio::test]
async fn a_prefix_in_another_layout_is_refused() {
    let world = DumbFixture::new();
    let error = world.remote().source(&[]).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(
        error.to_string().contains("s3://mirror/repos/r.git"),
        "{error}"
    );
    let target = world.remote().target().await.unwrap();
    assert!(
        target.snapshot().refs.is_empty(),
        "an empty place can be written to"
    );

    let id = "0123456789012345678901234567890123456789";
    world
        .put(&format!("refs/heads/main/{id}.bundle"), "x")
        .await;
    world.put("HEAD", "refs/heads/main").await;
    for error in [
        world.remote().source(&[]).await.err(),
        world.remote().target().await.err(),
    ] {
        let error = error.unwrap();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(
            error.to_string().contains(&format!("{id}.bundle")),
            "{error}"
        );
    }
    let damaged = DumbFixture::new();
    damaged.put("info/refs", "nonsense\n").await;
    let error = damaged.remote().target().await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(
        error.to_string().contains("`info/refs` of s3://"),
        "{error}"
    );
}

#[tokio::test]
async fn a_stale_ref_with_a_conflicting_name_is_set_aside() {
    let world = DumbFixture::new();
    let repo = Repo::with_history(HashKind::Sha1, 5, 3);
    world.mirror(&repo).await;
    repo.git(&["update-ref", "-d", "refs/heads/side"]);
    repo.git(&["update-ref", "refs/heads/side/way", "main"]);
    let (outcome, _) = world
        .mirror_with(&repo, world.options(), mirror_options(false))
        .await;
    assert!(outcome.rejected.is_empty(), "{:?}", outcome.rejected);
    let refs = parse_info_refs(&world.file("info/refs").unwrap()).unwrap();
    let side = repo.id("refs/heads/side/way");
    assert_eq!(refs[b"refs/heads/side/way".as_bstr()].id, side);
    assert!(refs.contains_key(b"refs/stale/heads/side".as_bstr()));
    assert!(!refs.contains_key(b"refs/heads/side".as_bstr()));
}

/// A source that leaves out an object, or sends a damaged pack, changes nothing.
#[tokio::test]
async fn a_pack_without_objects_that_its_refs_need_is_not_published() {
    let repo = Repo::with_history(HashKind::Sha1, 5, 3);
    for damage in [Damage::NoBlob, Damage::Flip, Damage::Cut] {
        let world = DumbFixture::new();
        let source = WrappedRemote::new(GitRemote::new(&repo)).with_pack(damage.pack(&repo));
        let done = mirror(&source, &world.remote(), &mirror_options(true), None).await;
        let error = done.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(world.files().await.is_empty(), "nothing is published");
    }
}

#[derive(Clone, Copy)]
enum Damage {
    NoBlob,
    Flip,
    Cut,
}

impl Damage {
    fn pack(self, repo: &Repo) -> Vec<u8> {
        let mut ids = repo.objects();
        if let Damage::NoBlob = self {
            let blob = repo.git(&["rev-parse", "main:d0/e0/f0.txt"]);
            ids.retain(|id| *id != blob);
        }
        let input = ids.join("\n") + "\n";
        let args = ["pack-objects", "-q", "--stdout", "--threads=1"];
        let mut pack = repo.input(&args, input.as_bytes());
        match self {
            Damage::NoBlob => {}
            Damage::Flip => {
                let middle = pack.len() / 2;
                pack[middle] ^= 1;
            }
            Damage::Cut => pack.truncate(pack.len() / 2),
        }
        pack
    }
}
