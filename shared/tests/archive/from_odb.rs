//! Archives from an object database: the same bytes as over the API for any storage of the
//! objects.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use branchline_core::archive::ZipArchiver;
use branchline_core::codecommit::MAX_BLOB_BYTES;
use branchline_core::git::odb::{Database, DatabaseOptions, StoredPack};
use branchline_core::git::pack::{Index, PackLimits};
use branchline_core::git::{HashKind, ObjectId};
use branchline_core::name::{BucketName, ObjectKey};
use branchline_core::remote::s3_bundle::Archiver as _;
use branchline_core::storage::multipart::MultipartWriter;
use branchline_core::storage::{ObjectStore, ObjectStoreExt as _};
use branchline_core::testkit::MemoryStore;
use branchline_core::{ErrorKind, Result};
use bytes::Bytes;

use super::compare::{entries, same};
use super::faults::noise;
use super::git::{Item, Repo, archive, git, line, run};
use super::large::LargeFilesFixture;

const MIB: usize = 1 << 20;

/// Opens a database of one pack, made by git, with everything reachable from `revision`.
pub(crate) fn database(folder: &Path, revision: &str, memory: usize) -> Arc<Database> {
    let to = tempfile::tempdir().unwrap();
    let base = to.path().join("pack");
    let id = run(
        git(folder)
            .args(["pack-objects", "--revs", "-q", "--delta-base-offset"])
            .arg(&base),
        format!("{revision}\n").as_bytes(),
    );
    let read = |end: &str| {
        let path = format!("{}-{}.{end}", base.display(), line(&id));
        Bytes::from(std::fs::read(path).unwrap())
    };
    let hash = match line(&id).len() {
        64 => HashKind::Sha256,
        _ => HashKind::Sha1,
    };
    let (pack, index) = (read("pack"), read("idx"));
    let pack = StoredPack {
        index: Index::parse(hash, index).unwrap(),
        size_bytes: pack.len() as u64,
        bytes: Arc::new(pack),
    };
    let options = DatabaseOptions {
        limits: PackLimits::default().with_memory(memory),
        ..DatabaseOptions::default()
    };
    Arc::new(Database::new(hash, [pack], None, options).unwrap())
}

/// Archives the commit or tag `id`; returns the zip and the summary.
pub(crate) async fn archived(
    objects: &Arc<Database>,
    id: &str,
    memory: usize,
) -> Result<(Vec<u8>, String)> {
    let store = Arc::new(MemoryStore::new());
    let (bucket, key) = (BucketName::new("bucket")?, ObjectKey::new("repo.zip")?);
    store.create_bucket(&bucket, false);
    let id = ObjectId::from_hex(id.as_bytes()).unwrap();
    let archive = ZipArchiver::new(memory).open(objects, id).await?;
    let archive = archive.expect("it names a commit");
    let to = Arc::clone(&store) as Arc<dyn ObjectStore>;
    let mut upload = MultipartWriter::new(to, bucket.clone(), key.clone());
    let (last, rest) = archive.send(&upload).await?;
    upload.complete(last, rest).await?;
    upload.disarm();
    let body = store.get(&bucket, &key, None, None).await?;
    Ok((body.to_vec(), archive.summary().to_owned()))
}

/// Archives a commit from a pack; asserts success.
pub(crate) async fn from_objects(folder: &Path, commit: &str) -> Vec<u8> {
    let objects = database(folder, commit, 64 * MIB);
    let archived = archived(&objects, commit, 16 * MIB).await;
    archived
        .unwrap_or_else(|error| panic!("{}", error.report()))
        .0
}

fn summary(repo: &Repo, revision: &str) -> String {
    let utf8 = "i18n.logOutputEncoding=UTF-8";
    let args = ["-c", utf8, "log", "-1", "--format=%h %s", revision];
    line(&repo.git(args, b""))
}

#[tokio::test]
async fn a_tag_is_archived_as_the_commit_that_it_names() {
    let repo = Repo::new();
    let commit = repo.files(&[
        ("a", b"$Format:%h$"),
        (".gitattributes", b"a export-subst\n"),
    ]);
    repo.git(["tag", "-a", "v1", "-m", "one", &commit], b"");
    repo.git(["tag", "-a", "nested", "-m", "two", "v1"], b"");
    for tag in ["v1", "nested"] {
        let id = line(&repo.git(["rev-parse", tag], b""));
        let objects = database(repo.path(), tag, 64 * MIB);
        let (zip, printed) = archived(&objects, &id, 16 * MIB).await.unwrap();
        same(&zip, &archive(repo.path(), "", tag));
        assert_eq!(printed, summary(&repo, &commit));
    }
}

#[tokio::test]
async fn an_id_of_a_tree_or_blob_has_no_archive() {
    let repo = Repo::new();
    let commit = repo.files(&[("a/b", b"x")]);
    for name in ["a", "a/b"] {
        let id = line(&repo.git(["rev-parse", &format!("{commit}:{name}")], b""));
        repo.git(["tag", "-a", "-f", "t", "-m", "t", &id], b"");
        let tag = line(&repo.git(["rev-parse", "t"], b""));
        let objects = database(repo.path(), "t", 64 * MIB);
        for id in [id, tag] {
            let id = ObjectId::from_hex(id.as_bytes()).unwrap();
            let opened = ZipArchiver::new(0).open(&objects, id).await.unwrap();
            assert!(opened.is_none(), "{name}");
        }
    }
    let objects = database(repo.path(), &commit, 64 * MIB);
    let unknown = ObjectId::from_hex(b"1234567890123456789012345678901234567890").unwrap();
    let opened = ZipArchiver::new(0).open(&objects, unknown).await;
    assert_eq!(opened.err().unwrap().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn an_empty_tree_is_an_archive_without_entries() {
    let repo = Repo::new();
    let commit = repo.files(&[]);
    let zip = from_objects(repo.path(), &commit).await;
    same(&zip, &archive(repo.path(), "", &commit));
    assert_eq!(entries(&zip).0.len(), 0);
}

#[tokio::test]
async fn streamed_files_of_an_object_database_have_the_bytes_of_the_api() {
    let repo = Repo::new();
    let mut text = String::new();
    for n in 0..400_000_u64 {
        let number = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        writeln!(text, "{number:016x} ends as on Unix").unwrap();
    }
    let large = noise(1, 26 * MIB);
    let attributes = b"*.txt text eol=crlf\n";
    let commit = repo.commit(
        b"large\n",
        &[
            (b".gitattributes", Item::File(attributes)),
            (b"a.txt", Item::File(text.as_bytes())),
            (b"again/large", Item::Executable(&large)),
            (b"large", Item::File(&large)),
            (b"small", Item::File(b"x")),
        ],
    );
    let fixture = LargeFilesFixture::new(&repo, &commit, MAX_BLOB_BYTES);
    let (by_git, _) = fixture.archive().await;
    same(&by_git, &archive(repo.path(), "", &commit));
    // A database uses half of its memory for content: much less than one of these files.
    let objects = database(repo.path(), &commit, 16 * MIB);
    let (streamed, _) = archived(&objects, &commit, 4 * MIB).await.unwrap();
    assert!(by_git == streamed, "the same commit gives the same bytes");
}

#[tokio::test]
async fn a_delta_that_exceeds_the_memory_fails_with_its_path() {
    let repo = Repo::new();
    let mut large = noise(7, 9 * MIB);
    repo.files(&[("large", &large)]);
    let first = line(&repo.git(["rev-parse", "main"], b""));
    large[4 * MIB] ^= 1;
    let commit = repo.files(&[("large", &large), ("small", b"x")]);
    repo.git(["update-ref", "refs/heads/first", &first], b"");
    let both = format!("{commit}\n{first}");
    let stored = |objects: &Arc<Database>| format!("{objects:?}");
    let objects = database(repo.path(), &both, 128 * MIB);
    let mut fits = Vec::new();
    for commit in [&commit, &first] {
        let (zip, _) = archived(&objects, commit, 4 * MIB).await.unwrap();
        same(&zip, &archive(repo.path(), "", commit));
        fits.push(zip);
    }
    // One of the blobs is a delta on the other, and only the delta needs more memory.
    let objects = database(repo.path(), &both, 16 * MIB);
    let mut failed = 0;
    for (commit, fits) in [&commit, &first].into_iter().zip(&fits) {
        match archived(&objects, commit, 4 * MIB).await {
            Ok((zip, _)) => assert!(zip == *fits),
            Err(error) => {
                failed += 1;
                assert_eq!(error.kind(), ErrorKind::FileTooLarge);
                assert!(error.report().contains("`large`"), "{}", error.report());
            }
        }
    }
    assert_eq!(failed, 1, "{}", stored(&objects));
}

#[tokio::test]
async fn a_summary_is_what_git_prints() {
    let repo = Repo::new();
    for message in [
        &b"plain\n"[..],
        b"  two lines \nof a subject\t\n\nand a body\n",
        "gr\u{f6}\u{df}er \u{2603}\n".as_bytes(),
        b"\n\nafter empty lines\n",
        b"",
        b"a  b\tc\n",
    ] {
        let commit = repo.commit(message, &[(b"a", Item::File(message))]);
        let objects = database(repo.path(), &commit, 64 * MIB);
        let (_, printed) = archived(&objects, &commit, 0).await.unwrap();
        assert_eq!(printed.trim_end(), summary(&repo, &commit));
    }
    // An encoding that the commit names.
    repo.git(["config", "i18n.commitEncoding", "ISO-8859-1"], b"");
    let tree = line(&repo.git(["rev-parse", "main^{tree}"], b""));
    let commit = line(&repo.git(["commit-tree", &tree], b"gr\xf6\xdfer\n"));
    let objects = database(repo.path(), &commit, 64 * MIB);
    let (zip, printed) = archived(&objects, &commit, 0).await.unwrap();
    assert_eq!(printed, summary(&repo, &commit));
    assert!(printed.ends_with("gr\u{f6}\u{df}er"), "{printed}");
    same(&zip, &archive(repo.path(), "", &commit));
}

/// Git prints more digits in a repository of more objects, or where fewer are ambiguous.
#[tokio::test]
async fn an_id_is_abbreviated_as_by_git() {
    let repo = Repo::new();
    let mut stream = String::new();
    // Among 20,000 blobs, some ids share more digits than git prints by default.
    for n in 0..20_000 {
        let text = format!("{n}");
        write!(stream, "blob\ndata {}\n{text}\n", text.len()).unwrap();
        if n % 40 == 0 {
            write!(
                stream,
                "commit refs/heads/main\ncommitter C <c@x> {} +0000\ndata 0\n",
                1_600_000_000 + n
            )
            .unwrap();
            if n == 0 {
                stream.push_str("deleteall\n");
            }
            stream.push('\n');
        }
    }
    repo.git(["fast-import", "--quiet", "--force"], stream.as_bytes());
    repo.git(["repack", "-q", "-a", "-d", "--keep-unreachable"], b"");
    let pack = std::fs::read_dir(repo.path().join("objects/pack"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|end| end == "idx"))
        .unwrap();
    let read = |path: &Path| Bytes::from(std::fs::read(path).unwrap());
    let bytes = read(&pack.with_extension("pack"));
    let pack = StoredPack {
        index: Index::parse(HashKind::Sha1, read(&pack)).unwrap(),
        size_bytes: bytes.len() as u64,
        bytes: Arc::new(bytes),
    };
    assert!(
        pack.index.len() > 1 << 14,
        "git prints 8 digits for this number of objects"
    );
    let options = DatabaseOptions::default();
    let objects = Database::new(HashKind::Sha1, [pack], None, options).unwrap();
    let shown = line(&repo.git(["log", "--format=%H %h", "main"], b""));
    for shown in shown.lines() {
        let (id, short) = shown.split_once(' ').unwrap();
        let id = ObjectId::from_hex(id.as_bytes()).unwrap();
        assert_eq!(objects.abbreviated(id), short);
    }
    assert!(shown.lines().count() > 400);
}
