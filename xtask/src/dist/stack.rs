//! The stack as `sam deploy` takes it, made by running `branchline template`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::files::{self, Compression};
use crate::deploy::program;
use crate::process::{cargo, run, target_folder};
use crate::setup::PythonEnv;

/// Completes the stack in a folder that has zips, checks it, and packs it into `zip`.
pub(super) fn complete(stack: &Path, zip: &Path) -> Result<()> {
    run(cargo().args(["build", "--quiet", "--locked", "--package", "branchline"]))?;
    let mut template = Command::new(target_folder().join("debug/branchline"));
    template.args(["template", "--json", "--zips"]).arg(stack);
    run(template.arg("--out").arg(stack))?;
    let environment = PythonEnv::Deploy.create()?;
    let mut validate = program(&environment, "sam")?;
    run(validate.current_dir(stack).args(["validate", "--lint"]))?;
    let mut lint = program(&environment, "cfn-lint")?;
    run(lint
        .current_dir(stack)
        .args(["template.yaml", "cloudformation.json"]))?;
    let name = zip.file_stem().context("a zip has a name")?;
    let name = name.to_string_lossy();
    let entries = files::below(stack)?.into_iter();
    let entries: Vec<_> = entries
        .map(|file| (format!("{name}/{file}"), stack.join(&file)))
        .collect();
    files::write_zip(zip, &entries, Compression::Best)
}
