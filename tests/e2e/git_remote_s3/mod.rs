//! `git-remote-s3` at the terminal: stock git, and the built program on PATH.

mod archives_and_layouts;
mod credentials;
mod documented_commands;
mod environment;
mod failures;
mod install;
mod oracle;
mod peers;
mod simple_protocol;
