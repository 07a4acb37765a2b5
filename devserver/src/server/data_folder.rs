//! Files of the data folder that concern the server itself: its port, and the variables to export.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tokio::net::TcpListener;

use crate::account::Credentials;

/// File with the shell's variables for clients.
pub const ENVIRONMENT_FILE: &str = "env";
/// File with the port of the folder's last server.
const PORT_FILE: &str = "port";

/// Creates the data folder; `None`: a temporary one, which is deleted when the second value is
/// dropped.
pub(super) fn create(
    wanted: Option<&Path>,
) -> anyhow::Result<(PathBuf, Option<tempfile::TempDir>)> {
    if let Some(wanted) = wanted {
        std::fs::create_dir_all(wanted)
            .with_context(|| format!("creating the data folder {}", wanted.display()))?;
        return Ok((std::path::absolute(wanted)?, None));
    }
    let folder = tempfile::Builder::new()
        .prefix("branchline-dev-")
        .tempdir()
        .context("creating a temporary data folder")?;
    Ok((folder.path().to_owned(), Some(folder)))
}

/// Listens on `port`; with 0 on the port of the folder's last server, if it is free, else on one
/// that the system chooses.
pub(super) async fn listen(port: u16, data: &Path) -> anyhow::Result<TcpListener> {
    if port == 0
        && let Ok(text) = std::fs::read_to_string(data.join(PORT_FILE))
        && let Ok(last) = text.trim().parse::<u16>()
    {
        match TcpListener::bind(("127.0.0.1", last)).await {
            Ok(listener) => return Ok(listener),
            Err(error) => tracing::warn!("port {last} of the last run is not available: {error}"),
        }
    }
    TcpListener::bind(("127.0.0.1", port))
        .await
        .with_context(|| format!("listening on 127.0.0.1:{port}"))
}

/// Writes the port for the folder's next server.
pub(super) fn write_port(data: &Path, port: u16) -> anyhow::Result<()> {
    let path = data.join(PORT_FILE);
    std::fs::write(&path, format!("{port}\n"))
        .with_context(|| format!("writing {}", path.display()))
}

/// Writes the variables that a shell exports for git, the AWS CLI and the SDKs. `program` is the
/// credential helper of git.
pub(super) fn write_environment(
    data: &Path,
    endpoint: &str,
    region: &str,
    credentials: &Credentials,
    program: &Path,
) -> anyhow::Result<()> {
    let program = program.display();
    // Git reads its configuration from these as if given by `-c`.
    let variables = format!(
        "export AWS_ENDPOINT_URL={endpoint}\n\
         export BRANCHLINE_DEV_ENDPOINT={endpoint}\n\
         export CODE_COMMIT_ENDPOINT={endpoint}\n\
         export AWS_ACCESS_KEY_ID={}\n\
         export AWS_SECRET_ACCESS_KEY={}\n\
         export AWS_REGION={region}\n\
         export AWS_DEFAULT_REGION={region}\n\
         unset AWS_SESSION_TOKEN AWS_PROFILE\n\
         export GIT_CONFIG_COUNT=3\n\
         export GIT_CONFIG_KEY_0=credential.{endpoint}.helper GIT_CONFIG_VALUE_0=\n\
         export GIT_CONFIG_KEY_1=credential.{endpoint}.helper \
         GIT_CONFIG_VALUE_1='!\"{program}\" credential-helper'\n\
         export GIT_CONFIG_KEY_2=credential.{endpoint}.useHttpPath GIT_CONFIG_VALUE_2=true\n",
        credentials.access_key_id, credentials.secret_access_key,
    );
    let path = data.join(ENVIRONMENT_FILE);
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("writing {}", path.display()))?;
    file.write_all(variables.as_bytes())?;
    Ok(())
}
