//! The cost of a shallow clone in the layout of packs.

use std::fmt::Write as _;
use std::sync::Arc;

use branchline_core::git::HashKind;
use branchline_test_support::git;
use branchline_test_support::repo::Repo;

use super::s3_dumb_fixture;
use super::serve_fixture::{Client, Daemon};

/// Files of the tip, of which each commit changes one.
const FILES: usize = 500;
/// Bytes of a file, in hexadecimal digits.
const FILE_BYTES: usize = 8 << 10;
/// Commits of the history.
const COMMITS: usize = 1_500;

/// A history whose pack is several times as large as its tip.
fn long_history() -> Repo {
    let repo = Repo::new(HashKind::Sha1);
    let mut stream = String::new();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for commit in 0..COMMITS {
        let mut text = String::new();
        while text.len() < FILE_BYTES {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            write!(text, "{state:016x}").unwrap();
        }
        let date = 1_600_000_000 + commit;
        let file = commit % FILES;
        write!(
            stream,
            "commit refs/heads/main\ncommitter C <c@x> {date} +0000\ndata 1\nx\n\
             M 100644 inline d{}/f{file}\ndata {}\n{text}\n",
            file % 7,
            text.len()
        )
        .unwrap();
    }
    let unpack = "fastimport.unpackLimit=0";
    let arguments = ["-c", unpack, "fast-import", "--quiet"];
    repo.input(&arguments, stream.as_bytes());
    repo
}

/// "A shallow clone of the layout `dumb` reads less than twice the size of the tip."
#[tokio::test(flavor = "multi_thread")]
async fn a_shallow_clone_reads_less_than_twice_what_it_sends() {
    let repo = long_history();
    let packed = repo.git(&["count-objects", "-v"]);
    for is_repacked in [false, true] {
        if is_repacked {
            // In git's order, with deltas between the versions of a file.
            repo.git(&["repack", "-a", "-d", "-f", "--quiet"]);
        }
        let world = s3_dumb_fixture::DumbFixture::new();
        world.mirror(&repo).await;
        let daemon = Daemon::start(Arc::new(world.remote())).await;
        let read = || world.store.traffic().bytes("get");
        let client = Client::new();
        let before = read();
        let requests = world.store.traffic().count("get");
        let url = daemon.url();
        let clone = ["clone", "--quiet", "--bare", "--depth=1", &url, "c"];
        client.ok(&clone).await;
        let (bytes, requests) = (
            read() - before,
            world.store.traffic().count("get") - requests,
        );
        let folder = client.path().join("c");
        let fsck = git::git(&folder, ["fsck", "--strict"]).unwrap();
        assert_eq!(fsck, "");
        let sizes = git::git(&folder, ["count-objects", "-v"]).unwrap();
        let size = |name: &str| -> u64 {
            let mut lines = sizes.lines();
            let line = lines.find_map(|line| line.strip_prefix(name)).unwrap();
            1024 * line.trim_start_matches(": ").parse::<u64>().unwrap()
        };
        let tip = size("size") + size("size-pack");
        assert!(
            bytes < 2 * tip,
            "{bytes} bytes were read for a tip of {tip} in {packed}"
        );
        assert!(requests < 120, "{requests} requests");
        println!("{bytes} bytes in {requests} requests for a tip of {tip}");
    }
}
