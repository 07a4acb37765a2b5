//! The state that all operations share.

use crate::account::Account;
use crate::s3::store::Store;

/// Backend of `s3s` over the store.
#[derive(Debug, Clone)]
pub(super) struct Backend {
    pub(super) store: Store,
    pub(super) account_id: String,
    pub(super) region: String,
}

impl Backend {
    pub(super) fn new(store: Store, account: &Account) -> Self {
        Self {
            store,
            account_id: account.id.clone(),
            region: account.region.clone(),
        }
    }
}
