//! Git's remote helpers at the terminal: stock git, and the built program on PATH.

mod archives_and_layouts;
mod branches;
mod closed_outputs;
mod codecommit;
mod codecommit_archives;
mod codecommit_sign_in;
mod credentials;
mod doctor;
mod doctor_denied;
mod documented_commands;
pub(crate) mod environment;
mod failures;
mod full_disk;
mod install;
mod kills;
mod lfs;
mod oracle;
mod peers;
mod promisors;
mod shared_cache;
mod simple_protocol;
mod states;
