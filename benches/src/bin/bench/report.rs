//! Writes `docs/benchmarks.md` and its plots from the results of all measurements.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use branchline_benches::{document, results};
use clap::Args;

/// Writes the document.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Folder of the results: one file for each measurement, `archive.json`.
    #[arg(long)]
    results: PathBuf,
    /// Folder of the documents.
    #[arg(long)]
    docs: PathBuf,
    /// Profile of the programs that were measured.
    #[arg(long, default_value = "release")]
    profile: String,
    /// Measurement that failed.
    #[arg(long)]
    failed: Vec<String>,
}

/// Measurements with the heads of their parts of the document, in order.
const PARTS: [(&str, &str); 6] = [
    ("archive", "Archives: the update function"),
    (
        "mirror",
        "Mirrors into S3: the migration function and mirror-git-to-s3",
    ),
    ("remote", "Bundle remotes: a change of two bytes in 60 MB"),
    (
        "terminal",
        "git at `s3://`: the remote helper and git-remote-s3",
    ),
    (
        "lfs",
        "Objects of git LFS in S3: the agent and git-lfs-s3; `codecommit://`",
    ),
    (
        "migrate",
        "Migrations to CodeCommit: batches and one `git push`",
    ),
];

/// Writes the document and its plots.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let plots = arguments.docs.join("benchmarks");
    // Plots of an earlier run may have other names.
    if plots.exists() {
        std::fs::remove_dir_all(&plots).with_context(|| plots.display().to_string())?;
    }
    std::fs::create_dir_all(&plots).with_context(|| plots.display().to_string())?;
    let mut text = head(&arguments.profile);
    for (name, title) in PARTS {
        let path = arguments.results.join(format!("{name}.json"));
        let has_failed = arguments.failed.iter().any(|failed| failed == name);
        if !has_failed && !path.is_file() {
            continue;
        }
        let _ = writeln!(text, "## {title}\n");
        if has_failed {
            text.push_str("This measurement failed, so that there are no figures.\n\n");
            continue;
        }
        for (number, section) in (1..).zip(results::read(&path)?) {
            let file = format!("{name}-{number}.svg");
            text.push_str(&document::table(&section, &format!("benchmarks/{file}")));
            write(&plots.join(file), &document::plot(&section))?;
        }
    }
    let document = arguments.docs.join("benchmarks.md");
    write(&document, &format!("{}\n", text.trim_end()))?;
    println!("wrote {}", document.display());
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| path.display().to_string())
}

/// Returns the start of the document: the method, and the machine.
fn head(profile: &str) -> String {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kibibytes = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    let gibibytes = kibibytes.map_or(0, |kibibytes| kibibytes.div_ceil(1 << 20));
    let warning = if profile == "dev" {
        "**These are figures of a development build: they show that the measurements work, and are not to be quoted.**\n\n"
    } else {
        ""
    };
    format!(
        "# Benchmarks\n\n\
         `cargo xtask bench all` measures everything here in one run, and writes this file.\n\n\
         {warning}\
         **Method.** {processors} processors, {gibibytes} GiB of memory, build `{profile}` of the programs and of \
         the development server, which stands for AWS on the same machine. Times are wall times of one run, measured \
         by the caller; peak memory is that of the process (`VmHWM`); requests are counted by the server, and bytes by \
         the link where there is one. Peers run in the same environment, against the same server, over the same link. \
         A ratio compares a run with the named one of its table, so that it holds on other machines, too; grey bars are \
         what is compared with. The bootstraps are built together with the other programs; a deployed one is built alone. Every result is checked: archives with `git archive`, mirrors and pushes with git.\n\n"
    )
}
