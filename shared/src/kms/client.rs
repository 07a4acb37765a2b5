//! [`KeyPolicies`] over the AWS SDK.

use async_trait::async_trait;
use aws_sdk_kms::Client;

use super::KeyPolicies;
use crate::aws::{ApiCall, Aws, SdkFailure, corrupt};
use crate::error::{ErrorKind, Result};
use crate::name::KmsKey;

/// The name of the one policy that a key has (KMS API reference, `GetKeyPolicy`).
const POLICY_NAME: &str = "default";

/// AWS KMS of one account and region.
#[derive(Debug, Clone)]
pub struct SdkKeyPolicies {
    client: Client,
}

impl SdkKeyPolicies {
    /// Makes a client.
    pub fn new(aws: &Aws) -> Self {
        let config = aws_sdk_kms::config::Builder::from(aws.sdk())
            .interceptor(aws.idle_timeout())
            .build();
        Self {
            client: Client::from_conf(config),
        }
    }

    /// Returns the id of the key that an alias names: a policy is read by the id of its key.
    async fn id_of(&self, key: &KmsKey) -> Result<String> {
        if !key.as_str().contains("alias/") {
            return Ok(key.as_str().to_owned());
        }
        let call = call("DescribeKey", "kms:DescribeKey", key);
        let answer = self.client.describe_key().key_id(key.as_str()).send().await;
        let answer = answer.map_err(|error| convert(SdkFailure::of(&error), &call))?;
        let id = answer.key_metadata().map(|found| found.key_id().to_owned());
        id.ok_or_else(|| corrupt(&call, "no `KeyMetadata`"))
    }
}

#[async_trait]
impl KeyPolicies for SdkKeyPolicies {
    async fn key_policy(&self, key: &KmsKey) -> Result<String> {
        let call = call("GetKeyPolicy", "kms:GetKeyPolicy", key);
        let answer = self
            .client
            .get_key_policy()
            .key_id(self.id_of(key).await?)
            .policy_name(POLICY_NAME)
            .send()
            .await
            .map_err(|error| convert(SdkFailure::of(&error), &call))?;
        let policy = answer.policy().map(str::to_owned);
        policy.ok_or_else(|| corrupt(&call, "no `Policy`"))
    }
}

fn call(operation: &'static str, permission: &'static str, key: &KmsKey) -> ApiCall {
    ApiCall {
        service: "KMS",
        operation,
        permission,
        subject: format!("KMS key `{key}`"),
        resource: format!("`{key}`"),
    }
}

/// Converts KMS's errors (API reference, `GetKeyPolicy`).
fn convert(failure: SdkFailure, call: &ApiCall) -> crate::error::Error {
    let subject = &call.subject;
    match failure.code() {
        "NotFoundException" => failure
            .into_error(ErrorKind::NotFound, format!("{subject} does not exist"))
            .with_hint("check `KMS_KEY_ID`, the region and the account"),
        _ => failure.into_common_error(call),
    }
}
