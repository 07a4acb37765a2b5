//! Hosts of requests: the bucket is in the path, or the host is that of an access point,
//! `<name>-<account>.<domain>`.

use s3s::S3Result;
use s3s::host::{S3Host, VirtualHost};

use crate::account::Account;
use crate::s3::store::Store;

/// Hosts of the server.
pub(super) struct Hosts {
    store: Store,
    /// End of the first label of an access point's host.
    suffix: String,
}

impl Hosts {
    pub(super) fn new(store: Store, account: &Account) -> Self {
        Self {
            store,
            suffix: format!("-{}", account.id),
        }
    }
}

impl S3Host for Hosts {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<VirtualHost<'a>> {
        let access_point = host.split_once('.').and_then(|(label, domain)| {
            let name = label.strip_suffix(&self.suffix)?;
            Some((domain, self.store.bucket_of_access_point(name)?))
        });
        Ok(match access_point {
            Some((domain, bucket)) => VirtualHost::new(domain).with_bucket(bucket),
            None => VirtualHost::new(host),
        })
    }
}
