//! Remotes, and mirroring between them, with git as the judge.

#![expect(
    clippy::unwrap_used,
    reason = "what helps a test may fail it where it stands"
)]

#[path = "../git/repo.rs"]
mod repo;
#[expect(
    dead_code,
    reason = "shared with the tests of git's formats, which use more"
)]
#[path = "../git/server.rs"]
mod server;

mod batch;
mod git_remote;
mod hostile_sources;
mod http;
mod interrupted;
mod lfs;
mod lfs_mirror;
mod lfs_server;
mod local;
mod local_crashes;
mod objects;
mod pack_cache;
mod pack_cache_corruption;
mod pack_objects;
mod prefetch;
mod proxy;
mod push_by_size;
mod s3_bundle;
mod s3_bundle_crashes;
mod s3_bundle_faults;
mod s3_bundle_fixture;
mod s3_bundle_foreign;
mod s3_bundle_interleaving_harness;
mod s3_bundle_interleavings;
mod s3_bundle_races;
mod s3_bundle_zip;
mod s3_dumb;
mod s3_dumb_faults;
mod s3_dumb_fixture;
mod s3_dumb_packs;
mod s3_dumb_races;
