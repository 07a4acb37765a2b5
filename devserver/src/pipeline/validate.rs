//! Checks of CodePipeline's requests, with the service's errors.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::model::{Override, Pipeline};
use crate::aws_json::ApiError;

fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new("ValidationException", message)
}

/// Checks for 1 to 100 of `[A-Za-z0-9.@_-]`.
fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 100
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '@' | '-' | '_'))
}

/// Reads a required text.
pub(super) fn text<'a>(input: &'a Value, member: &str) -> Result<&'a str, ApiError> {
    input[member].as_str().ok_or_else(|| {
        invalid(format!(
            "1 validation error detected: Value at '{member}' failed to satisfy constraint: \
             Member must not be null"
        ))
    })
}

/// Reads a required pipeline name.
pub(super) fn pipeline_name<'a>(input: &'a Value, member: &str) -> Result<&'a str, ApiError> {
    let name = text(input, member)?;
    if is_name(name) {
        return Ok(name);
    }
    Err(invalid(format!(
        "1 validation error detected: Value at '{member}' failed to satisfy constraint: Member \
         must satisfy regular expression pattern: [A-Za-z0-9.@\\-_]+ and have 1 to 100 characters"
    )))
}

/// Checks a declaration and fills in what it leaves out.
pub(super) fn declaration(input: &Value) -> Result<Value, ApiError> {
    let mut declaration = input["pipeline"].clone();
    if !declaration.is_object() {
        return Err(invalid("Value at 'pipeline' must not be null"));
    }
    let name = pipeline_name(&declaration, "name")?.to_owned();
    let wrong = |what: String| {
        ApiError::new(
            "InvalidStructureException",
            format!("Pipeline {name}: {what}"),
        )
    };
    for (member, default, known) in [
        ("pipelineType", "V1", &["V1", "V2"][..]),
        (
            "executionMode",
            "SUPERSEDED",
            &["SUPERSEDED", "QUEUED", "PARALLEL"][..],
        ),
    ] {
        let value = declaration[member].as_str().unwrap_or(default).to_owned();
        if !known.contains(&value.as_str()) {
            return Err(invalid(format!("{member} must be one of {known:?}")));
        }
        declaration[member] = value.into();
    }
    if declaration["executionMode"] != "SUPERSEDED" && declaration["pipelineType"] != "V2" {
        return Err(wrong(
            "QUEUED and PARALLEL need a pipeline of type V2".into(),
        ));
    }
    let stages = declaration["stages"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    if stages.len() < 2 {
        return Err(wrong("a pipeline must have at least two stages".into()));
    }
    let mut stage_names = BTreeSet::new();
    for (at, stage) in stages.iter().enumerate() {
        let stage_name = stage["name"].as_str().filter(|name| is_name(name));
        let stage_name =
            stage_name.ok_or_else(|| wrong(format!("stage {} has no name", at + 1)))?;
        if !stage_names.insert(stage_name) {
            return Err(wrong(format!("two stages are named {stage_name}")));
        }
        let actions = stage["actions"].as_array().cloned().unwrap_or_default();
        if actions.is_empty() {
            return Err(wrong(format!("stage {stage_name} has no action")));
        }
        let mut action_names = BTreeSet::new();
        for action in &actions {
            let action_name = action["name"].as_str().filter(|name| is_name(name));
            let action_name = action_name
                .ok_or_else(|| wrong(format!("an action of stage {stage_name} has no name")))?;
            if !action_names.insert(action_name.to_owned()) {
                return Err(wrong(format!(
                    "two actions of stage {stage_name} are named {action_name}"
                )));
            }
            let kind = &action["actionTypeId"];
            for member in ["category", "owner", "provider", "version"] {
                if kind[member].as_str().is_none_or(str::is_empty) {
                    return Err(wrong(format!(
                        "actionTypeId of action {action_name} has no {member}"
                    )));
                }
            }
            if (kind["category"] == "Source") != (at == 0) {
                return Err(wrong(format!(
                    "action {action_name} of stage {stage_name}: the first stage has only source \
                     actions, and the others have none"
                )));
            }
            check_source(action, action_name).map_err(&wrong)?;
        }
    }
    if !declaration["version"].is_u64() {
        declaration["version"] = json!(1);
    }
    Ok(declaration)
}

fn check_source(action: &Value, name: &str) -> Result<(), String> {
    let kind = &action["actionTypeId"];
    if kind["category"] != "Source" {
        return Ok(());
    }
    let members = match kind["provider"].as_str() {
        Some("S3") => ["S3Bucket", "S3ObjectKey"],
        Some("CodeCommit") => ["RepositoryName", "BranchName"],
        _ => return Ok(()),
    };
    for member in members {
        if action["configuration"][member]
            .as_str()
            .is_none_or(str::is_empty)
        {
            return Err(format!("configuration of action {name} has no {member}"));
        }
    }
    Ok(())
}

/// Checks `clientRequestToken`.
pub(super) fn token(input: &Value) -> Result<Option<String>, ApiError> {
    let Some(token) = input["clientRequestToken"].as_str() else {
        return Ok(None);
    };
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if token.is_empty() || token.len() > 128 || !token.chars().all(legal) {
        return Err(invalid(
            "1 validation error detected: Value at 'clientRequestToken' failed to satisfy \
             constraint: Member must satisfy regular expression pattern: [a-zA-Z0-9-]+ and have 1 \
             to 128 characters",
        ));
    }
    Ok(Some(token.to_owned()))
}

/// Checks `sourceRevisions` against the pipeline's source actions.
pub(super) fn overrides(input: &Value, pipeline: &Pipeline) -> Result<Vec<Override>, ApiError> {
    let given = match &input["sourceRevisions"] {
        Value::Null => return Ok(Vec::new()),
        value => value
            .as_array()
            .ok_or_else(|| invalid("sourceRevisions must be a list"))?,
    };
    if given.len() > 50 {
        return Err(invalid("sourceRevisions must have at most 50 items"));
    }
    let mut overrides = Vec::new();
    let mut seen = BTreeSet::new();
    for item in given {
        let action_name = text(item, "actionName")?;
        let revision_type = text(item, "revisionType")?;
        let revision_value = text(item, "revisionValue")?;
        if revision_value.is_empty() || revision_value.len() > 1500 {
            return Err(invalid("revisionValue must have 1 to 1500 characters"));
        }
        let action = pipeline
            .sources()
            .find(|action| action.name == action_name)
            .ok_or_else(|| {
                invalid(format!(
                    "Source revision override: pipeline {} has no source action named {action_name}",
                    pipeline.name()
                ))
            })?;
        let fits = match revision_type {
            "S3_OBJECT_VERSION_ID" | "S3_OBJECT_KEY" => action.provider == "S3",
            "COMMIT_ID" => matches!(action.provider, "CodeCommit" | "CodeStarSourceConnection"),
            "IMAGE_DIGEST" => action.provider == "ECR",
            other => return Err(invalid(format!("unknown revisionType {other}"))),
        };
        if !fits {
            return Err(invalid(format!(
                "revisionType {revision_type} does not fit action {action_name} of provider {}",
                action.provider
            )));
        }
        let allowed = action
            .configuration
            .get("AllowOverrideForS3ObjectKey")
            .is_some_and(|value| value.eq_ignore_ascii_case("true"));
        if revision_type == "S3_OBJECT_KEY" && !allowed {
            return Err(invalid(format!(
                "S3_OBJECT_KEY for action {action_name} needs AllowOverrideForS3ObjectKey to be \
                 true in the action's configuration"
            )));
        }
        if !seen.insert((action_name, revision_type)) {
            return Err(invalid(format!(
                "{revision_type} is given twice for action {action_name}"
            )));
        }
        overrides.push(Override {
            action_name: action_name.to_owned(),
            revision_type: revision_type.to_owned(),
            revision_value: revision_value.to_owned(),
        });
    }
    Ok(overrides)
}

/// Checks `variables` against those declared, and fills in the defaults.
pub(super) fn variables(
    input: &Value,
    pipeline: &Pipeline,
) -> Result<BTreeMap<String, String>, ApiError> {
    let mut values = BTreeMap::new();
    if let Some(given) = input["variables"].as_array() {
        if !pipeline.is_v2() {
            return Err(invalid(format!(
                "Variables need a pipeline of type V2; {} is V1",
                pipeline.name()
            )));
        }
        if given.is_empty() || given.len() > 50 {
            return Err(invalid("variables must have 1 to 50 items"));
        }
        for variable in given {
            let (name, value) = (text(variable, "name")?, text(variable, "value")?);
            if value.is_empty() || value.len() > 1000 {
                return Err(invalid(format!(
                    "the value of variable {name} must have 1 to 1000 characters"
                )));
            }
            if !pipeline.variables().any(|(declared, _)| declared == name) {
                return Err(invalid(format!(
                    "Pipeline {} does not declare the variable {name}",
                    pipeline.name()
                )));
            }
            if values.insert(name.to_owned(), value.to_owned()).is_some() {
                return Err(invalid(format!("variable {name} is given twice")));
            }
        }
    }
    for (name, default) in pipeline.variables() {
        if values.contains_key(name) {
            continue;
        }
        let default = default.ok_or_else(|| {
            invalid(format!(
                "variable {name} of pipeline {} has no default and no value was given",
                pipeline.name()
            ))
        })?;
        values.insert(name.to_owned(), default.to_owned());
    }
    Ok(values)
}
