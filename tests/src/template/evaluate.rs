//! CloudFormation's functions, as far as the template uses them; any other is an error.

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value, json};

use super::ResolvedTemplate;

impl ResolvedTemplate<'_> {
    /// Evaluates a value of the template; `None` for `AWS::NoValue`.
    pub(super) fn value(&self, value: &Value) -> Result<Option<Value>> {
        Ok(match value {
            Value::Object(map) => {
                if let Some((name, argument)) = call(map) {
                    return self.function(name, argument);
                }
                let mut evaluated = Map::new();
                for (name, value) in map {
                    if let Some(value) = self.value(value)? {
                        evaluated.insert(name.clone(), value);
                    }
                }
                Some(Value::Object(evaluated))
            }
            Value::Array(items) => {
                let items: Result<Vec<Option<Value>>> =
                    items.iter().map(|item| self.value(item)).collect();
                Some(Value::Array(items?.into_iter().flatten().collect()))
            }
            plain => Some(plain.clone()),
        })
    }

    /// Whether a condition holds.
    pub(super) fn holds(&self, condition: &Value) -> Result<bool> {
        let map = condition.as_object().context("a condition is a function")?;
        let (name, argument) = call(map).with_context(|| format!("{condition} is a function"))?;
        let list = argument.as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(match (name, list) {
            ("Condition", _) => self.condition(argument.as_str().context("a name")?)?,
            ("Fn::Equals", [one, other]) => self.text(one)? == self.text(other)?,
            ("Fn::Not", [one]) => !self.holds(one)?,
            ("Fn::And", all) => all
                .iter()
                .map(|one| self.holds(one))
                .try_fold(true, |so_far, holds| holds.map(|holds| so_far && holds))?,
            ("Fn::Or", all) => all
                .iter()
                .map(|one| self.holds(one))
                .try_fold(false, |so_far, holds| holds.map(|holds| so_far || holds))?,
            _ => bail!("the condition function of {condition} is not supported here"),
        })
    }

    fn function(&self, name: &str, argument: &Value) -> Result<Option<Value>> {
        let list = argument.as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(Some(match (name, list) {
            ("Ref", _) => {
                let name = argument.as_str().context("Ref takes a name")?;
                if name == "AWS::NoValue" {
                    return Ok(None);
                }
                json!(self.reference(name)?)
            }
            ("Fn::GetAtt", [resource, attribute]) => {
                let resource = resource.as_str().context("a resource")?;
                json!(self.attribute(resource, attribute.as_str().context("an attribute")?)?)
            }
            ("Fn::If", [condition, yes, no]) => {
                let condition = condition.as_str().context("If takes a condition's name")?;
                let chosen = if self.condition(condition)? { yes } else { no };
                return self.value(chosen);
            }
            ("Fn::FindInMap", [map, top, second]) => {
                let path = [self.text(map)?, self.text(top)?, self.text(second)?];
                let found = &self.template.document["Mappings"][&path[0]][&path[1]][&path[2]];
                if found.is_null() {
                    bail!("{path:?} is not a value of `Mappings`");
                }
                found.clone()
            }
            ("Fn::Select", [index, list]) => {
                let index = index.as_u64().context("Select takes a number")?;
                let list = self.value(list)?.context("Select takes a list")?;
                let chosen = usize::try_from(index)
                    .ok()
                    .and_then(|index| list.get(index));
                chosen.context("Select chooses what is there")?.clone()
            }
            ("Fn::Split", [delimiter, text]) => {
                let delimiter = delimiter.as_str().context("a delimiter")?;
                let text = self.text(text)?;
                json!(text.split(delimiter).collect::<Vec<_>>())
            }
            ("Fn::Join", [delimiter, list]) => {
                let list = self.value(list)?.context("Join takes a list")?;
                let list = list.as_array().context("Join takes a list")?;
                let texts: Option<Vec<&str>> = list.iter().map(Value::as_str).collect();
                let delimiter = delimiter.as_str().context("a delimiter")?;
                json!(texts.context("Join takes texts")?.join(delimiter))
            }
            ("Fn::Sub", [text, variables]) => {
                json!(self.substitute(text.as_str().context("a text")?, variables)?)
            }
            ("Fn::Sub", []) => {
                json!(self.substitute(argument.as_str().context("a text")?, &Value::Null)?)
            }
            _ => bail!("`{name}` of {argument} is not known here"),
        }))
    }

    fn text(&self, value: &Value) -> Result<String> {
        match self.value(value)? {
            Some(Value::String(text)) => Ok(text),
            Some(Value::Number(number)) => Ok(number.to_string()),
            other => bail!("{value} comes to {other:?}, not to a text"),
        }
    }

    fn substitute(&self, text: &str, variables: &Value) -> Result<String> {
        let mut filled = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            filled.push_str(before);
            let (name, after) = after.split_once('}').context("a substitution ends")?;
            if let Some(own) = variables.get(name) {
                filled.push_str(&self.text(own)?);
            } else if let Some((resource, attribute)) = name.split_once('.') {
                filled.push_str(&self.attribute(resource, attribute)?);
            } else {
                filled.push_str(&self.reference(name)?);
            }
            rest = after;
        }
        Ok(filled + rest)
    }

    fn reference(&self, name: &str) -> Result<String> {
        Ok(match name {
            "AWS::Partition" => "aws".to_owned(),
            "AWS::Region" => self.region.clone(),
            "AWS::AccountId" => self.account.clone(),
            "AWS::StackName" => "branchline".to_owned(),
            "AWS::URLSuffix" => "amazonaws.com".to_owned(),
            name => match self.parameters.get(name) {
                Some(value) => value.clone(),
                None => self.name(name)?,
            },
        })
    }

    /// Returns the name of a resource. One whose condition is false cannot be referred to.
    fn name(&self, resource: &str) -> Result<String> {
        if !self.has(resource)? {
            bail!("`{resource}` is neither a parameter nor a resource of this deployment");
        }
        Ok(self
            .names
            .get(resource)
            .map_or(resource, String::as_str)
            .to_owned())
    }

    fn attribute(&self, resource: &str, attribute: &str) -> Result<String> {
        let kind = if self.has(resource)? {
            let kind = &self.template.document["Resources"][resource]["Type"];
            kind.as_str().context("a resource has a type")?
        } else {
            bail!("`{resource}` is not a resource of this deployment");
        };
        let name = self.name(resource)?;
        let arn = |service: &str, rest: &str| {
            format!(
                "arn:aws:{service}:{}:{}:{rest}{name}",
                self.region, self.account
            )
        };
        Ok(match (kind, attribute) {
            ("AWS::S3::Bucket", "Arn") => format!("arn:aws:s3:::{name}"),
            ("AWS::IAM::Role", "Arn") => format!("arn:aws:iam::{}:role/{name}", self.account),
            ("AWS::Serverless::Function", "Arn") => arn("lambda", "function:"),
            ("AWS::SQS::Queue", "Arn") => arn("sqs", ""),
            ("AWS::CloudWatch::Alarm", "Arn") => arn("cloudwatch", "alarm:"),
            ("AWS::Logs::LogGroup", "Arn") => arn("logs", "log-group:") + ":*",
            ("AWS::SNS::Topic", "TopicArn") => arn("sns", ""),
            ("AWS::Serverless::StateMachine", "Arn") => arn("states", "stateMachine:"),
            ("AWS::SQS::Queue", "QueueName") | ("AWS::Serverless::StateMachine", "Name") => name,
            _ => bail!("`{attribute}` of a {kind} is not known here"),
        })
    }
}

/// The function that an object calls, if it is a call.
fn call(map: &Map<String, Value>) -> Option<(&str, &Value)> {
    let (name, argument) = map.iter().next().filter(|_| map.len() == 1)?;
    // `Condition` is a call in conditions, and a plain name elsewhere (policies have it).
    let is_call =
        name == "Ref" || name.starts_with("Fn::") || (name == "Condition" && argument.is_string());
    is_call.then_some((name, argument))
}
