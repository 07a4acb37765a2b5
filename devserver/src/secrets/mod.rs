//! Secrets Manager, and the Parameter Store of Systems Manager: enough to keep credentials that
//! functions read.
//!
//! | module | content |
//! |---|---|
//! | this one | Secrets Manager |
//! | `parameters` | Systems Manager |
//! | `file` | both, in one file that only its owner reads |
//!
//! There are no rotations, policies and replicas; every secret has its newest version only.

mod file;
mod parameters;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::account::Account;
use crate::aws_json::{ApiError, ApiResult, unknown_operation};

use file::{Content, Secret, SecretFile};

/// Operations of Secrets Manager that the service offers.
const OPERATIONS: [&str; 7] = [
    "CreateSecret",
    "DeleteSecret",
    "DescribeSecret",
    "GetSecretValue",
    "ListSecrets",
    "PutSecretValue",
    "UpdateSecret",
];

/// Both services. A handle: clones share the secrets.
#[derive(Clone)]
pub struct SecretService(Arc<Inner>);

struct Inner {
    account: Account,
    file: SecretFile,
    content: Mutex<Content>,
}

impl SecretService {
    /// Opens the secrets in a folder.
    pub fn open(account: Account, folder: &Path) -> std::io::Result<Self> {
        let (file, content) = SecretFile::open(folder)?;
        Ok(Self(Arc::new(Inner {
            account,
            file,
            content: Mutex::new(content),
        })))
    }

    /// Answers one operation of Secrets Manager.
    pub fn call(&self, operation: &str, input: &Value) -> ApiResult {
        match operation {
            "CreateSecret" => self.create(input),
            "GetSecretValue" => {
                let content = self.content();
                let secret = self.find(&content, input)?;
                let mut answer = described(secret);
                answer.insert("VersionStages".into(), json!(["AWSCURRENT"]));
                answer.insert("CreatedDate".into(), secret.changed.into());
                answer.extend(secret.value.clone());
                Ok(answer.into())
            }
            "PutSecretValue" | "UpdateSecret" => self.put(input),
            "DescribeSecret" => {
                let content = self.content();
                let secret = self.find(&content, input)?;
                let mut answer = described(secret);
                answer.remove("VersionId");
                answer.insert("CreatedDate".into(), secret.created.into());
                answer.insert("LastChangedDate".into(), secret.changed.into());
                Ok(answer.into())
            }
            "ListSecrets" => {
                let content = self.content();
                let list: Vec<Value> = content
                    .secrets
                    .iter()
                    .map(|secret| json!({ "ARN": secret.arn, "Name": secret.name }))
                    .collect();
                Ok(json!({ "SecretList": list }))
            }
            "DeleteSecret" => self.delete(input),
            _ => Err(unknown_operation("Secrets Manager", operation, OPERATIONS)),
        }
    }

    /// Answers one operation of Systems Manager.
    pub fn call_parameters(&self, operation: &str, input: &Value) -> ApiResult {
        parameters::call(self, operation, input)
    }

    fn create(&self, input: &Value) -> ApiResult {
        let name = input["Name"].as_str().unwrap_or_default();
        let legal = |c: char| c.is_ascii_alphanumeric() || "/_+=.@-".contains(c);
        if name.is_empty() || name.len() > 512 || !name.chars().all(legal) {
            return Err(ApiError::new(
                "ValidationException",
                "Invalid name. Must be a valid name containing alphanumeric characters, or any of \
                 the following: -/_+=.@!",
            ));
        }
        let value = value(input)?;
        let mut content = self.content();
        if content.secrets.iter().any(|secret| secret.name == name) {
            return Err(ApiError::new(
                "ResourceExistsException",
                format!("The operation failed because the secret {name} already exists."),
            ));
        }
        let Account { region, id, .. } = &self.0.account;
        let suffix = uuid::Uuid::new_v4().simple().to_string();
        let now = now();
        let secret = Secret {
            name: name.to_owned(),
            arn: format!(
                "arn:aws:secretsmanager:{region}:{id}:secret:{name}-{}",
                &suffix[..6]
            ),
            version_id: uuid::Uuid::new_v4().to_string(),
            created: now,
            changed: now,
            value,
        };
        let answer = described(&secret);
        content.secrets.push(secret);
        self.save(&content)?;
        Ok(answer.into())
    }

    fn put(&self, input: &Value) -> ApiResult {
        let value = value(input)?;
        let mut content = self.content();
        let arn = self.find(&content, input)?.arn.clone();
        let mut secrets = content.secrets.iter_mut();
        let secret = secrets.find(|secret| secret.arn == arn);
        let secret = secret.ok_or_else(no_secret)?;
        if !value.is_empty() {
            secret.value = value;
            secret.version_id = uuid::Uuid::new_v4().to_string();
            secret.changed = now();
        }
        let answer = described(secret);
        self.save(&content)?;
        Ok(answer.into())
    }

    /// Deletes a secret at once, without AWS's days of waiting.
    fn delete(&self, input: &Value) -> ApiResult {
        let mut content = self.content();
        let secret = self.find(&content, input)?.clone();
        content.secrets.retain(|kept| kept.arn != secret.arn);
        self.save(&content)?;
        Ok(json!({ "ARN": secret.arn, "Name": secret.name, "DeletionDate": now() }))
    }

    /// Finds the secret that `SecretId` names: by name, ARN, or ARN without its suffix.
    fn find<'c>(&self, content: &'c Content, input: &Value) -> Result<&'c Secret, ApiError> {
        let id = input["SecretId"].as_str().unwrap_or_default();
        if id.is_empty() {
            return Err(ApiError::new(
                "ValidationException",
                "1 validation error detected: Value at 'secretId' failed to satisfy constraint: \
                 Member must not be null",
            ));
        }
        let Account {
            region, id: number, ..
        } = &self.0.account;
        let bare = |secret: &Secret| {
            format!(
                "arn:aws:secretsmanager:{region}:{number}:secret:{}",
                secret.name
            )
        };
        let mut secrets = content.secrets.iter();
        let found = secrets.find(|one| one.name == id || one.arn == id || bare(one) == id);
        found.ok_or_else(no_secret)
    }

    fn save(&self, content: &Content) -> Result<(), ApiError> {
        self.0.file.save(content).map_err(ApiError::internal)
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.0
            .content
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn described(secret: &Secret) -> Map<String, Value> {
    let mut answer = Map::new();
    answer.insert("ARN".into(), secret.arn.clone().into());
    answer.insert("Name".into(), secret.name.clone().into());
    answer.insert("VersionId".into(), secret.version_id.clone().into());
    answer
}

/// Reads `SecretString` or `SecretBinary`.
fn value(input: &Value) -> Result<Map<String, Value>, ApiError> {
    let members = ["SecretString", "SecretBinary"];
    let given = members.iter().filter(|member| !input[**member].is_null());
    let value: Map<String, Value> = given
        .map(|member| ((*member).to_owned(), input[*member].clone()))
        .collect();
    if value.len() > 1 || value.values().any(|value| !value.is_string()) {
        return Err(ApiError::new(
            "InvalidParameterException",
            "You must provide either SecretString or SecretBinary, as a string",
        ));
    }
    Ok(value)
}

fn no_secret() -> ApiError {
    ApiError::new(
        "ResourceNotFoundException",
        "Secrets Manager can't find the specified secret.",
    )
}

/// Returns seconds since the epoch.
#[expect(clippy::cast_precision_loss, reason = "far below 2^52 milliseconds")]
fn now() -> f64 {
    Timestamp::now().as_millisecond() as f64 / 1000.0
}
