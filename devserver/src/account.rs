//! The account that the server pretends to be, and who may sign requests in it.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use uuid::Uuid;

/// Credentials that an AWS client signs requests with.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// `AWS_ACCESS_KEY_ID`.
    pub access_key_id: String,
    /// `AWS_SECRET_ACCESS_KEY`.
    pub secret_access_key: String,
    /// `AWS_SESSION_TOKEN`, for those of a role.
    pub session_token: Option<String>,
    /// ARN of the principal, as events and logs name it.
    pub principal_arn: String,
}

impl Credentials {
    /// Makes temporary credentials of a role's session.
    pub fn of_session(principal_arn: String) -> Self {
        let id = Uuid::new_v4().simple().to_string().to_uppercase();
        let two = || format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        Self {
            access_key_id: format!("ASIA{}", &id[..16]),
            secret_access_key: two()[..40].to_owned(),
            session_token: Some(two()),
            principal_arn,
        }
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("access_key_id", &self.access_key_id)
            .field("principal_arn", &self.principal_arn)
            .finish_non_exhaustive()
    }
}

/// The account: its number, its region, and its credentials.
#[derive(Debug, Clone)]
pub struct Account {
    /// 12 digits.
    pub id: String,
    /// `us-east-1`.
    pub region: String,
    credentials: Arc<RwLock<HashMap<String, Credentials>>>,
    closed_roles: Arc<RwLock<BTreeSet<String>>>,
}

impl Account {
    /// Creates an account without credentials.
    pub fn new(id: impl Into<String>, region: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            region: region.into(),
            credentials: Arc::default(),
            closed_roles: Arc::default(),
        }
    }

    /// Adds `credentials`: requests signed with them are accepted.
    pub fn add(&self, credentials: Credentials) {
        self.credentials
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(credentials.access_key_id.clone(), credentials);
    }

    /// Finds the credentials of an access key id.
    pub fn find(&self, access_key_id: &str) -> Option<Credentials> {
        self.credentials
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(access_key_id)
            .cloned()
    }

    /// Has STS refuse a role to every caller, as one whose trust policy names none of them.
    pub fn close_role(&self, role_arn: impl Into<String>) {
        self.closed_roles
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(role_arn.into());
    }

    /// Returns true if a role may be assumed.
    pub(crate) fn trusts_callers(&self, role_arn: &str) -> bool {
        let closed_roles = self.closed_roles.read();
        !closed_roles
            .unwrap_or_else(PoisonError::into_inner)
            .contains(role_arn)
    }

    /// Returns the ARN of a repository.
    pub fn repository_arn(&self, name: &str) -> String {
        format!("arn:aws:codecommit:{}:{}:{name}", self.region, self.id)
    }

    /// Returns the ARN of a function.
    pub fn function_arn(&self, name: &str) -> String {
        format!("arn:aws:lambda:{}:{}:function:{name}", self.region, self.id)
    }
}
