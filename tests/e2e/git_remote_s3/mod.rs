//! Git's remote helpers at the terminal: stock git, and the built program on PATH.

mod archives_and_layouts;
mod branches;
mod codecommit;
mod codecommit_archives;
mod codecommit_sign_in;
mod credentials;
mod doctor;
mod documented_commands;
pub(crate) mod environment;
mod failures;
mod install;
mod lfs;
mod oracle;
mod peers;
mod simple_protocol;
