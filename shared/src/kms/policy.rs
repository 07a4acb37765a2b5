//! The grants of a key policy to a role. Pure.
//!
//! A policy is read as KMS does (developer guide, "Key policies in AWS KMS"), except that
//! conditions are not evaluated: an allowance with a condition counts, and a denial with one does
//! not.

use serde::Deserialize;
use serde_json::Value;

use crate::arn::ArnParts;
use crate::error::{Error, ErrorKind, Result};

#[derive(Deserialize)]
struct Policy {
    #[serde(rename = "Statement")]
    statements: OneOrMany<Statement>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    Many(Vec<T>),
    One(T),
}

impl<T> OneOrMany<T> {
    fn as_slice(&self) -> &[T] {
        match self {
            Self::Many(all) => all,
            Self::One(one) => std::slice::from_ref(one),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Statement {
    effect: String,
    #[serde(default)]
    principal: Value,
    #[serde(default)]
    action: Value,
    #[serde(default)]
    condition: Value,
}

/// Returns those of `actions`, such as `kms:Decrypt`, that a key policy does not grant to a role,
/// neither by its ARN nor by its account, whose own policies decide then.
///
/// # Errors
/// `Corrupt` for a text that is not a policy.
pub fn missing_grants<'a>(
    policy: &str,
    role_arn: &str,
    actions: &[&'a str],
) -> Result<Vec<&'a str>> {
    let policy: Policy = serde_json::from_str(policy).map_err(|error| {
        Error::new(ErrorKind::Corrupt, "the key policy cannot be read").with_source(error)
    })?;
    let concerns = |statement: &&Statement, effect: &str, action: &str| {
        statement.effect == effect
            && is_principal(&statement.principal, role_arn)
            && texts(&statement.action).any(|pattern| matches(pattern, action))
    };
    let is_granted = |action: &str| {
        let statements = policy.statements.as_slice();
        let allowed = statements
            .iter()
            .any(|statement| concerns(&statement, "Allow", action));
        let denied = statements
            .iter()
            .any(|statement| statement.condition.is_null() && concerns(&statement, "Deny", action));
        allowed && !denied
    };
    let missing = actions.iter().filter(|action| !is_granted(action));
    Ok(missing.copied().collect())
}

/// Returns the texts of a member that is a text or a list of texts.
fn texts(value: &Value) -> impl Iterator<Item = &str> {
    let one = value.as_str();
    let many = value.as_array().into_iter().flatten();
    one.into_iter().chain(many.filter_map(Value::as_str))
}

/// Returns true if a principal is the role, its account, or everyone.
fn is_principal(principal: &Value, role_arn: &str) -> bool {
    let account = ArnParts::split(role_arn).map_or("", |arn| arn.account);
    let is_meant = |text: &str| {
        text == "*"
            || text == role_arn
            || (!account.is_empty()
                && (text == account
                    || ArnParts::split(text).is_some_and(|arn| {
                        arn.service == "iam" && arn.account == account && arn.resource == "root"
                    })))
    };
    principal.as_str() == Some("*") || texts(&principal["AWS"]).any(is_meant)
}

/// Compares an action with a pattern, in which `*` stands for any text, without regard to case.
fn matches(pattern: &str, action: &str) -> bool {
    let (pattern, action) = (pattern.to_ascii_lowercase(), action.to_ascii_lowercase());
    let Some((start, rest)) = pattern.split_once('*') else {
        return pattern == action;
    };
    let Some(mut left) = action.strip_prefix(start) else {
        return false;
    };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let end = parts.pop().unwrap_or_default();
    for part in parts {
        match left.find(part) {
            Some(at) => left = &left[at + part.len()..],
            None => return false,
        }
    }
    left.ends_with(end)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ROLE: &str = "arn:aws:iam::111122223333:role/team/update";
    const ACTIONS: [&str; 2] = ["kms:GenerateDataKey", "kms:Decrypt"];

    fn missing(statements: &Value) -> Vec<&'static str> {
        let policy = json!({ "Version": "2012-10-17", "Statement": statements }).to_string();
        missing_grants(&policy, ROLE, &ACTIONS).expect("it is a policy")
    }

    fn allow(principal: &Value, action: &Value) -> Value {
        json!({ "Effect": "Allow", "Principal": principal, "Action": action, "Resource": "*" })
    }

    #[test]
    fn a_role_is_granted_by_its_arn_its_account_or_to_everyone() {
        let all = json!("kms:*");
        for principal in [
            json!("*"),
            json!({ "AWS": "*" }),
            json!({ "AWS": ROLE }),
            json!({ "AWS": ["arn:aws:iam::999999999999:root", ROLE] }),
            json!({ "AWS": "arn:aws:iam::111122223333:root" }),
            json!({ "AWS": "111122223333" }),
        ] {
            assert!(
                missing(&json!([allow(&principal, &all)])).is_empty(),
                "{principal}"
            );
        }
        for principal in [
            json!({ "AWS": "arn:aws:iam::111122223333:role/update" }),
            json!({ "AWS": "arn:aws:iam::999999999999:root" }),
            json!({ "Service": "s3.amazonaws.com" }),
            json!(null),
            json!([7]),
        ] {
            let found = missing(&json!([allow(&principal, &all)]));
            assert_eq!(found, ACTIONS, "{principal}");
        }
    }

    #[test]
    fn each_action_is_compared_with_patterns() {
        let role = json!({ "AWS": ROLE });
        for (actions, left) in [
            (json!(["kms:GenerateDataKey*", "kms:Decrypt"]), &[][..]),
            (json!("KMS:decrypt"), &["kms:GenerateDataKey"]),
            (json!("kms:*crypt"), &["kms:GenerateDataKey"]),
            (json!(["kms:Encrypt", "s3:*"]), &ACTIONS),
            (json!("*"), &[]),
        ] {
            assert_eq!(missing(&json!(allow(&role, &actions))), left, "{actions}");
        }
    }

    #[test]
    fn a_denial_without_a_condition_takes_precedence() {
        let role = json!({ "AWS": ROLE });
        let all = allow(&role, &json!("kms:*"));
        let mut denial = allow(&role, &json!("kms:Decrypt"));
        denial["Effect"] = json!("Deny");
        assert_eq!(missing(&json!([all, denial])), ["kms:Decrypt"]);
        denial["Condition"] = json!({ "Bool": { "aws:SecureTransport": "false" } });
        assert!(missing(&json!([all, denial])).is_empty());
    }

    #[test]
    fn a_text_that_is_no_policy_is_an_error() {
        for text in ["", "{}", "[]", "{\"Statement\": 7}"] {
            let error = missing_grants(text, ROLE, &ACTIONS).expect_err(text);
            assert_eq!(error.kind(), ErrorKind::Corrupt);
        }
    }
}
