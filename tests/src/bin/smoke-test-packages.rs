//! Smoke test of what `cargo xtask package` built: each bootstrap answers an event, and
//! together they take a push to its pipeline.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use branchline_dev::lambda::{FunctionConfig, FunctionRef, Outcome};
use branchline_dev::server::{Options, Server};
use branchline_test_support::git;
use branchline_tests::environment::{Setup, TestEnvironment};
use clap::Parser;
use serde_json::{Value, json};

/// Starts bootstraps against the development server.
#[derive(Debug, Parser)]
struct Arguments {
    /// The folder with the bootstraps, each under its function's name.
    #[arg(long)]
    bootstraps: PathBuf,
    /// A function to start.
    #[arg(long = "function", required = true)]
    functions: Vec<String>,
    /// The program that runs programs of another processor.
    #[arg(long, requires = "system")]
    emulator: Option<String>,
    /// Folder with that processor's system libraries.
    #[arg(long)]
    system: Option<PathBuf>,
}

impl Arguments {
    /// The folder to start from: the given one, or one of scripts that call the emulator.
    fn programs(&self, scripts: &Path) -> Result<PathBuf> {
        let (Some(emulator), Some(system)) = (&self.emulator, &self.system) else {
            return Ok(self.bootstraps.clone());
        };
        let bootstraps = self.bootstraps.canonicalize().context("the bootstraps")?;
        for name in &self.functions {
            let script = scripts.join(name);
            let (system, program) = (system.display(), bootstraps.join(name));
            // A program that starts itself again, to set this, would do so without the
            // emulator, and the shell would read it as a script.
            let text = format!(
                "#!/bin/sh\nexport MALLOC_MMAP_THRESHOLD_=131072\n\
                 exec {emulator} -L '{system}' '{}'\n",
                program.display()
            );
            std::fs::write(&script, text).context("a script")?;
            let executable = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(&script, executable).context("a script")?;
        }
        Ok(scripts.to_owned())
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let scripts = tempfile::tempdir()?;
    let programs = arguments.programs(scripts.path())?;
    for name in &arguments.functions {
        let [cold, warm] = refuses_an_unknown_event(name, &programs.join(name)).await?;
        println!(
            "{name:9} starts, and refuses an unknown event by name: {cold:.0?} from the call to the \
             answer, {warm:.1?} when it runs already"
        );
    }
    let has = |name: &str| arguments.functions.iter().any(|function| function == name);
    if has("update") && has("lifecycle") {
        let execution = takes_a_push(programs).await?;
        println!("lifecycle and update: a push became execution {execution}, pinned to its zip");
    }
    Ok(())
}

/// Starts a function alone, sends an unknown event twice and returns the times to the two
/// answers.
async fn refuses_an_unknown_event(name: &str, bootstrap: &Path) -> Result<[Duration; 2]> {
    let mut function = FunctionConfig::new(name, bootstrap.to_owned());
    let settings = [
        ("ARTIFACT_BUCKET", "artifacts"),
        (
            "UPDATE_FUNCTION_ARN",
            "arn:aws:lambda:us-east-1:123456789012:function:update",
        ),
    ];
    function.environment = settings
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    let server = Server::start(Options {
        functions: vec![function],
        ..Options::default()
    })
    .await?;
    let called = FunctionRef {
        name: name.to_owned(),
        qualifier: None,
    };
    let mut took = [Duration::ZERO; 2];
    for time in &mut took {
        let event = json!({ "nonsense": true }).to_string().into_bytes().into();
        let begin = Instant::now();
        let invoked = server
            .lambda()
            .invoke(&called, event, "nonsense".to_owned());
        let invoked = invoked.await.map_err(|error| anyhow!("{error:?}"))?;
        *time = begin.elapsed();
        match invoked.outcome {
            Outcome::Answer(answer) => bail!("{name} accepts an unknown event: {answer:?}"),
            Outcome::Failed(failure) => {
                let error: Value = serde_json::from_slice(&failure.payload).unwrap_or_default();
                if error["errorType"] != "branchline.InvalidEvent" {
                    bail!("{name} does not fail with `branchline.InvalidEvent` but with {error}");
                }
            }
        }
    }
    Ok(took)
}

/// Pushes a branch, and returns the execution that it became.
async fn takes_a_push(bootstraps: PathBuf) -> Result<String> {
    let stage = TestEnvironment::start(Setup {
        bootstraps,
        ..Setup::default()
    })
    .await?;
    stage.create_repository("demo").await?;
    let work = tempfile::tempdir()?;
    git::init(work.path())?;
    git::commit(work.path(), &[("a.txt", "one\n")], "First")?;
    stage.push(work.path(), "demo", &["main"]).await?;
    stage.wait_until_idle().await?;
    match stage.executions().as_slice() {
        [execution] => {
            let version = execution
                .sources
                .first()
                .and_then(|source| source.version_id.as_ref());
            version.context("the execution is pinned to a version")?;
            Ok(execution.id.clone())
        }
        other => bail!("one push, one execution; there are {}", other.len()),
    }
}
