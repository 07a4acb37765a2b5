//! [`Secrets`] over the AWS SDK.

use async_trait::async_trait;
use aws_types::region::Region;

use super::{SecretArn, SecretStore, SecretText, Secrets};
use crate::aws::{ApiCall, Aws, SdkFailure};
use crate::error::{Error, ErrorKind, Result};

/// Secrets Manager and the Parameter Store, in the region that each ARN names.
#[derive(Debug, Clone)]
pub struct SdkSecrets {
    manager: aws_sdk_secretsmanager::Client,
    parameters: aws_sdk_ssm::Client,
}

impl SdkSecrets {
    /// Makes the clients.
    pub fn new(aws: &Aws) -> Self {
        let manager = aws_sdk_secretsmanager::config::Builder::from(aws.sdk())
            .interceptor(aws.idle_timeout())
            .build();
        let parameters = aws_sdk_ssm::config::Builder::from(aws.sdk())
            .interceptor(aws.idle_timeout())
            .build();
        Self {
            manager: aws_sdk_secretsmanager::Client::from_conf(manager),
            parameters: aws_sdk_ssm::Client::from_conf(parameters),
        }
    }

    async fn secret(&self, arn: &SecretArn) -> Result<Option<String>> {
        let region = Region::new(arn.region().to_owned());
        let config = aws_sdk_secretsmanager::config::Builder::new().region(region);
        let answer = self
            .manager
            .get_secret_value()
            .secret_id(arn.as_str())
            .customize()
            .config_override(config)
            .send()
            .await
            .map_err(|error| {
                let call = ApiCall {
                    service: "Secrets Manager",
                    operation: "GetSecretValue",
                    permission: "secretsmanager:GetSecretValue",
                    subject: format!("secret `{arn}`"),
                    resource: format!("`{arn}`"),
                };
                convert(SdkFailure::of(&error), &call)
            })?;
        Ok(answer.secret_string)
    }

    async fn parameter(&self, arn: &SecretArn) -> Result<Option<String>> {
        let region = Region::new(arn.region().to_owned());
        let config = aws_sdk_ssm::config::Builder::new().region(region);
        let answer = self
            .parameters
            .get_parameter()
            .name(arn.as_str())
            .with_decryption(true)
            .customize()
            .config_override(config)
            .send()
            .await
            .map_err(|error| {
                let call = ApiCall {
                    service: "Systems Manager",
                    operation: "GetParameter",
                    permission: "ssm:GetParameter",
                    subject: format!("parameter `{arn}`"),
                    resource: format!("`{arn}`"),
                };
                convert(SdkFailure::of(&error), &call)
            })?;
        Ok(answer.parameter.and_then(|parameter| parameter.value))
    }
}

#[async_trait]
impl Secrets for SdkSecrets {
    async fn read(&self, arn: &SecretArn) -> Result<SecretText> {
        let text = match arn.store() {
            SecretStore::SecretsManager => self.secret(arn).await?,
            SecretStore::ParameterStore => self.parameter(arn).await?,
        };
        text.map(SecretText::new).ok_or_else(|| {
            Error::new(ErrorKind::Config, format!("secret `{arn}` has no text"))
                .with_hint("store the secret as a string, not as binary")
        })
    }
}

/// Converts both services' errors (API references, `GetSecretValue` and
/// `GetParameter`).
fn convert(failure: SdkFailure, call: &ApiCall) -> Error {
    let subject = &call.subject;
    match failure.code() {
        "ResourceNotFoundException" | "ParameterNotFound" | "ParameterVersionNotFound" => failure
            .into_error(ErrorKind::NotFound, format!("{subject} does not exist"))
            .with_hint("check the ARN, its region and account"),
        "DecryptionFailure" | "InvalidKeyId" => failure
            .into_error(
                ErrorKind::AccessDenied,
                format!("the KMS key of {subject} cannot be used"),
            )
            .with_hint("grant `kms:Decrypt` on the secret's key to the function's role"),
        _ => failure.into_common_error(call),
    }
}
