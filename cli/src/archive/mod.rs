//! `branchline archive`: the files of a revision as tar or zip, from remotes of every kind.
//!
//! | module | job |
//! |---|---|
//! | `revision` | `REMOTE@REV` |
//! | `objects` | opens the objects of the revision |
//! | `history` | the history of the revision, where a file asks for it |
//! | `submodules` | the repositories of submodules |
//! | `output` | the file or pipe that the archive is written to |
//! | `working_tree` | the `.gitattributes` of a working tree |

mod history;
mod objects;
mod output;
mod revision;
mod submodules;
mod working_tree;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use branchline_core::archive::{
    ArchiveRequest, ExtraFile, PathSelection, archive_objects, stored_archive,
};
use branchline_core::git::ObjectId;
use branchline_core::git::pack::PackLimits;
use branchline_core::git::server::{ARCHIVE_FORMATS, ArchiveFormat, ArchivePiece, tree_of};
use branchline_core::lfs::LfsStore;
use branchline_core::os;
use branchline_core::remote::Source;
use branchline_core::remote::open::{OpenRemote as _, RemoteSpec};
use branchline_core::remote::url::RemoteUrl;
use branchline_core::{Error, ErrorKind, Result};
use clap::Args;
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use self::history::SourceHistory;
use self::output::Output;
use self::revision::Revision;
use self::submodules::TerminalSubmodules;
use self::working_tree::WorkingTreeAttributes;
use crate::connection::MEMORY_BYTES;
use crate::exit::ExitStatus;
use crate::invocation::Invocation;
use crate::local_git;
use crate::progress::{Meter, Progress, ProgressForm, size, size_and_rate};
use crate::remotes::{TerminalRemotes, explain_for};

const EXAMPLES: &str = "\
REMOTE is a URL, a path, or the name of a remote of this repository, and REV a branch, a tag, a ref
or a commit id, or `REV:FOLDER`; `HEAD` without it. The archive equals that of `git archive`.

Examples:
  branchline archive codecommit://demo@v1.0 -o demo.zip
  branchline archive s3://bucket/team/project@main docs -o docs.tar.gz
  branchline archive https://example.org/demo.git --format tar | tar x
  branchline archive . --rev HEAD~3 --prefix demo/ --add-file VERSION -9 -o demo.tgz
  branchline archive codecommit://demo@v1.0 --lfs=s3://bucket/demo -o demo.zip";

/// Arguments of `branchline archive`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an option of the command line"
)]
pub(crate) struct ArchiveArgs {
    /// Remote, and revision after an `@`.
    #[arg(value_name = "REMOTE[@REV]", required_unless_present = "list")]
    remote: Option<String>,
    /// Paths to archive, as git's pathspecs; all by default.
    #[arg(value_name = "PATH")]
    paths: Vec<String>,
    /// Revision; REMOTE is not split at an `@` then.
    #[arg(long, value_name = "REV")]
    rev: Option<String>,
    /// `tar`, `tgz`, `tar.gz` or `zip`; by default that of the output's name, or `tar`.
    #[arg(long, value_name = "FORMAT", value_parser = format)]
    format: Option<ArchiveFormat>,
    /// Text before each path, such as `project-1.0/`; also before those of added files.
    #[arg(long, default_value = "", hide_default_value = true)]
    prefix: String,
    /// File to write, instead of standard output.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Adds a file of the disk, under its name; can be repeated.
    #[arg(long = "add-file", value_name = "FILE")]
    add_files: Vec<PathBuf>,
    /// Level of the compression, from 0 (none) to 9; also `-0` to `-9`.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=9))]
    level: Option<u32>,
    #[command(flatten)]
    levels: LevelFlags,
    /// Time of all entries instead of that of the commit: `@SECONDS` since 1970, or a date as git
    /// reads it, such as `2024-02-29` or `2.days.ago`.
    #[arg(long, value_name = "DATE", allow_hyphen_values = true)]
    mtime: Option<String>,
    /// Archives the objects of git LFS instead of their pointers: those of the remote, or at a URL
    /// such as `s3://bucket/prefix`.
    #[arg(
        long,
        value_name = "URL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = ""
    )]
    lfs: Option<String>,
    /// Archives the files of submodules, at the commits that the revision pins.
    #[arg(long)]
    submodules: bool,
    /// Archives files with the attribute `export-ignore` as well.
    #[arg(long)]
    no_export_ignore: bool,
    /// Reads `.gitattributes` from the working tree of a local repository instead of the revision.
    #[arg(long)]
    worktree_attributes: bool,
    /// Prints the formats.
    #[arg(long, short)]
    list: bool,
    /// Prints events and the result as JSON, one a line; needs `--output`.
    #[arg(long, requires = "output")]
    pub(crate) json: bool,
    /// Prints only errors.
    #[arg(long, short)]
    quiet: bool,
}

/// Parses the name of a format.
fn format(text: &str) -> Result<ArchiveFormat, String> {
    let mut formats = ARCHIVE_FORMATS.iter();
    let found = formats.find(|(name, _)| *name == text);
    found.map(|(_, format)| *format).ok_or_else(|| {
        let names: Vec<_> = ARCHIVE_FORMATS.iter().map(|(name, _)| *name).collect();
        format!("use one of {}", names.join(", "))
    })
}

/// Levels of the compression as `git archive` takes them.
#[derive(Debug, Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an option of the command line"
)]
struct LevelFlags {
    #[arg(short = '0', hide = true)]
    level_0: bool,
    #[arg(short = '1', hide = true)]
    level_1: bool,
    #[arg(short = '2', hide = true)]
    level_2: bool,
    #[arg(short = '3', hide = true)]
    level_3: bool,
    #[arg(short = '4', hide = true)]
    level_4: bool,
    #[arg(short = '5', hide = true)]
    level_5: bool,
    #[arg(short = '6', hide = true)]
    level_6: bool,
    #[arg(short = '7', hide = true)]
    level_7: bool,
    #[arg(short = '8', hide = true)]
    level_8: bool,
    #[arg(short = '9', hide = true)]
    level_9: bool,
}

impl LevelFlags {
    /// Returns the highest level that is set.
    fn level(&self) -> Option<u32> {
        let flags = [
            self.level_0,
            self.level_1,
            self.level_2,
            self.level_3,
            self.level_4,
            self.level_5,
            self.level_6,
            self.level_7,
            self.level_8,
            self.level_9,
        ];
        (0..)
            .zip(flags)
            .filter(|(_, is_set)| *is_set)
            .map(|(level, _)| level)
            .last()
    }
}

/// Returns the seconds since 1970 that a text stands for: a number, or a date that git reads.
///
/// # Errors
/// `Config` for a date where git is not installed.
async fn seconds(text: &str) -> Result<i64> {
    let number = text.strip_prefix('@').unwrap_or(text);
    if let Ok(seconds) = number.parse() {
        return Ok(seconds);
    }
    if text == "now" {
        return Ok(now());
    }
    local_git::seconds_of_date(text).await.map_err(|error| {
        let shown = text.escape_debug();
        error
            .context(format!("`--mtime={shown}` cannot be read"))
            .with_hint("give seconds since 1970, as in `--mtime=@1700000000`")
    })
}

/// Returns the format that the name of a file stands for.
fn format_of(output: Option<&Path>) -> ArchiveFormat {
    let name = output
        .and_then(Path::file_name)
        .and_then(|name| name.to_str());
    let ends = |format: &&(&str, ArchiveFormat)| {
        name.is_some_and(|name| name.ends_with(&format!(".{}", format.0)))
    };
    let found = ARCHIVE_FORMATS.iter().find(ends);
    found.map_or(ArchiveFormat::Tar, |(_, format)| *format)
}

/// Counters of an archive in progress.
#[derive(Debug, Default)]
struct ArchiveMeter {
    received_bytes: AtomicU64,
    written_bytes: AtomicU64,
}

impl ArchiveMeter {
    fn add_received(&self, bytes: u64) {
        self.received_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn add_written(&self, bytes: u64) {
        self.written_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Meter for ArchiveMeter {
    fn parts(&self, time: Duration) -> Vec<String> {
        let received = self.received_bytes.load(Ordering::Relaxed);
        let written = self.written_bytes.load(Ordering::Relaxed);
        match (received, written) {
            (0, 0) => Vec::new(),
            (received, 0) => vec![format!("received {}", size_and_rate(received, time))],
            (_, written) => vec![format!("wrote {}", size_and_rate(written, time))],
        }
    }

    fn fields(&self) -> Value {
        json!({
            "received_bytes": self.received_bytes.load(Ordering::Relaxed),
            "written_bytes": self.written_bytes.load(Ordering::Relaxed),
        })
    }
}

/// Carries out `branchline archive`.
///
/// # Errors
/// `Config` for options that are not valid, `NotFound` for an unknown revision, and failures to read
/// the remote or to write the archive.
pub(crate) async fn archive(invocation: &Invocation, args: ArchiveArgs) -> Result<ExitStatus> {
    if args.list {
        for (name, _) in ARCHIVE_FORMATS {
            println!("{name}");
        }
        return Ok(ExitStatus::Done);
    }
    let text = args.remote.as_deref().unwrap_or_default();
    let (remote, rev) = match &args.rev {
        Some(rev) => (text.to_owned(), Some(rev.clone())),
        None => revision::split(text).await,
    };
    let remotes = Arc::new(TerminalRemotes::new(invocation)?);
    let url = RemoteUrl::new(&remotes.resolve(&remote).await?)?;
    let revision = Revision::new(rev.as_deref());
    let archived = write_archive(invocation, &remotes, &args, (&url, &revision)).await;
    match archived {
        Ok((id, bytes)) => {
            print_result(&args, id, bytes);
            Ok(ExitStatus::Done)
        }
        Err(error) => Err(explain_for(error, &[&url]).await),
    }
}

/// Writes the archive; returns the id that the revision names, and the size of the archive.
async fn write_archive(
    invocation: &Invocation,
    remotes: &Arc<TerminalRemotes>,
    args: &ArchiveArgs,
    (url, revision): (&RemoteUrl, &Revision),
) -> Result<(ObjectId, u64)> {
    let paths = PathSelection::new(&args.paths)?;
    let extra_files = extra_files(&args.prefix, &args.add_files)?;
    let time = match &args.mtime {
        Some(text) => Some(seconds(text).await?),
        None => None,
    };
    let attributes = if args.worktree_attributes {
        Some(Arc::new(WorkingTreeAttributes::of(url)?) as _)
    } else {
        None
    };
    let mut output = Output::open(args.output.as_deref())?;
    let progress = Progress::start(ProgressForm::of(invocation, args.json, args.quiet));
    let meter = Arc::<ArchiveMeter>::default();
    let line = progress.add(0, url.to_string(), "reading", Arc::clone(&meter) as _);
    let spec = RemoteSpec::new(url.clone());
    let remote = remotes.open(&spec, MEMORY_BYTES).await?;
    let source: Arc<dyn Source> = Arc::from(remote.source(&[]).await?);
    let id = revision.resolve(url, source.snapshot()).await?;
    let temporary = invocation.variable("TMPDIR");
    let temporary = temporary.map_or(Path::new("/tmp"), Path::new);
    let limits = PackLimits::default().with_memory(MEMORY_BYTES / 2);
    let objects = objects::open(&*source, id, limits, temporary, &meter).await?;
    let (commit, tree) = tree_of(&objects, id, revision.folder.as_deref()).await?;
    let history = commit.map(|id| SourceHistory {
        source,
        id,
        limits,
        temporary: temporary.to_owned(),
        meter: Arc::clone(&meter),
        opened: OnceCell::new(),
        listed: OnceCell::new(),
    });
    let submodules = args.submodules.then(|| TerminalSubmodules {
        remotes: Arc::clone(remotes),
        root: absolute(url),
        with_lfs: args.lfs.is_some(),
        limits,
        temporary: temporary.to_owned(),
        meter: Arc::clone(&meter),
    });
    let request = ArchiveRequest {
        submodules: submodules.map(|submodules| Arc::new(submodules) as _),
        history: history.map(|history| Arc::new(history) as _),
        attributes,
        export_ignore: !args.no_export_ignore,
        prefix: args.prefix.clone(),
        extra_files,
        paths,
        time,
        level: args.level.or_else(|| args.levels.level()),
        lfs: lfs_store(remotes, args.lfs.as_deref(), url, commit).await?,
        ..stored_archive(&objects, commit, tree, now()).await?
    };
    let format = args
        .format
        .unwrap_or_else(|| format_of(args.output.as_deref()));
    let mut body = archive_objects(objects, request, format);
    let mut written = 0;
    while let Some(piece) = body.next().await.transpose()? {
        if let ArchivePiece::Data(bytes) = piece {
            let length = bytes.len() as u64;
            output.write(bytes).await?;
            written += length;
            meter.add_written(length);
        }
    }
    output.finish()?;
    drop((line, progress));
    Ok((id, written))
}

/// Returns a URL, with the whole path of a repository on the disk.
fn absolute(url: &RemoteUrl) -> String {
    match url {
        RemoteUrl::Local(path) => {
            let whole = std::path::absolute(path);
            whole.as_deref().unwrap_or(path).display().to_string()
        }
        url => url.to_string(),
    }
}

/// Opens the objects of git LFS that `text` names; if it is empty those of the remote at `url`, and of
/// the place that the `.lfsconfig` of `commit` names.
async fn lfs_store(
    remotes: &TerminalRemotes,
    text: Option<&str>,
    url: &RemoteUrl,
    commit: Option<ObjectId>,
) -> Result<Option<Arc<dyn LfsStore>>> {
    let Some(text) = text else {
        return Ok(None);
    };
    let remote = if text.is_empty() {
        let spec = RemoteSpec::new(url.clone());
        match commit {
            Some(commit) => remotes.open_archived(&spec, MEMORY_BYTES, commit).await?,
            None => remotes.open(&spec, MEMORY_BYTES).await?,
        }
    } else {
        let spec = RemoteSpec::new(RemoteUrl::new(&remotes.resolve(text).await?)?);
        remotes.open(&spec, MEMORY_BYTES).await?
    };
    let store = match remote.lfs() {
        Some(store) if store.has_place().await? => Some(store),
        _ => None,
    };
    let Some(store) = store else {
        let shown = if text.is_empty() {
            url.to_string()
        } else {
            text.to_owned()
        };
        return Err(
            Error::new(ErrorKind::Config, format!("`{shown}` has no LFS objects")).with_hint(
                "name the remote that has them, as in `--lfs=s3://bucket/prefix`, or in \
                     `.lfsconfig`",
            ),
        );
    };
    Ok(Some(store))
}

fn print_result(args: &ArchiveArgs, id: ObjectId, bytes: u64) {
    let Some(output) = &args.output else {
        return;
    };
    let output = output.display();
    if args.json {
        let result = json!({
            "event": "result",
            "id": id.to_string(),
            "output": output.to_string(),
            "bytes": bytes,
        });
        println!("{result}");
    } else if !args.quiet {
        eprintln!("wrote {} of {id} to `{output}`", size(bytes));
    }
}

/// Reads the files that are added.
fn extra_files(prefix: &str, paths: &[PathBuf]) -> Result<Vec<ExtraFile>> {
    let read = |path: &PathBuf| {
        let failed = |error| {
            let message = format!("`{}` cannot be read", path.display());
            Error::new(ErrorKind::Config, message).with_source(error)
        };
        let bytes = std::fs::read(path).map_err(failed)?;
        let found = std::fs::metadata(path).map_err(failed)?;
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| {
            let message = format!("the name of `{}` is not UTF-8", path.display());
            Error::new(ErrorKind::Config, message)
        })?;
        Ok(ExtraFile {
            path: format!("{prefix}{name}"),
            bytes: bytes.into(),
            executable: os::is_executable(&found),
        })
    };
    paths.iter().map(read).collect()
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_output_chooses_the_format() {
        for (name, expected) in [
            ("a.zip", ArchiveFormat::Zip),
            ("a.tar", ArchiveFormat::Tar),
            ("a.tgz", ArchiveFormat::TarGz),
            ("x/a.tar.gz", ArchiveFormat::TarGz),
            ("zip", ArchiveFormat::Tar),
            ("a.gz", ArchiveFormat::Tar),
        ] {
            assert_eq!(format_of(Some(Path::new(name))), expected, "{name}");
        }
        assert_eq!(format_of(None), ArchiveFormat::Tar);
    }

    #[test]
    fn a_format_that_is_not_known_names_the_remedy() {
        assert_eq!(format("zip"), Ok(ArchiveFormat::Zip));
        assert!(format("rar").unwrap_err().contains("tar, tgz, tar.gz, zip"));
    }
}
