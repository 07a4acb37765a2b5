//! moto's interpreter of the Amazon States Language, in a process of its own.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use branchline_tests::environment::TestEnvironment;
use branchline_tests::template::{ResolvedTemplate, Template};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// The bucket of the fleets' lists and results: that of the artifacts.
pub(super) use branchline_tests::environment::BUCKET;
/// Substitutions by the ARN of another machine.
const OPEN: [&str; 2] = ["MirrorRepositoryArn", "MirrorFleetArn"];
/// The function that the state machines call.
pub(super) const MIGRATION: &str = "migration";

/// Resolves the template with the fleets' bucket and backups of the repositories that
/// `pattern` selects.
pub(super) fn deployment<'a>(
    template: &'a Template,
    pattern: &str,
) -> Result<ResolvedTemplate<'a>> {
    let parameters = [
        ("ArtifactBucket", BUCKET),
        ("MirrorBucket", "mirrors"),
        ("BackupSchedule", "cron(0 2 * * ? *)"),
        ("RepositoryNamePattern", pattern),
    ];
    let deployment = template
        .resolve(&parameters)?
        .named("MigrationFunction", MIGRATION);
    Ok(deployment.at("123456789012", "us-east-1"))
}

/// The definition that a state machine of the template has once it is deployed. What
/// names the other machine stays open until that one is there.
fn definition(deployment: &ResolvedTemplate<'_>, machine: &str) -> Result<String> {
    let properties = deployment.properties(machine)?;
    let file = properties["DefinitionUri"]
        .as_str()
        .context("it names its file")?;
    let top = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let mut text = std::fs::read_to_string(format!("{top}/{file}")).context(file.to_owned())?;
    let substitutions = properties["DefinitionSubstitutions"].as_object();
    for (name, value) in substitutions.context("it fills in its definition")? {
        let place = format!("${{{name}}}");
        ensure!(text.contains(&place), "{file} has no use for {name}");
        if !OPEN.contains(&name.as_str()) {
            let filled = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            text = text.replace(&place, &filled);
        }
    }
    Ok(text)
}

/// The Python environment with moto.
pub(super) fn environment() -> Option<PathBuf> {
    let folder = std::env::var_os("BRANCHLINE_VENV").map(PathBuf::from);
    if folder.is_none() {
        eprintln!("skipped: BRANCHLINE_VENV is not set; `cargo xtask test` makes that environment");
    }
    folder
}

/// The interpreter, which ends with the test.
pub(super) struct Interpreter {
    _process: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    runs: usize,
}

impl Interpreter {
    /// Starts it with all state machines, for the repositories of a pattern; `None` when
    /// there is no environment for it.
    pub(super) async fn start(stage: &TestEnvironment, pattern: &str) -> Result<Option<Self>> {
        let Some(environment) = environment() else {
            return Ok(None);
        };
        let mut command = std::process::Command::new(environment.join("bin/python"));
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/fleet.py"));
        stage.sign_in(&mut command);
        let mut process = Command::from(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let output = process.stdout.take().context("it is piped")?;
        let mut interpreter = Self {
            input: process.stdin.take().context("it is piped")?,
            output: BufReader::new(output).lines(),
            _process: process,
            runs: 0,
        };
        let template = Template::load()?;
        let deployment = deployment(&template, pattern)?;
        let definitions = json!({
            "mirror-repository": definition(&deployment, "MirrorRepository")?,
            "mirror-fleet": definition(&deployment, "MirrorFleet")?,
            "backup-watch": definition(&deployment, "BackupWatch")?,
        });
        let ready = interpreter
            .ask(&json!({ "definitions": definitions }))
            .await?;
        ensure!(ready["ready"] == true, "{ready}");
        Ok(Some(interpreter))
    }

    async fn ask(&mut self, question: &Value) -> Result<Value> {
        self.input
            .write_all(format!("{question}\n").as_bytes())
            .await?;
        let answer = self.output.next_line().await?;
        let answer = answer.context("the interpreter has stopped; standard error tells why")?;
        Ok(serde_json::from_str(&answer)?)
    }

    /// Runs a state machine to its end.
    pub(super) async fn run(&mut self, machine: &str, input: &Value) -> Result<Run> {
        self.runs += 1;
        let name = format!("run-{}", self.runs);
        let question = json!({ "machine": machine, "name": name, "input": input });
        self.ask(&question).await.map(Run)
    }
}

/// Record of an execution.
#[derive(Debug)]
pub(super) struct Run(pub(super) Value);

impl Run {
    /// Returns the output of the mapping with this source, or its error's name.
    pub(super) fn item(&self, source: &str) -> Result<&Value, &str> {
        let items = self.0["items"].as_array().expect("items are recorded");
        let mut of_source = items
            .iter()
            .filter(|item| item["input"]["mapping"]["source"] == source);
        let item = of_source.next().expect("the mapping has an execution");
        assert!(of_source.next().is_none(), "{source} has one execution");
        match item["status"].as_str() {
            Some("SUCCEEDED") => Ok(&item["output"]),
            _ => Err(item["error"].as_str().unwrap_or_default()),
        }
    }

    /// The sources of all mappings that were started, sorted.
    pub(super) fn sources(&self) -> Vec<&str> {
        let items = self.0["items"].as_array().expect("items are recorded");
        let sources = items.iter().map(|item| &item["input"]["mapping"]["source"]);
        let mut sources: Vec<&str> = sources.filter_map(Value::as_str).collect();
        sources.sort_unstable();
        sources
    }
}
