//! `git-remote-codecommit`: `codecommit://` URLs, signed in to by AWS credentials.
//!
//! | module | content |
//! |---|---|
//! | `location` | the URL: region, profile, and the server's URL |
//! | `regions` | regions that have CodeCommit |
//! | `http_helper` | git's own HTTP helper, which does the work |
//! | `credential` | the credential helper that signs its passwords |
//! | `archive` | `git archive --remote`, which CodeCommit does not serve |
//!
//! A password never is in an argument, a URL or a variable: git asks the credential helper for it,
//! over a pipe, and asks again once the password has expired.

mod archive;
mod credential;
mod http_helper;
mod location;
mod regions;

pub(crate) use self::credential::{NAME as CREDENTIAL, run as run_credential_helper};

use branchline_core::Result;

use self::http_helper::HttpHelper;
use self::location::Location;
use crate::exit::ExitStatus;
use crate::failure::{explain, one_line};
use crate::invocation::Invocation;

/// Runs the helper over standard input and output.
pub(crate) async fn run(invocation: &Invocation) -> ExitStatus {
    let arguments: Vec<_> = invocation.arguments.iter().skip(1).collect();
    let [remote, url] = arguments.as_slice() else {
        eprintln!(
            "fatal: usage: git-remote-codecommit REMOTE URL; hint: git starts this program for \
             `codecommit://` URLs, as in `git clone codecommit://repository`"
        );
        return ExitStatus::Failed;
    };
    let served = async {
        let location = Location::find(invocation, &url.to_string_lossy()).await?;
        let profile = location.url.profile.clone();
        let served: Result<ExitStatus> = async {
            let helper = HttpHelper::start(invocation, remote, &location).await?;
            Box::pin(helper.serve(invocation, &location)).await
        }
        .await;
        match served {
            Ok(status) => Ok(status),
            Err(error) => Err(explain(error, profile.as_deref()).await),
        }
    };
    match served.await {
        Ok(status) => status,
        Err(error) => {
            eprintln!("fatal: {}", one_line(&error));
            ExitStatus::Failed
        }
    }
}
