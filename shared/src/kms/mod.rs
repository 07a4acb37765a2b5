//! KMS, as a trait in plain types: the policies of keys.
//!
//! - [`client`]: calls the service;
//! - [`policy`]: the grants of a key policy to a role (pure).

#[cfg(feature = "kms")]
pub mod client;
pub mod policy;

use async_trait::async_trait;

use crate::error::Result;
use crate::name::KmsKey;

/// Operations of KMS that branchline uses.
#[async_trait]
pub trait KeyPolicies: Send + Sync {
    /// Reads the policy of a key, a JSON text. Errors: `NotFound` for a missing key.
    async fn key_policy(&self, key: &KmsKey) -> Result<String>;
}
