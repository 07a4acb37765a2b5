//! `branchline lfs`.

use branchline_core::Result;
use branchline_core::remote::url::RemoteUrl;
use bstr::ByteSlice as _;
use clap::{Args, Subcommand};

use super::check::{RepairArgs, VerifyArgs, repair, verify};
use super::install;
use crate::exit::ExitStatus;
use crate::invocation::Invocation;
use crate::local_git;

#[derive(Debug, Subcommand)]
pub(crate) enum LfsCommand {
    /// Sets up git-lfs in the current repository, for remotes in S3 or for one hosted elsewhere.
    #[command(after_help = INSTALL_EXAMPLES)]
    Install(LfsInstallArgs),
    /// Checks that all LFS objects that a repository needs are stored.
    #[command(after_help = VERIFY_EXAMPLES)]
    Verify(VerifyArgs),
    /// Copies LFS objects that are missing in S3 from the current repository, or from another
    /// remote.
    #[command(after_help = REPAIR_EXAMPLES)]
    Repair(RepairArgs),
}

const INSTALL_EXAMPLES: &str = "\
A clone of `s3://` needs none of this: the remote helper sets git-lfs up. LFS objects of remotes that
are not named stay where they are.

Examples:
  branchline lfs install
  LFS objects of a repository at a git server, in S3:
    branchline lfs install --remote origin --url s3://bucket/team/project
  LFS objects of a `dumb` mirror that is cloned over HTTPS:
    branchline lfs install --remote origin --url https://mirrors.example.com/project
  The same for all mirrors of a web server, so that clones find them:
    branchline lfs install --global --url https://mirrors.example.com";

const VERIFY_EXAMPLES: &str = "\
The status is 1 if an object is missing or wrong. Each is printed with the commit and the path that
need it.

Examples:
  branchline lfs verify s3://bucket/team/project
  branchline lfs verify --content --json origin";

const REPAIR_EXAMPLES: &str = "\
The status is 3 if some objects were copied and others were not found, 1 if none was copied.

Examples:
  branchline lfs repair s3://bucket/team/project
  branchline lfs repair origin --from https://git.example.com/team/project.git";

/// Arguments of `branchline lfs install`.
#[derive(Debug, Args)]
pub(crate) struct LfsInstallArgs {
    /// Remote of the current repository; all that are in S3 by default, with `--url` the only one
    /// or `origin`.
    #[arg(long, value_name = "NAME", conflicts_with = "global")]
    remote: Option<String>,
    /// Place of the LFS objects, if they are not below the remote itself.
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Sets git-lfs up for all repositories below the URL of a web server, for this user.
    #[arg(long, requires = "url")]
    global: bool,
}

impl LfsCommand {
    /// Carries out the command.
    pub(crate) async fn run(self, invocation: &Invocation) -> Result<ExitStatus> {
        match self {
            Self::Install(args) => set_up(args).await.map(|()| ExitStatus::Done),
            Self::Verify(args) => verify(invocation, &args).await,
            Self::Repair(args) => repair(invocation, &args).await,
        }
    }
}

async fn set_up(args: LfsInstallArgs) -> Result<()> {
    let place = args.url.as_deref().map(RemoteUrl::new).transpose()?;
    match (args.remote, place) {
        (None, Some(place)) if args.global => install::install_global(&place).await,
        (None, None) => install::install_all().await,
        (Some(remote), place) => install::install_remote(&remote, place.as_ref()).await,
        (None, place) => {
            let remotes = local_git::output(["remote"], b"").await?;
            let mut remotes = remotes.lines();
            let remote = match (remotes.next(), remotes.next()) {
                (Some(only), None) => only.to_str_lossy().into_owned(),
                _ => "origin".to_owned(),
            };
            install::install_remote(&remote, place.as_ref()).await
        }
    }
}
