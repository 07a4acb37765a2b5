//! A target of a rule: its destination, and what it gets of an event (EventBridge user guide,
//! "Amazon EventBridge input transformation").

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Dispatch;
use crate::account::Account;

/// Receiver of events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) enum Destination {
    /// A function, by name or ARN; the payload is its event.
    Function(String),
    /// A pipeline, by name; the payload may hold `sourceRevisions` and `variables`.
    Pipeline(String),
}

impl std::fmt::Display for Destination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Function(name) => write!(f, "function `{name}`"),
            Self::Pipeline(name) => write!(f, "pipeline `{name}`"),
        }
    }
}

/// A target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Target {
    id: String,
    destination: Destination,
    content: Content,
    /// The target as it was sent.
    json: Value,
}

/// Part of an event that a target gets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Content {
    Whole,
    Constant(String),
    Path(String),
    Template {
        paths: BTreeMap<String, String>,
        template: String,
    },
}

impl Target {
    /// Reads a target. Errors: a sentence.
    pub(super) fn read(json: &Value, account: &Account) -> Result<Self, String> {
        let text = |member: &str| json[member].as_str().unwrap_or_default();
        let (id, arn) = (text("Id"), text("Arn"));
        if id.is_empty() {
            return Err("Id is required".to_owned());
        }
        let Account {
            region, id: number, ..
        } = account;
        let function = account.function_arn("");
        let pipeline = format!("arn:aws:codepipeline:{region}:{number}:");
        let destination = if arn
            .strip_prefix(&function)
            .is_some_and(|name| !name.is_empty())
        {
            Destination::Function(arn.to_owned())
        } else if let Some(name) = arn.strip_prefix(&pipeline).filter(|name| !name.is_empty()) {
            Destination::Pipeline(name.to_owned())
        } else {
            return Err(format!(
                "`{arn}` is not a function or pipeline of the account: the development server \
                 has no other targets"
            ));
        };
        let content = content(json)?;
        Ok(Self {
            id: id.to_owned(),
            destination,
            content,
            json: json.clone(),
        })
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn json(&self) -> &Value {
        &self.json
    }

    /// Returns what the target gets of an event.
    pub(super) fn dispatch(&self, event: &Value) -> Dispatch {
        let payload = match &self.content {
            Content::Whole => event.to_string(),
            Content::Constant(text) => text.clone(),
            Content::Path(path) => at(event, path).unwrap_or(&Value::Null).to_string(),
            Content::Template { paths, template } => filled(event, paths, template),
        };
        Dispatch {
            destination: self.destination.clone(),
            payload,
        }
    }
}

fn content(json: &Value) -> Result<Content, String> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    match (
        text(&json["Input"]),
        text(&json["InputPath"]),
        json["InputTransformer"].as_object(),
    ) {
        (None, None, None) => Ok(Content::Whole),
        (Some(input), None, None) => {
            serde_json::from_str::<Value>(&input).map_err(|_| "Input is not JSON".to_owned())?;
            Ok(Content::Constant(input))
        }
        (None, Some(path), None) => checked_path(path).map(Content::Path),
        (None, None, Some(transformer)) => {
            let template = transformer.get("InputTemplate").and_then(text_of);
            let template = template.ok_or("InputTemplate is required")?;
            let paths = transformer.get("InputPathsMap").and_then(Value::as_object);
            let mut read = BTreeMap::new();
            for (name, path) in paths.into_iter().flatten() {
                let path = text(path).ok_or("a path of InputPathsMap is not a string")?;
                read.insert(name.clone(), checked_path(path)?);
            }
            Ok(Content::Template {
                paths: read,
                template,
            })
        }
        _ => Err("only one of Input, InputPath and InputTransformer may be given".to_owned()),
    }
}

fn text_of(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn checked_path(path: String) -> Result<String, String> {
    if path == "$" || path.starts_with("$.") {
        return Ok(path);
    }
    Err(format!("`{path}` is not a path such as `$.detail.event`"))
}

/// Finds the value of a path: `$.detail.targets[0].name`.
fn at<'e>(event: &'e Value, path: &str) -> Option<&'e Value> {
    let mut found = event;
    for part in path
        .trim_start_matches('$')
        .split('.')
        .filter(|part| !part.is_empty())
    {
        let (name, index) = match part.strip_suffix(']').and_then(|part| part.split_once('[')) {
            Some((name, index)) => (name, Some(index.parse::<usize>().ok()?)),
            None => (part, None),
        };
        found = found.get(name)?;
        if let Some(index) = index {
            found = found.get(index)?;
        }
    }
    Some(found)
}

/// Fills in `<name>`: a JSON value, or its text within a string.
fn filled(event: &Value, paths: &BTreeMap<String, String>, template: &str) -> String {
    let mut out = String::new();
    let mut rest = template;
    let mut in_string = false;
    while let Some(character) = rest.chars().next() {
        let length = character.len_utf8();
        match character {
            '\\' if in_string => {
                let end = rest.chars().nth(1).map_or(1, |next| 1 + next.len_utf8());
                out.push_str(&rest[..end]);
                rest = &rest[end..];
                continue;
            }
            '"' => in_string = !in_string,
            '<' => {
                if let Some(end) = rest.find('>')
                    && let Some(value) = variable(event, paths, &rest[1..end])
                {
                    out.push_str(&match (in_string, value) {
                        (true, Value::String(text)) => escaped(text),
                        (true, value) => escaped(&value.to_string()),
                        (false, value) => value.to_string(),
                    });
                    rest = &rest[end + 1..];
                    continue;
                }
            }
            _ => {}
        }
        out.push(character);
        rest = &rest[length..];
    }
    out
}

fn variable<'e>(
    event: &'e Value,
    paths: &BTreeMap<String, String>,
    name: &str,
) -> Option<&'e Value> {
    if matches!(name, "aws.events.event" | "aws.events.event.json") {
        return Some(event);
    }
    // A path that the event does not have is an empty value.
    let path = paths.get(name)?;
    Some(at(event, path).unwrap_or(&Value::Null))
}

/// Returns a text as it is written between the quotes of a JSON string.
fn escaped(text: &str) -> String {
    let quoted = Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn dispatched(target: Value) -> String {
        let account = Account::new("123456789012", "us-east-1");
        let mut target = target;
        target["Id"] = "one".into();
        target["Arn"] = account.function_arn("f").into();
        let event = json!({ "detail": { "commitId": "abc", "list": [{ "a": 1 }], "odd": "a\"b" } });
        Target::read(&target, &account)
            .unwrap()
            .dispatch(&event)
            .payload
    }

    #[test]
    fn a_target_gets_the_part_that_it_asks_for() {
        assert_eq!(dispatched(json!({ "Input": "{\"x\":1}" })), r#"{"x":1}"#);
        assert_eq!(
            dispatched(json!({ "InputPath": "$.detail.commitId" })),
            r#""abc""#
        );
        assert_eq!(
            dispatched(json!({ "InputPath": "$.detail.list[0].a" })),
            "1"
        );
        let template = r#"{"text":"at <commit>","whole":<list>,"odd":"<odd>","kept":"<unknown>"}"#;
        let transformed = dispatched(json!({ "InputTransformer": {
            "InputPathsMap": {
                "commit": "$.detail.commitId", "list": "$.detail.list", "odd": "$.detail.odd",
            },
            "InputTemplate": template,
        }}));
        let transformed: Value = serde_json::from_str(&transformed).unwrap();
        assert_eq!(
            transformed,
            json!({ "text": "at abc", "whole": [{ "a": 1 }], "odd": "a\"b", "kept": "<unknown>" })
        );
    }

    #[test]
    fn a_target_that_the_server_does_not_have_is_refused() {
        let account = Account::new("123456789012", "us-east-1");
        for arn in [
            "arn:aws:sns:us-east-1:123456789012:topic",
            "arn:aws:lambda:eu-west-1:123456789012:function:f",
            "arn:aws:lambda:us-east-1:123456789012:function:",
            "",
        ] {
            let target = json!({ "Id": "1", "Arn": arn });
            assert!(Target::read(&target, &account).is_err(), "{arn}");
        }
    }
}
