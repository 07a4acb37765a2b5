//! Commands that query a running server, or call its functions.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

use crate::faults::Rule;

use super::table;

/// Address of a running server.
#[derive(Debug, Args)]
pub(super) struct ServerArgs {
    /// URL of the server, http://127.0.0.1:PORT.
    #[arg(long, env = "BRANCHLINE_DEV_ENDPOINT", value_name = "URL")]
    pub(super) endpoint: String,
}

/// A list of a running server.
#[derive(Debug, Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Prints JSON for scripts.
    #[arg(long)]
    json: bool,
}

/// `invoke`.
#[derive(Debug, Args)]
pub(super) struct InvokeArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// The function.
    function: String,
    /// File with the event; `-` reads it from standard input.
    #[arg(required_unless_present = "schedule")]
    event: Option<PathBuf>,
    /// Sends the event of a schedule.
    #[arg(long, conflicts_with = "event")]
    schedule: bool,
}

/// `faults`.
#[derive(Debug, Args)]
pub(super) struct FaultsArgs {
    #[command(flatten)]
    server: ServerArgs,
    #[command(subcommand)]
    command: Option<FaultsCommand>,
}

#[derive(Debug, Subcommand)]
enum FaultsCommand {
    /// Adds faults: `SERVICE[/OPERATION]:FAULT[,ms=N][,rate=R|,every=N|,nth=K]`.
    Add {
        /// The faults.
        #[arg(required = true, value_name = "FAULT")]
        rules: Vec<Rule>,
    },
    /// Removes one fault by its id, or all of them.
    Remove {
        /// The fault's id.
        id: Option<u64>,
    },
}

impl ServerArgs {
    /// Prints the server's list `what`, or deletes its entries first.
    async fn show(&self, what: &str, forget: bool) -> anyhow::Result<()> {
        let method = if forget { Method::DELETE } else { Method::GET };
        print!("{}", self.ask(method, what, String::new()).await?);
        Ok(())
    }

    async fn ask(&self, method: Method, what: &str, body: String) -> anyhow::Result<String> {
        let endpoint = self.endpoint.trim_end_matches('/');
        let request = Request::builder()
            .method(method)
            .uri(format!("{endpoint}/_dev/{what}"))
            .body(Full::new(bytes::Bytes::from(body)))
            .with_context(|| format!("`{endpoint}` is not a valid URL"))?;
        let client = Client::builder(TokioExecutor::new()).build_http();
        let response = client.request(request).await.with_context(|| {
            format!("no server answers at {endpoint}; start one with `branchline-dev serve`")
        })?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        let text = String::from_utf8_lossy(&body).into_owned();
        if !status.is_success() {
            bail!("the server answered {status}: {}", text.trim_end());
        }
        Ok(text)
    }
}

impl ListArgs {
    /// Prints the server's list `what`, or deletes its entries first.
    pub(super) async fn show(
        &self,
        what: &str,
        forget: bool,
        table: impl Fn(&Value) -> String,
    ) -> anyhow::Result<()> {
        let method = if forget { Method::DELETE } else { Method::GET };
        let list = self.server.ask(method, what, String::new()).await?;
        if self.json {
            print!("{list}");
        } else {
            print!("{}", table(&serde_json::from_str(&list)?));
        }
        Ok(())
    }
}

/// Runs `requests`.
pub(super) async fn requests(list: &ListArgs, reset: bool) -> anyhow::Result<()> {
    list.show("requests", reset, table::requests).await
}

/// Runs `dead-letters`.
pub(super) async fn dead_letters(list: &ListArgs, clear: bool) -> anyhow::Result<()> {
    list.show("dead-letters", clear, table::dead_letters).await
}

/// Runs `executions`.
pub(super) async fn executions(list: &ListArgs) -> anyhow::Result<()> {
    list.show("executions", false, table::executions).await
}

/// Runs `events`.
pub(super) async fn events(list: &ListArgs) -> anyhow::Result<()> {
    list.show("events", false, table::events).await
}

/// Runs `invoke`: prints the function's answer, or fails with its error.
pub(super) async fn invoke(args: InvokeArgs) -> anyhow::Result<()> {
    let event = match args.event {
        None => json!({ "schedule": true }).to_string(),
        Some(path) if path.as_os_str() == "-" => std::io::read_to_string(std::io::stdin())
            .context("reading the event from standard input")?,
        Some(path) => {
            std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?
        }
    };
    let what = format!("functions/{}", args.function);
    let answered = args.server.ask(Method::POST, &what, event).await?;
    let answered: Value = serde_json::from_str(&answered)?;
    if let Some(error) = answered.get("error") {
        let part = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
        bail!("{}: {}", part("errorType"), part("errorMessage"));
    }
    println!("{}", serde_json::to_string_pretty(&answered["answer"])?);
    Ok(())
}

/// Runs `faults`.
pub(super) async fn faults(args: FaultsArgs) -> anyhow::Result<()> {
    let server = &args.server;
    match args.command {
        None => server.show("faults", false).await,
        Some(FaultsCommand::Add { rules }) => {
            let body = json!({ "rules": rules }).to_string();
            print!("{}", server.ask(Method::POST, "faults", body).await?);
            Ok(())
        }
        Some(FaultsCommand::Remove { id: None }) => server.show("faults", true).await,
        Some(FaultsCommand::Remove { id: Some(id) }) => {
            server.show(&format!("faults/{id}"), true).await
        }
    }
}
