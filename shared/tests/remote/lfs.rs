//! LFS objects between stores, with a strict server and hostile ones.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use branchline_core::aws::{HttpSettings, git_http};
use branchline_core::git::smart_http::{
    CredentialSource, Credentials, NoCredentials, RepositoryUrl, SmartHttp,
};
use branchline_core::lfs::{HttpLfs, KeyScheme, LfsStore, LfsTransfer, LocalLfs, Pointer, S3Lfs};
use branchline_core::name::{BucketName, KeyPrefix, ObjectKey};
use branchline_core::storage::{ObjectStore as _, ObjectStoreExt as _, PutOptions};
use branchline_core::testkit::{MemoryStore, MemoryStoreOptions};
use branchline_core::{ErrorKind, Result};
use bytes::Bytes;

use branchline_test_support::lfs_server::{Fault, LfsServer, oid};

pub(crate) const MEMORY: usize = 64 << 20;

pub(crate) fn pointer(content: &[u8]) -> Pointer {
    Pointer {
        oid: oid(content),
        size_bytes: content.len() as u64,
    }
}

struct Login(AtomicUsize);

#[async_trait]
impl CredentialSource for Login {
    async fn credentials(
        &self,
        _repository: &RepositoryUrl,
    ) -> branchline_core::git::Result<Option<Credentials>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(Some(Credentials::new("user", "secret")))
    }
}

fn with(url: &str, credentials: Arc<dyn CredentialSource>) -> Arc<dyn LfsStore> {
    let client = SmartHttp::new(
        git_http(&HttpSettings::default()).unwrap(),
        RepositoryUrl::new(url).unwrap(),
        credentials,
    );
    Arc::new(HttpLfs::new(client).unwrap())
}

pub(crate) fn http(server: &LfsServer) -> Arc<dyn LfsStore> {
    with(&server.url(), Arc::new(NoCredentials))
}

/// A bucket in memory.
struct LfsBucket(Arc<MemoryStore>);

impl LfsBucket {
    fn new() -> Self {
        let store = MemoryStore::with_options(MemoryStoreOptions {
            page: 1000,
            ..MemoryStoreOptions::default()
        });
        store.create_bucket(&Self::name(), false);
        Self(Arc::new(store))
    }

    fn name() -> BucketName {
        BucketName::new("mirror").unwrap()
    }

    fn place(&self, keys: KeyScheme) -> Arc<dyn LfsStore> {
        let prefix = KeyPrefix::new("r").unwrap();
        let store = Arc::clone(&self.0);
        Arc::new(S3Lfs::new(store, Self::name(), prefix, keys, None))
    }

    async fn put(&self, key: &str, body: &[u8]) {
        let key = ObjectKey::new(key).unwrap();
        let body = Bytes::copy_from_slice(body);
        let (bucket, options) = (Self::name(), PutOptions::default());
        let put = self.0.put(&bucket, &key, body, &options);
        put.await.unwrap();
    }

    /// Returns all files but the record.
    async fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let page = self.0.list(&Self::name(), "", None, None).await.unwrap();
        let mut files = BTreeMap::new();
        let is_record = |key: &str| key.ends_with("branchline/lfs-record");
        let objects = page.objects.into_iter();
        for found in objects.filter(|found| !is_record(found.key.as_str())) {
            let body = self.0.get(&Self::name(), &found.key, None, None).await;
            files.insert(found.key.as_str().to_owned(), body.unwrap().to_vec());
        }
        files
    }

    /// Asserts that the store is empty and no upload is left.
    async fn assert_empty(&self) {
        let files = self.files().await;
        assert!(
            files.is_empty(),
            "nothing wrong becomes visible: {:?}",
            files.keys()
        );
        // Waits, because an upload is aborted in the background.
        for _ in 0..200 {
            if self.0.uploads().is_empty() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        panic!("no upload is left behind: {:?}", self.0.uploads());
    }
}

fn fanned(content: &[u8]) -> String {
    let oid = oid(content);
    format!("r/lfs/objects/{}/{}/{oid}", &oid[..2], &oid[2..4])
}

/// Copies objects, all of which are required; returns their number.
async fn copy(
    source: &Arc<dyn LfsStore>,
    target: &Arc<dyn LfsStore>,
    pointers: &[Pointer],
) -> Result<u64> {
    let copy = LfsTransfer::new(Some(Arc::clone(source)), Some(Arc::clone(target)), MEMORY)
        .with_required(true);
    copy.copy(pointers).await?;
    let report = copy.report().await;
    assert_eq!((report.left_out, report.missing), (0, 0));
    Ok(report.objects)
}

/// Makes different contents of different sizes.
fn contents(count: usize) -> Vec<Vec<u8>> {
    (0..count)
        .map(|n| format!("object {n} ").repeat(n % 7 + 1).into_bytes())
        .collect()
}

pub(crate) fn large(size: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let byte = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(byte).take(size).collect()
}

#[tokio::test]
async fn batches_have_a_hundred_objects_and_stored_objects_are_not_sent() {
    let contents = contents(250);
    let bodies: Vec<&[u8]> = contents.iter().map(Vec::as_slice).collect();
    let pointers: Vec<Pointer> = bodies.iter().map(|body| pointer(body)).collect();
    let (server, bucket) = (LfsServer::new(&bodies), LfsBucket::new());
    let (source, target) = (http(&server), bucket.place(KeyScheme::Fanned));
    for body in &bodies[..40] {
        bucket.put(&fanned(body), body).await;
    }
    // An object of another size was cut by another client.
    bucket.put(&fanned(bodies[40]), b"x").await;
    assert_eq!(copy(&source, &target, &pointers).await.unwrap(), 210);
    assert_eq!((server.batches(), server.count("GET")), (3, 210));
    let expected: BTreeMap<_, _> = bodies
        .iter()
        .map(|body| (fanned(body), body.to_vec()))
        .collect();
    assert!(
        bucket.files().await == expected,
        "exactly all objects are stored"
    );
    assert_eq!(copy(&source, &target, &pointers).await.unwrap(), 0);
    assert_eq!(
        server.requests().len(),
        213,
        "a second run asks the source for nothing"
    );
    // To another server, which has some of them.
    let second = LfsServer::new(&bodies[..150]);
    assert_eq!(copy(&target, &http(&second), &pointers).await.unwrap(), 100);
    assert_eq!(
        (second.batches(), second.count("PUT"), second.count("POST")),
        (3, 100, 100)
    );
    assert!(second.objects() == server.objects());
    server.assert_content();
    second.assert_content();
}

#[tokio::test]
async fn every_store_copies_equal_bytes_to_every_other() {
    // Parts of 5 MiB: less than one, exactly one, one and a byte, and more.
    let part = 5 << 20;
    let bodies = [
        large(1),
        large(part - 1),
        large(part),
        large(part + 1),
        large(2 * part + 77),
    ];
    let bodies: Vec<&[u8]> = bodies.iter().map(Vec::as_slice).collect();
    let mut pointers: Vec<Pointer> = bodies.iter().map(|body| pointer(body)).collect();
    // The empty object is never copied.
    pointers.push(pointer(b""));
    let first = LfsServer::new(&bodies);
    let (fan, flat, folder) = (
        LfsBucket::new(),
        LfsBucket::new(),
        tempfile::tempdir().unwrap(),
    );
    let last = LfsServer::new(&[]);
    let chain = [
        http(&first),
        fan.place(KeyScheme::Fanned),
        Arc::new(LocalLfs::new(folder.path())) as Arc<dyn LfsStore>,
        flat.place(KeyScheme::Flat),
        http(&last),
    ];
    for pair in chain.windows(2) {
        assert_eq!(
            copy(&pair[0], &pair[1], &pointers).await.unwrap(),
            5,
            "{} -> {}",
            pair[0],
            pair[1]
        );
        assert_eq!(
            copy(&pair[0], &pair[1], &pointers).await.unwrap(),
            0,
            "all objects are stored"
        );
    }
    assert!(
        first.objects() == last.objects(),
        "received bytes equal sent bytes"
    );
    let flat_keys: Vec<String> = flat.files().await.into_keys().collect();
    let mut expected: Vec<String> = bodies
        .iter()
        .map(|body| format!("r/lfs/{}", oid(body)))
        .collect();
    expected.sort();
    assert_eq!(flat_keys, expected);
    assert_eq!(
        std::fs::read_dir(folder.path().join("lfs/tmp"))
            .unwrap()
            .count(),
        0
    );
    assert!(fan.0.uploads().is_empty() && flat.0.uploads().is_empty());
    last.assert_content();
}

#[tokio::test]
async fn an_object_that_does_not_match_its_pointer_never_becomes_visible() {
    let right = large(6 << 20);
    let expected = pointer(&right);
    let mut other = right.clone();
    other[17] ^= 1;
    let mut late = right.clone();
    *late.last_mut().unwrap() ^= 1;
    let longer = [&right[..], b"x"].concat();
    for wrong in [other, late, longer, right[..6_000_000].to_vec(), Vec::new()] {
        let server = LfsServer::new(&[]);
        server.put(&expected.oid, &wrong);
        let (bucket, folder) = (LfsBucket::new(), tempfile::tempdir().unwrap());
        let (second, local) = (LfsServer::new(&[]), LocalLfs::new(folder.path()));
        for target in [
            bucket.place(KeyScheme::Fanned),
            Arc::new(local),
            http(&second),
        ] {
            let error = copy(&http(&server), &target, std::slice::from_ref(&expected))
                .await
                .unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error.report());
            assert!(error.report().contains(&expected.oid), "{}", error.report());
        }
        bucket.assert_empty().await;
        assert!(
            second.objects().is_empty(),
            "no server gets the complete object"
        );
        assert!(!folder.path().join("lfs/objects").exists());
        assert_eq!(
            std::fs::read_dir(folder.path().join("lfs/tmp"))
                .unwrap()
                .count(),
            0
        );
    }
}

#[tokio::test]
async fn an_endless_body_is_cut_off() {
    let body = large(100_000);
    let (server, bucket) = (LfsServer::new(&[&body]), LfsBucket::new());
    server.rule(|_, seen| (!seen.is_batch()).then_some(Fault::Endless));
    let target = bucket.place(KeyScheme::Fanned);
    let error = copy(&http(&server), &target, &[pointer(&body)])
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error.report());
    bucket.assert_empty().await;
    // An endless answer to a batch too.
    server.rule(|_, _| Some(Fault::Endless));
    let error = copy(&http(&server), &target, &[pointer(&body)])
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error.report());
}

#[tokio::test]
async fn a_missing_object_is_an_error_with_a_hint() {
    let (there, gone) = (b"there".as_slice(), b"gone".as_slice());
    let target = LfsBucket::new().place(KeyScheme::Fanned);
    let server = LfsServer::new(&[there]);
    let folder = tempfile::tempdir().unwrap();
    let local = LocalLfs::new(folder.path());
    for source in [
        http(&server),
        LfsBucket::new().place(KeyScheme::Flat),
        Arc::new(local),
    ] {
        let error = copy(&source, &target, &[pointer(gone)]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{}", error.report());
        let report = error.report();
        assert!(
            report.contains(&oid(gone)) && report.contains("\"lfs\": false"),
            "{report}"
        );
    }
    for (status, kind) in [
        (404, ErrorKind::NotFound),
        (401, ErrorKind::AccessDenied),
        (403, ErrorKind::AccessDenied),
        (422, ErrorKind::Config),
        (509, ErrorKind::AccessDenied),
    ] {
        server.rule(move |_, _| {
            Some(Fault::Answer(
                status,
                Vec::new(),
                br#"{"message":"so it is"}"#.to_vec(),
            ))
        });
        let error = copy(&http(&server), &target, &[pointer(there)])
            .await
            .unwrap_err();
        assert_eq!(error.kind(), kind, "{}", error.report());
        assert!(error.report().contains("so it is"), "{}", error.report());
    }
}

#[tokio::test]
async fn credentials_are_sent_only_to_their_origin() {
    let body = b"private".as_slice();
    let (other, server) = (LfsServer::new(&[body]), LfsServer::new(&[body]));
    let base = other.base();
    // Another host by an address in the batch, or by a redirect.
    for by_redirect in [false, true] {
        let base = base.clone();
        server.rule(move |_, seen| {
            if by_redirect && !seen.is_batch() {
                let to = format!("{base}{}", seen.target);
                return Some(Fault::Answer(302, vec![("Location", to)], Vec::new()));
            }
            let href = format!("{base}/o/{}?sig=s", oid(b"private"));
            (!by_redirect).then(|| {
                let answer = serde_json::json!({"objects": [{"oid": oid(b"private"), "size": 7,
                    "actions": {"download": {"href": href}}}]});
                Fault::Answer(200, Vec::new(), answer.to_string().into_bytes())
            })
        });
        let login = Arc::new(Login(AtomicUsize::new(0)));
        let target = LfsBucket::new().place(KeyScheme::Fanned);
        let source = with(&server.url(), login);
        // The other server requires the header, which is not sent.
        let error = copy(&source, &target, &[pointer(body)]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{}", error.report());
        let asked = server.requests();
        assert!(
            asked
                .iter()
                .all(|seen| !seen.is_batch() || seen.headers.contains_key("authorization"))
        );
        assert!(!other.requests().is_empty(), "the other server was asked");
        for seen in other.requests() {
            assert!(!seen.headers.contains_key("authorization"), "{seen:?}");
            assert!(!seen.headers.contains_key("x-token"), "{seen:?}");
        }
    }
    // To their own origin they are sent if the action has none.
    let own = LfsServer::new(&[body]);
    own.rule(|_, seen| {
        seen.is_batch().then_some(Fault::Changed(|answer| {
            answer["objects"][0]["authenticated"] = false.into();
        }))
    });
    let login = Arc::new(Login(AtomicUsize::new(0)));
    let target = LfsBucket::new().place(KeyScheme::Fanned);
    copy(&with(&own.url(), login), &target, &[pointer(body)])
        .await
        .unwrap();
    let basic = "Basic dXNlcjpzZWNyZXQ=";
    for seen in own.requests() {
        assert_eq!(
            seen.headers.get("authorization").map(String::as_str),
            Some(basic)
        );
    }
    own.assert_content();
}

#[tokio::test]
async fn expired_actions_are_requested_again() {
    let bodies = contents(3);
    let bodies: Vec<&[u8]> = bodies.iter().map(Vec::as_slice).collect();
    let pointers: Vec<Pointer> = bodies.iter().map(|body| pointer(body)).collect();
    let server = LfsServer::new(&bodies);
    server.rule(|number, seen| {
        (number == 0 && seen.is_batch()).then_some(Fault::Changed(|answer| {
            for at in 0..3 {
                let action = &mut answer["objects"][at]["actions"]["download"];
                action["expires_in"] = 0.into();
                action["expires_at"] = "2020-01-01T00:00:00Z".into();
            }
        }))
    });
    let target = LfsBucket::new().place(KeyScheme::Fanned);
    assert_eq!(copy(&http(&server), &target, &pointers).await.unwrap(), 3);
    assert_eq!(
        (server.batches(), server.count("GET")),
        (4, 3),
        "once more for each"
    );
    // An action that is refused before its expiry.
    let server = LfsServer::new(&bodies);
    server.rule(|number, _| (number == 1).then(|| Fault::Answer(403, Vec::new(), Vec::new())));
    let target = LfsBucket::new().place(KeyScheme::Fanned);
    assert_eq!(copy(&http(&server), &target, &pointers).await.unwrap(), 3);
    assert_eq!((server.batches(), server.count("GET")), (2, 4));
    // Likewise for uploads.
    let second = LfsServer::new(&[]);
    second.rule(|number, _| (number == 1).then(|| Fault::Answer(403, Vec::new(), Vec::new())));
    assert_eq!(copy(&target, &http(&second), &pointers).await.unwrap(), 3);
    assert_eq!((second.batches(), second.count("PUT")), (2, 4));
    second.assert_content();
}

#[tokio::test]
async fn a_transfer_that_fails_at_any_request_is_resumed() {
    let bodies = contents(4);
    let bodies: Vec<&[u8]> = bodies.iter().map(Vec::as_slice).collect();
    let pointers: Vec<Pointer> = bodies.iter().map(|body| pointer(body)).collect();
    let first = LfsServer::new(&bodies);
    let faults: [fn() -> Fault; 3] = [
        || Fault::HangUp,
        || Fault::Answer(503, Vec::new(), Vec::new()),
        || Fault::Answer(429, vec![("Retry-After", "0".into())], Vec::new()),
    ];
    for fault in faults {
        // One batch and four downloads; one batch and four verified uploads.
        for k in 0..5 {
            let (server, bucket) = (LfsServer::new(&bodies), LfsBucket::new());
            server.rule(move |number, _| (number == k).then(fault));
            let target = bucket.place(KeyScheme::Fanned);
            assert_eq!(
                copy(&http(&server), &target, &pointers).await.unwrap(),
                4,
                "{k}"
            );
            assert_eq!(bucket.files().await.len(), 4);
            server.assert_content();
        }
        for k in 0..9 {
            let server = LfsServer::new(&[]);
            server.rule(move |number, _| (number == k).then(fault));
            assert_eq!(
                copy(&http(&first), &http(&server), &pointers)
                    .await
                    .unwrap(),
                4,
                "{k}"
            );
            assert!(server.objects() == first.objects(), "{k}");
            server.assert_content();
        }
    }
    // An error that is not retried ends the run; the next run resumes.
    for k in 0..5 {
        let (server, bucket) = (LfsServer::new(&bodies), LfsBucket::new());
        server.rule(move |number, _| {
            (number >= k).then(|| Fault::Answer(401, Vec::new(), Vec::new()))
        });
        let target = bucket.place(KeyScheme::Fanned);
        let error = copy(&http(&server), &target, &pointers).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AccessDenied, "{}", error.report());
        let before = bucket.files().await.len() as u64;
        server.rule(|_, _| None);
        let rest = copy(&http(&server), &target, &pointers).await.unwrap();
        assert_eq!(before + rest, 4, "nothing is copied twice");
    }
}

#[tokio::test]
async fn without_a_store_objects_are_left_out_and_counted() {
    let server = LfsServer::new(&[]);
    let pointers = [pointer(b"a"), pointer(b"b"), pointer(b"")];
    for (source, target) in [
        (None, None),
        (Some(http(&server)), None),
        (None, Some(http(&server))),
    ] {
        let copy = LfsTransfer::new(source, target, MEMORY);
        for _ in 0..2 {
            copy.copy(&pointers).await.unwrap();
        }
        let report = copy.report().await;
        assert_eq!((report.left_out, report.objects), (2, 0));
        let mut named = [&pointers[0], &pointers[1]].map(|pointer| pointer.oid.clone());
        named.sort();
        assert_eq!(report.left_out_oids, named);
    }
    assert!(server.requests().is_empty());
}
