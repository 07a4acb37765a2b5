//! Git credentials for CodeCommit from the credentials of the AWS SDK: each request gets its
//! own password, signed at that moment.
//!
//! Besides [`client`](super::client), only this module uses the SDK.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_credential_types::Credentials as SdkCredentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials as _, SharedCredentialsProvider};
use jiff::Timestamp;
use tokio::sync::Mutex;

use super::git_credentials::{Endpoint, SigningKey, sign};
use crate::aws::Aws;
use crate::error::{Error, ErrorKind, Result};
use crate::git::smart_http::{CredentialSource, Credentials, RepositoryUrl};

/// Temporary credentials are refreshed when they expire within this time.
const REFRESH: Duration = Duration::from_mins(5);

type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Signs with the SDK's credentials: a role's credentials in Lambda.
#[derive(Clone)]
pub struct CodeCommitCredentials {
    region: String,
    provider: Option<SharedCredentialsProvider>,
    // Cached only if they have an expiry, because loading them may take requests.
    held: Arc<Mutex<Option<SdkCredentials>>>,
    clock: Clock,
}

impl fmt::Debug for CodeCommitCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GitLogin")
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}

impl CodeCommitCredentials {
    /// Makes the credentials for the region of `aws`.
    pub fn new(aws: &Aws) -> Self {
        Self {
            region: aws.region().to_owned(),
            provider: aws.sdk().credentials_provider(),
            held: Arc::default(),
            clock: Arc::new(Timestamp::now),
        }
    }

    /// Uses `clock` for the time of signatures.
    #[must_use]
    pub fn with_clock(mut self, clock: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    async fn key(&self) -> Result<SdkCredentials> {
        let mut held = self.held.lock().await;
        let good = |credentials: &&SdkCredentials| {
            let now = SystemTime::try_from((self.clock)()).ok();
            credentials
                .expiry()
                .zip(now)
                .is_some_and(|(expiry, now)| expiry > now + REFRESH)
        };
        if let Some(credentials) = held.as_ref().filter(good) {
            return Ok(credentials.clone());
        }
        let none = "AWS credentials to sign a git password are missing";
        let hint = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE";
        let provider = self
            .provider
            .as_ref()
            .ok_or_else(|| Error::new(ErrorKind::Config, none).with_hint(hint))?;
        let credentials = provider.provide_credentials().await.map_err(|error| {
            Error::new(ErrorKind::AccessDenied, none)
                .with_source(error)
                .with_hint(hint)
        })?;
        let now = SystemTime::try_from((self.clock)()).ok();
        if let Some((expiry, now)) = credentials.expiry().zip(now)
            && expiry <= now
        {
            let cause = CredentialsError::provider_error("their expiry has passed");
            return Err(
                Error::new(ErrorKind::AccessDenied, "the AWS credentials have expired")
                    .with_source(cause)
                    .with_hint("renew them, by signing in again or by what gave them"),
            );
        }
        *held = Some(credentials.clone());
        Ok(credentials)
    }
}

#[async_trait]
impl CredentialSource for CodeCommitCredentials {
    async fn credentials(
        &self,
        repository: &RepositoryUrl,
    ) -> crate::git::Result<Option<Credentials>> {
        let key = self.key().await?;
        let key = SigningKey {
            id: key.access_key_id(),
            secret: key.secret_access_key(),
            session_token: key.session_token(),
        };
        let endpoint = Endpoint {
            region: &self.region,
            host: repository.host(),
            path: repository.path(),
        };
        let signed = sign(&key, &endpoint, (self.clock)());
        Ok(Some(Credentials::new(signed.username, signed.password)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use aws_credential_types::provider::future::ProvideCredentials;

    use super::*;
    use crate::aws;

    fn clock(seconds: &Arc<AtomicI64>) -> impl Fn() -> Timestamp + Send + Sync + use<> {
        let seconds = Arc::clone(seconds);
        move || Timestamp::new(seconds.load(Ordering::SeqCst), 0).expect("the time is legal")
    }

    fn demo() -> RepositoryUrl {
        let url = "https://git-codecommit.us-east-1.amazonaws.com/v1/repos/MyDemoRepo";
        RepositoryUrl::new(url).unwrap()
    }

    #[tokio::test]
    async fn each_request_is_signed_at_its_own_time_and_equals_botocores() {
        let key = aws::AccessKey {
            id: "AKIDEXAMPLE".into(),
            secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".into(),
            session_token: Some("SESSION/TOKEN+==".into()),
        };
        let aws = Aws::fixed("us-east-1", "http://127.0.0.1:1", &key);
        let time: Timestamp = "2024-01-02T03:04:05Z".parse().unwrap();
        let seconds = Arc::new(AtomicI64::new(time.as_second()));
        let login = CodeCommitCredentials::new(&aws).with_clock(clock(&seconds));
        let first = login.credentials(&demo()).await.unwrap().unwrap();
        assert_eq!(first.user(), "AKIDEXAMPLE%SESSION/TOKEN+==");
        assert_eq!(
            first.password(),
            "20240102T030405Z0f588bef74e2ac4b70b72a0ebf8baa7cf6bcc51c76b85e8a76837044b6fb5ade"
        );
        seconds.fetch_add(60, Ordering::SeqCst);
        let second = login.credentials(&demo()).await.unwrap().unwrap();
        assert!(second.password().starts_with("20240102T030505Z"));
        assert!(!format!("{login:?}").contains("wJalr"));
    }

    #[derive(Debug)]
    struct Role {
        now: Arc<AtomicI64>,
        asked: Arc<AtomicI64>,
        lasts: Option<i64>,
    }

    impl aws_credential_types::provider::ProvideCredentials for Role {
        fn provide_credentials<'a>(&'a self) -> ProvideCredentials<'a>
        where
            Self: 'a,
        {
            let n = self.asked.fetch_add(1, Ordering::SeqCst);
            let now = self.now.load(Ordering::SeqCst);
            let expiry = self.lasts.map(|lasts| {
                let seconds = u64::try_from(now + lasts).expect("it is after 1970");
                SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
            });
            let credentials = SdkCredentials::new(format!("AKID{n}"), "s", None, expiry, "role");
            ProvideCredentials::ready(Ok(credentials))
        }
    }

    #[tokio::test]
    async fn temporary_credentials_are_cached_until_shortly_before_their_expiry() {
        for (lasts, expected) in [
            (Some(3600), ["AKID0", "AKID0", "AKID1", "AKID1"]),
            (None, ["AKID0", "AKID1", "AKID2", "AKID3"]),
        ] {
            let now = Arc::new(AtomicI64::new(1_700_000_000));
            let role = Role {
                now: Arc::clone(&now),
                asked: Arc::default(),
                lasts,
            };
            let login = CodeCommitCredentials {
                region: "us-east-1".into(),
                provider: Some(SharedCredentialsProvider::new(role)),
                held: Arc::default(),
                clock: Arc::new(clock(&now)),
            };
            let mut users = Vec::new();
            for seconds in [0, 3200, 200, 60] {
                now.fetch_add(seconds, Ordering::SeqCst);
                let signed = login.credentials(&demo()).await.unwrap().unwrap();
                users.push(signed.user().to_owned());
            }
            assert_eq!(users, expected, "credentials that last {lasts:?}");
        }
    }
}
