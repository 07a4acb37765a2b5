//! Symbolic links to the program, and the programs that they are in the way of.

use std::env::consts::EXE_SUFFIX;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use branchline_core::{Error, ErrorKind, Result};
use serde::Serialize;
use tokio::process::Command;

use super::io_error;
use super::record::{Record, RecordedLink};
use crate::invocation::Invocation;
use crate::names::NAMES;
use crate::system;

/// Name of the program itself.
pub(super) const PROGRAM: &str = "branchline";

/// Result of one link.
#[derive(Debug, Serialize)]
pub(super) struct LinkReport {
    name: &'static str,
    path: PathBuf,
    result: LinkResult,
    /// The program that git runs for this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    git_runs: Option<PathBuf>,
    /// Programs of this name that git does not run any more.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    shadows: Vec<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum LinkResult {
    Created,
    Replaced,
    Unchanged,
    Removed,
    /// The link was changed by someone else, and stays.
    Kept,
}

impl LinkReport {
    /// Prints the result for people.
    pub(super) fn print(&self) {
        let path = self.path.display();
        println!(
            "{} {path}",
            match self.result {
                LinkResult::Created => "created  ",
                LinkResult::Replaced => "replaced ",
                LinkResult::Unchanged => "unchanged",
                LinkResult::Removed => "removed  ",
                LinkResult::Kept => "kept     ",
            }
        );
        if matches!(self.result, LinkResult::Removed | LinkResult::Kept) {
            return;
        }
        let directory = self.path.parent().unwrap_or(&self.path).display();
        match &self.git_runs {
            Some(found) if *found == self.path => {}
            Some(found) => println!(
                "          git runs {} for this name; put {directory} before its directory in PATH",
                found.display()
            ),
            None => println!("          git does not find it; put {directory} into PATH"),
        }
        for shadowed in &self.shadows {
            println!("          takes precedence over {}", shadowed.display());
        }
    }
}

/// State of the place of a link.
enum Found {
    Nothing,
    /// A link to the program, or its launcher.
    Ours,
    Other,
}

/// Maximum length of a launcher in bytes.
const MAX_LAUNCHER_BYTES: u64 = 1024;

/// Returns whether a file is the launcher of a name, which the Python package `branchline-launchers`
/// has, and runs `program` beside it.
fn is_launcher(path: &Path, name: &str, program: &Path) -> bool {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| {
        let mut file = file.take(MAX_LAUNCHER_BYTES);
        file.read_to_string(&mut text)
    });
    let beside = path.with_file_name(file_name(PROGRAM));
    read.is_ok()
        && text == format!("#!/bin/sh\nexec \"${{0%/*}}/branchline\" --as {name} \"$@\"\n")
        && beside.canonicalize().is_ok_and(|found| found == program)
}

fn find(path: &Path, program: &Path) -> Result<Found> {
    match path.symlink_metadata() {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(io_error("reading", path, error)),
    }
    let is_ours = system::is_link_to(path, program);
    let name = path.file_name().and_then(|name| name.to_str());
    let is_ours = is_ours || name.is_some_and(|name| is_launcher(path, name, program));
    Ok(if is_ours { Found::Ours } else { Found::Other })
}

/// Returns the names of the links in a directory: those of the applets, and `branchline` where the
/// program itself is elsewhere.
fn names(directory: &Path, program: &Path) -> impl Iterator<Item = &'static str> {
    let is_elsewhere = program.parent() != Some(directory);
    let applets = NAMES.iter().map(|(name, ..)| *name);
    applets.chain(is_elsewhere.then_some(PROGRAM))
}

/// Returns the name of the file of a program.
pub(super) fn file_name(name: &str) -> String {
    format!("{name}{EXE_SUFFIX}")
}

/// Checks all places before anything is written.
///
/// # Errors
/// `Config` for another program in the place of a link, unless `force`; never for a directory.
pub(super) fn check(directory: &Path, program: &Path, force: bool) -> Result<()> {
    for name in names(directory, program) {
        let path = directory.join(file_name(name));
        let shown = path.display();
        if path.is_dir() {
            let message = format!("`{shown}` is a directory");
            return Err(Error::new(ErrorKind::Config, message));
        }
        if matches!(find(&path, program)?, Found::Other) && !force {
            let message = format!("`{shown}` belongs to a different program");
            return Err(Error::new(ErrorKind::Config, message).with_hint(
                "`--force` replaces it; `--dir` names another directory, which must come before \
                 this one in PATH",
            ));
        }
    }
    Ok(())
}

/// Creates the links that are missing, and adds them to the record.
pub(super) fn create(
    directory: &Path,
    program: &Path,
    search: &[PathBuf],
    record: &mut Record,
) -> Result<Vec<LinkReport>> {
    let mut reports = Vec::new();
    for name in names(directory, program) {
        let path = directory.join(file_name(name));
        let result = match find(&path, program)? {
            Found::Ours => LinkResult::Unchanged,
            Found::Nothing => LinkResult::Created,
            Found::Other => LinkResult::Replaced,
        };
        if result != LinkResult::Unchanged {
            let target = match program.strip_prefix(directory) {
                // A relative link survives a move of the directory.
                Ok(relative) => relative.to_owned(),
                Err(_) => program.to_owned(),
            };
            link(&target, &path)?;
            record.links.retain(|link| link.path != path);
            record.links.push(RecordedLink {
                path: path.clone(),
                target,
            });
        }
        let mut found = programs(name, search);
        let git_runs = (!found.is_empty()).then(|| found.remove(0));
        let is_first = git_runs.as_ref() == Some(&path);
        found.retain(|other| *other != path);
        reports.push(LinkReport {
            name,
            path,
            result,
            git_runs,
            shadows: if is_first { found } else { Vec::new() },
        });
    }
    Ok(reports)
}

/// Writes a link in one step, so that another program of the name is never missing.
fn link(target: &Path, path: &Path) -> Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}", std::process::id()));
    let temporary = PathBuf::from(temporary);
    system::link(target, &temporary).map_err(|error| io_error("creating", &temporary, error))?;
    std::fs::rename(&temporary, path).map_err(|error| {
        let _ = std::fs::remove_file(&temporary);
        io_error("creating", path, error)
    })
}

/// Removes the recorded links that are unchanged.
pub(super) fn remove(record: &mut Record) -> Result<Vec<LinkReport>> {
    let mut reports = Vec::new();
    for link in std::mem::take(&mut record.links) {
        let RecordedLink { path, target } = &link;
        let result = match system::is_unchanged_link(path, target) {
            Ok(true) => {
                std::fs::remove_file(path).map_err(|error| io_error("removing", path, error))?;
                LinkResult::Removed
            }
            // Removed by someone else.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            _ => LinkResult::Kept,
        };
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.and_then(|name| name.strip_suffix(EXE_SUFFIX));
        let mut known = NAMES.iter().map(|(known, ..)| *known);
        let known = known.find(|known| Some(*known) == name);
        reports.push(LinkReport {
            name: known.unwrap_or(PROGRAM),
            path: link.path,
            result,
            git_runs: None,
            shadows: Vec::new(),
        });
    }
    Ok(reports)
}

/// Returns the directories in which git searches for helpers: its own, then those of PATH.
pub(super) async fn search_path(invocation: &Invocation) -> Vec<PathBuf> {
    let mut directories = Vec::new();
    let mut git = Command::new("git");
    git.arg("--exec-path").stdin(Stdio::null());
    if let Ok(output) = git.output().await
        && let Ok(path) = String::from_utf8(output.stdout)
    {
        directories.push(PathBuf::from(path.trim_end()));
    }
    if let Some(path) = invocation.variable("PATH") {
        directories.extend(std::env::split_paths(path));
    }
    directories
}

/// Returns the programs of a name, the first of which is run.
fn programs(name: &str, search: &[PathBuf]) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for directory in search {
        // The directory of a link is known without symbolic links.
        let directory = directory
            .canonicalize()
            .unwrap_or_else(|_| directory.clone());
        let path = directory.join(file_name(name));
        if path.metadata().is_ok_and(|file| system::runs(&file)) && !found.contains(&path) {
            found.push(path);
        }
    }
    found
}
