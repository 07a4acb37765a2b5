//! `serve`: options, banner, and an orderly shutdown.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use serde::Deserialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::account::Account;
use crate::codecommit::Limits;
use crate::delivery::EventRule;
use crate::faults::Rule;
use crate::lambda::FunctionConfig;
use crate::log;
use crate::s3::store::PublicAccess;
use crate::server::{ENVIRONMENT_FILE, Options, Server};
use crate::{installed_functions, whole_flow};

/// Options of `serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Keeps all data in this folder, and the port; without it, in a temporary folder that is
    /// deleted with the server.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Starts the functions update, lifecycle and migration that were built or installed beside
    /// this program, with a bucket for artifacts, one for mirrors and a pipeline: a push to a
    /// repository is followed by an execution.
    #[arg(long)]
    all: bool,
    /// Port on 127.0.0.1; with 0 that of the data folder's last server, or one that the system
    /// chooses.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Account number, 12 digits.
    #[arg(long, default_value = "123456789012", value_parser = account_id)]
    account: String,
    /// The region.
    #[arg(long, default_value = "us-east-1")]
    region: String,
    /// A Lambda function and its bootstrap binary.
    #[arg(long, value_name = "NAME=BOOTSTRAP", value_parser = pair)]
    function: Vec<(String, String)>,
    /// An environment variable of a function.
    #[arg(long, value_name = "NAME:KEY=VALUE", value_parser = env_pair)]
    env: Vec<(String, String, String)>,
    /// The timeout of a function in seconds (60).
    #[arg(long, value_name = "NAME=SECONDS", value_parser = pair)]
    timeout: Vec<(String, String)>,
    /// The memory setting of a function in MB (512).
    #[arg(long, value_name = "NAME=MB", value_parser = pair)]
    memory: Vec<(String, String)>,
    /// The reserved concurrency of a function: its maximum number of instances; 0 throttles it.
    #[arg(long, value_name = "NAME=N", value_parser = pair)]
    reserved: Vec<(String, String)>,
    /// Sends CodeCommit's events of EventBridge to a function: all changes of references, or
    /// these `detail.event`s of references, pull requests and comments.
    #[arg(long, value_name = "NAME[=EVENT,..]")]
    rule: Vec<EventRule>,
    /// Functions, rules and faults from a JSON file: {"functions":[{"name","bootstrap",
    /// "environment"?,"timeout"?,"memory"?,"reserved"?}],"rules"?:[..],"faults"?:[..]}.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A bucket with public read, as a bucket policy would allow. With `=list` it may be
    /// listed, too; without, a missing key is answered with 403, as at S3.
    #[arg(long, value_name = "NAME[=list]", value_parser = public_bucket)]
    public_bucket: Vec<(String, PublicAccess)>,
    /// A role that may not be assumed, by its ARN; all others may be, because none is created.
    #[arg(long, value_name = "ROLE_ARN")]
    closed_role: Vec<String>,
    /// A fault: `SERVICE[/OPERATION]:FAULT[,ms=N][,rate=R|,every=N|,nth=K]`. Services:
    /// codecommit, git, s3, codepipeline, lambda, sts, eventbridge, secretsmanager, ssm, *. Faults: latency (with ms), throttle,
    /// error, conflict, drop, lose-answer, cut. For the service `events`: lose, double,
    /// reorder, delay.
    #[arg(long, value_name = "FAULT", verbatim_doc_comment)]
    fault: Vec<Rule>,
    /// Seed of all faults; without it, a random one is chosen and printed.
    #[arg(long)]
    seed: Option<u64>,
    /// Multiplies the pauses between attempts of an asynchronous invocation (1 and 2
    /// minutes at AWS).
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, value_parser = scale)]
    retry_delay_scale: f64,
    /// Maximum number of instances of a function without reserved concurrency.
    #[arg(long, value_name = "N", default_value_t = 10)]
    unreserved: u32,
    /// Maximum number of concurrent executions of one pipeline; no limit without it.
    #[arg(long, value_name = "N")]
    max_executions: Option<usize>,
    /// Format of the log on standard error.
    #[arg(long, value_enum, default_value = "text")]
    log: log::Format,
    /// Logs what functions print, too.
    #[arg(long, short)]
    verbose: bool,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn public_bucket(text: &str) -> Result<(String, PublicAccess), String> {
    match text.split_once('=') {
        None => Ok((text.to_owned(), PublicAccess::Read)),
        Some((name, "list")) => Ok((name.to_owned(), PublicAccess::ReadAndList)),
        Some(_) => Err("write NAME or NAME=list".into()),
    }
}

fn env_pair(text: &str) -> Result<(String, String, String), String> {
    let wrong = "write NAME:KEY=VALUE";
    let (name, rest) = text.split_once(':').ok_or(wrong)?;
    let (key, value) = rest.split_once('=').ok_or(wrong)?;
    Ok((name.to_owned(), key.to_owned(), value.to_owned()))
}

fn account_id(text: &str) -> Result<String, String> {
    if text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(text.to_owned());
    }
    Err("an account's number has 12 digits".into())
}

fn scale(text: &str) -> Result<f64, String> {
    let factor: f64 = text.parse().map_err(|_| "write a number".to_owned())?;
    if factor.is_finite() && factor >= 0.0 {
        return Ok(factor);
    }
    Err("it must not be negative".into())
}

/// Content of the `--config` file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default)]
    functions: Vec<ConfigFunction>,
    #[serde(default)]
    rules: Vec<String>,
    #[serde(default)]
    faults: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFunction {
    name: String,
    /// Path of the bootstrap, relative to the folder of the `--config` file.
    bootstrap: PathBuf,
    #[serde(default)]
    environment: BTreeMap<String, String>,
    timeout: Option<f64>,
    memory: Option<u32>,
    reserved: Option<u32>,
}

impl ServeArgs {
    fn options(self) -> anyhow::Result<Options> {
        let mut functions: Vec<FunctionConfig> = Vec::new();
        let (mut event_rules, mut faults) = (self.rule, self.fault);
        let program = std::env::current_exe()?;
        if self.all {
            let account = Account::new(&self.account, &self.region);
            // A link to the program is not where the functions are.
            let programs = installed_functions::folder(&program.canonicalize()?)?;
            functions = whole_flow::functions(&programs, &account);
            event_rules.extend(whole_flow::rules());
        }
        if let Some(path) = &self.config {
            let config = read_config(path)?;
            let folder = path.parent().unwrap_or(Path::new("."));
            for rule in &config.rules {
                event_rules.push(rule.parse().map_err(anyhow::Error::msg)?);
            }
            for fault in &config.faults {
                faults.push(fault.parse().map_err(anyhow::Error::msg)?);
            }
            for given in config.functions {
                let mut function = FunctionConfig::new(given.name, folder.join(given.bootstrap));
                function.environment = given.environment;
                function.reserved_concurrency = given.reserved;
                function.memory_mb = given.memory.unwrap_or(function.memory_mb);
                if let Some(seconds) = given.timeout {
                    function.timeout = Duration::try_from_secs_f64(seconds)?;
                }
                functions.push(function);
            }
        }
        for (name, bootstrap) in self.function {
            match functions.iter_mut().find(|function| function.name == name) {
                Some(function) => function.bootstrap = bootstrap.into(),
                None => functions.push(FunctionConfig::new(name, bootstrap)),
            }
        }
        for (name, key, value) in self.env {
            named(&mut functions, &name)?.environment.insert(key, value);
        }
        for (name, value) in self.timeout {
            let seconds: f64 = number(&name, &value)?;
            named(&mut functions, &name)?.timeout = Duration::try_from_secs_f64(seconds)?;
        }
        for (name, value) in self.memory {
            named(&mut functions, &name)?.memory_mb = number(&name, &value)?;
        }
        for (name, value) in self.reserved {
            named(&mut functions, &name)?.reserved_concurrency = Some(number(&name, &value)?);
        }
        for rule in &event_rules {
            named(&mut functions, &rule.function).context("a rule for events")?;
        }
        Ok(Options {
            credential_helper: Some(program),
            data: self.data,
            port: self.port,
            account_id: self.account,
            region: self.region,
            functions,
            event_rules,
            public_buckets: self.public_bucket,
            faults,
            seed: self.seed,
            retry_delay_scale: self.retry_delay_scale,
            unreserved_concurrency: self.unreserved,
            max_concurrent_executions: self.max_executions,
            codecommit_limits: Limits::default(),
        })
    }
}

fn read_config(path: &Path) -> anyhow::Result<Config> {
    let text = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is not understood", path.display()))
}

fn named<'a>(
    functions: &'a mut [FunctionConfig],
    name: &str,
) -> anyhow::Result<&'a mut FunctionConfig> {
    match functions.iter_mut().find(|function| function.name == name) {
        Some(function) => Ok(function),
        None => bail!("unknown function `{name}`; define it with `--function {name}=..`"),
    }
}

fn number<T: std::str::FromStr>(name: &str, value: &str) -> anyhow::Result<T> {
    match value.parse() {
        Ok(number) => Ok(number),
        Err(_) => bail!("`{name}={value}`: `{value}` is not a number, or out of range"),
    }
}

/// Runs the server until SIGINT or SIGTERM.
pub(super) async fn run(args: ServeArgs) -> anyhow::Result<()> {
    let filter = std::env::var("RUST_LOG").ok();
    log::init(args.log, args.verbose, filter.as_deref());
    // Registered before anything starts, so that an early signal leaves no processes behind.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let (all, closed_roles) = (args.all, args.closed_role.clone());
    let server = Server::start(args.options()?).await?;
    for role in closed_roles {
        server.account().close_role(role);
    }
    if all {
        whole_flow::create(&server)?;
    }
    print_banner(&server)?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    tracing::info!("stopping");
    server.shutdown().await;
    Ok(())
}

/// Prints the endpoint and the variables to export.
fn print_banner(server: &Server) -> anyhow::Result<()> {
    let endpoint = server.endpoint();
    let path = server.data().join(ENVIRONMENT_FILE);
    let variables =
        std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let mut out = std::io::stdout().lock();
    write!(
        out,
        "branchline-dev listens on {endpoint} (seed {seed}, data in {data})\n\n\
         In another terminal:\n\n  . {env}\n  \
         aws codecommit create-repository --repository-name demo\n  \
         git push {endpoint}/v1/repos/demo main\n  \
         git clone {endpoint}/v1/repos/demo\n\n\
         which sets:\n\n{variables}\n",
        seed = server.faults().seed(),
        data = server.data().display(),
        env = path.display(),
    )?;
    for function in server.lambda().functions() {
        writeln!(
            out,
            "function {}: {} ({} s, {} MB)",
            server.account().function_arn(&function.name),
            function.bootstrap.display(),
            function.timeout.as_secs_f64(),
            function.memory_mb
        )?;
    }
    out.flush()?;
    Ok(())
}
