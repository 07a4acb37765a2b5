//! The Parameter Store of Systems Manager.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::file::Parameter;
use super::{SecretService, now};
use crate::account::Account;
use crate::aws_json::{ApiError, ApiResult, unknown_operation};

/// Operations that the service offers.
const OPERATIONS: [&str; 4] = [
    "DeleteParameter",
    "DescribeParameters",
    "GetParameter",
    "PutParameter",
];

/// Maximum size of a parameter, in bytes.
const MAX_VALUE_BYTES: usize = 8 * 1024;

pub(super) fn call(service: &SecretService, operation: &str, input: &Value) -> ApiResult {
    match operation {
        "GetParameter" => get(service, input),
        "PutParameter" => put(service, input),
        "DescribeParameters" => {
            let content = service.content();
            let list: Vec<Value> = content
                .parameters
                .iter()
                .map(|(name, found)| {
                    json!({ "Name": name, "Type": found.kind, "Version": found.version })
                })
                .collect();
            Ok(json!({ "Parameters": list }))
        }
        "DeleteParameter" => {
            let name = name(service, input)?;
            let mut content = service.content();
            content.parameters.remove(&name).ok_or_else(not_found)?;
            service.save(&content)?;
            Ok(json!({}))
        }
        _ => Err(unknown_operation("Systems Manager", operation, OPERATIONS)),
    }
}

fn get(service: &SecretService, input: &Value) -> ApiResult {
    let name = name(service, input)?;
    let content = service.content();
    let found = content.parameters.get(&name).ok_or_else(not_found)?;
    let decrypted = input["WithDecryption"].as_bool().unwrap_or_default();
    let value = if found.kind == "SecureString" && !decrypted {
        // As unreadable as AWS's, and not the value.
        STANDARD.encode(format!("encrypted {name} version {}", found.version))
    } else {
        found.value.clone()
    };
    Ok(json!({ "Parameter": {
        "Name": name,
        "Type": found.kind,
        "Value": value,
        "Version": found.version,
        "LastModifiedDate": found.changed,
        "ARN": arn(service, &name),
        "DataType": "text",
    }}))
}

fn put(service: &SecretService, input: &Value) -> ApiResult {
    let name = name(service, input)?;
    let value = input["Value"].as_str().unwrap_or_default();
    if value.is_empty() || value.len() > MAX_VALUE_BYTES {
        return Err(ApiError::new(
            "ValidationException",
            format!("Value must have 1 to {MAX_VALUE_BYTES} bytes"),
        ));
    }
    let mut content = service.content();
    let earlier = content.parameters.get(&name);
    if earlier.is_some() && !input["Overwrite"].as_bool().unwrap_or_default() {
        return Err(ApiError::new(
            "ParameterAlreadyExists",
            "The parameter already exists. To overwrite this value, set the overwrite option in \
             the request to true.",
        ));
    }
    let kept = earlier.map(|earlier| earlier.kind.clone());
    let kind = input["Type"].as_str().map(str::to_owned).or(kept);
    let kind = kind.unwrap_or_default();
    if !matches!(kind.as_str(), "String" | "StringList" | "SecureString") {
        return Err(ApiError::new(
            "UnsupportedParameterType",
            "Type must be String, StringList or SecureString",
        ));
    }
    let version = earlier.map_or(1, |earlier| earlier.version + 1);
    let parameter = Parameter {
        kind,
        value: value.to_owned(),
        version,
        changed: now(),
    };
    content.parameters.insert(name, parameter);
    service.save(&content)?;
    Ok(json!({ "Version": version, "Tier": "Standard" }))
}

/// Reads `Name`: a name, or the ARN of a parameter of the account.
fn name(service: &SecretService, input: &Value) -> Result<String, ApiError> {
    let given = input["Name"].as_str().unwrap_or_default();
    // The name of a parameter in a hierarchy starts with a slash, which its ARN has once.
    let of_arn = given.strip_prefix(&arn(service, "/"));
    let name = match of_arn {
        Some(rest) if rest.contains('/') => format!("/{rest}"),
        Some(rest) => rest.to_owned(),
        None => given.to_owned(),
    };
    let legal = |c: char| c.is_ascii_alphanumeric() || "/_.-".contains(c);
    if name.is_empty() || name.len() > 1011 || !name.chars().all(legal) {
        return Err(ApiError::new(
            "ValidationException",
            "Parameter name: can't be prefixed with \"ssm\" (case-insensitive). If formed as a \
             path, it can consist of sub-paths divided by slash symbol; each sub-path can be \
             formed as a mix of letters, numbers and the following 3 symbols .-_",
        ));
    }
    Ok(name)
}

fn arn(service: &SecretService, name: &str) -> String {
    let Account { region, id, .. } = &service.0.account;
    let name = name.strip_prefix('/').unwrap_or(name);
    format!("arn:aws:ssm:{region}:{id}:parameter/{name}")
}

fn not_found() -> ApiError {
    ApiError::new("ParameterNotFound", "Parameter was not found.")
}
