//! Commands that query a running server.

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::json;

use crate::faults::Rule;

/// Address of a running server.
#[derive(Debug, Args)]
pub(super) struct ServerArgs {
    /// URL of the server, http://127.0.0.1:PORT.
    #[arg(long, env = "BRANCHLINE_DEV_ENDPOINT", value_name = "URL")]
    pub(super) endpoint: String,
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
    pub(super) async fn show(&self, what: &str, forget: bool) -> anyhow::Result<()> {
        let method = if forget { Method::DELETE } else { Method::GET };
        self.ask(method, what, String::new()).await
    }

    async fn ask(&self, method: Method, what: &str, body: String) -> anyhow::Result<()> {
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
        let text = String::from_utf8_lossy(&body);
        if !status.is_success() {
            bail!("the server answered {status}: {}", text.trim_end());
        }
        print!("{text}");
        Ok(())
    }
}

/// Runs `faults`.
pub(super) async fn faults(args: FaultsArgs) -> anyhow::Result<()> {
    let server = &args.server;
    match args.command {
        None => server.show("faults", false).await,
        Some(FaultsCommand::Add { rules }) => {
            let body = json!({ "rules": rules }).to_string();
            server.ask(Method::POST, "faults", body).await
        }
        Some(FaultsCommand::Remove { id: None }) => server.show("faults", true).await,
        Some(FaultsCommand::Remove { id: Some(id) }) => {
            server.show(&format!("faults/{id}"), true).await
        }
    }
}
