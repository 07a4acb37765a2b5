//! `git-remote-s3`: git's remote helper protocol (gitremote-helpers(7)) for repositories in S3.
//!
//! | module | content |
//! |---|---|
//! | `protocol`, `options` | lines of the protocol, and what git sets by them |
//! | `session` | the loop over commands |
//! | `connect` | git's services over standard input and output |
//! | `list`, `fetch`, `push` | commands for front ends that do not know `connect` |
//!
//! Git itself uses `connect`: from then on it talks to upload-pack, receive-pack or upload-archive
//! as with any server, which is what makes shallow and partial clones, leases and atomic pushes
//! work.

mod connect;
mod fetch;
mod list;
mod options;
mod protocol;
mod push;
mod session;

use std::io;

use branchline_core::Error;
use tokio::io::{BufReader, stdin, stdout};

use self::session::{Ended, Session};
use crate::exit::ExitStatus;
use crate::failure::one_line;
use crate::invocation::Invocation;
use crate::log::Verbosity;

/// Runs the helper over standard input and output.
pub(crate) async fn run(invocation: &Invocation, verbosity: &Verbosity) -> ExitStatus {
    let arguments: Vec<_> = invocation.arguments.iter().skip(1).collect();
    let [remote, url] = arguments.as_slice() else {
        eprintln!(
            "fatal: usage: git-remote-s3 REMOTE URL; hint: git starts this program for `s3://` \
             URLs, as in `git clone s3://bucket/prefix`"
        );
        return ExitStatus::Usage;
    };
    let (remote, url) = (remote.to_string_lossy(), url.to_string_lossy());
    let session = Session::new(invocation, verbosity, &remote, &url);
    match Box::pin(session.run(BufReader::new(stdin()), stdout())).await {
        Ok(Ended::Done) => ExitStatus::Done,
        Ok(Ended::Reported) => ExitStatus::Failed,
        // Git has ended, and has said why.
        Err(error) if is_closed_pipe(&error) => ExitStatus::Done,
        Err(error) => {
            eprintln!("fatal: {}", one_line(&error));
            ExitStatus::Failed
        }
    }
}

fn is_closed_pipe(error: &Error) -> bool {
    let mut next = std::error::Error::source(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.kind() == io::ErrorKind::BrokenPipe;
        }
        next = error.source();
    }
    false
}
