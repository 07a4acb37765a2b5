//! One module a subject; a test below sees that none is forgotten.

#[expect(
    dead_code,
    clippy::unwrap_used,
    reason = "shared with the tests of remotes, which use more"
)]
#[path = "../../shared/tests/remote/lfs_server.rs"]
mod lfs_server;
#[expect(
    dead_code,
    clippy::unwrap_used,
    reason = "shared with the tests of git's formats, which use more"
)]
#[path = "../../shared/tests/git/repo.rs"]
mod repo;
#[expect(
    dead_code,
    clippy::unwrap_used,
    reason = "shared with the tests of git's formats, which use more"
)]
#[path = "../../shared/tests/git/server.rs"]
mod server;

mod batches;
mod batches_environment;
mod batches_faults;
mod batches_peer;
mod batches_script;
mod bundle;
mod bundle_copies;
mod bundle_peers;
mod bundle_races;
mod conformance;
mod demo;
mod documents;
mod dumb;
mod faults;
mod fleet;
#[expect(
    clippy::unwrap_used,
    reason = "what sets a test up fails it by panicking"
)]
#[path = "../../shared/tests/remote/git_remote.rs"]
mod git_remote;
mod lfs;
mod lifecycle;
mod logs;
mod migrating_from_other_tools;
mod migration;
mod mirror;
mod parameters;
mod peers;
mod privilege;
mod readme;
mod runbook;
mod template;
mod update;
mod zip;

#[test]
fn every_file_is_a_module() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/e2e");
    let own = include_str!("mod.rs");
    for entry in std::fs::read_dir(folder).expect("the folder is there") {
        let name = entry.expect("it is readable").file_name();
        let Some(name) = name.to_str().and_then(|name| name.strip_suffix(".rs")) else {
            continue;
        };
        assert!(
            name == "mod" || own.contains(&format!("mod {name};")),
            "{name} is forgotten"
        );
    }
}
