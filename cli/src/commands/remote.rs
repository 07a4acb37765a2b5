//! `branchline remote`: repositories in S3.

use branchline_core::remote::open::S3Layout;
use branchline_core::remote::{Head, Push};
use branchline_core::{Error, ErrorKind, Result};
use bstr::BString;
use clap::{Args, Subcommand, ValueEnum};

use crate::connection::{self, RemoteSettings, s3_url};
use crate::failure::explain;
use crate::invocation::Invocation;
use crate::local_git::{self, GitConfig};

#[derive(Debug, Subcommand)]
pub(super) enum RemoteCommand {
    /// Creates an empty repository, whose layout decides how it is stored.
    #[command(after_help = INIT_EXAMPLES)]
    Init(InitArgs),
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
pub(super) struct InitArgs {
    /// Layout of the repository.
    #[arg(long, value_enum)]
    layout: Layout,
    /// Branch that `HEAD` names.
    #[arg(long, value_name = "NAME", default_value = "main")]
    initial_branch: String,
    /// URL in S3, or the name of a remote of the current repository.
    #[arg(value_name = "URL")]
    remote: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Layout {
    Bundle,
    Dumb,
}

impl RemoteCommand {
    /// Carries out the command.
    pub(super) async fn run(self, invocation: &Invocation) -> Result<()> {
        match self {
            Self::Init(args) => init(invocation, args).await,
        }
    }
}

/// Creates an empty repository; one that exists in the same layout is left as it is.
async fn init(invocation: &Invocation, args: InitArgs) -> Result<()> {
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
            return Ok(format!(
                "`{url}` holds a repository already, which was not changed"
            ));
        }
        if layout == S3Layout::Bundle {
            return Ok(format!(
                "`{url}` is empty, and the first push makes it a repository"
            ));
        }
        let head = Some(Head::Symbolic(BString::from(branch)));
        target
            .push(Push {
                head,
                ..Push::default()
            })
            .await?;
        Ok(format!("created an empty repository at `{url}`"))
    };
    match created.await {
        Ok(done) => {
            eprintln!("{done}");
            Ok(())
        }
        Err(error) => Err(explain(error, profile.as_deref()).await),
    }
}
