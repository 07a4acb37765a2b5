//! Access points: further names of buckets. They are not stored on disk.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

/// Maximum length of the part of an alias that comes from the access point's name.
const MAX_NAME_IN_ALIAS: usize = 20;

/// Names of access points and their aliases, each with the bucket.
#[derive(Debug, Default)]
pub(super) struct AccessPoints {
    by_name: RwLock<BTreeMap<String, String>>,
    by_alias: RwLock<BTreeMap<String, String>>,
}

impl AccessPoints {
    /// Adds an access point; returns its alias.
    pub(super) fn add(&self, name: &str, bucket: &str) -> String {
        let start: String = name.chars().take(MAX_NAME_IN_ALIAS).collect();
        let unique = uuid::Uuid::new_v4().simple();
        let alias = format!("{start}-{unique}-s3alias");
        let insert = |names: &RwLock<BTreeMap<String, String>>, name: &str| {
            let mut names = names.write().unwrap_or_else(PoisonError::into_inner);
            names.insert(name.to_owned(), bucket.to_owned());
        };
        insert(&self.by_name, name);
        insert(&self.by_alias, &alias);
        alias
    }

    /// Returns the bucket of an access point.
    pub(super) fn bucket(&self, name: &str) -> Option<String> {
        let names = self.by_name.read().unwrap_or_else(PoisonError::into_inner);
        names.get(name).cloned()
    }

    /// Returns the bucket that `name`, a bucket's name or an alias, stands for.
    pub(super) fn resolve(&self, name: &str) -> String {
        let aliases = self.by_alias.read().unwrap_or_else(PoisonError::into_inner);
        aliases.get(name).map_or(name, String::as_str).to_owned()
    }
}
