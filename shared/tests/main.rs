//! Tests of the core, as one program, because linking a program takes longer than most tests.
//! `archive_memory` is a program of its own, because it measures its process.

mod archive;
mod client;
mod conformance;
mod git;
mod names;
mod remote;
mod trigger_policy;
mod trigger_snapshots;
mod trigger_wire;
