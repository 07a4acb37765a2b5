//! Checks of the deployed stack without an account: the template and the state machines.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::process::{in_workspace, run, target_folder, workspace};
use crate::setup::{PythonEnv, SCRIPTS, asl_validator};

/// Returns a command that runs the program `name` of a Python environment in the workspace.
///
/// The environment comes first on the path, because cargo-lambda finds zig through its Python.
pub(crate) fn program(environment: &Path, name: &str) -> Result<Command> {
    let mut command = in_workspace(environment.join(SCRIPTS).join(name));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(environment.join(SCRIPTS)).chain(std::env::split_paths(&path));
    let path: OsString = std::env::join_paths(folders).context("the PATH")?;
    command.env("PATH", path);
    command.env("SAM_CLI_TELEMETRY", "0");
    // Some checks are left out without a region. Nothing is sent to it.
    command.env("AWS_DEFAULT_REGION", "us-east-1");
    Ok(command)
}

/// Checks the template and the state machines.
///
/// An exception from a check is in the metadata of its resource, with the reason.
pub(crate) fn lint() -> Result<()> {
    let environment = PythonEnv::Deploy.create()?;
    run(program(&environment, "sam")?.args(["validate", "--lint"]))?;
    run(program(&environment, "cfn-lint")?.arg("template.yaml"))?;
    let checkov = PythonEnv::Checkov.create()?;
    run(program(&checkov, "checkov")?.args([
        "--file",
        "template.yaml",
        "--framework",
        "cloudformation",
        "--skip-download",
        "--compact",
        "--quiet",
    ]))?;
    let definitions = state_machines()?;
    if definitions.is_empty() {
        return Ok(());
    }
    let filled = target_folder().join("statemachines");
    std::fs::create_dir_all(&filled).context("the folder for filled definitions")?;
    let mut validator = Command::new(asl_validator()?);
    for definition in &definitions {
        let text = std::fs::read_to_string(definition).context("a state machine")?;
        let name = definition.file_name().context("a file has a name")?;
        std::fs::write(filled.join(name), fill(&text)).context("a filled definition")?;
        validator.arg("--json-path").arg(filled.join(name));
    }
    run(&mut validator)
}

/// Replaces each `${..}` that the template substitutes by a value of the right form, because
/// the validator reads ARNs.
fn fill(definition: &str) -> String {
    let mut filled = String::with_capacity(definition.len());
    let mut rest = definition;
    while let Some((before, after)) = rest.split_once("${") {
        filled.push_str(before);
        let (name, after) = after.split_once('}').unwrap_or((after, ""));
        filled.push_str(if name == "Partition" {
            "aws"
        } else if name.ends_with("Arn") {
            "arn:aws:lambda:us-east-1:111122223333:function:name"
        } else {
            "1"
        });
        rest = after;
    }
    filled + rest
}

/// Returns the paths of the definitions in `statemachines/`, sorted.
fn state_machines() -> Result<Vec<PathBuf>> {
    let folder = workspace().join("statemachines");
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut definitions = Vec::new();
    for entry in std::fs::read_dir(&folder).context("statemachines/")? {
        let path = entry.context("statemachines/")?.path();
        if path.to_string_lossy().ends_with(".asl.json") {
            definitions.push(path);
        }
    }
    definitions.sort();
    Ok(definitions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn substitutions_of_the_template_are_filled_in() {
        let text =
            r#"{"a":"arn:${Partition}:states:::x","b":"${MigrationFunctionArn}","c":"${Most}"}"#;
        assert_eq!(
            fill(text),
            r#"{"a":"arn:aws:states:::x","b":"arn:aws:lambda:us-east-1:111122223333:function:name","c":"1"}"#
        );
        assert_eq!(fill("$.a"), "$.a", "a path is not a substitution");
    }
}
