//! `branchline remote`: repositories in S3.

use branchline_core::remote::open::S3Layout;
use branchline_core::remote::{Head, Push};
use branchline_core::{Error, ErrorKind, Result};
use bstr::BString;
use clap::{Args, Subcommand, ValueEnum};

use crate::connection::{self, RemoteSettings, s3_url};
use crate::exit::ExitStatus;
use crate::failure::explain;
use crate::invocation::Invocation;
use crate::local_git::{self, GitConfig};
use crate::manage::branches::{self, BranchArgs, Change};
use crate::manage::doctor::{self, DoctorArgs};
use crate::manage::gc::{self, GcArgs};

#[derive(Debug, Subcommand)]
pub(super) enum RemoteCommand {
    /// Creates an empty repository, whose layout decides how it is stored.
    #[command(after_help = INIT_EXAMPLES)]
    Init(InitArgs),
    /// Examines a repository, and fixes it by `--fix`.
    #[command(after_help = doctor::EXAMPLES)]
    Doctor(DoctorArgs),
    /// Protects a branch against deletion and force.
    Protect(BranchArgs),
    /// Removes the protection of a branch.
    Unprotect(BranchArgs),
    /// Deletes a branch that is not protected and not that of `HEAD`.
    DeleteBranch(BranchArgs),
    /// Lets `HEAD` name a branch, which a clone then checks out.
    SetHead(BranchArgs),
    /// Deletes temporary objects, and merges packs.
    #[command(after_help = gc::EXAMPLES)]
    Gc(GcArgs),
}

const INIT_EXAMPLES: &str = "\
Layouts:
  bundle  one file for each ref, with all its history, as awslabs' git-remote-s3 reads and writes
          them; what a push to an empty prefix makes unless `branchline.layout` says otherwise
  dumb    packs that grow by what is new; stock git also clones them over HTTPS from the bucket

Examples:
  branchline remote init --layout dumb s3://bucket/team/project
  branchline remote init --layout dumb --initial-branch trunk origin";

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// Layout of the repository.
    #[arg(long, value_enum)]
    layout: Layout,
    /// Branch that `HEAD` names.
    #[arg(long, value_name = "NAME", default_value = "main")]
    initial_branch: String,
    /// URL in S3, or the name of a remote of the current repository.
    #[arg(value_name = "URL")]
    remote: String,
    /// Prints the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Layout {
    Bundle,
    Dumb,
}

impl RemoteCommand {
    /// Carries out the command.
    pub(super) async fn run(self, invocation: &Invocation) -> Result<ExitStatus> {
        let change =
            async |args: &BranchArgs, change| branches::run(invocation, args, change).await;
        match self {
            Self::Doctor(args) => return doctor::run(invocation, &args).await,
            Self::Init(args) => init(invocation, args).await,
            Self::Protect(args) => change(&args, Change::Protect).await,
            Self::Unprotect(args) => change(&args, Change::Unprotect).await,
            Self::DeleteBranch(args) => change(&args, Change::Delete).await,
            Self::SetHead(args) => change(&args, Change::SetHead).await,
            Self::Gc(args) => gc::run(invocation, &args).await,
        }?;
        Ok(ExitStatus::Done)
    }
}

/// Creates an empty repository; one that exists in the same layout is left as it is.
pub(crate) async fn init(invocation: &Invocation, args: InitArgs) -> Result<()> {
    let (name, text) = if args.remote.contains("://") {
        (None, args.remote.clone())
    } else {
        let url = local_git::remote_url(&args.remote).await?;
        (Some(args.remote.as_str()), url)
    };
    let url = s3_url(&text)?;
    let branch = format!("refs/heads/{}", args.initial_branch);
    branchline_core::git::check_ref_name(branch.as_str().into()).map_err(|_| {
        let message = format!(
            "`{}` is not a name of a branch",
            args.initial_branch.escape_debug()
        );
        Error::new(ErrorKind::Config, message)
    })?;
    let layout = match args.layout {
        Layout::Bundle => S3Layout::Bundle,
        Layout::Dumb if url.zip => {
            let message = format!("`{url}` can only have the layout `bundle`");
            return Err(Error::new(ErrorKind::Config, message)
                .with_hint("use `s3://`: archives are stored beside bundles only"));
        }
        Layout::Dumb => S3Layout::Dumb,
    };
    let settings = RemoteSettings::read(&GitConfig::read().await?, name)?.with_new_layout(layout);
    let profile = settings.profile(&url).map(str::to_owned);
    let created = async {
        let remote = connection::open(invocation, &url, &settings).await?;
        let mut target = remote.target().await?;
        // The dumb layout accepts a new `HEAD` at any time, and bundles only a first one.
        let is_dumb = target.capabilities().head && !target.capabilities().thin;
        let snapshot = target.snapshot();
        let exists = !snapshot.refs.is_empty() || snapshot.head.is_some();
        if exists && is_dumb != (layout == S3Layout::Dumb) {
            let found = if is_dumb { "dumb" } else { "bundle" };
            let message = format!("`{url}` holds a repository in layout `{found}`");
            return Err(Error::new(ErrorKind::Config, message)
                .with_hint("use another prefix, and push to it"));
        }
        if exists {
            let done = format!("`{url}` holds a repository already, which was not changed");
            return Ok(("unchanged", done));
        }
        if layout == S3Layout::Bundle {
            let done = format!("`{url}` is empty, and the first push makes it a repository");
            return Ok(("empty", done));
        }
        let head = Some(Head::Symbolic(BString::from(branch)));
        target
            .push(Push {
                head,
                ..Push::default()
            })
            .await?;
        Ok(("created", format!("created an empty repository at `{url}`")))
    };
    match created.await {
        Ok((result, done)) => {
            if args.json {
                let layout = if layout == S3Layout::Dumb {
                    "dumb"
                } else {
                    "bundle"
                };
                let report = serde_json::json!({
                    "remote": url.to_string(), "layout": layout, "result": result,
                });
                println!("{report}");
            } else {
                eprintln!("{done}");
            }
            Ok(())
        }
        Err(error) => Err(explain(error, profile.as_deref()).await),
    }
}
