//! Roles that the policy of the artifacts' KMS key does not grant.

use std::collections::BTreeMap;

use branchline_core::kms::KeyPolicies as _;
use branchline_core::kms::policy::missing_grants;
use branchline_core::name::{KmsKey, PipelineName};
use branchline_core::pipeline::PipelineDeclaration;
use branchline_core::{ErrorKind, Result};
use branchline_update::Config;

use super::finding::Finding;
use crate::stack::Stack;

/// Actions that a writer of artifacts needs.
const WRITES: [&str; 2] = ["kms:GenerateDataKey", "kms:Decrypt"];
/// Actions that a reader of artifacts needs.
const READS: [&str; 1] = ["kms:Decrypt"];
/// Start of the aliases of keys that AWS manages, whose policies follow the service.
const MANAGED_BY_AWS: &str = "alias/aws/";

/// Checks the policy of the artifacts' key, if the settings name one.
pub(super) async fn check(
    stack: &Stack,
    config: &Config,
    pipelines: &[(PipelineName, PipelineDeclaration)],
) -> Vec<Finding> {
    let Some(key) = config.kms_key_id.as_deref() else {
        return Vec::new();
    };
    if key.contains(MANAGED_BY_AWS) {
        return Vec::new();
    }
    match findings(stack, config, key, pipelines).await {
        Ok(findings) => findings,
        Err(error) if error.kind() == ErrorKind::NotFound => vec![Finding {
            problem: "key-policy",
            message: format!("KMS key `{key}` of the artifacts does not exist"),
            effect: "update archives nothing".to_owned(),
            remedy: "correct `KMS_KEY_ID`".to_owned(),
        }],
        Err(error) => vec![Finding::unreadable(&error)],
    }
}

async fn findings(
    stack: &Stack,
    config: &Config,
    key: &str,
    pipelines: &[(PipelineName, PipelineDeclaration)],
) -> Result<Vec<Finding>> {
    let policy = stack.key_policies().key_policy(&KmsKey::new(key)?).await?;
    // Roles, each with what it is and with the actions that it needs.
    let mut roles: BTreeMap<&str, (String, &[&str])> = BTreeMap::new();
    for (name, declaration) in pipelines {
        let named = declaration.sources.iter();
        let action = named
            .clone()
            .find(|action| action.name == config.source_action);
        let own = action.and_then(|action| action.role_arn.as_deref());
        let role = own.unwrap_or(&declaration.role_arn);
        roles.insert(role, (format!("pipeline `{name}`"), &READS));
    }
    if let Some(update) = stack.update_function() {
        let subject = format!("function `{}`", update.name);
        roles.insert(&update.role_arn, (subject, &WRITES));
    }
    let mut findings = Vec::new();
    for (role, (subject, actions)) in roles {
        let missing = missing_grants(&policy, role, actions)?;
        if missing.is_empty() {
            continue;
        }
        let effect = if actions.len() == WRITES.len() {
            "update archives nothing: S3 refuses each write"
        } else {
            "executions fail in their source action: S3 refuses to read the artifact"
        };
        findings.push(Finding {
            problem: "key-policy",
            message: format!(
                "the policy of KMS key `{key}` does not grant {} to role `{role}` of {subject}",
                missing.join(" and ")
            ),
            effect: effect.to_owned(),
            remedy: "allow the role in the key policy, or let the policy name the account \
                     (`arn:aws:iam::ACCOUNT:root`)"
                .to_owned(),
        });
    }
    Ok(findings)
}
