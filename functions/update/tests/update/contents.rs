//! Settings of what is in the zip: `ARCHIVE_EXPORT_IGNORE`, `ARCHIVE_LFS`.

use branchline_core::lfs::Pointer;
use branchline_core::name::{BucketName, ObjectKey};
use branchline_core::storage::{ObjectStore as _, PutOptions};
use branchline_core::testkit::Entry;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::fixture::{UpdateFixture, files, moved, outcomes, repository};

#[tokio::test]
async fn ignored_files_are_archived_where_the_setting_asks_for_all() {
    let mut fixture = UpdateFixture::new(&[]);
    let tree = [
        (".gitattributes", Entry::file("secret export-ignore\n")),
        ("README", Entry::file("hello")),
        ("secret/key", Entry::file("s")),
    ];
    let tip = fixture.codecommit.commit(&repository(), "main", &tree);
    let results = fixture.results(moved("main", tip)).await;
    assert_eq!(outcomes(&results), [("main", "started")]);
    let names = |fixture: &UpdateFixture| -> Vec<String> {
        files(&fixture.latest("demo/main.zip"))
            .into_keys()
            .collect()
    };
    assert_eq!(names(&fixture), [".gitattributes", "README"]);
    fixture.settings.insert("ARCHIVE_EXPORT_IGNORE", "false");
    let results = fixture.results(moved("main", tip)).await;
    assert_eq!(
        outcomes(&results),
        [("main", "started")],
        "the setting makes another artifact"
    );
    let all = [".gitattributes", "README", "secret/", "secret/key"];
    assert_eq!(names(&fixture), all);
}

#[tokio::test]
async fn pointers_become_the_objects_in_the_bucket_of_the_setting() {
    let mut fixture = UpdateFixture::new(&[("ARCHIVE_LFS", "s3://large/lfs/{repository}")]);
    let bucket = BucketName::new("large").expect("it is valid");
    fixture.store.create_bucket(&bucket, false);
    let content = b"the object";
    let pointer = Pointer {
        oid: hex::encode(Sha256::digest(content)),
        size_bytes: content.len() as u64,
    };
    let tree = [
        (".gitattributes", Entry::file("*.bin filter=lfs\n")),
        ("dir/a.bin", Entry::file(pointer.to_blob())),
    ];
    let tip = fixture.codecommit.commit(&repository(), "main", &tree);
    let failure = fixture.failure(moved("main", tip)).await;
    assert!(
        failure.message().contains("dir/a.bin"),
        "{}",
        failure.message()
    );
    assert!(
        failure.message().contains(&pointer.oid),
        "{}",
        failure.message()
    );
    assert_eq!(fixture.versions("demo/main.zip").len(), 0);
    fixture.assert_no_upload_is_left();

    let key = ObjectKey::new(&format!("lfs/demo/lfs/{}", pointer.oid)).expect("it is valid");
    let body = Bytes::from_static(content);
    let options = PutOptions::default();
    let stored = fixture.store.put(&bucket, &key, body, &options);
    stored.await.expect("the object is stored");
    let results = fixture.results(moved("main", tip)).await;
    assert_eq!(outcomes(&results), [("main", "started")]);
    assert_eq!(
        files(&fixture.latest("demo/main.zip"))["dir/a.bin"],
        "the object"
    );

    // An archive that is made from this one copies the object.
    let mut tree = tree.to_vec();
    tree.push(("more", Entry::file("more")));
    let tip = fixture.codecommit.commit(&repository(), "main", &tree);
    let results = fixture.results(moved("main", tip)).await;
    assert_eq!(outcomes(&results), [("main", "started")]);
    assert_eq!(
        files(&fixture.latest("demo/main.zip"))["dir/a.bin"],
        "the object"
    );
    fixture.settings.remove("ARCHIVE_LFS");
    fixture.results(moved("main", tip)).await;
    let zip = files(&fixture.latest("demo/main.zip"));
    assert_eq!(zip["dir/a.bin"], pointer.to_blob());
}
