//! `branchline` at a terminal: mirror, archive, migrate, and its help.

mod archive;
pub(crate) mod document;
mod help;
mod migrate;
mod mirror;
mod mirror_many;
mod mirror_to_files;
