//! Bucket policies, as far as tests need them: statements with the effect `Deny`, on actions and
//! resources, with conditions on the headers of encryption.
//!
//! The account's own credentials may do everything that no statement denies, as in an account
//! whose owner has all permissions. Statements with the effect `Allow` grant nothing more.

use serde::Deserialize;

/// The condition key of the encryption that a write requests.
pub const SSE: &str = "s3:x-amz-server-side-encryption";
/// The condition key of the KMS key that a write requests.
pub const KMS_KEY_ID: &str = "s3:x-amz-server-side-encryption-aws-kms-key-id";

/// A request, as policies describe it.
#[derive(Debug, Clone, Copy)]
pub struct PolicyRequest<'a> {
    /// The action, such as `s3:GetObject`.
    pub action: &'a str,
    /// The bucket.
    pub bucket: &'a str,
    /// The key; `None` for a request about the bucket.
    pub key: Option<&'a str>,
    /// The value of [`SSE`].
    pub sse: Option<&'a str>,
    /// The value of [`KMS_KEY_ID`].
    pub kms_key_id: Option<&'a str>,
}

/// A bucket policy.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Policy {
    statement: OneOrMany<Statement>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Statement {
    effect: String,
    action: OneOrMany<String>,
    resource: OneOrMany<String>,
    #[serde(default)]
    condition: std::collections::BTreeMap<String, Values>,
}

/// Condition keys, each with its values.
type Values = std::collections::BTreeMap<String, OneOrMany<String>>;

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    fn iter(&self) -> std::slice::Iter<'_, T> {
        match self {
            Self::One(one) => std::slice::from_ref(one).iter(),
            Self::Many(many) => many.iter(),
        }
    }
}

impl Policy {
    /// Parses the JSON of a policy.
    ///
    /// # Errors
    /// The reason why the text is not a policy, or which of its conditions is not supported.
    pub fn parse(text: &str) -> Result<Self, String> {
        let policy: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        for statement in policy.statement.iter() {
            for (operator, values) in &statement.condition {
                let known = [
                    "StringEquals",
                    "StringNotEquals",
                    "StringNotEqualsIfExists",
                    "Null",
                ];
                if !known.contains(&operator.as_str()) {
                    return Err(format!("the condition `{operator}` is not supported"));
                }
                if let Some(key) = values
                    .keys()
                    .find(|key| ![SSE, KMS_KEY_ID].contains(&key.as_str()))
                {
                    return Err(format!("the condition key `{key}` is not supported"));
                }
            }
        }
        Ok(policy)
    }

    /// Returns whether a statement denies a request.
    pub fn denies(&self, request: &PolicyRequest<'_>) -> bool {
        let denies =
            |statement: &Statement| statement.effect == "Deny" && statement.covers(request);
        self.statement.iter().any(denies)
    }
}

impl Statement {
    fn covers(&self, request: &PolicyRequest<'_>) -> bool {
        let resource = match request.key {
            Some(key) => format!("arn:aws:s3:::{}/{key}", request.bucket),
            None => format!("arn:aws:s3:::{}", request.bucket),
        };
        self.action.iter().any(|glob| matches(glob, request.action))
            && self.resource.iter().any(|glob| matches(glob, &resource))
            && self.condition.iter().all(|(operator, values)| {
                values
                    .iter()
                    .all(|(key, values)| holds(operator, request.value(key), values))
            })
    }
}

impl PolicyRequest<'_> {
    fn value(&self, key: &str) -> Option<&str> {
        if key == SSE {
            self.sse
        } else {
            self.kms_key_id
        }
    }
}

fn holds(operator: &str, value: Option<&str>, wanted: &OneOrMany<String>) -> bool {
    let is_equal = |value: &str| wanted.iter().any(|wanted| wanted == value);
    match operator {
        "StringEquals" => value.is_some_and(is_equal),
        // As in IAM, a missing key does not equal.
        "StringNotEquals" => !value.is_some_and(is_equal),
        "StringNotEqualsIfExists" => value.is_some_and(|value| !is_equal(value)),
        _ => wanted
            .iter()
            .any(|wanted| (wanted == "true") == value.is_none()),
    }
}

/// Matches `*` for any text.
fn matches(glob: &str, text: &str) -> bool {
    match glob.split_once('*') {
        None => glob == text,
        Some((start, rest)) => text.strip_prefix(start).is_some_and(|text| {
            let ends = text.char_indices().map(|(at, _)| at);
            ends.chain([text.len()])
                .any(|at| matches(rest, &text[at..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denies(policy: &str, action: &str, key: Option<&str>, sse: Option<&str>) -> bool {
        Policy::parse(policy).unwrap().denies(&PolicyRequest {
            action,
            bucket: "b",
            key,
            sse,
            kms_key_id: None,
        })
    }

    #[test]
    fn a_statement_denies_what_it_covers() {
        let policy = r#"{"Statement":[{"Effect":"Deny","Principal":"*","Action":["s3:Delete*"],
            "Resource":"arn:aws:s3:::b/x/*"},
            {"Effect":"Allow","Action":"*","Resource":"*"}]}"#;
        assert!(denies(policy, "s3:DeleteObject", Some("x/y"), None));
        assert!(!denies(policy, "s3:DeleteObject", Some("y"), None));
        assert!(!denies(policy, "s3:DeleteObject", None, None));
        assert!(!denies(policy, "s3:GetObject", Some("x/y"), None));
    }

    #[test]
    fn encryption_can_be_demanded() {
        let equal = r#"{"Statement":{"Effect":"Deny","Action":"s3:PutObject","Resource":"*",
            "Condition":{"StringNotEquals":{"s3:x-amz-server-side-encryption":"AES256"}}}}"#;
        let null = r#"{"Statement":{"Effect":"Deny","Action":"s3:PutObject","Resource":"*",
            "Condition":{"Null":{"s3:x-amz-server-side-encryption":"true"}}}}"#;
        for (sse, by_equal, by_null) in [
            (None, true, true),
            (Some("AES256"), false, false),
            (Some("aws:kms"), true, false),
        ] {
            assert_eq!(denies(equal, "s3:PutObject", Some("k"), sse), by_equal);
            assert_eq!(denies(null, "s3:PutObject", Some("k"), sse), by_null);
        }
    }

    #[test]
    fn what_is_not_supported_is_refused() {
        assert!(Policy::parse("{}").is_err());
        let policy = r#"{"Statement":{"Effect":"Deny","Action":"*","Resource":"*",
            "Condition":{"IpAddress":{"aws:SourceIp":"10.0.0.0/8"}}}}"#;
        assert!(Policy::parse(policy).unwrap_err().contains("IpAddress"));
        let policy = r#"{"Statement":{"Effect":"Deny","Action":"*","Resource":"*",
            "Condition":{"Null":{"aws:SourceIp":"true"}}}}"#;
        assert!(Policy::parse(policy).unwrap_err().contains("aws:SourceIp"));
    }
}
