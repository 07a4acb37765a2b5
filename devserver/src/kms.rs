//! KMS, as far as its keys have policies: nothing is encrypted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::account::Account;
use crate::aws_json::{ApiError, ApiResult};

/// Name of the one policy of a key.
const POLICY_NAME: &str = "default";

/// KMS. A handle: clones share the keys.
#[derive(Clone)]
pub struct KmsService(Arc<Inner>);

struct Inner {
    account: Account,
    path: PathBuf,
    keys: Mutex<Keys>,
}

/// Keys by their ids.
type Keys = BTreeMap<String, Key>;

/// A key.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Key {
    description: String,
    policy: String,
}

impl KmsService {
    /// Opens the keys of a data folder.
    pub fn open(account: Account, data: &Path) -> std::io::Result<Self> {
        let path = data.join("kms.json");
        let keys = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Keys::new(),
            Err(error) => return Err(error),
        };
        Ok(Self(Arc::new(Inner {
            account,
            path,
            keys: Mutex::new(keys),
        })))
    }

    /// Answers one operation (`GetKeyPolicy`).
    pub fn call(&self, operation: &str, input: &Value) -> ApiResult {
        match operation {
            "CreateKey" => self.create(input),
            "DescribeKey" => {
                let (id, key) = self.find(input)?;
                Ok(json!({ "KeyMetadata": self.metadata(&id, &key) }))
            }
            "ListKeys" => Ok(self.list()),
            "GetKeyPolicy" => {
                check_policy_name(input)?;
                let (_, key) = self.find(input)?;
                Ok(json!({ "Policy": key.policy, "PolicyName": POLICY_NAME }))
            }
            "PutKeyPolicy" => self.put_policy(input),
            _ => Err(ApiError::new(
                "UnknownOperationException",
                format!(
                    "KMS has no operation {operation} here, only CreateKey, DescribeKey, \
                     GetKeyPolicy, ListKeys and PutKeyPolicy"
                ),
            )),
        }
    }

    fn create(&self, input: &Value) -> ApiResult {
        let root = format!("arn:aws:iam::{}:root", self.0.account.id);
        let policy = match input["Policy"].as_str() {
            Some(policy) => checked_policy(policy)?,
            // As KMS gives a key that is created without a policy.
            None => json!({
                "Version": "2012-10-17",
                "Id": "key-default-1",
                "Statement": [{
                    "Sid": "Enable IAM User Permissions",
                    "Effect": "Allow",
                    "Principal": { "AWS": root },
                    "Action": "kms:*",
                    "Resource": "*",
                }],
            })
            .to_string(),
        };
        let key = Key {
            description: input["Description"].as_str().unwrap_or_default().to_owned(),
            policy,
        };
        let id = Uuid::new_v4().to_string();
        let metadata = self.metadata(&id, &key);
        let mut keys = self.keys();
        keys.insert(id, key);
        self.save(&keys)?;
        Ok(json!({ "KeyMetadata": metadata }))
    }

    fn put_policy(&self, input: &Value) -> ApiResult {
        check_policy_name(input)?;
        let (id, _) = self.find(input)?;
        let policy = input["Policy"].as_str().unwrap_or_default();
        let policy = checked_policy(policy)?;
        let mut keys = self.keys();
        if let Some(key) = keys.get_mut(&id) {
            key.policy = policy;
        }
        self.save(&keys)?;
        Ok(Value::Null)
    }

    fn list(&self) -> Value {
        let keys = self.keys();
        let listed = keys
            .keys()
            .map(|id| json!({ "KeyId": id, "KeyArn": self.arn(id) }));
        json!({ "Keys": listed.collect::<Vec<_>>(), "Truncated": false })
    }

    fn metadata(&self, id: &str, key: &Key) -> Value {
        json!({
            "KeyId": id,
            "Arn": self.arn(id),
            "AWSAccountId": self.0.account.id,
            "Description": key.description,
            "Enabled": true,
            "KeyState": "Enabled",
            "KeyUsage": "ENCRYPT_DECRYPT",
        })
    }

    fn arn(&self, id: &str) -> String {
        let Account {
            region,
            id: account,
            ..
        } = &self.0.account;
        format!("arn:aws:kms:{region}:{account}:key/{id}")
    }

    /// Finds the key that `KeyId` names, by its id or its ARN.
    fn find(&self, input: &Value) -> Result<(String, Key), ApiError> {
        let named = input["KeyId"].as_str().unwrap_or_default();
        let own = self.arn("");
        let id = named.strip_prefix(&own).unwrap_or(named);
        let found = self.keys().get(id).cloned();
        let found = found.map(|key| (id.to_owned(), key));
        found.ok_or_else(|| {
            let arn = if named.starts_with("arn:") {
                named.to_owned()
            } else {
                self.arn(named)
            };
            ApiError::new("NotFoundException", format!("Key '{arn}' does not exist"))
        })
    }

    fn save(&self, keys: &Keys) -> Result<(), ApiError> {
        let temporary = self.0.path.with_extension("new");
        let bytes = serde_json::to_vec(keys).map_err(ApiError::internal)?;
        std::fs::write(&temporary, bytes)
            .and_then(|()| std::fs::rename(&temporary, &self.0.path))
            .map_err(ApiError::internal)
    }

    fn keys(&self) -> MutexGuard<'_, Keys> {
        self.0.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check_policy_name(input: &Value) -> Result<(), ApiError> {
    match input["PolicyName"].as_str() {
        None | Some(POLICY_NAME) => Ok(()),
        Some(other) => Err(ApiError::new(
            "NotFoundException",
            format!("No such policy exists: {other}"),
        )),
    }
}

fn checked_policy(policy: &str) -> Result<String, ApiError> {
    let is_object = serde_json::from_str::<Value>(policy).is_ok_and(|value| value.is_object());
    if is_object {
        return Ok(policy.to_owned());
    }
    Err(ApiError::new(
        "MalformedPolicyDocumentException",
        "The new key policy is not valid JSON",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_of_a_key_is_kept_and_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let open = || {
            let account = Account::new("123456789012", "us-east-1");
            KmsService::open(account, folder.path()).unwrap()
        };
        let kms = open();
        let created = kms.call("CreateKey", &json!({})).unwrap();
        let arn = created["KeyMetadata"]["Arn"].clone();
        let id = created["KeyMetadata"]["KeyId"].clone();
        let policy = |kms: &KmsService, key: &Value| {
            let input = json!({ "KeyId": key, "PolicyName": "default" });
            let answer = kms.call("GetKeyPolicy", &input).unwrap();
            answer["Policy"].as_str().unwrap().to_owned()
        };
        assert!(policy(&kms, &arn).contains("arn:aws:iam::123456789012:root"));
        let new = json!({ "KeyId": id, "Policy": "{\"Statement\":[]}" });
        kms.call("PutKeyPolicy", &new).unwrap();
        assert_eq!(policy(&open(), &id), "{\"Statement\":[]}");
        for (operation, input, code) in [
            (
                "GetKeyPolicy",
                json!({ "KeyId": "none" }),
                "NotFoundException",
            ),
            (
                "PutKeyPolicy",
                json!({ "KeyId": id, "Policy": "{" }),
                "MalformedPolicyDocumentException",
            ),
            ("Encrypt", json!({}), "UnknownOperationException"),
        ] {
            let error = kms.call(operation, &input).unwrap_err();
            assert_eq!(error.code, code, "{operation}");
        }
    }
}
