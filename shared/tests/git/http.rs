//! Helpers that open a client and read its packs.

use std::sync::Arc;
use std::time::Duration;

use branchline_core::aws::{HttpSettings, git_http};
use branchline_core::git::ObjectId;
use branchline_core::git::advertisement::{Advertisement, Version};
use branchline_core::git::pack::{Connectivity, NoBases, PackIndexer, PackLimits, Resolved};
use branchline_core::git::smart_http::{FetchResponse, NoCredentials, RepositoryUrl, SmartHttp};
use bytes::Bytes;

use branchline_test_support::repo::Repo;

pub(crate) const BOTH: [Version; 2] = [Version::V0, Version::V2];

pub(crate) fn settings() -> HttpSettings {
    HttpSettings {
        connect_timeout: Duration::from_secs(5),
        idle_timeout: Duration::from_secs(20),
        answer_timeout: Duration::from_secs(30),
        ..HttpSettings::default()
    }
}

pub(crate) fn impatient() -> HttpSettings {
    HttpSettings {
        idle_timeout: Duration::from_millis(600),
        answer_timeout: Duration::from_millis(900),
        ..settings()
    }
}

pub(crate) fn client_with(url: &str, settings: &HttpSettings) -> SmartHttp {
    SmartHttp::new(
        git_http(settings).unwrap(),
        RepositoryUrl::new(url).unwrap(),
        Arc::new(NoCredentials),
    )
}

pub(crate) fn client(url: &str, version: Version) -> SmartHttp {
    client_with(url, &settings()).with_version(version)
}

/// Returns the wants of a clone: the ids of all refs, each once.
pub(crate) fn all_tips(server: &Advertisement) -> Vec<ObjectId> {
    let mut ids: Vec<_> = server.refs.iter().map(|r| r.id).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// Reads a pack to its end.
pub(crate) async fn collect(fetched: &mut FetchResponse) -> branchline_core::Result<Bytes> {
    let mut pack = Vec::new();
    while let Some(chunk) = fetched.pack.chunk().await? {
        pack.extend_from_slice(&chunk);
    }
    assert_eq!(fetched.pack.chunk().await?, None, "the end stays the end");
    Ok(pack.into())
}

/// Reads and verifies a pack that is not thin: no base may be missing.
pub(crate) async fn verify(repo: &Repo, pack: &Bytes, shallow: &[gix_hash::ObjectId]) -> Resolved {
    let mut connectivity = Connectivity::new(repo.hash, shallow.iter().copied());
    let mut receiver = PackIndexer::new(repo.hash, PackLimits::default());
    for piece in pack.chunks(7919) {
        receiver.push(piece, &mut connectivity).unwrap();
    }
    let arrived = receiver.finish().unwrap();
    let resolved = arrived
        .resolve(pack, &NoBases, &mut connectivity)
        .await
        .unwrap();
    assert!(
        connectivity
            .missing_objects(&resolved, &[])
            .unwrap()
            .is_empty()
    );
    resolved
}
