//! `branchline lfs verify` and `branchline lfs repair`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use branchline_core::git::pack::PackLimits;
use branchline_core::lfs::{LfsStore, LocalLfs, Pointer};
use branchline_core::mirror::{LfsCheck, check_lfs, repair_lfs};
use branchline_core::remote::Remote;
use branchline_core::remote::open::{OpenRemote as _, RemoteSpec};
use branchline_core::remote::url::RemoteUrl;
use branchline_core::{Error, ErrorKind, Result};
use clap::Args;
use serde::Serialize;

use super::location::{LfsLocation, PARALLEL_PARTS, common_directory, place_of_remote};
use crate::connection::{self, MEMORY_BYTES, RemoteSettings, s3_url};
use crate::exit::ExitStatus;
use crate::failure::{explain, one_line};
use crate::interrupt::Resumable;
use crate::invocation::Invocation;
use crate::local_git::{self, GitConfig};
use crate::remotes::TerminalRemotes;

/// Arguments of `branchline lfs verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Reads all objects, and checks their content.
    #[arg(long)]
    content: bool,
    /// Prints the result as JSON.
    #[arg(long)]
    json: bool,
    /// URL in S3 or of a mirror at a web server, or the name of a remote of the current repository.
    #[arg(value_name = "URL")]
    remote: String,
}

/// Arguments of `branchline lfs repair`.
#[derive(Debug, Args)]
pub(crate) struct RepairArgs {
    /// Place of the objects: a URL, the name of a remote, or the path of a repository; the current
    /// repository by default.
    #[arg(long, value_name = "URL")]
    from: Option<String>,
    /// Reads all objects, and also replaces those whose content is wrong.
    #[arg(long)]
    content: bool,
    /// Prints the result as JSON.
    #[arg(long)]
    json: bool,
    /// URL in S3, or the name of a remote of the current repository whose LFS objects are in S3.
    #[arg(value_name = "URL")]
    remote: String,
}

/// A repository with its LFS objects.
struct OpenRepository {
    remote: Arc<dyn Remote>,
    lfs: Arc<dyn LfsStore>,
    is_in_s3: bool,
    profile: Option<String>,
}

/// Result of a command.
#[derive(Debug, Serialize)]
struct Report {
    /// Number of objects that the repository needs.
    objects: usize,
    missing: Vec<DamagedObject>,
    wrong: Vec<DamagedObject>,
    /// Number of objects that were copied.
    #[serde(skip_serializing_if = "Option::is_none")]
    repaired: Option<usize>,
}

/// An object that is not stored as the repository needs it.
#[derive(Debug, Serialize)]
struct DamagedObject {
    oid: String,
    size_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    commit: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    /// Reason why it was not repaired.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl Report {
    fn new(check: &LfsCheck) -> Self {
        let describe = |pointers: &[Pointer]| {
            let pointers = pointers.iter();
            let objects = pointers.map(|pointer| {
                let need = check.needs.get(pointer);
                DamagedObject {
                    oid: pointer.oid.clone(),
                    size_bytes: pointer.size_bytes,
                    commit: need.map(|need| need.commit.to_string()),
                    path: need.map(|need| need.path.to_string()),
                    reason: None,
                }
            });
            objects.collect()
        };
        Self {
            objects: check.objects.len(),
            missing: describe(&check.missing),
            wrong: describe(&check.wrong),
            repaired: None,
        }
    }

    /// Removes the objects that were repaired.
    fn repair(&mut self, unavailable: &BTreeMap<Pointer, Error>) {
        let reason = |object: &DamagedObject| {
            let pointer = Pointer {
                oid: object.oid.clone(),
                size_bytes: object.size_bytes,
            };
            unavailable.get(&pointer).map(one_line)
        };
        let before = self.missing.len() + self.wrong.len();
        for objects in [&mut self.missing, &mut self.wrong] {
            objects.retain_mut(|object| {
                object.reason = reason(object);
                object.reason.is_some()
            });
        }
        self.repaired = Some(before - self.missing.len() - self.wrong.len());
    }

    fn print(&self, json: bool) -> Result<()> {
        if json {
            let text = serde_json::to_string_pretty(self).map_err(|error| {
                Error::new(ErrorKind::Internal, "the result").with_source(error)
            })?;
            println!("{text}");
            return Ok(());
        }
        for (kind, objects) in [("missing", &self.missing), ("wrong  ", &self.wrong)] {
            for object in objects {
                let DamagedObject {
                    oid, size_bytes, ..
                } = object;
                print!("{kind} {oid} ({size_bytes} bytes)");
                if let (Some(commit), Some(path)) = (&object.commit, &object.path) {
                    let path = path.escape_debug();
                    print!(", needed by commit {commit} for `{path}`");
                }
                match &object.reason {
                    Some(reason) => println!(": {reason}"),
                    None => println!(),
                }
            }
        }
        let (missing, wrong) = (self.missing.len(), self.wrong.len());
        match self.repaired {
            Some(repaired) => eprintln!(
                "{} LFS objects: {repaired} repaired, {missing} missing, {wrong} wrong",
                self.objects
            ),
            None => eprintln!(
                "{} LFS objects: {missing} missing, {wrong} wrong",
                self.objects
            ),
        }
        Ok(())
    }

    fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.wrong.is_empty()
    }
}

/// Checks the LFS objects of a repository.
pub(super) async fn verify(invocation: &Invocation, args: &VerifyArgs) -> Result<ExitStatus> {
    let open = OpenRepository::open(invocation, &args.remote).await?;
    let check = open.check(args.content).await?;
    let report = Report::new(&check);
    report.print(args.json)?;
    Ok(if report.is_complete() {
        ExitStatus::Done
    } else {
        ExitStatus::Failed
    })
}

/// Repairs the LFS objects of a repository.
pub(super) async fn repair(invocation: &Invocation, args: &RepairArgs) -> Result<ExitStatus> {
    let open = OpenRepository::open(invocation, &args.remote).await?;
    if !open.is_in_s3 {
        let message = format!("LFS objects cannot be copied to {}", open.lfs);
        return Err(Error::new(ErrorKind::Config, message)
            .with_hint("name the repository in S3, as in `s3://bucket/prefix`"));
    }
    let (from, profile) = source(invocation, args.from.as_deref()).await?;
    let check = open.check(args.content).await?;
    let mut report = Report::new(&check);
    let damaged = [&check.missing[..], &check.wrong].concat();
    let _resumable = Resumable::new("the same command repairs what is left");
    let repaired = repair_lfs(&damaged, &from, &open.lfs).await;
    let unavailable = match repaired {
        Ok(unavailable) => unavailable,
        Err(error) => return Err(explain(error, open.profile.or(profile).as_deref()).await),
    };
    report.repair(&unavailable);
    report.print(args.json)?;
    Ok(match report.repaired {
        _ if report.is_complete() => ExitStatus::Done,
        Some(repaired) if repaired > 0 => ExitStatus::Partial,
        _ => ExitStatus::Failed,
    })
}

impl OpenRepository {
    /// Opens the repository that a URL or a remote of the current repository names, whose LFS
    /// objects are in S3 or at a web server.
    async fn open(invocation: &Invocation, text: &str) -> Result<Self> {
        let config = GitConfig::read().await?;
        let (name, url, place) = if text.contains("://") {
            if let RemoteUrl::Http(url) = RemoteUrl::new(text)? {
                (None, RemoteUrl::Http(url.clone()), LfsLocation::Files(url))
            } else {
                let url = s3_url(text)?;
                (None, RemoteUrl::S3(url.clone()), LfsLocation::S3(url))
            }
        } else {
            let url = local_git::remote_url(text).await?;
            let place = place_of_remote(&config, text, &url).await?;
            (Some(text), RemoteUrl::new(&url)?, place)
        };
        let settings = RemoteSettings::read(&config, name)?;
        let profile = match &place {
            LfsLocation::S3(url) => settings.profile(url).map(str::to_owned),
            LfsLocation::Files(_) => None,
        };
        let opener = connection::opener(invocation, profile.as_deref(), &settings).await?;
        // With the users and passwords of git's credential helpers.
        let terminal = TerminalRemotes::new(invocation)?;
        let lfs = match &place {
            LfsLocation::S3(url) => opener.s3_lfs(url, settings.new_layout(), PARALLEL_PARTS)?,
            LfsLocation::Files(url) => terminal.file_lfs(url).await?,
        };
        // A location without a repository is an error here.
        let spec = RemoteSpec::new(url);
        let is_on_server = matches!(spec.url, RemoteUrl::Http(_));
        let remote = if is_on_server {
            terminal.open(&spec, MEMORY_BYTES).await
        } else {
            opener.open(&spec, MEMORY_BYTES).await
        };
        let remote = match remote {
            Ok(remote) => remote,
            Err(error) => return Err(explain(error, profile.as_deref()).await),
        };
        Ok(Self {
            remote,
            lfs,
            is_in_s3: matches!(place, LfsLocation::S3(_)),
            profile,
        })
    }

    async fn check(&self, content: bool) -> Result<LfsCheck> {
        let limits = PackLimits::default().with_memory(MEMORY_BYTES / 2);
        match check_lfs(&*self.remote, &*self.lfs, limits, content).await {
            Ok(check) => Ok(check),
            Err(error) => Err(explain(error, self.profile.as_deref()).await),
        }
    }
}

/// Opens the place that has objects; returns it with the profile that signs its requests.
async fn source(
    invocation: &Invocation,
    from: Option<&str>,
) -> Result<(Arc<dyn LfsStore>, Option<String>)> {
    let Some(text) = from else {
        let local = LocalLfs::new(common_directory().await?);
        return Ok((Arc::new(local), None));
    };
    let is_name = !text.contains(['/', ':']) && !Path::new(text).exists();
    let (name, text) = if is_name {
        (Some(text), local_git::remote_url(text).await?)
    } else {
        (None, text.to_owned())
    };
    let url = RemoteUrl::new(&text)?;
    let settings = RemoteSettings::read(&GitConfig::read().await?, name)?;
    let profile = match &url {
        RemoteUrl::S3(url) => settings.profile(url).map(str::to_owned),
        RemoteUrl::CodeCommit(url) => url.profile.clone(),
        RemoteUrl::Http(_) | RemoteUrl::Local(_) => None,
    };
    let opener = connection::opener(invocation, profile.as_deref(), &settings).await?;
    let store = if let RemoteUrl::S3(url) = &url {
        Some(opener.s3_lfs(url, settings.new_layout(), PARALLEL_PARTS)?)
    } else {
        let spec = RemoteSpec::new(url.clone());
        opener.open(&spec, MEMORY_BYTES).await?.lfs()
    };
    let store = store.ok_or_else(|| {
        Error::new(
            ErrorKind::Config,
            format!("`{url}` cannot have LFS objects"),
        )
        .with_hint("name another place by `--from`")
    })?;
    Ok((store, profile))
}
