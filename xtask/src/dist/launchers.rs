//! The Python package `branchline-launchers`: the names of `branchline` that other packages have,
//! too, for those who want them from their package manager. The wheel of `branchline` takes none of
//! them, because pip would overwrite the files of another package without a word.
//!
//! A launcher is a script that runs the `branchline` beside it, also through links, as uv and pipx
//! make them.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use super::VERSION;
use super::files::{self, Compression};
use crate::process::workspace;

/// Names of the launchers. `tests/e2e/wheel.rs` compares them with those of the program.
const NAMES: [&str; 7] = [
    "git-lfs-s3",
    "git-remote-codecommit",
    "git-remote-s3",
    "git-remote-s3+zip",
    "git-s3",
    "incremental-repo-migration",
    "mirror-git-to-s3",
];

/// Returns the text of a launcher, by which `branchline install` knows it.
fn launcher(name: &str) -> String {
    format!("#!/bin/sh\nexec \"${{0%/*}}/branchline\" --as {name} \"$@\"\n")
}

/// Returns the metadata of the package.
fn metadata() -> String {
    format!(
        "Metadata-Version: 2.4\n\
         Name: branchline-launchers\n\
         Version: {VERSION}\n\
         Summary: The names of other tools that branchline stands in for, such as git-remote-s3\n\
         License-Expression: Apache-2.0\n\
         License-File: LICENSE\n\
         Requires-Python: >=3.10\n\
         Requires-Dist: branchline=={VERSION}\n"
    )
}

/// Writes the wheel into the folder `out`, and returns its path.
pub(super) fn build(out: &Path) -> Result<PathBuf> {
    let stem = format!("branchline_launchers-{VERSION}");
    let content = tempfile::tempdir().context("the folder of the launchers")?;
    let mut entries = Vec::new();
    let mut records = Vec::new();
    let mut add = |name: String, text: &str| -> Result<()> {
        let path = content.path().join(entries.len().to_string());
        std::fs::write(&path, text).with_context(|| format!("`{name}`"))?;
        let digest = URL_SAFE_NO_PAD.encode(Sha256::digest(text.as_bytes()));
        records.push(format!("{name},sha256={digest},{}\n", text.len()));
        entries.push((name, path));
        Ok(())
    };
    for name in NAMES {
        add(format!("{stem}.data/scripts/{name}"), &launcher(name))?;
    }
    let info = format!("{stem}.dist-info");
    let license = workspace().join("LICENSE");
    let license = std::fs::read_to_string(license).context("LICENSE")?;
    add(format!("{info}/licenses/LICENSE"), &license)?;
    add(format!("{info}/METADATA"), &metadata())?;
    let wheel = "Wheel-Version: 1.0\nGenerator: branchline\nRoot-Is-Purelib: true\n\
                 Tag: py3-none-any\n";
    add(format!("{info}/WHEEL"), wheel)?;
    let name = format!("{info}/RECORD");
    records.push(format!("{name},,\n"));
    let path = content.path().join("record");
    std::fs::write(&path, records.concat()).context("RECORD")?;
    entries.push((name, path));
    let made = out.join(format!("{stem}-py3-none-any.whl"));
    files::write_zip(&made, &entries, Compression::Best)?;
    Ok(made)
}
