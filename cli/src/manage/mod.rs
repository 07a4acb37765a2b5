//! Repositories in S3: examined, repaired and kept up, as `branchline remote` and as `git-s3`.
//!
//! | module | content |
//! |---|---|
//! | `located` | the repository that a command line names |
//! | `doctor` | problems, and their fixes |
//! | `branches` | protection, deletion, and `HEAD` |
//! | `gc` | temporary objects and packs |
//! | `git_s3` | the command line of `git-s3` |

pub(crate) mod branches;
pub(crate) mod doctor;
pub(crate) mod gc;
mod git_s3;
mod located;

pub(crate) use self::git_s3::run as run_git_s3;
