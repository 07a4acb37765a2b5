//! Repositories whose files a web server serves, as sources.

use branchline_core::git::HashKind;
use branchline_core::git::advertisement::Version;
use branchline_core::lfs::Pointer;
use branchline_core::mirror::{LfsOptions, LfsPolicy, MirrorOptions, MirrorStats, mirror};
use branchline_core::remote::Remote;
use branchline_core::remote::s3_dumb::DumbOptions;
use branchline_core::remote::smart_http::HttpRemote;
use branchline_core::{ErrorKind, Result};
use branchline_test_support::file_server::{FileServer, FileServerOptions};
use branchline_test_support::git_server::{GitServer, Response};
use branchline_test_support::lfs_server::oid;
use branchline_test_support::repo::{Repo, history};
use bytes::Bytes;
use futures_util::TryStreamExt as _;

use super::http::{assert_equal, everything, remote, strict};
use super::lfs::MEMORY;
use super::s3_dumb_fixture::{DumbFixture, mirror_options};

const NO_RANGES: FileServerOptions = FileServerOptions {
    ranges: false,
    missing: 404,
    fails: |_| None,
    headers: "",
    authorization: None,
};

fn source(server: &FileServer) -> HttpRemote {
    remote(&server.url(), Version::V2)
}

/// Makes a repository with packed and loose objects, and the files for plain HTTP.
fn published(hash: HashKind) -> Repo {
    let repo = Repo::with_history(hash, 30, 12);
    repo.git(&["tag", "-a", "of-a-tag", "-m", "more", "nested"]);
    repo.git(&["repack", "-a", "-d", "-q"]);
    repo.git(&["config", "fastimport.unpackLimit", "1000000"]);
    publish(&repo);
    repo
}

fn publish(repo: &Repo) {
    repo.git(&["update-server-info"]);
}

fn grow(repo: &Repo, from: usize) {
    repo.input(
        &["fast-import", "--quiet", "--force"],
        &history(from, 6, 12),
    );
    publish(repo);
}

/// Mirrors all refs into the repository at a URL.
async fn run(from: &dyn Remote, to: &str) -> Result<MirrorStats> {
    mirror(from, &remote(to, Version::V2), &everything(), None).await
}

async fn mirrored(server: &FileServer, target: &Repo) -> MirrorStats {
    let to = GitServer::new(target);
    run(&source(server), &to.url()).await.unwrap()
}

#[tokio::test]
async fn a_bare_repository_on_a_web_server_is_mirrored_and_later_only_its_new_objects() {
    for hash in [HashKind::Sha1, HashKind::Sha256] {
        for options in [FileServerOptions::default(), NO_RANGES] {
            let (repo, target) = (published(hash), strict(hash));
            let server = FileServer::of_folder(&repo.path, options);
            let first = mirrored(&server, &target).await;
            assert_equal(&repo, &target);
            assert_eq!(first.objects, repo.objects().len() as u64);

            grow(&repo, 30);
            let second = mirrored(&server, &target).await;
            assert_equal(&repo, &target);
            assert!(
                second.objects < first.objects / 2,
                "{} objects were sent again",
                second.objects
            );
            let requests = server.requests().len();
            let third = mirrored(&server, &target).await;
            assert_eq!((third.updated, third.objects), (0, 0));
            let needed = server.requests().len() - requests;
            assert_eq!(needed, 4, "refs, `HEAD`, and two files of alternates");
        }
    }
}

#[tokio::test]
async fn a_mirror_of_branchline_over_http_is_a_source_in_each_layout() {
    for loose in [false, true] {
        let repo = Repo::with_history(HashKind::Sha1, 20, 8);
        let world = DumbFixture::new();
        let options = DumbOptions {
            loose,
            ..world.options()
        };
        // A bucket whose readers may not list it answers 403 for a missing key.
        let missing = if loose { 403 } else { 404 };
        for round in 0..3 {
            let how = mirror_options(true);
            world.mirror_with(&repo, options.clone(), how).await;
            let store = world.clone();
            let server_options = FileServerOptions {
                missing,
                ..FileServerOptions::default()
            };
            let server = FileServer::new(server_options, move |path| {
                store.file(path).map(|bytes| bytes.to_vec())
            });
            let target = strict(HashKind::Sha1);
            mirrored(&server, &target).await;
            assert_equal(&repo, &target);
            let again = DumbFixture::new();
            let to = again.remote();
            let how = mirror_options(true);
            let done = mirror(&source(&server), &to, &how, None).await;
            assert!(done.unwrap().complete, "round {round}");
            again.assert_clones_equal(&repo);
            let input = history(20 + 3 * round, 3, 8);
            repo.input(&["fast-import", "--quiet", "--force"], &input);
        }
    }
}

#[tokio::test]
async fn a_pack_above_older_loose_objects_is_not_taken_for_the_whole_history() {
    let repo = Repo::with_history(HashKind::Sha1, 10, 4);
    let world = DumbFixture::new();
    let loose = DumbOptions {
        loose: true,
        ..world.options()
    };
    world.mirror_with(&repo, loose, mirror_options(true)).await;
    // All tips move, so that one pack has all of them, above loose history.
    let names = repo.git(&["for-each-ref", "--format=%(refname)"]);
    for name in names.lines().filter(|name| *name != "refs/heads/main") {
        repo.git(&["update-ref", "-d", name]);
    }
    repo.input(&["fast-import", "--quiet", "--force"], &history(10, 2, 4));
    repo.git(&["update-ref", "-d", "refs/heads/side"]);
    world.mirror(&repo).await;
    assert_eq!(world.packs().len(), 1, "one pack above loose objects");
    let store = world.clone();
    let server = FileServer::new(FileServerOptions::default(), move |path| {
        store.file(path).map(|bytes| bytes.to_vec())
    });
    let over_http = strict(HashKind::Sha1);
    mirrored(&server, &over_http).await;
    over_http.fsck();
    let over_s3 = strict(HashKind::Sha1);
    let to = GitServer::new(&over_s3);
    let done = run(&world.remote(), &to.url()).await;
    assert!(done.unwrap().complete);
    over_s3.fsck();
    assert_eq!(over_s3.refs(), over_http.refs());
}

#[tokio::test]
async fn a_request_that_fails_once_is_repeated() {
    let repo = published(HashKind::Sha1);
    let options = FileServerOptions {
        // The refs are requested once, as from a smart server.
        fails: |number| (number > 0 && number % 3 == 0).then_some(503),
        ..FileServerOptions::default()
    };
    let server = FileServer::of_folder(&repo.path, options);
    let target = strict(HashKind::Sha1);
    mirrored(&server, &target).await;
    assert_equal(&repo, &target);
}

#[tokio::test]
async fn lfs_objects_of_a_mirror_are_read_where_mirrors_have_them() {
    let content = b"a large file";
    let id = oid(content);
    let pointer = format!(
        "version https://git-lfs.github.com/spec/v1\noid sha256:{id}\nsize {}\n",
        content.len()
    );
    let repo = Repo::new(HashKind::Sha1);
    let input = format!(
        "commit refs/heads/main\ncommitter C <c@x> 1600000000 +0000\ndata 1\nx\n\
         M 100644 inline film\ndata {}\n{pointer}\n",
        pointer.len()
    );
    repo.input(&["fast-import", "--quiet"], input.as_bytes());
    publish(&repo);
    let (folder, path) = (
        repo.path.clone(),
        format!("lfs/objects/{}/{}/{id}", &id[..2], &id[2..4]),
    );
    let stored = path.clone();
    let server = FileServer::new(FileServerOptions::default(), move |asked| {
        if asked == stored {
            return Some(content.to_vec());
        }
        std::fs::read(folder.join(asked)).ok()
    });
    let world = DumbFixture::new();
    let how = MirrorOptions {
        lfs: Some(LfsOptions {
            memory: MEMORY,
            policy: LfsPolicy::default(),
        }),
        ..mirror_options(false)
    };
    let done = mirror(&source(&server), &world.remote(), &how, None).await;
    let done = done.unwrap();
    assert!(done.complete, "{done:?}");
    assert_eq!(done.lfs.objects, 1, "{done:?}");
    assert_eq!(world.file(&path).as_deref(), Some(&content[..]));
}

#[tokio::test]
async fn lfs_objects_are_read_from_a_position_and_missing_ones_are_found() {
    let content = b"a large file";
    let pointer = Pointer {
        oid: oid(content),
        size_bytes: content.len() as u64,
    };
    let shorter = Pointer {
        size_bytes: 3,
        ..pointer.clone()
    };
    let absent = Pointer {
        oid: oid(b"absent"),
        size_bytes: 1,
    };
    let repo = published(HashKind::Sha1);
    for (ranges, missing) in [(true, 404), (false, 404), (true, 403)] {
        let (folder, id) = (repo.path.clone(), pointer.oid.clone());
        let options = FileServerOptions {
            ranges,
            missing,
            ..FileServerOptions::default()
        };
        let server = FileServer::new(options, move |asked| {
            if asked.ends_with(&id) {
                return Some(content.to_vec());
            }
            std::fs::read(folder.join(asked)).ok()
        });
        let remote = source(&server);
        if missing == 404 {
            remote.source(&[]).await.unwrap();
        } else if remote.source(&[]).await.is_err() {
            continue;
        }
        let lfs = remote.lfs().unwrap();
        let pointers = [pointer.clone(), shorter.clone(), absent.clone()];
        let found = lfs.missing(&pointers).await.unwrap();
        assert_eq!(
            found,
            [shorter.clone(), absent.clone()],
            "{ranges} {missing}"
        );
        for position in [0, 5, pointer.size_bytes] {
            let body = lfs.read_from(&pointer, position).await.unwrap();
            let pieces: Vec<Bytes> = body.try_collect().await.unwrap();
            let start = usize::try_from(position).unwrap();
            assert_eq!(pieces.concat(), content[start..], "{ranges} {position}");
        }
        assert!(lfs.read_from(&absent, 0).await.is_err());
    }
}

/// Opens the source and fetches everything; returns the error.
async fn refused(server: &FileServer) -> branchline_core::Error {
    let target = strict(HashKind::Sha1);
    let to = GitServer::new(&target);
    let done = run(&source(server), &to.url()).await;
    let error = done.expect_err("the source is not served right");
    assert_eq!(target.refs(), "", "nothing may be written");
    error
}

#[tokio::test]
async fn a_repository_that_borrows_objects_is_refused() {
    for path in ["objects/info/http-alternates", "objects/info/alternates"] {
        let repo = published(HashKind::Sha1);
        std::fs::write(repo.path.join(path), "http://169.254.169.254/r.git\n").unwrap();
        let server = FileServer::of_folder(&repo.path, FileServerOptions::default());
        let error = refused(&server).await;
        assert_eq!(error.kind(), ErrorKind::Config);
        let report = error.report();
        assert!(
            report.contains(path) && report.contains("git repack"),
            "{report}"
        );
    }
}

#[tokio::test]
async fn a_page_and_an_empty_answer_are_not_repositories() {
    for (body, kind) in [
        ("<html>welcome</html>", ErrorKind::Config),
        ("", ErrorKind::NotFound),
        ("0123 refs/heads/main\n", ErrorKind::Config),
    ] {
        let server = FileServer::new(FileServerOptions::default(), move |path| {
            (path == "info/refs").then(|| body.into())
        });
        let error = refused(&server).await;
        assert_eq!(error.kind(), kind, "{body}: {}", error.report());
        assert!(error.hint().is_some());
    }
    let empty = FileServer::new(FileServerOptions::default(), |path| match path {
        "info/refs" => Some(Vec::new()),
        "HEAD" => Some(b"ref: refs/heads/main\n".to_vec()),
        _ => None,
    });
    let opened = source(&empty).source(&[]).await.unwrap();
    assert!(
        opened.snapshot().refs.is_empty(),
        "an empty repository is one"
    );
}

#[tokio::test]
async fn missing_and_damaged_files_are_errors_that_name_them() {
    let cases: [(&str, &[u8], ErrorKind); 4] = [
        (".idx", b"", ErrorKind::Corrupt),
        (".pack", b"PACK", ErrorKind::Corrupt),
        (
            "objects/info/packs",
            b"P pack-../x.pack\n",
            ErrorKind::Corrupt,
        ),
        ("HEAD", b"what?", ErrorKind::Corrupt),
    ];
    for (name, body, kind) in cases {
        let repo = Repo::with_history(HashKind::Sha1, 5, 2);
        repo.git(&["repack", "-a", "-d", "-q"]);
        publish(&repo);
        let folder = repo.path.clone();
        let server = FileServer::new(FileServerOptions::default(), move |path| {
            if path.ends_with(name) {
                return Some(body.to_vec());
            }
            std::fs::read(folder.join(path)).ok()
        });
        let error = refused(&server).await;
        assert_eq!(error.kind(), kind, "{name}: {}", error.report());
    }
}

#[tokio::test]
async fn a_server_that_compresses_unasked_is_named() {
    let repo = published(HashKind::Sha1);
    let options = FileServerOptions {
        headers: "Content-Encoding: br\r\n",
        ..FileServerOptions::default()
    };
    let server = FileServer::of_folder(&repo.path, options);
    let report = refused(&server).await.report();
    assert!(
        report.contains("`br`") && report.contains("turn off"),
        "{report}"
    );
}

#[tokio::test]
async fn a_web_server_is_not_a_target() {
    let (repo, from) = (published(HashKind::Sha1), published(HashKind::Sha1));
    let to = FileServer::of_folder(&repo.path, FileServerOptions::default());
    let from = GitServer::new(&from);
    let error = run(&remote(&from.url(), Version::V2), &to.url()).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.report().contains("smart HTTP"), "{}", error.report());
}

#[tokio::test]
async fn credentials_are_sent_with_each_file() {
    let repo = published(HashKind::Sha1);
    let folder = repo.path.clone();
    let server = GitServer::with(&repo, move |seen| {
        if !seen.headers.contains_key("authorization") {
            return Response::Fixed(401, "text/plain", Vec::new());
        }
        let path = seen.target.split('?').next().unwrap_or_default();
        let path = path.strip_prefix("/r.git/").unwrap_or_default();
        match std::fs::read(folder.join(path)) {
            Ok(body) => Response::Fixed(200, "application/octet-stream", body),
            Err(_) => Response::Fixed(404, "text/plain", Vec::new()),
        }
    });
    let url = server.url().replace("http://", "http://user:hunter2@");
    let target = strict(HashKind::Sha1);
    let to = GitServer::new(&target);
    let done = run(&remote(&url, Version::V2), &to.url()).await;
    assert!(done.unwrap().complete);
    assert_equal(&repo, &target);
}
