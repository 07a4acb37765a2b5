//! Profiles of `~/.aws/config` and `~/.aws/credentials`, as the SDK reads them.

use std::collections::BTreeSet;

use aws_config::Region;
use aws_config::ecs::EcsCredentialsProvider;
use aws_config::environment::region::EnvironmentVariableRegionProvider;
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::meta::credentials::CredentialsProviderChain;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::region::ProfileFileRegionProvider;
use aws_config::profile::{ProfileFileCredentialsProvider, ProfileSet};
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_types::retry::RetryConfig;
use aws_types::os_shim_internal::{Env, Fs};

use super::timeouts;
use crate::error::{Error, ErrorKind, Result};

/// The way in which a profile gets its credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialSetup {
    /// IAM Identity Center: `sso_session` or `sso_start_url`.
    Sso,
    /// `aws login`: `login_session`.
    Login,
    /// A program: `credential_process`.
    Process,
    /// A role: `role_arn`.
    Role,
    /// Keys, or nothing.
    Other,
}

/// Profiles that are configured.
#[derive(Debug)]
pub struct Profiles(ProfileSet);

impl Profiles {
    /// Reads the files that `AWS_CONFIG_FILE` and `AWS_SHARED_CREDENTIALS_FILE` name, or those
    /// in `~/.aws`. Missing files have no profiles.
    ///
    /// # Errors
    /// `Config` for a file that cannot be read.
    pub async fn load() -> Result<Self> {
        let (files, environment) = (Fs::real(), Env::real());
        #[expect(
            clippy::default_trait_access,
            reason = "the type is in a crate that is not a dependency"
        )]
        let names = Default::default();
        let loaded = aws_config::profile::load(&files, &environment, &names, None);
        loaded.await.map(Self).map_err(|error| {
            Error::new(ErrorKind::Config, "the profiles of AWS cannot be read").with_source(error)
        })
    }

    /// Returns the profile that `AWS_PROFILE` names, or `default`.
    pub fn selected(&self) -> &str {
        self.0.selected_profile()
    }

    /// Returns the region that a profile names.
    pub fn region(&self, profile: &str) -> Option<&str> {
        self.0.get_profile(profile)?.get("region")
    }

    /// Returns the way in which a profile gets its credentials.
    pub fn setup(&self, profile: &str) -> CredentialSetup {
        let Some(profile) = self.0.get_profile(profile) else {
            return CredentialSetup::Other;
        };
        let has = |name: &str| profile.get(name).is_some();
        if has("sso_session") || has("sso_start_url") {
            CredentialSetup::Sso
        } else if has("login_session") {
            CredentialSetup::Login
        } else if has("credential_process") {
            CredentialSetup::Process
        } else if has("role_arn") {
            CredentialSetup::Role
        } else {
            CredentialSetup::Other
        }
    }

    /// Checks that a profile exists.
    ///
    /// # Errors
    /// `Config`, with the names of the profiles that do.
    pub fn require(&self, profile: &str) -> Result<()> {
        if self.0.get_profile(profile).is_some() {
            return Ok(());
        }
        let names: BTreeSet<String> = self.0.profiles().map(|name| format!("`{name}`")).collect();
        let hint = if names.is_empty() {
            "add it to `~/.aws/config` by `aws configure --profile NAME`".to_owned()
        } else {
            let names: Vec<String> = names.into_iter().collect();
            format!("the profiles that exist are {}", names.join(", "))
        };
        let message = format!("the AWS profile `{profile}` does not exist");
        Err(Error::new(ErrorKind::Config, message).with_hint(hint))
    }
}

/// Returns the region that the environment or the profile names, or `default`.
pub(super) async fn configured_region(profile: Option<&str>, default: String) -> Option<Region> {
    let mut in_profile = ProfileFileRegionProvider::builder();
    if let Some(profile) = profile {
        in_profile = in_profile.profile_name(profile);
    }
    RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
        .or_else(in_profile.build())
        .or_else(Region::new(default))
        .region()
        .await
}

/// Returns the credentials of a profile; for a profile without any those of ECS or EC2. Those in
/// the environment are not used, as in boto3.
///
/// # Errors
/// `Config` when the profile does not exist.
pub(super) async fn credentials_provider(
    profile: &str,
    region: Option<Region>,
    http_client: SharedHttpClient,
) -> Result<SharedCredentialsProvider> {
    Profiles::load().await?.require(profile)?;
    let config = ProviderConfig::without_region()
        .with_region(region)
        .with_http_client(http_client)
        .with_retry_config(RetryConfig::standard())
        .with_timeout_config(timeouts());
    let of_profile = ProfileFileCredentialsProvider::builder()
        .configure(&config)
        .profile_name(profile)
        .build();
    let of_container = EcsCredentialsProvider::builder().configure(&config).build();
    let of_instance = ImdsCredentialsProvider::builder()
        .configure(&config)
        .build();
    let chain = CredentialsProviderChain::first_try("Profile", of_profile)
        .or_else("EcsContainer", of_container)
        .or_else("Ec2InstanceMetadata", of_instance);
    Ok(SharedCredentialsProvider::new(chain))
}
