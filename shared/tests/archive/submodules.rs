//! Content of submodules, compared with `git archive` in each of the repositories.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use branchline_core::archive::{
    ArchiveRequest, DatabaseHistory, History, SubmoduleCommit, SubmoduleRepositories,
    archive_objects, stored_archive,
};
use branchline_core::git::ObjectId;
use branchline_core::git::object::{Commit, ObjectKind};
use branchline_core::git::odb::Database;
use branchline_core::git::server::{ArchiveFormat, ArchivePiece};
use branchline_core::lfs::LocalLfs;
use branchline_core::{Error, ErrorKind, Result};
use futures_util::StreamExt as _;

use super::compare::{Seen, entries};
use super::describe::{everything, refs};
use super::faults::noise;
use super::git::{Item, Repo, line};

const MIB: usize = 1 << 20;

/// Repositories on disk by their URLs.
#[derive(Debug)]
pub(crate) struct Repositories(pub(crate) HashMap<&'static str, (Arc<Database>, Arc<dyn History>)>);

#[async_trait]
impl SubmoduleRepositories for Repositories {
    fn root(&self) -> &'static str {
        "root"
    }

    async fn open(&self, _: &str, url: &str, commit: ObjectId) -> Result<SubmoduleCommit> {
        let missing = || Error::new(ErrorKind::NotFound, format!("`{url}` is missing"));
        let (objects, history) = self.0.get(url).ok_or_else(missing)?;
        let content = objects.read_kind(commit, ObjectKind::Commit).await?;
        let commit = Commit::decode(commit, &content)?;
        let opened = SubmoduleCommit::in_database(url.to_owned(), objects, commit);
        Ok(opened.with_history(Some(Arc::clone(history))))
    }
}

/// Commits `files` and submodules at these commits.
pub(crate) fn commit(repo: &Repo, files: &[(&str, &[u8])], submodules: &[(&str, &str)]) -> String {
    let items: Vec<_> = files
        .iter()
        .map(|(path, bytes)| (path.as_bytes(), Item::File(bytes)))
        .collect();
    repo.commit(b"subject\n", &items);
    let index = repo.path().join("index-of-test");
    let run = |arguments: &[&str]| {
        let mut command = super::git::git(repo.path());
        command.env("GIT_INDEX_FILE", &index).args(arguments);
        line(&super::git::run(&mut command, b""))
    };
    run(&["read-tree", "main"]);
    for (path, id) in submodules {
        let entry = format!("160000,{id},{path}");
        run(&["update-index", "--add", "--cacheinfo", &entry]);
    }
    let tree = run(&["write-tree"]);
    let commit = run(&["commit-tree", "-m", "with submodules", &tree]);
    repo.git(["update-ref", "refs/heads/main", &commit], b"");
    commit
}

/// Opens all objects and refs of `repo`.
pub(crate) fn opened(repo: &Repo) -> (Arc<Database>, Arc<dyn History>) {
    let objects = everything(repo);
    let history = DatabaseHistory::new(Arc::clone(&objects), refs(repo, true));
    (objects, Arc::new(history))
}

async fn ours(
    (objects, history): &(Arc<Database>, Arc<dyn History>),
    commit: &str,
    repositories: Repositories,
) -> Vec<Seen> {
    let id = ObjectId::from_hex(commit.as_bytes()).unwrap();
    let request = stored_archive(objects, Some(id), id, 0).await.unwrap();
    let repositories = Arc::new(repositories) as Arc<dyn SubmoduleRepositories>;
    let mut found = Vec::new();
    for format in [ArchiveFormat::Zip, ArchiveFormat::Tar] {
        let request = ArchiveRequest {
            submodules: Some(Arc::clone(&repositories)),
            lfs: Some(Arc::new(LocalLfs::new("/none"))),
            history: Some(Arc::clone(history)),
            ..request.clone()
        };
        let mut body = archive_objects(Arc::clone(objects), request, format);
        let (mut bytes, mut names) = (Vec::new(), Vec::new());
        while let Some(piece) = body.next().await.transpose().unwrap() {
            match piece {
                ArchivePiece::Data(data) => bytes.extend_from_slice(&data),
                ArchivePiece::Entry(name) => names.push(name),
            }
        }
        if format == ArchiveFormat::Zip {
            found = entries(&bytes).0;
        } else {
            let zip: Vec<_> = found.iter().map(|seen| seen.name.clone()).collect();
            assert_eq!(names, zip, "a tar has the same entries");
        }
    }
    found
}

#[tokio::test]
async fn submodules_are_archived_as_git_archives_each_of_them() {
    let (root, one, two) = (Repo::new(), Repo::new(), Repo::new());
    let large = noise(9, 9 * MIB);
    let deep = commit(&two, &[("d/x.txt", b"deep\n"), ("large", &large)], &[]);
    let attributes =
        b"[attr]mine export-subst\nid mine\nsecret export-ignore\n*.crlf text eol=crlf\n";
    let library = commit(
        &one,
        &[
            (".gitattributes", attributes),
            (".gitmodules", b"[submodule \"x\"]\npath=in/deep\nurl=two\n"),
            ("a.crlf", b"a\nb\n"),
            ("id", b"$Format:%H %s$\n"),
            ("in/file", b"x\n"),
            ("in/zlast", b"y\n"),
            ("same", b"shared\n"),
            ("secret", b"s\n"),
        ],
        &[("in/deep", &deep)],
    );
    let tip = commit(
        &root,
        &[
            (".gitattributes", b"*.txt export-ignore\nskip/ export-ignore\nid export-subst\n"),
            (
                ".gitmodules",
                b"[submodule \"a\"]\npath=libs/one\nurl=one\n[submodule \"b\"]\npath=skip/one\nurl=none\n",
            ),
            ("a.txt", b"left out\n"),
            ("id", b"$Format:%H %s$\n"),
            ("libs/one-more", b"z\n"),
            ("same", b"shared\n"),
        ],
        &[("libs/one", &library), ("skip/one", &library)],
    );
    let repositories = HashMap::from([("one", opened(&one)), ("two", opened(&two))]);
    let ours = ours(&opened(&root), &tip, Repositories(repositories)).await;
    let mut theirs = Vec::new();
    for entry in entries(&root.archive("", &tip)).0 {
        if entry.name != "libs/one/" {
            theirs.push(entry);
            continue;
        }
        for entry in entries(&one.archive("libs/one/", &library)).0 {
            if entry.name == "libs/one/in/deep/" {
                theirs.extend(entries(&two.archive("libs/one/in/deep/", &deep)).0);
            } else {
                theirs.push(entry);
            }
        }
    }
    let names = |seen: &[Seen]| -> Vec<String> { seen.iter().map(|s| s.name.clone()).collect() };
    assert_eq!(names(&ours), names(&theirs));
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert!(ours.bytes == theirs.bytes, "content of {}", ours.name);
    }
    assert!(ours.len() > 14, "{:?}", names(&ours));
}

/// As `git archive` in the submodule does, which expands the first `%(describe)` alone.
#[tokio::test]
async fn each_submodule_is_described_by_its_own_tags() {
    let (root, one) = (Repo::new(), Repo::new());
    let tag = |repo: &Repo, name: &str, commit: &str| {
        repo.git(["tag", "-a", "-m", name, name, commit], b"");
    };
    let files: [(&str, &[u8]); 4] = [
        (".gitattributes", b"* export-subst\n"),
        (
            "a",
            b"$Format:%(describe)$ $Format:%(describe)$ $Format:%d$\n",
        ),
        ("b", b"$Format:%(describe)$\n"),
        ("same", b"$Format:%(describe)$ $Format:%D$\n"),
    ];
    let first = commit(&one, &files, &[]);
    tag(&one, "library-1", &first);
    let tree = format!("{first}^{{tree}}");
    let more = ["commit-tree", "-m", "more", "-p", &first, &tree];
    let library = line(&one.git(more, b""));
    one.git(["update-ref", "refs/heads/main", &library], b"");
    let modules: (&str, &[u8]) = (
        ".gitmodules",
        b"[submodule \"a\"]\npath=libs/one\nurl=one\n",
    );
    let tip = commit(
        &root,
        &[&files[..], &[modules]].concat(),
        &[("libs/one", &library)],
    );
    tag(&root, "product-7", &tip);
    let repositories = HashMap::from([("one", opened(&one))]);
    let ours = ours(&opened(&root), &tip, Repositories(repositories)).await;
    let content = |seen: &[Seen], name: &str| {
        let mut seen = seen.iter();
        let found = seen.find(|seen| seen.name == name);
        found.expect(name).bytes.clone()
    };
    for name in ["a", "b", "same"] {
        let theirs = entries(&root.archive("", &tip)).0;
        assert_eq!(content(&ours, name), content(&theirs, name), "{name}");
        let theirs = entries(&one.archive("libs/one/", &library)).0;
        let name = format!("libs/one/{name}");
        assert_eq!(content(&ours, &name), content(&theirs, &name), "{name}");
    }
    let text = String::from_utf8(content(&ours, "libs/one/a")).unwrap();
    assert!(text.starts_with("library-1-1-g"), "{text}");
}
