//! The Python package on a machine without Rust: a new environment of Python, no cargo on PATH, and
//! the wheel that `BRANCHLINE_WHEEL` names, which `cargo xtask test` makes of the built programs.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use branchline_core::ErrorKind;
use branchline_core::git::HashKind;
use branchline_test_support::git_server::GitServer;
use branchline_test_support::repo::Repo;
use serde_json::Value;

use super::git_remote_s3::environment::{BUCKET, Outcome, Terminal, url};
use super::reference::top;

/// A terminal whose PATH has the environment with the package, git, and a shell.
struct Machine {
    terminal: Terminal,
    environment: PathBuf,
}

impl Machine {
    /// Installs the wheel; `None` without one.
    async fn start() -> Result<Option<Self>> {
        let Some(wheel) = std::env::var_os("BRANCHLINE_WHEEL") else {
            eprintln!("skipped: BRANCHLINE_WHEEL is not set; `cargo xtask test` makes that wheel");
            return Ok(None);
        };
        let mut terminal = Terminal::start().await?;
        let region = terminal.server().account().region.clone();
        let environment = terminal.path("environment");
        let tools = terminal.path("tools");
        std::fs::create_dir(&tools)?;
        for name in ["git", "sh"] {
            symlink(found(name)?, tools.join(name))?;
        }
        let path = format!("{}:{}", environment.join("bin").display(), tools.display());
        terminal.set("PATH", Some(&path));
        terminal.set("AWS_REGION", Some(&region));
        let machine = Self {
            terminal,
            environment,
        };
        let place = machine.environment.display().to_string();
        let venv = machine
            .terminal
            .command(&python()?, &["-m", "venv", &place]);
        machine.terminal.wait_for(venv).await?.done();
        let dist = Path::new(&wheel)
            .parent()
            .context("a wheel is in a folder")?;
        symlink(dist, machine.terminal.path("dist"))?;
        // As docs/install.md has it.
        let install = [
            "install",
            "--no-index",
            "--find-links",
            "dist",
            "branchline",
        ];
        machine.run("pip", &install).await?.done();
        Ok(Some(machine))
    }

    /// Runs a program of the environment.
    async fn run(&self, program: &str, arguments: &[&str]) -> Result<Outcome> {
        self.terminal
            .wait_for(self.command(program, arguments))
            .await
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let program = self.environment.join("bin").join(program);
        self.terminal.command(
            program
                .to_str()
                .expect("temporary folders have plain names"),
            arguments,
        )
    }
}

/// Returns the path of the machine's Python, which may be behind a script of a version manager.
fn python() -> Result<String> {
    let mut python = Command::new("python3");
    let output = python
        .args(["-c", "import sys; print(sys.executable)"])
        .output()?;
    ensure!(output.status.success(), "python3 runs: {output:?}");
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// Returns the path of a program of the machine.
fn found(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path).map(|folder| folder.join(name));
    places
        .find(|place| place.is_file())
        .with_context(|| format!("`{name}` is not installed"))
}

/// "`pip install` is all that the command line needs: no compiler and no account."
#[tokio::test(flavor = "multi_thread")]
async fn the_package_mirrors_clones_and_archives_without_rust() -> Result<()> {
    let Some(machine) = Machine::start().await? else {
        return Ok(());
    };
    let cargo = machine.terminal.run("cargo", &["--version"]).await;
    assert!(cargo.is_err(), "cargo is not on PATH: {cargo:?}");
    for program in ["branchline", "branchline-dev"] {
        let version = machine.run(program, &["--version"]).await?.done();
        assert!(version.starts_with(program), "{version}");
    }

    let repo = Repo::with_history(HashKind::Sha1, 6, 4);
    let server = GitServer::new(&repo);
    let target = url("installed");
    let mirror = [
        "mirror",
        &server.url(),
        &target,
        "--layout",
        "dumb",
        "--verify",
    ];
    let mirrored = machine.run("branchline", &mirror).await?.done();
    assert!(mirrored.contains("verified"), "{mirrored}");

    // Names that other packages have are links, which `install` makes.
    let helper = machine.environment.join("bin/git-remote-s3");
    assert!(
        !helper.exists(),
        "the wheel has no name of a different package"
    );
    std::fs::write(machine.terminal.path("gitconfig"), "")?;
    machine.run("branchline", &["install"]).await?.done();
    assert!(helper.is_symlink());
    machine
        .terminal
        .git(&["clone", "--quiet", &target, "clone"])
        .await?
        .done();
    let head = ["-C", "clone", "rev-parse", "HEAD"];
    let head = machine.terminal.git(&head).await?.done();
    assert_eq!(head.trim(), repo.git(&["rev-parse", "main"]).trim());
    machine
        .terminal
        .git(&["-C", "clone", "fsck", "--strict"])
        .await?
        .done();

    let archive = ["archive", &target, "--rev", "main", "-o", "installed.tar"];
    machine.run("branchline", &archive).await?.done();
    let written = std::fs::read(machine.terminal.path("installed.tar"))?;
    let wanted = repo
        .command(&["archive", "--format=tar", "main"])
        .output()?;
    assert_eq!(written, wanted.stdout, "the archive is git's");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_launchers_run_the_program_and_are_all_that_install_would_link() -> Result<()> {
    let Some(machine) = Machine::start().await? else {
        return Ok(());
    };
    let install = [
        "install",
        "--no-index",
        "--find-links",
        "dist",
        "branchline[launchers]",
    ];
    machine.run("pip", &install).await?.done();
    let bin = machine.environment.join("bin");
    let launcher = bin.join("git-remote-s3+zip");
    assert!(launcher.is_file() && !launcher.is_symlink());

    // git finds it on PATH, without `branchline install`.
    let repo = Repo::with_history(HashKind::Sha1, 6, 4);
    let path = repo.path.display().to_string();
    let target = format!("s3+zip://{BUCKET}/launched");
    let push = ["-C", &path, "push", "--quiet", &target, "main"];
    machine.terminal.git(&push).await?.done();
    let clone = ["clone", "--quiet", &target, "clone"];
    machine.terminal.git(&clone).await?.done();
    let head = ["-C", "clone", "rev-parse", "HEAD"];
    let head = machine.terminal.git(&head).await?.done();
    assert_eq!(head.trim(), repo.git(&["rev-parse", "main"]).trim());
    let usage = machine.run("git-s3", &["--help"]).await?.done();
    assert!(usage.contains("delete-branch"), "{usage}");

    // Through a link in another directory, as uv and pipx make it.
    let linked = machine.terminal.path("linked");
    std::fs::create_dir(&linked)?;
    for name in ["branchline", "git-s3"] {
        symlink(bin.join(name), linked.join(name))?;
    }
    let link = linked.join("git-s3").display().to_string();
    let link = machine.terminal.run(&link, &["--help"]).await?.done();
    assert_eq!(link, usage);

    // All names of the program are there.
    std::fs::write(machine.terminal.path("gitconfig"), "")?;
    let installed = machine.run("branchline", &["install", "--json"]).await?;
    let installed: Value = serde_json::from_str(&installed.done())?;
    let links = installed["links"].as_array().context("links")?;
    assert_eq!(links.len(), 7, "{installed}");
    for link in links {
        assert_eq!(link["result"], "unchanged", "{link}");
        assert_eq!(link["git_runs"], link["path"], "{link}");
    }

    let remove = ["uninstall", "--yes", "branchline-launchers"];
    machine.run("pip", &remove).await?.done();
    assert!(!launcher.exists(), "pip removes what it installed");
    machine.run("branchline", &["--version"]).await?.done();
    Ok(())
}

/// "`branchline template` writes a stack that AWS SAM and CloudFormation accept, with the functions in it."
#[tokio::test(flavor = "multi_thread")]
async fn the_written_stack_is_valid_and_has_its_functions() -> Result<()> {
    let Some(machine) = Machine::start().await? else {
        return Ok(());
    };
    let share = machine.environment.join("share/branchline");
    let mut processors = std::fs::read_dir(&share)?;
    let processor = processors
        .next()
        .context("the wheel has functions")??
        .file_name();
    let processor = processor.to_str().context("a plain name")?;
    let template = ["template", "--out", "stack", "--json"];
    let written = machine.run("branchline", &template).await?.done();
    let written: Value = serde_json::from_str(&written)?;
    assert_eq!(written["architecture"], processor);
    let stack = machine.terminal.path("stack");
    for name in ["lifecycle", "update", "migration"] {
        let file = std::fs::File::open(stack.join(format!("functions/{name}.zip")))?;
        let mut zip = zip::ZipArchive::new(file)?;
        let bootstrap = zip.by_name("bootstrap")?;
        assert_eq!(
            bootstrap.unix_mode(),
            Some(0o100_755),
            "{name} is a program"
        );
        assert!(bootstrap.size() > 1_000_000, "{name} is a whole program");
    }
    whole_flow_starts(&machine, &share.join(processor).join("programs"))?;
    let other = if processor == "arm64" {
        "x86_64"
    } else {
        "arm64"
    };
    let refused = ["template", "--out", "none", "--arch", other];
    let refused = machine.run("branchline", &refused).await?.failed(1);
    assert!(refused.contains("--zips"), "{refused}");
    let again = ["template", "--out", "copy", "--zips", "stack"];
    machine.run("branchline", &again).await?.done();

    let Some(deploy) = std::env::var_os("BRANCHLINE_DEPLOY_VENV").map(PathBuf::from) else {
        eprintln!("not validated: BRANCHLINE_DEPLOY_VENV is not set");
        return Ok(());
    };
    for (program, arguments) in [
        ("sam", &["validate", "--lint"][..]),
        ("cfn-lint", &["template.yaml", "cloudformation.json"]),
    ] {
        let mut command = Command::new(deploy.join("bin").join(program));
        command.args(arguments).current_dir(&stack);
        command.env("SAM_CLI_TELEMETRY", "0");
        command.env("AWS_DEFAULT_REGION", "us-east-1");
        let output = command.output().context(program)?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{program}: {said}");
    }
    plain_template_is_the_stack(&stack)
}

/// The installed development server starts the functions that were installed with it.
fn whole_flow_starts(machine: &Machine, programs: &Path) -> Result<()> {
    let mut command = machine.command("branchline-dev", &["serve", "--all"]);
    let mut server = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let output = server.stdout.take().context("it is piped")?;
    let mut lines = BufReader::new(output).lines().map_while(Result::ok);
    let listens = lines.any(|line| line.contains("http://127.0.0.1:"));
    server.kill()?;
    server.wait()?;
    ensure!(listens, "the server starts with its functions");
    ensure!(programs.join("update").is_file(), "they are unpacked");
    Ok(())
}

/// The plain template has the resources of the other one, and names zips by parameters.
fn plain_template_is_the_stack(stack: &Path) -> Result<()> {
    let plain: Value = serde_json::from_slice(&std::fs::read(stack.join("cloudformation.json"))?)?;
    assert_eq!(plain["Transform"], Value::Null);
    let resources = plain["Resources"].as_object().context("resources")?;
    let mut functions = 0;
    for resource in resources.values() {
        let kind = resource["Type"].as_str().context("a type")?;
        assert!(!kind.starts_with("AWS::Serverless::"), "{kind}");
        if kind == "AWS::Lambda::Function" {
            assert_eq!(
                resource["Properties"]["Code"]["S3Bucket"]["Ref"],
                "CodeBucket"
            );
            functions += 1;
        }
    }
    assert_eq!(functions, 3);
    let template = std::fs::read_to_string(top().join("template.yaml"))?;
    for line in template
        .lines()
        .filter(|line| line.starts_with("  ") && line.ends_with(':'))
    {
        let name = line.trim().trim_end_matches(':');
        let is_resource = line.starts_with("  ") && !line.starts_with("   ");
        let (_, below) = template.split_once("\nResources:\n").context("resources")?;
        let is_below = below.contains(&format!("\n{line}\n    Type: AWS::"));
        if is_resource && is_below {
            assert!(resources.contains_key(name), "{name}");
        }
    }
    Ok(())
}

/// "Errors of the Python module are exceptions by their kinds."
#[tokio::test(flavor = "multi_thread")]
async fn the_python_module_passes_its_tests() -> Result<()> {
    let Some(machine) = Machine::start().await? else {
        return Ok(());
    };
    let repo = Repo::with_history(HashKind::Sha1, 6, 4);
    let server = GitServer::new(&repo);
    let tests = top().join("python/tests");
    let tests = tests.to_str().context("a plain path")?;
    let mut python = machine.command("python", &["-m", "unittest", "discover", "-s", tests]);
    let kinds = ErrorKind::ALL.map(ErrorKind::name).join(",");
    python.env("SOURCE", server.url());
    python.env("SOURCE_PATH", &repo.path);
    python.env("TARGET", url("module"));
    python.env("ENDPOINT", machine.terminal.variable("AWS_ENDPOINT_URL"));
    python.env("KINDS", kinds);
    python.env("PYTHONDONTWRITEBYTECODE", "1");
    // The module has the endpoint from its argument.
    python.env_remove("AWS_ENDPOINT_URL");
    let outcome = machine.terminal.wait_for(python).await?;
    ensure!(outcome.status == Some(0), "{}", outcome.stderr);
    ensure!(outcome.stderr.contains("\nOK"), "{}", outcome.stderr);

    // The example of docs/install.md.
    let document = std::fs::read_to_string(top().join("docs/install.md"))?;
    let (_, example) = document.split_once("```python\n").context("an example")?;
    let (example, _) = example.split_once("```").context("its end")?;
    let example = example
        .replace("https://example.org/demo.git", &server.url())
        .replace("s3://bucket/", &format!("s3://{BUCKET}/"));
    let printed = machine.run("python", &["-c", &example]).await?.done();
    assert!(printed.contains("nowhere"), "{printed}");
    assert!(machine.terminal.path("demo.tar.gz").is_file());
    Ok(())
}
