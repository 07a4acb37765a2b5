//! Event patterns, as EventBridge matches them (EventBridge user guide, "Creating Amazon
//! EventBridge event patterns" and "Comparison operators").

use std::collections::BTreeMap;

use serde_json::{Map, Number, Value};

/// Deepest nesting of a pattern, so that a crafted one cannot overflow the stack.
const MAX_DEPTH: usize = 50;

/// Pattern that an event must match to reach a rule's targets.
#[derive(Debug, Clone, PartialEq)]
pub struct EventPattern {
    fields: Fields,
    text: String,
}

/// Members of an object, all of which must match, and alternatives.
#[derive(Debug, Clone, PartialEq, Default)]
struct Fields {
    members: BTreeMap<String, Node>,
    any_of: Vec<Fields>,
}

#[derive(Debug, Clone, PartialEq)]
enum Node {
    Object(Fields),
    Values(Vec<Matcher>),
}

/// Condition on one value.
#[derive(Debug, Clone, PartialEq)]
enum Matcher {
    Equals(Value),
    Exists(bool),
    Text(TextMatcher),
    Numeric(Vec<(Comparison, f64)>),
    Not(Vec<Matcher>),
}

#[derive(Debug, Clone, PartialEq)]
enum TextMatcher {
    Prefix(String),
    PrefixIgnoringCase(String),
    Suffix(String),
    SuffixIgnoringCase(String),
    EqualsIgnoringCase(String),
    Wildcard(String),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Comparison {
    Less,
    LessOrEqual,
    Equal,
    GreaterOrEqual,
    Greater,
}

impl EventPattern {
    /// Reads a pattern. Errors: a sentence that names the field.
    pub fn parse(text: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let members = value.as_object().filter(|members| !members.is_empty());
        let members = members.ok_or("the pattern must be a JSON object with a member")?;
        Ok(Self {
            fields: fields(members, "", MAX_DEPTH)?,
            text: text.to_owned(),
        })
    }

    /// Returns whether an event with its envelope matches.
    pub fn matches(&self, event: &Value) -> bool {
        self.fields.matches(Some(event))
    }

    /// Returns the pattern as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }
}

fn fields(members: &Map<String, Value>, path: &str, depth: usize) -> Result<Fields, String> {
    if depth == 0 {
        return Err(format!("`{path}` is nested more than {MAX_DEPTH} times"));
    }
    let mut read = Fields::default();
    for (name, value) in members {
        let here = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        if name == "$or"
            && let Value::Array(alternatives) = value
            && alternatives.len() > 1
            && alternatives.iter().all(Value::is_object)
        {
            for alternative in alternatives.iter().filter_map(Value::as_object) {
                read.any_of.push(fields(alternative, path, depth - 1)?);
            }
            continue;
        }
        let node = match value {
            Value::Object(inner) if inner.is_empty() => {
                return Err(format!("`{here}` must not be an empty object"));
            }
            Value::Object(inner) => Node::Object(fields(inner, &here, depth - 1)?),
            Value::Array(list) if list.is_empty() => {
                return Err(format!("`{here}` must not be an empty array"));
            }
            Value::Array(list) => {
                let matchers: Result<_, _> = list.iter().map(|one| matcher(one, &here)).collect();
                Node::Values(matchers?)
            }
            _ => return Err(format!("`{here}` must be an object or an array")),
        };
        read.members.insert(name.clone(), node);
    }
    Ok(read)
}

fn matcher(value: &Value, path: &str) -> Result<Matcher, String> {
    let Value::Object(members) = value else {
        return match value {
            Value::Array(_) => Err(format!("`{path}` must not hold an array in an array")),
            scalar => Ok(Matcher::Equals(scalar.clone())),
        };
    };
    let mut members = members.iter();
    let (Some((name, operand)), None) = (members.next(), members.next()) else {
        return Err(format!(
            "a match expression of `{path}` must have one member"
        ));
    };
    let wrong = |what: &str| format!("`{name}` of `{path}` must be {what}");
    match name.as_str() {
        "exists" => match operand {
            Value::Bool(exists) => Ok(Matcher::Exists(*exists)),
            _ => Err(wrong("true or false")),
        },
        "numeric" => {
            let list = operand.as_array().ok_or_else(|| wrong("an array"))?;
            numeric(list).map(Matcher::Numeric).ok_or_else(|| {
                wrong("one or two comparisons, such as [\">\", 0] or [\">\", 0, \"<=\", 5]")
            })
        }
        "anything-but" => {
            let excluded = match operand {
                Value::Array(list) if !list.is_empty() => list
                    .iter()
                    .map(|one| match one {
                        Value::String(_) | Value::Number(_) => Ok(Matcher::Equals(one.clone())),
                        _ => Err(wrong(
                            "a string, a number, a list of them, or an expression",
                        )),
                    })
                    .collect::<Result<_, _>>()?,
                Value::String(_) | Value::Number(_) => vec![Matcher::Equals(operand.clone())],
                Value::Object(inner) if inner.len() == 1 => {
                    let (name, operand) = inner.iter().next().ok_or_else(|| wrong("one"))?;
                    texts(name, operand)
                        .ok_or_else(|| wrong("an expression of texts"))?
                        .into_iter()
                        .map(Matcher::Text)
                        .collect()
                }
                _ => {
                    return Err(wrong(
                        "a string, a number, a list of them, or an expression",
                    ));
                }
            };
            Ok(Matcher::Not(excluded))
        }
        name => {
            let texts = texts(name, operand);
            let text = texts.and_then(|texts| texts.into_iter().next());
            text.map(Matcher::Text).ok_or_else(|| {
                format!("`{path}` has an unknown or malformed match expression `{name}`")
            })
        }
    }
}

/// Reads an expression on text, with one operand or a list of them.
fn texts(name: &str, operand: &Value) -> Option<Vec<TextMatcher>> {
    let one = |operand: &Value| -> Option<TextMatcher> {
        let ignoring_case = operand.get("equals-ignore-case").and_then(Value::as_str);
        let text = operand.as_str();
        Some(match (name, text, ignoring_case) {
            ("prefix", Some(text), _) => TextMatcher::Prefix(text.to_owned()),
            ("prefix", _, Some(text)) => TextMatcher::PrefixIgnoringCase(text.to_lowercase()),
            ("suffix", Some(text), _) => TextMatcher::Suffix(text.to_owned()),
            ("suffix", _, Some(text)) => TextMatcher::SuffixIgnoringCase(text.to_lowercase()),
            ("equals-ignore-case", Some(text), _) => {
                TextMatcher::EqualsIgnoringCase(text.to_lowercase())
            }
            ("wildcard", Some(text), _) => TextMatcher::Wildcard(text.to_owned()),
            _ => return None,
        })
    };
    match operand {
        Value::Array(list) if !list.is_empty() => list.iter().map(one).collect(),
        operand => Some(vec![one(operand)?]),
    }
}

fn numeric(list: &[Value]) -> Option<Vec<(Comparison, f64)>> {
    if !matches!(list.len(), 2 | 4) {
        return None;
    }
    list.chunks(2)
        .map(|pair| {
            let [operator, operand] = pair else {
                return None;
            };
            let comparison = match operator.as_str()? {
                "<" => Comparison::Less,
                "<=" => Comparison::LessOrEqual,
                "=" => Comparison::Equal,
                ">=" => Comparison::GreaterOrEqual,
                ">" => Comparison::Greater,
                _ => return None,
            };
            Some((comparison, operand.as_f64()?))
        })
        .collect()
}

impl Fields {
    fn matches(&self, value: Option<&Value>) -> bool {
        let all = self.members.iter().all(|(name, node)| {
            let member = value.and_then(|value| value.get(name));
            match node {
                Node::Object(fields) => match member {
                    // Each object of an array is tried.
                    Some(Value::Array(list)) => list.iter().any(|one| fields.matches(Some(one))),
                    member => fields.matches(member),
                },
                Node::Values(matchers) => matchers.iter().any(|matcher| matcher.matches(member)),
            }
        });
        all && (self.any_of.is_empty() || self.any_of.iter().any(|one| one.matches(value)))
    }
}

impl Matcher {
    fn matches(&self, value: Option<&Value>) -> bool {
        let Some(value) = value else {
            return *self == Self::Exists(false);
        };
        match value {
            Value::Array(list) if !matches!(self, Self::Exists(_)) => {
                list.iter().any(|one| self.matches_one(one))
            }
            value => self.matches_one(value),
        }
    }

    fn matches_one(&self, value: &Value) -> bool {
        match self {
            Self::Equals(Value::Number(wanted)) => {
                value.as_f64() == wanted.as_f64() && value.is_number()
            }
            Self::Equals(wanted) => wanted == value,
            // Only leaves exist for a pattern.
            Self::Exists(exists) => *exists && !value.is_object(),
            Self::Text(matcher) => value.as_str().is_some_and(|text| matcher.matches(text)),
            Self::Numeric(comparisons) => {
                value
                    .as_number()
                    .and_then(Number::as_f64)
                    .is_some_and(|number| {
                        comparisons
                            .iter()
                            .all(|(comparison, to)| comparison.holds(number, *to))
                    })
            }
            Self::Not(excluded) => {
                !value.is_object() && !excluded.iter().any(|matcher| matcher.matches_one(value))
            }
        }
    }
}

impl Comparison {
    #[expect(clippy::float_cmp, reason = "EventBridge compares numbers exactly")]
    fn holds(self, number: f64, to: f64) -> bool {
        match self {
            Self::Less => number < to,
            Self::LessOrEqual => number <= to,
            Self::Equal => number == to,
            Self::GreaterOrEqual => number >= to,
            Self::Greater => number > to,
        }
    }
}

impl TextMatcher {
    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Prefix(prefix) => text.starts_with(prefix),
            Self::PrefixIgnoringCase(prefix) => text.to_lowercase().starts_with(prefix),
            Self::Suffix(suffix) => text.ends_with(suffix),
            Self::SuffixIgnoringCase(suffix) => text.to_lowercase().ends_with(suffix),
            Self::EqualsIgnoringCase(wanted) => text.to_lowercase() == *wanted,
            Self::Wildcard(pattern) => wildcard(pattern, text),
        }
    }
}

/// Matches `*` with any number of characters; a backslash takes the next character literally.
fn wildcard(pattern: &str, text: &str) -> bool {
    let mut parts = vec![String::new()];
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        match character {
            '*' => parts.push(String::new()),
            '\\' => {
                let literal = characters.next().unwrap_or('\\');
                parts
                    .last_mut()
                    .expect("because it starts with one")
                    .push(literal);
            }
            other => parts
                .last_mut()
                .expect("because it starts with one")
                .push(other),
        }
    }
    let [first, middle @ .., last] = parts.as_slice() else {
        return parts.first().is_some_and(|only| only == text);
    };
    let Some(mut rest) = text.strip_prefix(first.as_str()) else {
        return false;
    };
    for part in middle {
        let Some(at) = rest.find(part.as_str()) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    rest.len() >= last.len() && rest.ends_with(last.as_str())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event() -> Value {
        json!({
            "source": "aws.codecommit",
            "detail-type": "CodeCommit Pull Request State Change",
            "resources": ["arn:aws:codecommit:us-east-1:1:a", "arn:aws:codecommit:us-east-1:1:b"],
            "detail": {
                "event": "pullRequestCreated",
                "isMerged": "False",
                "count": 3,
                "nothing": null,
                "targets": [{ "name": "x" }, { "name": "y", "kind": "z" }],
            },
        })
    }

    #[test]
    fn each_operator_matches_as_the_user_guide_says() {
        for (pattern, expected) in [
            (json!({"source": ["aws.codecommit"]}), true),
            (json!({"source": ["aws.s3", "aws.codecommit"]}), true),
            (json!({"source": ["aws.s3"]}), false),
            (
                json!({"source": ["aws.codecommit"], "detail": {"event": ["x"]}}),
                false,
            ),
            (json!({"resources": [{"suffix": ":b"}]}), true),
            (json!({"resources": [{"suffix": ":c"}]}), false),
            (
                json!({"detail": {"event": [{"prefix": "pullRequest"}]}}),
                true,
            ),
            (
                json!({"detail": {"event": [{"prefix": {"equals-ignore-case": "PULL"}}]}}),
                true,
            ),
            (
                json!({"detail": {"event": [{"equals-ignore-case": "PULLREQUESTCREATED"}]}}),
                true,
            ),
            (
                json!({"detail": {"event": [{"wildcard": "pull*Crea*d"}]}}),
                true,
            ),
            (
                json!({"detail": {"event": [{"wildcard": "pull*x"}]}}),
                false,
            ),
            (
                json!({"detail": {"event": [{"anything-but": "pullRequestCreated"}]}}),
                false,
            ),
            (
                json!({"detail": {"event": [{"anything-but": ["a", "b"]}]}}),
                true,
            ),
            (
                json!({"detail": {"event": [{"anything-but": {"prefix": "pull"}}]}}),
                false,
            ),
            (json!({"detail": {"count": [3]}}), true),
            (json!({"detail": {"count": [3.0]}}), true),
            (json!({"detail": {"count": ["3"]}}), false),
            (
                json!({"detail": {"count": [{"numeric": [">", 0, "<=", 3]}]}}),
                true,
            ),
            (json!({"detail": {"count": [{"numeric": ["<", 3]}]}}), false),
            (json!({"detail": {"event": [{"exists": true}]}}), true),
            (json!({"detail": {"absent": [{"exists": false}]}}), true),
            (json!({"detail": {"event": [{"exists": false}]}}), false),
            (json!({"absent": {"inner": [{"exists": false}]}}), true),
            (json!({"detail": {"nothing": [null]}}), true),
            (json!({"detail": {"absent": [null]}}), false),
            (
                json!({"detail": {"targets": {"name": ["y"], "kind": ["z"]}}}),
                true,
            ),
            (
                json!({"detail": {"targets": {"name": ["x"], "kind": ["z"]}}}),
                false,
            ),
            (
                json!({"$or": [{"source": ["aws.s3"]}, {"detail": {"count": [3]}}]}),
                true,
            ),
            (
                json!({"$or": [{"source": ["aws.s3"]}, {"detail": {"count": [4]}}]}),
                false,
            ),
        ] {
            let parsed = EventPattern::parse(&pattern.to_string()).unwrap();
            assert_eq!(parsed.matches(&event()), expected, "{pattern}");
        }
    }

    #[test]
    fn a_wildcard_is_anchored_at_both_ends() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("a*", "a", true),
            ("*a", "ba", true),
            ("a*a", "a", false),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "acb", false),
            (r"a\*", "a*", true),
            (r"a\*", "ab", false),
            ("ab", "ab", true),
            ("ab", "abc", false),
        ] {
            assert_eq!(wildcard(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_malformed_pattern_is_refused_with_its_field() {
        for (text, named) in [
            ("[]", "JSON object"),
            ("{}", "JSON object"),
            ("{", "EOF"),
            (r#"{"source":"aws.s3"}"#, "`source`"),
            (r#"{"detail":{"event":[]}}"#, "`detail.event`"),
            (r#"{"detail":{"event":[["a"]]}}"#, "`detail.event`"),
            (r#"{"detail":{}}"#, "`detail`"),
            (r#"{"detail":{"event":[{"begins":"a"}]}}"#, "`begins`"),
            (r#"{"detail":{"event":[{"numeric":[">"]}]}}"#, "`numeric`"),
            (r#"{"detail":{"event":[{"exists":1}]}}"#, "`exists`"),
            (
                r#"{"detail":{"event":[{"prefix":"a","suffix":"b"}]}}"#,
                "one member",
            ),
        ] {
            let error = EventPattern::parse(text).unwrap_err();
            assert!(error.contains(named), "{text}: {error}");
        }
        let mut deep = json!(["x"]);
        for _ in 0..60 {
            deep = json!({ "a": deep });
        }
        assert!(EventPattern::parse(&deep.to_string()).is_err());
    }
}
