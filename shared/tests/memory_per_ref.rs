//! Memory that a mirror takes for each ref, counted by the allocator.
//!
//! The only test of its binary, because the memory of the whole process is counted.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests are tests, even outside of a `#[test]` function"
)]

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use branchline_core::aws::{HttpSettings, git_http};
use branchline_core::git::HashKind;
use branchline_core::git::smart_http::{NoCredentials, RepositoryUrl, SmartHttp};
use branchline_core::mirror::{MirrorOptions, RefSelection, TableMemory, mirror};
use branchline_core::name::{BucketName, KeyPrefix};
use branchline_core::remote::s3_dumb::{DumbOptions, DumbRemote};
use branchline_core::remote::smart_http::HttpRemote;
use branchline_core::storage::ObjectStore;
use branchline_core::testkit::{MemoryStore, MemoryStoreOptions};
use branchline_test_support::git_server::GitServer;
use branchline_test_support::repo::Repo;
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const REFS: usize = 20_000;

/// Writes refs with names of 40 bytes, spread over some commits.
fn add_refs(repo: &Repo, count: usize) {
    let commits = repo.git(&["rev-list", "main"]);
    let commits: Vec<&str> = commits.lines().collect();
    let mut packed = String::from("# pack-refs with: peeled fully-peeled sorted \n");
    for n in 0..count {
        let id = commits[n % commits.len()];
        writeln!(packed, "{id} refs/heads/feature/of-the-team/{n:09}").unwrap();
    }
    std::fs::write(repo.path.join("packed-refs"), packed).unwrap();
}

fn source(server: &GitServer) -> HttpRemote {
    let settings = HttpSettings {
        answer_timeout: Duration::from_mins(1),
        ..HttpSettings::default()
    };
    let url = RepositoryUrl::new(&server.url()).unwrap();
    let http = git_http(&settings).unwrap();
    HttpRemote::new(SmartHttp::new(http, url, Arc::new(NoCredentials)))
}

/// Mirrors a server's repository into a bucket, and returns the bytes in memory at most, beside
/// what the bucket holds afterwards.
async fn measure(server: &GitServer, prefix: &str, refs: usize) -> usize {
    let store = MemoryStore::with_options(MemoryStoreOptions {
        page: 1000,
        ..MemoryStoreOptions::default()
    });
    let bucket = BucketName::new("mirror").unwrap();
    store.create_bucket(&bucket, false);
    let store: Arc<dyn ObjectStore> = Arc::new(store);
    let prefix = KeyPrefix::new(prefix).unwrap();
    let target = DumbRemote::new(store, bucket, prefix, DumbOptions::default());
    let options = MirrorOptions {
        refs: RefSelection::new(["refs/*"]).unwrap(),
        ..MirrorOptions::default()
    };
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();
    let source = source(server);
    let stats = mirror(&source, &target, &options, None).await.unwrap();
    assert_eq!((stats.created, stats.complete), (refs as u64, true));
    let retained = MEMORY.current_usage().saturating_sub(before);
    MEMORY.peak_usage() - before - retained
}

/// "At most 800 bytes for each ref".
#[tokio::test]
async fn a_ref_takes_at_most_800_bytes() {
    let repo = Repo::with_history(HashKind::Sha1, 300, 10);
    add_refs(&repo, 100);
    let server = GitServer::new(&repo);
    let few = repo.refs().lines().count();
    let base = measure(&server, "few", few).await;
    add_refs(&repo, REFS);
    let many = repo.refs().lines().count();
    let peak = measure(&server, "many", many).await;
    let bytes = peak.saturating_sub(base) / (many - few);
    println!("{bytes} bytes a ref, {base} bytes without them");
    assert!(bytes <= TableMemory::BYTES_PER_REF, "{bytes} bytes a ref");
}
