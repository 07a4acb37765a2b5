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

mod ahead;
mod batch;
mod cut;
mod git_remote;
mod harm;
mod http;
mod lfs;
mod lfs_mirror;
mod lfs_server;
mod local;
mod local_harm;
mod objects;
mod pieces;
mod proxy;
mod s3_bundle;
mod s3_bundle_copies;
mod s3_bundle_copies_harm;
mod s3_bundle_crashes;
mod s3_bundle_faults;
mod s3_bundle_foreign;
mod s3_bundle_orders;
mod s3_bundle_races;
mod s3_bundle_world;
mod s3_bundle_writers;
mod s3_bundle_zip;
mod s3_dumb;
mod s3_dumb_faults;
mod s3_dumb_packs;
mod s3_dumb_races;
mod s3_dumb_world;
mod sending;
