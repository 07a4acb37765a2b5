//! Fuzz targets: every parser of bytes from a server, a bucket, a repository or a caller.
//!
//! A target is a function of bytes. It must return for any input, in little time and memory,
//! and it asserts the properties of accepted input: names are legal, ids match, and the
//! result does not depend on the pieces in which bytes arrive. libFuzzer calls it (`cargo
//! xtask fuzz`), and so do the tests of this package, on stable Rust: with every finding in
//! `findings/<target>/`, with every seed, and with damaged seeds.
//!
//! Targets of git's formats need `branchline-git` only. Targets of the core are behind the
//! feature `core`, which the tests enable.
//!
//! **Adding a target** takes three steps, which a test checks:
//!
//! 1. the function, in the module of its kind: `pub fn name(bytes: &[u8])`;
//! 2. its line in [`TARGETS`], with the function that returns its seeds;
//! 3. `fuzz_targets/name.rs`, a copy of any other with the name changed, and its `[[bin]]`
//!    in `Cargo.toml`.
//!
//! **Turning a finding into a test**: copy the file from `fuzz/artifacts/<target>/` to
//! `fuzz/findings/<target>/` under a name that describes it.

#[cfg(feature = "core")]
pub mod archive;
mod byte_source;
mod canned;
#[cfg(feature = "core")]
mod core_seeds;
pub mod files;
#[cfg(feature = "core")]
pub mod lfs;
pub mod mutate;
#[cfg(feature = "core")]
pub mod names_and_urls;
pub mod pack;
mod pack_builder;
pub mod seeds;
pub mod server;
pub mod url;
pub mod wire;

use seeds::Seeds;

/// A parser under test.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The name of the program of `cargo fuzz`, and of the folder of findings.
    pub name: &'static str,
    /// Runs the parser.
    pub run: fn(&[u8]),
    /// Returns valid input to start from.
    pub seeds: fn(&Seeds) -> Vec<Vec<u8>>,
}

/// All targets, in the order in which `cargo xtask fuzz` runs them.
pub const TARGETS: &[Target] = &[
    target("pkt_line", wire::pkt_line, seeds::pkt_lines),
    target("advertisement", wire::advertisement, seeds::advertisements),
    target("ls_refs", wire::ls_refs, seeds::ls_refs),
    target("fetch", wire::fetch, seeds::fetches),
    target("push", wire::push, seeds::pushes),
    target("serve_fetch", server::serve_fetch, seeds::served_fetches),
    target("serve_push", server::serve_push, seeds::served_pushes),
    target(
        "serve_archive",
        server::serve_archive,
        seeds::served_archives,
    ),
    target("redirect", wire::redirect, seeds::redirects),
    target("pack", pack::pack, seeds::packs),
    target("pack_entries", pack::pack_entries, seeds::pack_entries),
    target("pack_index", pack::pack_index, seeds::pack_indexes),
    target("delta", pack::delta, seeds::deltas),
    target("bundle", files::bundle, seeds::bundles),
    target("info_refs", files::info_refs, seeds::info_refs),
    target("info_packs", files::info_packs, seeds::info_packs),
    target("head", files::head, seeds::heads),
    target("loose", files::loose, seeds::loose),
    target("object", files::object, seeds::objects),
    target("repository_url", url::repository_url, seeds::urls),
    #[cfg(feature = "core")]
    target(
        "remote_url",
        names_and_urls::remote_url,
        core_seeds::remote_urls,
    ),
    #[cfg(feature = "core")]
    target("names", names_and_urls::names, core_seeds::names),
    #[cfg(feature = "core")]
    target("patterns", names_and_urls::patterns, core_seeds::patterns),
    #[cfg(feature = "core")]
    target("triggers", names_and_urls::triggers, core_seeds::triggers),
    #[cfg(feature = "core")]
    target("event", names_and_urls::event, core_seeds::events),
    #[cfg(feature = "core")]
    target("archive", archive::archive, core_seeds::archives),
    #[cfg(feature = "core")]
    target("lfs", lfs::lfs, core_seeds::lfs),
];

const fn target(name: &'static str, run: fn(&[u8]), seeds: fn(&Seeds) -> Vec<Vec<u8>>) -> Target {
    Target { name, run, seeds }
}

/// Runs a future that needs no I/O.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("because a runtime without I/O needs no resources");
    }
    RUNTIME.with(|runtime| runtime.block_on(future))
}
