//! Repositories of a known shape, the same at every run.

use std::fmt::Write as _;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail, ensure};
use branchline_test_support::git;

/// Date of the first commit, in seconds since the epoch.
const START: usize = 1_600_000_000;

/// Makes a bare repository of the stream that `write` sends to `git fast-import`, in one pack.
pub fn repository(folder: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let parent = folder.parent().context("a repository is in a folder")?;
    let mut init = git::command(parent);
    init.args(["init", "--quiet", "--bare", "--initial-branch=main"]);
    git::run(init.arg(folder))?;
    import(folder, write)
}

/// Imports the stream that `write` sends to `git fast-import` into a repository.
pub fn import(folder: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let mut import = git::command(folder);
    import
        .args(["-c", "fastimport.unpackLimit=0"])
        .args(["-c", "core.bigFileThreshold=1m"])
        .args(["fast-import", "--quiet"])
        .stdin(Stdio::piped());
    let mut import = import.spawn().context("git cannot be started")?;
    let pipe = import.stdin.take().context("it is piped")?;
    let mut out = std::io::BufWriter::new(pipe);
    write(&mut out)?;
    out.flush()?;
    drop(out);
    ensure!(import.wait()?.success(), "git fast-import failed");
    Ok(())
}

/// Writes `commits` commits on `main`, each of one changed file: three objects each.
pub fn commits(out: &mut dyn Write, commits: usize) -> Result<()> {
    for n in 0..commits {
        let mut text = String::new();
        for line in 0..40 {
            let stamp = if line % 8 == n % 8 { n } else { 0 };
            writeln!(text, "line {line} {stamp}")?;
        }
        let date = START + n;
        write!(
            out,
            "commit refs/heads/main\nmark :{}\ncommitter C <c@x> {date} +0000\ndata 1\nx\n\
             M 100644 inline f{}\ndata {}\n{text}\n",
            n + 1,
            n % 20,
            text.len()
        )?;
    }
    Ok(())
}

/// Writes `commits` commits on `main`, each of which replaces one of `files` files by `bytes`
/// incompressible bytes.
pub fn versions(out: &mut dyn Write, commits: usize, files: usize, bytes: usize) -> Result<()> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for n in 0..commits {
        let (date, file) = (START + n, n % files);
        write!(
            out,
            "commit refs/heads/main\ncommitter C <c@x> {date} +0000\ndata 1\nx\n\
             M 100644 inline d{}/f{file}\ndata {}\n",
            file % 16,
            bytes / 8 * 8
        )?;
        for _ in 0..bytes / 8 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            out.write_all(&state.to_le_bytes())?;
        }
        out.write_all(b"\n")?;
    }
    Ok(())
}

/// Writes `branches` branches and `tags` tags, spread over the commits of [`commits()`].
pub fn refs(out: &mut dyn Write, commits: usize, branches: usize, tags: usize) -> Result<()> {
    for n in 0..branches {
        let at = commits - n * commits / branches;
        write!(out, "reset refs/heads/topic/{n}\nfrom :{at}\n\n")?;
    }
    for n in 0..tags {
        let (at, date) = (commits - n * commits / tags, START + n);
        write!(
            out,
            "tag v{n}\nfrom :{at}\ntagger C <c@x> {date} +0000\ndata 1\nx\n"
        )?;
    }
    Ok(())
}

/// Writes one commit on `main` of incompressible files of these sizes.
pub fn blobs(out: &mut dyn Write, sizes: &[usize]) -> Result<()> {
    write!(
        out,
        "commit refs/heads/main\ncommitter C <c@x> {START} +0000\ndata 1\nx\n"
    )?;
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for (file, size) in sizes.iter().enumerate() {
        write!(out, "M 100644 inline f{file}\ndata {size}\n")?;
        for _ in 0..size / 8 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            out.write_all(&state.to_le_bytes())?;
        }
        out.write_all(b"\n")?;
    }
    Ok(())
}

/// Writes one commit on `main` that sets the first `count` text files to `version`, a compressible
/// text of up to 5 KB each; version 0 is the first commit.
pub fn text_files(out: &mut dyn Write, count: usize, version: usize) -> Result<()> {
    let date = START + version;
    write!(
        out,
        "commit refs/heads/main\ncommitter C <c@x> {date} +0000\ndata 1\nx\n"
    )?;
    if version > 0 {
        out.write_all(b"from refs/heads/main^0\n")?;
    }
    for file in 0..count {
        let line = format!("line {file} of version {version} of a source file\n");
        let text = line.repeat(10 + file % 90);
        let path = text_path(file);
        write!(out, "M 100644 inline {path}\ndata {}\n{text}\n", text.len())?;
    }
    Ok(())
}

/// Returns the path of a text file: ten are in a folder, and ten folders in an area.
fn text_path(file: usize) -> String {
    format!("area-{}/part-{}/file-{file}.txt", file / 100, file / 10)
}

/// Adds a commit of one file of two bytes to `branch`.
pub fn change(folder: &Path, branch: &str, number: usize) -> Result<()> {
    import(folder, |out| {
        let date = START + 1000 + number;
        write!(
            out,
            "commit refs/heads/{branch}\ncommitter C <c@x> {date} +0000\ndata 1\nx\n\
             from refs/heads/main^0\nM 100644 inline small\ndata 2\n{:02}\n",
            number % 100
        )?;
        Ok(())
    })
}

/// The largest pack of a repository.
pub fn pack_of(repository: &Path) -> Result<PathBuf> {
    let mut largest = None;
    for entry in std::fs::read_dir(repository.join("objects/pack"))? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "pack")
        {
            let size = path.metadata()?.len();
            largest = largest.max(Some((size, path)));
        }
    }
    match largest {
        Some((_, path)) => Ok(path),
        None => bail!("{} has no pack", repository.display()),
    }
}
