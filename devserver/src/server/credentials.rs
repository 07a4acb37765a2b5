//! The developer's credentials: created once per data folder and stored there.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::account::Credentials;

#[derive(Serialize, Deserialize)]
struct StoredCredentials {
    access_key_id: String,
    secret_access_key: String,
}

/// Reads the credentials of a data folder, or creates them (file mode 0600).
pub(super) fn load_or_create(data: &Path, account_id: &str) -> std::io::Result<Credentials> {
    let path = data.join("credentials.json");
    let stored = match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => create(&path)?,
        Err(error) => return Err(error),
    };
    let StoredCredentials {
        access_key_id,
        secret_access_key,
    } = stored;
    Ok(Credentials {
        access_key_id,
        secret_access_key,
        session_token: None,
        principal_arn: format!("arn:aws:iam::{account_id}:user/developer"),
    })
}

fn create(path: &Path) -> std::io::Result<StoredCredentials> {
    let id = Uuid::new_v4().simple().to_string().to_uppercase();
    let secret = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
    let stored = StoredCredentials {
        access_key_id: format!("AKIA{}", &id[..16]),
        secret_access_key: secret[..40].to_owned(),
    };
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(&serde_json::to_vec_pretty(&stored)?)?;
    Ok(stored)
}
