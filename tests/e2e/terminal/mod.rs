//! `branchline` at a terminal: mirror, archive, migrate, the state of a stack, and its help.

mod archive;
mod archive_contents;
pub(crate) mod document;
mod help;
mod migrate;
mod mirror;
mod mirror_many;
mod mirror_to_files;
mod requests;
mod stack;
