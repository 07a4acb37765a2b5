//! Amazon Resource Names.

/// Parts of `arn:<partition>:<service>:<region>:<account>:<resource>`, not validated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the format")]
pub struct ArnParts<'a> {
    prefix: &'a str,
    pub partition: &'a str,
    pub service: &'a str,
    pub region: &'a str,
    pub account: &'a str,
    /// May have further colons.
    pub resource: &'a str,
}

impl<'a> ArnParts<'a> {
    /// Splits `text` at its first five colons; `None` if it has fewer.
    pub fn split(text: &'a str) -> Option<Self> {
        let mut parts = text.splitn(6, ':');
        Some(Self {
            prefix: parts.next()?,
            partition: parts.next()?,
            service: parts.next()?,
            region: parts.next()?,
            account: parts.next()?,
            resource: parts.next()?,
        })
    }

    /// Returns whether the text starts with `arn:` and one of AWS's partitions.
    pub fn is_of_aws(&self) -> bool {
        self.prefix == "arn" && self.partition.starts_with("aws") && is_word(self.partition)
    }

    /// Returns whether the region is well-formed.
    pub fn has_region(&self) -> bool {
        is_word(self.region)
    }

    /// Returns whether the account has 12 digits.
    pub fn has_account(&self) -> bool {
        self.account.len() == 12 && self.account.bytes().all(|byte| byte.is_ascii_digit())
    }
}

/// Account and region that a function, a repository or an artifact belongs to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// The account, 12 digits.
    pub account: String,
    /// The region, such as `eu-west-1`.
    pub region: String,
}

impl Origin {
    /// Returns the origin of an ARN; `None` if it names no account or no region.
    pub fn of_arn(arn: &str) -> Option<Self> {
        let parts = ArnParts::split(arn)?;
        (parts.is_of_aws() && parts.has_region() && parts.has_account()).then(|| Self {
            account: parts.account.to_owned(),
            region: parts.region.to_owned(),
        })
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.region, self.account)
    }
}

fn is_word(text: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.bytes().all(legal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arn_is_split_at_its_first_five_colons() {
        let arn = "arn:aws-cn:lambda:cn-north-1:111122223333:function:f:live";
        let parts = ArnParts::split(arn).expect("it has five colons");
        assert_eq!(parts.service, "lambda");
        assert_eq!(parts.resource, "function:f:live");
        assert!(parts.is_of_aws() && parts.has_region() && parts.has_account());
        assert_eq!(ArnParts::split("arn:aws:s3::"), None);
    }

    #[test]
    fn parts_that_aws_does_not_use_are_recognised() {
        let parts = |text| ArnParts::split(text).expect("it has five colons");
        assert!(!parts("urn:aws:s3:::bucket").is_of_aws());
        assert!(!parts("arn:gcp:s3:::bucket").is_of_aws());
        assert!(!parts("arn:aws:s3:::bucket").has_region());
        assert!(!parts("arn:aws:s3:eu-west-1:1111:bucket").has_account());
    }
}
