//! Durability, atomicity and cleanliness of the store without HTTP.

use std::fs::{self, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use tempfile::TempDir;

use super::*;

const BUCKET: &str = "bucket";

fn fresh() -> (TempDir, Store) {
    let folder = TempDir::new().unwrap();
    let store = Store::open(folder.path()).unwrap();
    store.create_bucket(BUCKET, "us-east-1").unwrap();
    (folder, store)
}

fn put(store: &Store, key: &str, text: &str) -> Head {
    store
        .put(BUCKET, key, text.as_bytes(), PutOptions::default())
        .unwrap()
}

fn text(store: &Store, key: &str, version_id: Option<&str>) -> String {
    let (_, bytes) = store.get_bytes(BUCKET, key, version_id).unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn blobs(folder: &Path) -> usize {
    fs::read_dir(folder.join("buckets").join(BUCKET).join("blobs"))
        .unwrap()
        .count()
}

fn all() -> Query {
    Query {
        limit: 1000,
        ..Query::default()
    }
}

#[test]
fn everything_survives_a_restart() {
    let (folder, store) = fresh();
    let bucket = store.bucket(BUCKET).unwrap();
    bucket.set_versioning(Versioning::Enabled).unwrap();
    let first = put(&store, "a", "1");
    let options = PutOptions {
        attributes: Attributes {
            content_type: Some("text/x".into()),
            user: [("commit".to_owned(), "ü\n".to_owned())].into(),
            ..Attributes::default()
        },
        tags: [("t".to_owned(), "1".to_owned())].into(),
        ..PutOptions::default()
    };
    let second = store.put(BUCKET, "a", b"22", options).unwrap();
    bucket
        .set_tags(
            "a",
            first.version_id.as_deref(),
            [("x".to_owned(), "y".to_owned())].into(),
        )
        .unwrap();
    put(&store, "gone", "1");
    let marker = bucket
        .delete("gone", None, &Precondition::default())
        .unwrap();
    let upload = bucket.begin("up", PutOptions::default(), None).unwrap();
    let mut staged = bucket.stage(None).unwrap();
    staged.write(b"part").unwrap();
    let part = bucket
        .put_part("up", &upload, 3, staged.seal().unwrap())
        .unwrap();
    let versions = bucket.list_versions(&all());
    drop((bucket, store));

    let store = Store::open(folder.path()).unwrap();
    let bucket = store.bucket(BUCKET).unwrap();
    assert_eq!(bucket.versioning(), Versioning::Enabled);
    assert_eq!(bucket.region(), "us-east-1");
    assert_eq!(
        bucket.list_versions(&all()),
        versions,
        "every version is listed as before"
    );
    assert_eq!(
        bucket.head("a", None).unwrap(),
        second,
        "nothing of an object is lost"
    );
    assert_eq!(text(&store, "a", first.version_id.as_deref()), "1");
    assert_eq!(
        bucket.head("a", first.version_id.as_deref()).unwrap().tags["x"],
        "y",
        "tags are kept with their version"
    );
    assert!(
        matches!(bucket.head("gone", None), Err(Error::DeleteMarker { version_id, .. }) if version_id == marker.version_id)
    );
    let uploads = store.uploads(BUCKET).unwrap();
    assert_eq!(
        uploads[0].parts,
        std::slice::from_ref(&part),
        "uploads go on after a restart"
    );
    let completion = Completion {
        parts: vec![NamedPart {
            number: 3,
            etag: part.etag,
            checksums: vec![],
        }],
        ..Completion::default()
    };
    bucket.complete("up", &upload, &completion).unwrap();
    assert_eq!(text(&store, "up", None), "part");
}

#[test]
fn a_crash_at_any_byte_of_the_journal_loses_only_the_last_write() {
    let (folder, store) = fresh();
    put(&store, "a", "1");
    let journal = folder.path().join("buckets").join(BUCKET).join("journal");
    let before = fs::metadata(&journal).unwrap().len();
    put(&store, "b", "2");
    let after = fs::metadata(&journal).unwrap().len();
    drop(store);
    let whole = fs::read(&journal).unwrap();
    let blobs_before = copy_blobs(folder.path());
    for cut in (before..after).step_by(11).chain([after - 1]) {
        restore_blobs(folder.path(), &blobs_before);
        fs::write(&journal, &whole[..usize::try_from(cut).unwrap()]).unwrap();
        let store = Store::open(folder.path()).unwrap();
        assert_eq!(
            text(&store, "a", None),
            "1",
            "what was acknowledged is there"
        );
        assert!(
            matches!(store.get(BUCKET, "b", None), Err(Error::NoSuchKey(_))),
            "a record that was torn at byte {cut} never happened"
        );
        assert_eq!(blobs(folder.path()), 1, "the bytes it was for are swept");
        put(&store, "b", "again");
        drop(store);
        let store = Store::open(folder.path()).unwrap();
        assert_eq!(
            text(&store, "b", None),
            "again",
            "the journal goes on behind the tear"
        );
    }
}

fn copy_blobs(folder: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    fs::read_dir(folder.join("buckets").join(BUCKET).join("blobs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect()
}

fn restore_blobs(folder: &Path, blobs: &[(std::path::PathBuf, Vec<u8>)]) {
    for (path, _) in copy_blobs(folder) {
        fs::remove_file(path).unwrap();
    }
    for (path, bytes) in blobs {
        fs::write(path, bytes).unwrap();
    }
}

#[test]
fn a_damaged_journal_is_reported_not_repaired() {
    let (folder, store) = fresh();
    put(&store, "a", "1");
    put(&store, "b", "2");
    drop(store);
    let journal = folder.path().join("buckets").join(BUCKET).join("journal");
    let mut file = OpenOptions::new().write(true).open(&journal).unwrap();
    file.seek(SeekFrom::Start(30)).unwrap();
    file.write_all(b"#").unwrap();
    let error = Store::open(folder.path()).unwrap_err();
    assert!(
        matches!(&error, Error::Corrupt { path, .. } if *path == journal),
        "damage before other lines names the file: {error}"
    );
}

#[test]
fn unfinished_writes_are_removed_at_open() {
    let (folder, store) = fresh();
    let bucket = store.bucket(BUCKET).unwrap();
    let mut staged = bucket.stage(None).unwrap();
    staged.write(b"half").unwrap();
    assert_eq!(blobs(folder.path()), 1);
    drop(staged);
    assert_eq!(
        blobs(folder.path()),
        0,
        "a blob that is dropped takes its file along"
    );
    drop((bucket, store));
    fs::write(
        folder
            .path()
            .join("buckets")
            .join(BUCKET)
            .join("blobs/orphan"),
        b"x",
    )
    .unwrap();
    fs::create_dir_all(folder.path().join("buckets/unmade/blobs")).unwrap();
    let store = Store::open(folder.path()).unwrap();
    assert_eq!(
        blobs(folder.path()),
        0,
        "a file that no journal names is removed"
    );
    assert_eq!(
        store.buckets().len(),
        1,
        "a bucket whose creation never finished is none"
    );
    assert!(!folder.path().join("buckets/unmade").exists());
}

#[test]
fn a_store_is_opened_by_one_process_at_a_time() {
    let (folder, store) = fresh();
    assert!(
        matches!(Store::open(folder.path()), Err(Error::Locked(_))),
        "a second opening is refused"
    );
    drop(store);
    assert!(Store::open(folder.path()).is_ok());
}

#[test]
fn a_long_journal_is_compacted_without_loss() {
    let (folder, store) = fresh();
    let bucket = store.bucket(BUCKET).unwrap();
    for i in 0..400 {
        put(&store, &format!("key {}", i % 3), &i.to_string());
    }
    bucket.set_versioning(Versioning::Suspended).unwrap();
    let before = bucket.list_versions(&all());
    assert_eq!(
        blobs(folder.path()),
        3,
        "bytes that were replaced are gone at once"
    );
    let journal = folder.path().join("buckets").join(BUCKET).join("journal");
    let long = fs::metadata(&journal).unwrap().len();
    drop((bucket, store));
    let store = Store::open(folder.path()).unwrap();
    let short = fs::metadata(&journal).unwrap().len();
    assert!(short * 10 < long, "the journal shrinks: {long} to {short}");
    assert_eq!(store.bucket(BUCKET).unwrap().list_versions(&all()), before);
    put(&store, "key 0", "after");
    drop(store);
    let store = Store::open(folder.path()).unwrap();
    assert_eq!(text(&store, "key 0", None), "after");
}

/// Writes ten thousand objects of one shared blob as one change.
#[test]
fn ten_thousand_keys_are_listed_without_the_disk() {
    let (folder, store) = fresh();
    put(&store, "00/00000", "x");
    let bucket = store.bucket(BUCKET).unwrap();
    let template = bucket.index().keys["00/00000"][0].clone();
    let records = (1..10_000)
        .map(|i| journal::Record::Put {
            key: format!("{:02}/{i:05}", i % 100),
            version: template.clone(),
            upload: None,
        })
        .collect();
    bucket
        .commit(&mut bucket.writer().unwrap(), records)
        .unwrap();
    drop((bucket, store));

    let start = Instant::now();
    let store = Store::open(folder.path()).unwrap();
    let opened = start.elapsed();
    let bucket = store.bucket(BUCKET).unwrap();
    fs::remove_dir_all(folder.path().join("buckets")).unwrap();
    let start = Instant::now();
    let (mut keys, mut query) = (Vec::new(), all());
    loop {
        let page = bucket.list(&query);
        assert!(
            page.versions.len() <= 1000,
            "a page never exceeds its limit"
        );
        keys.extend(page.versions.into_iter().map(|listed| listed.key));
        let Some((after, _)) = page.next else { break };
        query.after = Some(after);
    }
    let walked = start.elapsed();
    assert_eq!(keys.len(), 10_000);
    assert!(
        keys.is_sorted(),
        "keys are listed in the order of their bytes"
    );
    let rolled = bucket.list(&Query {
        delimiter: Some("/".into()),
        ..all()
    });
    assert_eq!(rolled.prefixes.len(), 100);
    eprintln!("opened in {opened:?}, ten pages in {walked:?}");
    assert!(
        opened.as_secs() < 10 && walked.as_secs() < 5,
        "{opened:?} and {walked:?}"
    );
}

#[test]
fn a_reader_keeps_its_object_while_it_is_replaced() {
    let (_folder, store) = fresh();
    put(&store, "a", "the old bytes");
    let (_, mut reader) = store.get(BUCKET, "a", None).unwrap();
    put(&store, "a", "new");
    let mut read = String::new();
    reader.read_to_string(&mut read).unwrap();
    assert_eq!(read, "the old bytes");
    reader.seek(SeekFrom::End(-5)).unwrap();
    read.clear();
    reader.read_to_string(&mut read).unwrap();
    assert_eq!(read, "bytes", "a reader seeks");
}

#[test]
fn a_reader_of_many_parts_outlives_the_object() {
    let (folder, store) = fresh();
    let bucket = store.bucket(BUCKET).unwrap();
    let upload = bucket.begin("a", PutOptions::default(), None).unwrap();
    let bodies = [vec![1; 5 << 20], vec![2; 5 << 20], vec![3; 10]];
    let mut completion = Completion::default();
    for (number, body) in (1..).zip(&bodies) {
        let mut staged = bucket.stage(None).unwrap();
        staged.write(body).unwrap();
        let sealed = staged.seal().unwrap();
        let part = bucket.put_part("a", &upload, number, sealed).unwrap();
        completion.parts.push(NamedPart {
            number,
            etag: part.etag,
            checksums: vec![],
        });
    }
    bucket.complete("a", &upload, &completion).unwrap();
    let (head, mut first) = bucket.get("a", None).unwrap();
    let (_, second) = bucket.get("a", None).unwrap();
    bucket.delete("a", None, &Precondition::default()).unwrap();
    assert!(matches!(bucket.get("a", None), Err(Error::NoSuchKey(_))));
    drop(second);
    let mut bytes = Vec::new();
    first.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, head.size);
    assert!(bytes == bodies.concat(), "every part is read, in order");
    assert_eq!(
        blobs(folder.path()),
        3,
        "bytes stay while somebody reads them"
    );
    drop(first);
    assert_eq!(blobs(folder.path()), 0, "and go with the last reader");
}

#[test]
fn readers_see_whole_objects_while_writers_race() {
    let (folder, store) = fresh();
    put(&store, "a", "0000");
    let writers: Vec<_> = (1..=4)
        .map(|i| {
            let store = store.clone();
            thread::spawn(move || {
                for _ in 0..25 {
                    put(&store, "a", &i.to_string().repeat(4000 + i));
                }
            })
        })
        .collect();
    while writers.iter().any(|writer| !writer.is_finished()) {
        let (head, bytes) = store.get_bytes(BUCKET, "a", None).unwrap();
        assert_eq!(
            bytes.len() as u64,
            head.size,
            "a head describes the bytes beside it"
        );
        assert!(
            bytes.iter().all(|byte| *byte == bytes[0]),
            "never bytes of two writers"
        );
    }
    for writer in writers {
        writer.join().unwrap();
    }
    assert_eq!(blobs(folder.path()), 1);
}

#[test]
fn a_deleted_bucket_takes_no_more_writes() {
    let (folder, store) = fresh();
    let bucket = store.bucket(BUCKET).unwrap();
    let mut staged = bucket.stage(None).unwrap();
    staged.write(b"late").unwrap();
    let sealed = staged.seal().unwrap();
    store.delete_bucket(BUCKET).unwrap();
    assert!(matches!(
        bucket.put("a", sealed, PutOptions::default()),
        Err(Error::NoSuchBucket(_))
    ));
    assert!(matches!(bucket.stage(None), Err(Error::NoSuchBucket(_))));
    store.create_bucket(BUCKET, "us-east-1").unwrap();
    drop((bucket, store));
    let store = Store::open(folder.path()).unwrap();
    assert!(
        store
            .bucket(BUCKET)
            .unwrap()
            .list(&all())
            .versions
            .is_empty()
    );
}

#[test]
fn observers_are_notified_of_each_change_once() {
    let (_folder, store) = fresh();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    store.on_event(move |event| log.lock().unwrap().push(event.clone()));
    let head = put(&store, "a", "1");
    let refused = PutOptions {
        precondition: Precondition {
            if_absent: true,
            ..Precondition::default()
        },
        ..PutOptions::default()
    };
    store.put(BUCKET, "a", b"2", refused).unwrap_err();
    let bucket = store.bucket(BUCKET).unwrap();
    bucket.delete("a", None, &Precondition::default()).unwrap();
    bucket.delete("a", None, &Precondition::default()).unwrap();
    let written = BucketEvent::Written {
        bucket: BUCKET.into(),
        key: "a".into(),
        version_id: None,
        etag: head.etag,
        size: 1,
    };
    let removed = BucketEvent::Removed {
        bucket: BUCKET.into(),
        key: "a".into(),
        version_id: None,
        marker: false,
    };
    assert_eq!(*seen.lock().unwrap(), [written, removed]);
}

#[test]
fn invalid_bucket_names_are_refused() {
    let (_folder, store) = fresh();
    for name in [
        "",
        "ab",
        "..",
        "a/b",
        "../x",
        "Abc",
        "a..b",
        "-ab",
        "ab-",
        "1.2.3.4",
        &"a".repeat(64),
    ] {
        assert!(
            matches!(
                store.create_bucket(name, "us-east-1"),
                Err(Error::InvalidBucketName(_))
            ),
            "`{name}` is not a bucket name"
        );
    }
}

#[test]
fn a_store_without_disk_durability_is_read_back() {
    let folder = TempDir::new().unwrap();
    let store = Store::open_with(folder.path(), Durability::System).unwrap();
    store.create_bucket(BUCKET, "us-east-1").unwrap();
    put(&store, "a", "one");
    drop(store);
    let store = Store::open_with(folder.path(), Durability::System).unwrap();
    assert_eq!(text(&store, "a", None), "one");
}
