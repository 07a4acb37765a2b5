//! `git archive --remote` gives the same archives from a served remote as from the repository.

use std::collections::BTreeMap;
use std::io::{Cursor, Read as _};
use std::sync::Arc;

use branchline_core::git::HashKind;
use branchline_test_support::git;
use branchline_test_support::repo::Repo;

use super::local::local;
use super::s3_dumb_fixture;
use super::serve_fixture::{Client, Daemon};

/// Arguments after `git archive --remote=URL`. `MTIME` dates trees that have no commit.
const ARCHIVES: &[&str] = &[
    "main",
    "HEAD",
    "v1",
    "refs/heads/side",
    "--format=tar main",
    "--prefix=p/ main",
    "--prefix=name- main",
    "-v main",
    "main d0 link",
    "main d*/e1/f*",
    "main :(glob)d0/*/*.txt",
    "main . :!d0",
    "main nothing",
    "--mtime=@1500000000 main",
    "--mtime=@1500000000 main:d0",
    "--mtime=@1500000000 main:d0/e1",
    "main:nothing",
    "nothing",
    "main~1",
    "OLD",
    "--format=tgz main",
    "--format=tar.gz -9 main",
    "--format=rar main",
    "--format=zip main",
    "--format=zip --prefix=p/ main",
    "--format=zip --mtime=@1500000000 main:d0",
    "--format=zip main d0",
    "--list",
    "--what main",
    "-9 main",
    "--format=zip -0 main",
    "--format=zip -1 main",
    "--format=zip -9 main",
    "--format=zip -10 main",
    "--format=zip -v9 main",
    "--form=zip --pre=p/ main",
    "--format=tgz -0 main",
    "--format=tgz -6 main",
    "--format=zip --no-format --prefix=p/ --no-prefix main",
    "--list main",
    "-lv",
    "-x main",
    "--verbose=1 main",
    "--mtime=2020-02-29T12:34:56+01:00 main",
    "--format=zip --mtime=20200229T123456Z main",
    "--add-virtual-file=a:b main",
    "--add-file=a main",
];

const ATTRIBUTES: &str =
    "*.txt text eol=crlf\nid ident\nsubst export-subst\nsecret export-ignore\n";

/// A repository with attributes, and with names and targets that need pax headers.
fn upstream() -> Repo {
    let repo = Repo::with_history(HashKind::Sha1, 6, 12);
    let long = ["long"; 40].join("/");
    let longer = "x".repeat(180);
    let stream = format!(
        "commit refs/heads/main\ncommitter C <c@x> 1600009000 +0000\ndata 5\nnames\n\
         from refs/heads/main^0\n\
         M 100755 inline run\ndata 3\nhi\n\n\
         M 100644 inline {long}/{longer}\ndata 2\na\n\n\
         M 100644 inline dir/{}/file\ndata 2\nb\n\n\
         M 120000 inline far\ndata {}\n{long}\n\
         M 100644 inline ä.txt\ndata 4\na\nb\n\n\
         M 100644 inline empty\ndata 0\n\n\
         M 100644 inline id\ndata 5\n$Id$\n\n\
         M 100644 inline subst\ndata 17\n$Format:%H %cI$\n\n\
         M 100644 inline secret/key\ndata 2\ns\n\n\
         M 160000 {} module\n\
         M 100644 inline .gitattributes\ndata {}\n{ATTRIBUTES}\n\n",
        "y".repeat(90),
        long.len(),
        "1".repeat(40),
        ATTRIBUTES.len(),
    );
    repo.input(&["fast-import", "--quiet"], stream.as_bytes());
    repo
}

/// A result that may be compared: the status and the archive, without what the level or the
/// library of compression changes.
fn comparable(status: Option<i32>, archive: Vec<u8>) -> (Option<i32>, Vec<u8>, String) {
    if archive.starts_with(b"\x1f\x8b") {
        let mut tar = Vec::new();
        flate2::read::GzDecoder::new(Cursor::new(archive))
            .read_to_end(&mut tar)
            .unwrap();
        return (status, tar, String::new());
    }
    if archive.starts_with(b"PK") {
        let mut zip = zip::ZipArchive::new(Cursor::new(archive)).unwrap();
        let comment = zip.comment().to_vec();
        let mut entries = BTreeMap::new();
        for at in 0..zip.len() {
            let mut entry = zip.by_index(at).unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            let facts = (entry.unix_mode(), entry.last_modified(), content);
            entries.insert((at, entry.name().unwrap().to_string()), facts);
        }
        return (status, comment, format!("{entries:?}"));
    }
    (status, archive, String::new())
}

async fn archive(url: &str, args: &str) -> (Option<i32>, Vec<u8>, String) {
    let client = Client::new();
    let folder = client.path();
    let args: Vec<String> = ["archive", &format!("--remote={url}")]
        .into_iter()
        .chain(args.split(' '))
        .map(str::to_owned)
        .collect();
    let output = tokio::task::spawn_blocking(move || {
        git::output(git::command(&folder).args(args), b"").unwrap()
    });
    let output = output.await.unwrap();
    comparable(output.status.code(), output.stdout)
}

#[tokio::test(flavor = "multi_thread")]
async fn git_archives_a_served_remote_as_the_repository_itself() {
    let repo = upstream();
    let old = repo.git(&["rev-parse", "main~1"]);
    let world = s3_dumb_fixture::DumbFixture::new();
    world.mirror(&repo).await;
    let remotes = [
        Daemon::start(Arc::new(local(&repo.path))).await,
        Daemon::start(Arc::new(world.remote())).await,
    ];
    let file = format!("file://{}", repo.path.display());
    let mut made = 0;
    for args in ARCHIVES {
        let args = args.replace("OLD", &old);
        let expected = archive(&file, &args).await;
        made += usize::from(expected.0 == Some(0));
        for daemon in &remotes {
            let found = archive(&daemon.url(), &args).await;
            let failures = daemon.failures();
            assert_eq!(
                found.0, expected.0,
                "`{args}`: exit status; the server: {failures:?}"
            );
            assert_eq!(found.2, expected.2, "`{args}`: the entries");
            let first = found
                .1
                .iter()
                .zip(&expected.1)
                .position(|(left, right)| left != right);
            assert!(
                found.1 == expected.1,
                "`{args}`: {} bytes instead of {}, different from byte {first:?} on",
                found.1.len(),
                expected.1.len(),
            );
        }
    }
    assert_eq!(made, 33, "git makes the other archives, too");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_level_of_compression_has_the_effect_that_it_has_in_git() {
    let repo = Repo::new(HashKind::Sha1);
    let lines: Vec<String> = (0..20_000).map(|n| format!("line {}\n", n * n)).collect();
    let text = lines.concat();
    let stream = format!(
        "commit refs/heads/main\ncommitter C <c@x> 1600000000 +0000\ndata 1\nx\n\
         M 100644 inline text\ndata {}\n{text}\n",
        text.len()
    );
    repo.input(&["fast-import", "--quiet"], stream.as_bytes());
    let daemon = Daemon::start(Arc::new(local(&repo.path))).await;
    let file = format!("file://{}", repo.path.display());
    for format in ["zip", "tgz"] {
        let mut last = usize::MAX / 2;
        for level in [0, 1, 6, 9] {
            let size = async |url: &str| {
                let client = Client::new();
                let mut command = git::command(&client.path());
                command.args(["archive", &format!("--remote={url}")]);
                command.args([&format!("--format={format}"), &format!("-{level}"), "main"]);
                let made = tokio::task::spawn_blocking(move || git::run_bytes(&mut command));
                made.await.unwrap().unwrap().len()
            };
            let (ours, theirs) = (size(&daemon.url()).await, size(&file).await);
            // The libraries differ, above all at the fastest level.
            let tolerance = theirs / if level == 1 { 2 } else { 10 };
            assert!(
                ours.abs_diff(theirs) <= tolerance,
                "{format} -{level}: {ours} bytes, by git {theirs}"
            );
            assert!(
                ours <= last + last / 50,
                "{format} -{level}: {ours} bytes after {last}"
            );
            last = ours;
        }
    }
}
