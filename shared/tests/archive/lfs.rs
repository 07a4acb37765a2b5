//! Objects of git LFS instead of their pointers, compared with `git archive` where git-lfs is
//! installed.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use branchline_core::archive::{ArchiveRequest, archive_objects, build, stored_archive};
use branchline_core::git::ObjectId;
use branchline_core::git::server::{ArchiveFormat, ArchivePiece};
use branchline_core::lfs::{LfsBody, LfsStore, LocalLfs, Pointer};
use branchline_core::storage::ObjectStore;
use branchline_core::{Error, ErrorKind, Result};
use futures_util::StreamExt as _;
use sha2::{Digest as _, Sha256};

use super::compare::same;
use super::fake_codecommit::{Disk, Memory};
use super::faults::{noise, repository, target};
use super::from_odb::database;
use super::git::{Item, Repo};

const MIB: usize = 1 << 20;

fn pointer(content: &[u8]) -> Pointer {
    Pointer {
        oid: hex::encode(Sha256::digest(content)),
        size_bytes: content.len() as u64,
    }
}

/// Stores `content` where git-lfs keeps the objects of a repository; returns the pointer.
pub(crate) fn store(folder: &Path, content: &[u8]) -> String {
    let pointer = pointer(content);
    let (first, second) = (&pointer.oid[..2], &pointer.oid[2..4]);
    let folder = folder.join("lfs/objects").join(first).join(second);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(&pointer.oid), content).unwrap();
    pointer.to_blob()
}

/// Makes a repository whose git runs git-lfs's filter.
fn with_lfs() -> Repo {
    let repo = Repo::new();
    for (key, value) in [
        ("filter.lfs.process", "git-lfs filter-process"),
        ("filter.lfs.smudge", "git-lfs smudge -- %f"),
        ("filter.lfs.clean", "git-lfs clean -- %f"),
        ("filter.lfs.required", "true"),
    ] {
        repo.git(["config", key, value], b"");
    }
    repo
}

async fn archive(
    repo: &Repo,
    commit: &str,
    store: Arc<dyn LfsStore>,
    format: ArchiveFormat,
) -> branchline_core::git::Result<Vec<u8>> {
    let objects = database(repo.path(), commit, 64 * MIB);
    let id = ObjectId::from_hex(commit.as_bytes()).unwrap();
    let request = stored_archive(&objects, Some(id), id, 0).await;
    let request = ArchiveRequest {
        lfs: Some(store),
        ..request.unwrap()
    };
    let mut body = archive_objects(objects, request, format);
    let mut bytes = Vec::new();
    while let Some(piece) = body.next().await.transpose()? {
        if let ArchivePiece::Data(data) = piece {
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes)
}

/// "LFS objects are archived as by `git archive` where git-lfs is installed."
#[tokio::test]
async fn objects_replace_their_pointers_as_with_git_lfs() {
    let repo = with_lfs();
    let small = store(repo.path(), b"a\nsmall object\n");
    let large = store(repo.path(), &noise(3, 9 * MIB));
    let substituted = store(repo.path(), b"at $Format:%H %s$\n");
    let unknown = pointer(b"nobody has it").to_blob();
    let attributes = "*.bin filter=lfs diff=lfs merge=lfs -text\n\
                      *.txt filter=lfs text eol=crlf\n\
                      *.sub filter=lfs export-subst\n\
                      left.out export-ignore filter=lfs\n";
    let file = |text: &'static str| Item::File(text.as_bytes());
    let commit = repo.commit(
        b"subject\n",
        &[
            (b".gitattributes", Item::File(attributes.as_bytes())),
            (b"a.bin", Item::File(small.as_bytes())),
            (b"b/again.bin", Item::Executable(small.as_bytes())),
            (b"b/plain.bin", file("no pointer\n")),
            (b"b/text.txt", Item::File(small.as_bytes())),
            (b"b/plain.txt", file("no\npointer\n")),
            (b"c.sub", Item::File(substituted.as_bytes())),
            (b"empty.bin", file("")),
            (b"large.bin", Item::File(large.as_bytes())),
            (b"left.out", Item::File(unknown.as_bytes())),
            (b"link.bin", Item::Link(b"a.bin")),
            (b"pointer", Item::File(unknown.as_bytes())),
            (b"same", Item::File(small.as_bytes())),
        ],
    );
    let objects = || Arc::new(LocalLfs::new(repo.path())) as Arc<dyn LfsStore>;
    let zip = archive(&repo, &commit, objects(), ArchiveFormat::Zip).await;
    same(&zip.unwrap(), &repo.archive("", &commit));
    let tar = archive(&repo, &commit, objects(), ArchiveFormat::Tar).await;
    let theirs = repo.git(["archive", "--format=tar", &commit], b"");
    assert!(tar.unwrap() == theirs, "a tar has the same bytes as git's");
}

#[tokio::test]
async fn a_missing_or_wrong_object_is_named_with_its_path() {
    let repo = with_lfs();
    let missing = pointer(b"nobody has it");
    let wrong = pointer(b"right");
    store(repo.path(), b"right");
    let folder = format!("lfs/objects/{}/{}", &wrong.oid[..2], &wrong.oid[2..4]);
    let stored = repo.path().join(folder).join(&wrong.oid);
    std::fs::write(stored, b"wrong").unwrap();
    for (pointer, kind) in [
        (&missing, ErrorKind::NotFound),
        (&wrong, ErrorKind::Corrupt),
    ] {
        let blob = pointer.to_blob();
        let commit = repo.commit(
            b"x\n",
            &[
                (b".gitattributes", Item::File(b"*.bin filter=lfs\n")),
                (b"dir/a.bin", Item::File(blob.as_bytes())),
            ],
        );
        for format in [ArchiveFormat::Zip, ArchiveFormat::Tar] {
            let objects = Arc::new(LocalLfs::new(repo.path()));
            let error = archive(&repo, &commit, objects, format).await.unwrap_err();
            let error = Error::from(error);
            let report = error.report();
            assert_eq!(error.kind(), kind, "{report}");
            assert!(report.contains("`dir/a.bin`"), "{report}");
            assert!(report.contains(&pointer.oid), "{report}");
            assert!(!report.contains("mirror"), "{report}");
        }
    }
}

/// A store whose call number `fails` fails.
struct Failing {
    objects: LocalLfs,
    calls: AtomicUsize,
    fails: usize,
}

impl Failing {
    fn call(&self) -> Result<()> {
        if self.calls.fetch_add(1, Ordering::SeqCst) == self.fails {
            let message = "the store is broken on purpose";
            return Err(Error::new(ErrorKind::AccessDenied, message));
        }
        Ok(())
    }
}

impl fmt::Display for Failing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.objects.fmt(f)
    }
}

#[async_trait]
impl LfsStore for Failing {
    async fn missing(&self, _: &[Pointer]) -> Result<Vec<Pointer>> {
        panic!("an archive does not ask for missing objects")
    }

    async fn prepare(&self, pointers: &[Pointer]) -> Result<Vec<Pointer>> {
        self.call()?;
        self.objects.prepare(pointers).await
    }

    async fn read(&self, pointer: &Pointer) -> Result<LfsBody> {
        self.call()?;
        self.objects.read(pointer).await
    }

    async fn write(&self, _: &Pointer, _: LfsBody) -> Result<()> {
        panic!("an archive writes no objects")
    }
}

#[tokio::test]
async fn each_failing_call_of_the_store_leaves_nothing_and_the_next_run_completes() {
    let repo = with_lfs();
    let small = store(repo.path(), b"small");
    let large = store(repo.path(), &noise(5, 7 * MIB));
    let commit = repo.commit(
        b"x\n",
        &[
            (b".gitattributes", Item::File(b"*.bin filter=lfs\n")),
            (b"a.bin", Item::File(small.as_bytes())),
            (b"b.bin", Item::File(large.as_bytes())),
            (b"c", Item::File(b"c")),
        ],
    );
    let archived = async |fails: usize| {
        let disk = Disk::new(repo.path());
        let objects = Arc::new(Failing {
            objects: LocalLfs::new(repo.path()),
            calls: AtomicUsize::new(0),
            fails,
        });
        let memory = Memory::default();
        let to = Arc::new(memory.clone()) as Arc<dyn ObjectStore>;
        let request = ArchiveRequest {
            lfs: Some(Arc::clone(&objects) as _),
            ..ArchiveRequest::new(disk.commit(&commit))
        };
        let built = build(&disk, &repository(), &to, &request, &target()).await;
        let calls = objects.calls.load(Ordering::SeqCst);
        (built.map(|built| built.summary), memory, calls)
    };
    let (built, memory, calls) = archived(usize::MAX).await;
    let key = target().key;
    let zip = memory.objects.lock().unwrap()[key.as_str()].0.clone();
    assert_eq!(built.unwrap().files, 4);
    same(&zip, &repo.archive("", &commit));
    assert_eq!(calls, 4, "one batch, a small object, and a large one twice");
    for fails in 0..calls {
        let (built, memory, _) = archived(fails).await;
        assert_eq!(built.unwrap_err().kind(), ErrorKind::AccessDenied);
        assert!(
            memory.objects.lock().unwrap().is_empty(),
            "no object is left"
        );
        assert!(
            memory.uploads.lock().unwrap().is_empty(),
            "no upload is left"
        );
    }
}
