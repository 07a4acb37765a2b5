//! Placeholders that need refs and history: `%(describe)` and `%d`, compared with git.

use std::fmt::Write as _;
use std::sync::Arc;

use branchline_core::archive::large_files_over_git::GitAccess;
use branchline_core::archive::{
    ArchiveRequest, CodeCommitHistory, DatabaseHistory, DescribeOptions, History, WriteSink,
    archive_objects, describe, stored_archive, write,
};
use branchline_core::aws::{HttpSettings, git_http};
use branchline_core::git::odb::Database;
use branchline_core::git::refs::{Head, RefValue};
use branchline_core::git::server::{ArchiveFormat, ArchivePiece, RefSnapshot};
use branchline_core::git::smart_http::NoCredentials;
use branchline_core::git::{HashKind, ObjectId};
use branchline_core::{ErrorKind, Result};
use branchline_test_support::git_server::GitServer;
use branchline_test_support::repo;
use futures_util::StreamExt as _;

use super::compare::{entries, same};
use super::fake_codecommit::Disk;
use super::faults::repository;
use super::from_odb::database;
use super::git::{Item, Repo, git, line};
use super::history::Random;

const MIB: usize = 1 << 20;

fn id(hex: &str) -> ObjectId {
    ObjectId::from_hex(hex.as_bytes()).unwrap()
}

/// Lists the refs of `repo` as git does.
pub(crate) fn refs(repo: &Repo, is_peeled: bool) -> RefSnapshot {
    let format = "--format=%(refname) %(objectname) %(*objectname)";
    let listed = line(&repo.git(["for-each-ref", format], b""));
    let value = |line: &str| {
        let mut words = line.split(' ');
        let name = words.next().unwrap();
        let value = RefValue {
            id: id(words.next().unwrap()),
            peeled: words
                .next()
                .filter(|hex| is_peeled && !hex.is_empty())
                .map(id),
        };
        (name.into(), value)
    };
    let head = line(&repo.git(["symbolic-ref", "HEAD"], b""));
    RefSnapshot {
        hash: HashKind::Sha1,
        refs: listed.lines().map(value).collect(),
        head: Some(Head::Symbolic(head.into())),
    }
}

/// Opens a database with all objects that refs name.
pub(crate) fn everything(repo: &Repo) -> Arc<Database> {
    let ids = repo.git(["for-each-ref", "--format=%(objectname)"], b"");
    database(repo.path(), &line(&ids), 64 * MIB)
}

/// Makes a random history of `count` commits with tags; returns the commits.
fn random_history(repo: &Repo, random: &mut Random, count: usize) -> Vec<String> {
    let mut stream = String::new();
    for number in 0..count {
        // Some clocks are wrong, and some equal.
        let time = 1_600_000_000 + 100 * number - random.below(4) * random.below(400);
        write!(
            stream,
            "commit refs/heads/b{number}\nmark :{}\ncommitter C <c@x> {time} +0000\ndata 1\nc\n",
            number + 1
        )
        .unwrap();
        let parents = match random.below(8) {
            0 => 0,
            1 | 2 => 2,
            3 => 3,
            _ => 1,
        };
        for parent in 0..parents.min(number) {
            let back = random.below(number.min(6)) + 1;
            let word = if parent == 0 { "from" } else { "merge" };
            writeln!(stream, "{word} :{}", number + 1 - back).unwrap();
        }
        writeln!(stream, "M 100644 inline f\ndata 3\n{number:03}\n").unwrap();
    }
    repo.git(["fast-import", "--quiet", "--force"], stream.as_bytes());
    let commits: Vec<String> = (0..count)
        .map(|number| line(&repo.git(["rev-parse", &format!("b{number}")], b"")))
        .collect();
    for number in 0..random.below(14) {
        let commit = &commits[random.below(count)];
        let name = ["v1", "v2", "rc", "rel/a", "x"][random.below(5)].to_owned();
        let name = format!("{name}.{number}");
        if random.below(3) == 0 {
            repo.git(["tag", &name, commit], b"");
            continue;
        }
        let mut command = git(repo.path());
        let date = format!("{} +0000", 1_700_000_000 + random.below(3));
        command
            .env("GIT_COMMITTER_DATE", date)
            .args(["tag", "-a", "-m", "tag", &name, commit]);
        super::git::run(&mut command, b"");
        match random.below(9) {
            // Under another ref than its name.
            0 => {
                let tag = line(&repo.git(["rev-parse", &name], b""));
                let other = format!("refs/tags/other.{number}");
                repo.git(["update-ref", &other, &tag], b"");
                repo.git(["update-ref", "-d", &format!("refs/tags/{name}")], b"");
            }
            // A tag of a tag.
            1 => drop(repo.git(["tag", "-a", "-m", "n", &format!("n.{number}"), &name], b"")),
            _ => {}
        }
    }
    commits
}

/// Arguments for `git describe`, and the same as options.
fn options() -> Vec<(Vec<&'static str>, DescribeOptions)> {
    let plain = DescribeOptions::default;
    vec![
        (vec![], plain()),
        (
            vec!["--tags"],
            DescribeOptions {
                tags: true,
                ..plain()
            },
        ),
        (
            vec!["--abbrev=0"],
            DescribeOptions {
                abbreviated: Some(0),
                ..plain()
            },
        ),
        (
            vec!["--abbrev=13", "--tags"],
            DescribeOptions {
                tags: true,
                abbreviated: Some(13),
                ..plain()
            },
        ),
        (
            vec!["--match=v*", "--match=re?/*"],
            DescribeOptions {
                include: vec!["v*".into(), "re?/*".into()],
                ..plain()
            },
        ),
        (
            vec!["--tags", "--match=[vr]*", "--exclude=*.[0-3]"],
            DescribeOptions {
                tags: true,
                include: vec!["[vr]*".into()],
                exclude: vec!["*.[0-3]".into()],
                ..plain()
            },
        ),
    ]
}

/// Runs `git describe`; `None` when it finds no tag.
fn described_by_git(repo: &Repo, arguments: &[&str], commit: &str) -> Option<String> {
    let output = git(repo.path())
        .arg("describe")
        .args(arguments)
        .arg(commit)
        .output()
        .unwrap();
    output.status.success().then(|| line(&output.stdout))
}

/// "`%(describe)` becomes what `git describe` prints."
#[tokio::test]
async fn commits_of_random_histories_are_described_as_by_git() {
    for seed in 0..10 {
        let repo = Repo::new();
        let mut random = Random::new(seed);
        let commits = random_history(&repo, &mut random, 40);
        let history = DatabaseHistory::new(everything(&repo), refs(&repo, seed % 2 == 0));
        for commit in commits.iter().skip(20) {
            for (arguments, options) in options() {
                let ours = describe(&history, id(commit), &options).await.unwrap();
                let theirs = described_by_git(&repo, &arguments, commit);
                assert_eq!(ours, theirs, "seed {seed}: describe {arguments:?} {commit}");
            }
        }
    }
}

/// Archives with the refs of `repo`.
async fn with_refs(repo: &Repo, commit: &str, format: ArchiveFormat) -> Vec<u8> {
    let objects = everything(repo);
    let request = stored_archive(&objects, Some(id(commit)), id(commit), 0).await;
    let history = DatabaseHistory::new(Arc::clone(&objects), refs(repo, true));
    let request = ArchiveRequest {
        history: Some(Arc::new(history)),
        ..request.unwrap()
    };
    let mut body = archive_objects(objects, request, format);
    let mut bytes = Vec::new();
    while let Some(piece) = body.next().await.transpose().unwrap() {
        if let ArchivePiece::Data(data) = piece {
            bytes.extend_from_slice(&data);
        }
    }
    bytes
}

/// Commits `files` with `export-subst` on top of a tagged commit.
pub(crate) fn tagged(files: &[(&str, &str)]) -> (Repo, String) {
    let repo = Repo::new();
    let first = repo.files(&[("first", b"1")]);
    repo.git(["tag", "-a", "-m", "one", "v1.0", &first], b"");
    let mut items = vec![(
        &b".gitattributes"[..],
        Item::File(b"* export-subst\n.gitattributes -export-subst\n"),
    )];
    items.extend(
        files
            .iter()
            .map(|(path, text)| (path.as_bytes(), Item::File(text.as_bytes()))),
    );
    let commit = repo.commit(b"second\n", &items);
    // `fast-import` replaces the branch: the first commit becomes the parent.
    let tree = format!("{commit}^{{tree}}");
    let commit = repo.git(["commit-tree", "-m", "second", "-p", &first, &tree], b"");
    let commit = line(&commit);
    repo.git(["update-ref", "refs/heads/main", &commit], b"");
    repo.git(["symbolic-ref", "HEAD", "refs/heads/main"], b"");
    (repo, commit)
}

/// Placeholders of which each is the only one of an archive.
const SINGLE: &[&str] = &[
    "%(describe)",
    "%(describe:tags)",
    "%(describe:tags=true,abbrev=0)",
    "%(describe:tags=no)",
    "%(describe:abbrev=12)",
    "%(describe:abbrev=-1)",
    "%(describe:abbrev=)%h",
    "%(describe:abbrev=x)%h",
    "%(describe:match=v*)",
    "%(describe:match=w*)|",
    "%(describe:match=)|",
    "%(describe:exclude=v1*)|",
    "%(describe:exclude=w*,match=v*,match=x)|",
    "%(describe:tags=maybe)|",
    "%(describe:tags=0)|",
    "%(describe:other)|",
    "%(describe:)|",
    "%(describe|",
    "%(describexx)%(describe)|",
    "%(describe)%(describe)|",
    "%+(describe)%-(describe)|",
    "%<(20)%(describe)|",
    "%<(8,trunc)%(describe)|",
    "%w(10,2,4)word and %(describe) and more words%w()|",
];

#[tokio::test]
async fn descriptions_are_expanded_as_by_git() {
    for placeholder in SINGLE {
        let text = format!("<$Format:{placeholder}$>\n");
        let (repo, commit) = tagged(&[("f", &text)]);
        let zip = with_refs(&repo, &commit, ArchiveFormat::Zip).await;
        same(&zip, &repo.archive("", &commit));
    }
}

#[tokio::test]
async fn only_the_first_description_of_an_archive_is_expanded() {
    let one = "$Format:%(describe)$\n";
    let files = [
        ("a", "$Format:%h$\n"),
        ("b/c", one),
        ("b/d", one),
        ("e", "$Format:%(describe:tags)$ $Format:%(describe)$\n"),
        ("f", one),
    ];
    let (repo, commit) = tagged(&files);
    let zip = with_refs(&repo, &commit, ArchiveFormat::Zip).await;
    same(&zip, &repo.archive("", &commit));
    let tar = with_refs(&repo, &commit, ArchiveFormat::Tar).await;
    let theirs = repo.git(["archive", "--format=tar", &commit], b"");
    assert!(tar == theirs, "a tar has the same bytes as git's");
}

#[tokio::test]
async fn refs_that_name_the_commit_are_listed_as_by_git() {
    let texts = [
        "%d",
        "%D",
        "[%+d]",
        "%(decorate)",
        "%(decorate:prefix=<,suffix=>,separator=%x2C,pointer=%n,tag=)",
        "%(decorate:prefix,suffix=)",
        "%(decorate:tag=%%,tag=T)",
        "%(decorate:other)",
        "%(decorate",
        "%<(9,trunc)%D|",
    ];
    let lines = texts.map(|text| format!("<$Format:{text}$>\n"));
    let text = lines.concat();
    let (repo, commit) = tagged(&[("f", &text)]);
    same(
        &with_refs(&repo, &commit, ArchiveFormat::Zip).await,
        &repo.archive("", &commit),
    );
    repo.git(["tag", "light", &commit], b"");
    repo.git(["tag", "-a", "-m", "x", "v2", &commit], b"");
    repo.git(["tag", "-a", "-m", "x", "nested", "v2"], b"");
    for name in ["refs/heads/a/b", "refs/remotes/o/main", "refs/other/x"] {
        repo.git(["update-ref", name, &commit], b"");
    }
    same(
        &with_refs(&repo, &commit, ArchiveFormat::Zip).await,
        &repo.archive("", &commit),
    );
    // A detached `HEAD`, and one elsewhere.
    for head in ["refs/heads/a/b", "refs/heads/missing"] {
        repo.git(["symbolic-ref", "HEAD", head], b"");
        let zip = with_refs(&repo, &commit, ArchiveFormat::Zip).await;
        same(&zip, &repo.archive("", &commit));
    }
}

/// A repository that CodeCommit's API and a git server serve.
struct Served {
    server: GitServer,
    disk: Arc<Disk>,
    copy: repo::Repo,
}

impl Served {
    fn new(repo: &Repo) -> Self {
        let copy = repo::Repo::new(HashKind::Sha1);
        let from = repo.path().to_str().unwrap();
        copy.git(&["fetch", "-q", from, "+refs/*:refs/*"]);
        copy.git(&["symbolic-ref", "HEAD", "refs/heads/main"]);
        copy.git(&["config", "uploadpack.allowReachableSHA1InWant", "true"]);
        let server = GitServer::with(&copy, |_| {
            branchline_test_support::git_server::Response::Git
        });
        let mut disk = Disk::new(&copy.path);
        disk.clone_url = server.url();
        Self {
            server,
            disk: Arc::new(disk),
            copy,
        }
    }

    fn history(&self) -> Arc<dyn History> {
        let access = GitAccess {
            service: Arc::clone(&self.disk) as _,
            http: git_http(&HttpSettings::default()).unwrap(),
            credentials: Arc::new(NoCredentials),
            clone_url: None,
            memory_bytes: 64 * MIB,
            costs: Arc::default(),
        };
        Arc::new(CodeCommitHistory::new(access, repository()))
    }

    async fn archive(&self, commit: &str) -> Result<(Vec<u8>, u64)> {
        let request = ArchiveRequest {
            history: Some(self.history()),
            ..ArchiveRequest::new(self.disk.commit(commit))
        };
        let sink = WriteSink::new(Vec::new());
        let summary = write(&*self.disk, &repository(), &request, &sink).await?;
        Ok((sink.into_inner(), summary.requests))
    }
}

#[tokio::test]
async fn descriptions_over_the_api_of_codecommit_equal_gits() {
    let text = "$Format:%(describe) %d$\n";
    let (repo, commit) = tagged(&[("f", text), ("g", text)]);
    let tagged_twice = repo.git(["rev-parse", "v1.0^{}"], b"");
    let mut newer = git(repo.path());
    newer.env("GIT_COMMITTER_DATE", "1700000000 +0000").args([
        "tag",
        "-a",
        "-m",
        "x",
        "v0.9",
        &line(&tagged_twice),
    ]);
    super::git::run(&mut newer, b"");
    let served = Served::new(&repo);
    let (zip, requests) = served.archive(&commit).await.unwrap();
    same(&zip, &super::git::archive(&served.copy.path, "", &commit));
    let (seen, _) = entries(&zip);
    let text = String::from_utf8_lossy(&seen[1].bytes).into_owned();
    assert!(text.starts_with("v0.9-1-g"), "{text}");
    let calls = served.disk.calls.lock().unwrap().len() + served.server.requests().len();
    assert_eq!(requests, calls as u64, "all requests are counted");
}

#[tokio::test]
async fn each_failing_call_of_a_description_fails_the_archive() {
    let (repo, commit) = tagged(&[("f", "$Format:%(describe)$\n")]);
    let served = Served::new(&repo);
    let (zip, _) = served.archive(&commit).await.unwrap();
    let calls = served.disk.calls.lock().unwrap().len();
    assert!(
        calls >= 4,
        "a folder, two files, the repository, two commits"
    );
    for failing in 0..calls {
        let mut served = Served::new(&repo);
        Arc::get_mut(&mut served.disk).unwrap().fails = Some(failing);
        let error = served.archive(&commit).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::AccessDenied, "{}", error.report());
    }
    let (again, _) = Served::new(&repo).archive(&commit).await.unwrap();
    assert!(zip == again, "the next run makes the same archive");
}
