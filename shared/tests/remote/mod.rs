//! Remotes, and mirroring between them, with git as the judge.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails the test by panicking"
)]

mod batch;
mod dumb_http;
mod hostile_sources;
mod http;
mod independent_servers;
mod interrupted;
mod leftovers;
mod lfs;
mod lfs_agent_stores;
mod lfs_at_once;
mod lfs_config;
mod lfs_fixture;
mod lfs_local;
mod lfs_mirror;
mod lfs_missing;
mod lfs_model;
mod lfs_on_servers;
mod lfs_resumed;
mod local;
mod local_crashes;
mod mirror_model;
mod objects;
mod pack_cache;
mod pack_cache_corruption;
mod pack_objects;
mod prefetch;
mod proxy;
mod push_by_size;
mod ref_layouts;
mod refs;
mod s3_bundle;
mod s3_bundle_atomic;
mod s3_bundle_crashes;
mod s3_bundle_faults;
mod s3_bundle_first_push;
mod s3_bundle_fixture;
mod s3_bundle_foreign;
mod s3_bundle_interleaving_harness;
mod s3_bundle_interleavings;
mod s3_bundle_lock;
mod s3_bundle_races;
mod s3_bundle_zip;
mod s3_dumb;
mod s3_dumb_faults;
mod s3_dumb_fixture;
mod s3_dumb_packs;
mod s3_dumb_prune;
mod s3_dumb_races;
mod serve;
mod serve_archive;
mod serve_fixture;
mod serve_push;
mod serve_shallow;
