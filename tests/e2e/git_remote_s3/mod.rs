//! `git-remote-s3` at the terminal: stock git, and the built program on PATH.

mod archives_and_layouts;
mod credentials;
mod environment;
mod failures;
mod install;
mod oracle;
mod peers;
mod readme;
mod simple_protocol;
