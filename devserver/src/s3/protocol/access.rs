//! Authentication: the account's credentials, their session tokens included; and
//! anonymous requests for objects of public buckets.

use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::path::S3Path;
use s3s::{S3Result, s3_error};

use crate::account::Account;
use crate::s3::store::{PublicAccess, Store};

/// Authentication of `s3s` against the account.
pub(super) struct Access {
    account: Account,
    store: Store,
}

impl Access {
    pub(super) fn new(account: Account, store: Store) -> Self {
        Self { account, store }
    }

    /// Permissions that a bucket policy with `"Principal": "*"` would grant: `s3:GetObject`,
    /// and `s3:ListBucket` where that is granted as well. Without the latter S3 does not
    /// distinguish a missing key from a forbidden one: both are 403.
    fn is_public(&self, cx: &S3AccessContext<'_>) -> bool {
        let bucket = match cx.s3_path() {
            S3Path::Root => return false,
            S3Path::Bucket { bucket } | S3Path::Object { bucket, .. } => bucket,
        };
        let access = self.store.public_access(bucket);
        match (cx.s3_op().name(), cx.s3_path()) {
            ("GetObject" | "HeadObject", S3Path::Object { key, .. }) => match access {
                PublicAccess::None => false,
                PublicAccess::Read => self.store.get(bucket, key, None).is_ok(),
                PublicAccess::ReadAndList => true,
            },
            ("ListObjects" | "ListObjectsV2" | "HeadBucket", _) => {
                access == PublicAccess::ReadAndList
            }
            _ => false,
        }
    }
}

#[async_trait::async_trait]
impl S3Auth for Access {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        match self.account.find(access_key) {
            Some(credentials) => Ok(credentials.secret_access_key.into()),
            None => Err(s3_error!(
                InvalidAccessKeyId,
                "The AWS Access Key Id you provided does not exist in our records."
            )),
        }
    }
}

#[async_trait::async_trait]
impl S3Access for Access {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        let Some(signer) = cx.credentials() else {
            if self.is_public(cx) {
                return Ok(());
            }
            return Err(s3_error!(AccessDenied, "Anonymous access is forbidden"));
        };
        let Some(known) = self.account.find(&signer.access_key) else {
            return Err(s3_error!(InvalidAccessKeyId));
        };
        let given = session_token(cx);
        if given.as_deref() != known.session_token.as_deref() {
            return Err(s3_error!(
                InvalidToken,
                "The provided token is malformed or otherwise invalid."
            ));
        }
        let owner = cx
            .headers()
            .get("x-amz-expected-bucket-owner")
            .map(http::HeaderValue::as_bytes);
        if owner.is_some_and(|owner| owner != self.account.id.as_bytes()) {
            return Err(s3_error!(
                AccessDenied,
                "The bucket does not belong to the expected owner"
            ));
        }
        Ok(())
    }
}

/// Returns the session token of the header, or of the query of a presigned URL.
fn session_token(cx: &S3AccessContext<'_>) -> Option<String> {
    if let Some(value) = cx.headers().get("x-amz-security-token") {
        return Some(String::from_utf8_lossy(value.as_bytes()).into_owned());
    }
    let query = cx.uri().query()?;
    query.split('&').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.eq_ignore_ascii_case("X-Amz-Security-Token").then(|| {
            percent_encoding::percent_decode_str(value)
                .decode_utf8_lossy()
                .into_owned()
        })
    })
}
