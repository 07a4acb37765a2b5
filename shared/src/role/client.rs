//! Requests in the name of a role: credentials of AWS STS, and their renewal.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use tokio::sync::Mutex;

use super::RoleArn;
use crate::aws::{ApiCall, Aws, SdkFailure, corrupt};
use crate::error::{ErrorKind, Result};
use crate::retry::RetryPolicy;

/// Name of the sessions, as the logs of the other account show it.
const SESSION_NAME: &str = "branchline";

/// Credentials are renewed when they expire within this time.
const RENEWAL: Duration = Duration::from_mins(5);

/// Returns a configuration whose requests are signed with credentials of `role`, renewed before
/// they expire. `aws` signs the requests for them.
///
/// # Errors
/// `AccessDenied` if the role may not be assumed.
pub async fn assume(aws: &Aws, role: &RoleArn) -> Result<Aws> {
    let config = aws_sdk_sts::config::Builder::from(aws.sdk())
        .interceptor(aws.idle_timeout())
        .build();
    let session = Session(Arc::new(Inner {
        client: aws_sdk_sts::Client::from_conf(config),
        role: role.clone(),
        retry: RetryPolicy::new(1),
        held: Mutex::default(),
    }));
    // The first request is made here, so that its failure is not one of another service.
    session.credentials().await?;
    Ok(aws.with_credentials(SharedCredentialsProvider::new(session)))
}

/// Session of a role, shared by the clients that sign with its credentials.
#[derive(Debug, Clone)]
struct Session(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    client: aws_sdk_sts::Client,
    role: RoleArn,
    retry: RetryPolicy,
    held: Mutex<Option<Credentials>>,
}

impl Session {
    async fn credentials(&self) -> Result<Credentials> {
        let inner = &self.0;
        let mut held = inner.held.lock().await;
        let lasts = |credentials: &&Credentials| {
            let expiry = credentials.expiry();
            expiry.is_some_and(|expiry| expiry > SystemTime::now() + RENEWAL)
        };
        if let Some(credentials) = held.as_ref().filter(lasts) {
            return Ok(credentials.clone());
        }
        let credentials = inner.retry.run(|| inner.assume()).await?;
        *held = Some(credentials.clone());
        Ok(credentials)
    }
}

impl Inner {
    async fn assume(&self) -> Result<Credentials> {
        let role = &self.role;
        let call = ApiCall {
            service: "STS",
            operation: "AssumeRole",
            permission: "sts:AssumeRole",
            subject: format!("role `{role}`"),
            resource: format!("`{role}`"),
        };
        let request = self.client.assume_role().role_session_name(SESSION_NAME);
        let answer = request.role_arn(role.as_str()).send().await;
        let answer = answer.map_err(|error| {
            let error = SdkFailure::of(&error).into_common_error(&call);
            match error.hint() {
                Some(hint) if error.kind() == ErrorKind::AccessDenied => {
                    let hint = format!("{hint}, and let the role's trust policy name that role");
                    error.with_hint(hint)
                }
                _ => error,
            }
        })?;
        let given = answer.credentials();
        let given = given.ok_or_else(|| corrupt(&call, "it has no credentials"))?;
        let expiry = SystemTime::try_from(*given.expiration());
        Ok(Credentials::new(
            given.access_key_id(),
            given.secret_access_key(),
            Some(given.session_token().to_owned()),
            Some(expiry.map_err(|_| corrupt(&call, "its expiration is not a time"))?),
            "AssumeRole",
        ))
    }
}

impl ProvideCredentials for Session {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            let credentials = self.credentials().await;
            credentials.map_err(CredentialsError::provider_error)
        })
    }
}
