//! The functions as AWS Lambda takes them, and the template of their stack without AWS SAM.

use std::ffi::OsStr;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::files::{self, Compression};
use super::programs::Programs;
use super::{VERSION, python};
use crate::process::workspace;
use crate::setup::PythonEnv;

/// Programs of the functions, which are also the names of their zips.
const NAMES: [&str; 3] = ["lifecycle", "update", "migration"];

/// Size of a zip in bytes that AWS Lambda takes at most.
const MAX_ZIP_BYTES: u64 = 50 * 1024 * 1024;

/// Writes what a stack has from a release: the zips, their description, and the plain template.
pub(super) fn write(
    stack: &Path,
    architecture: &str,
    programs: &Programs,
    compression: Compression,
) -> Result<()> {
    let folder = stack.join("functions");
    std::fs::create_dir_all(&folder).context("the folder of the functions")?;
    for name in NAMES {
        let zip = folder.join(format!("{name}.zip"));
        let entry = ("bootstrap".to_owned(), programs.path(name));
        files::write_zip(&zip, &[entry], compression)?;
        let size = std::fs::metadata(&zip).context("a zip")?.len();
        // A development build may be larger: it is packed for a test.
        ensure!(
            size <= MAX_ZIP_BYTES || compression == Compression::Fast,
            "`{name}` is too large: {size} bytes, and Lambda takes zips of at most 50 MiB"
        );
    }
    let description = json!({ "version": VERSION, "architecture": architecture });
    let description = serde_json::to_string_pretty(&description).context("the description")?;
    std::fs::write(folder.join("functions.json"), description + "\n").context("functions.json")?;
    write_plain_template(&stack.join("cloudformation.json"), architecture)
}

/// Writes the template of the stack in which AWS SAM's parts are written out, for zips of a
/// processor.
pub(crate) fn write_plain_template(path: &Path, architecture: &str) -> Result<()> {
    let template = workspace().join("template.yaml");
    let arguments: [&OsStr; 4] = [
        template.as_os_str(),
        path.as_os_str(),
        architecture.as_ref(),
        VERSION.as_ref(),
    ];
    python(&PythonEnv::Deploy.create()?, "translate.py", &arguments)
}
