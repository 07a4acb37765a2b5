//! CloudFormation's YAML as JSON: short forms of functions become their long ones.

use anyhow::{Context as _, Result, bail};
use saphyr::{LoadableYamlNode as _, Scalar, Yaml};
use serde_json::{Map, Value, json};

/// Reads one document.
pub(super) fn read(text: &str) -> Result<Value> {
    let documents = Yaml::load_from_str(text).context("the template is YAML")?;
    match documents.as_slice() {
        [document] => convert(document),
        other => bail!("one document is expected, there are {}", other.len()),
    }
}

fn convert(node: &Yaml<'_>) -> Result<Value> {
    Ok(match node {
        Yaml::Value(scalar) => match scalar {
            Scalar::Null => Value::Null,
            Scalar::Boolean(flag) => json!(flag),
            Scalar::Integer(number) => json!(number),
            Scalar::FloatingPoint(number) => json!(number.into_inner()),
            Scalar::String(text) => json!(text),
        },
        Yaml::Sequence(items) => Value::Array(items.iter().map(convert).collect::<Result<_>>()?),
        Yaml::Mapping(entries) => {
            let mut map = Map::new();
            for (key, value) in entries {
                let key = key.as_str().context("keys are texts")?;
                map.insert(key.to_owned(), convert(value)?);
            }
            Value::Object(map)
        }
        Yaml::Tagged(tag, inner) => {
            let argument = convert(inner)?;
            match (tag.handle.as_str(), tag.suffix.as_str()) {
                ("!", name @ ("Ref" | "Condition")) => json!({ name: argument }),
                ("!", "GetAtt") => {
                    let text = argument.as_str().context("GetAtt takes a text")?;
                    let (resource, attribute) =
                        text.split_once('.').context("GetAtt has an attribute")?;
                    json!({ "Fn::GetAtt": [resource, attribute] })
                }
                ("!", name) => json!({ format!("Fn::{name}"): argument }),
                (handle, suffix) => bail!("the tag {handle}{suffix} is not CloudFormation's"),
            }
        }
        other => bail!("{other:?} is not understood"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_forms_and_anchors_are_written_out() -> Result<()> {
        let text = "a: &x !Ref p\nb: *x\nc: !GetAtt q.Arn.z\nd: !Sub [\"${v}\", {v: !Ref \"AWS::Region\"}]\ne: \"1\"\nf: 1";
        assert_eq!(
            read(text)?,
            json!({
                "a": {"Ref": "p"}, "b": {"Ref": "p"}, "c": {"Fn::GetAtt": ["q", "Arn.z"]},
                "d": {"Fn::Sub": ["${v}", {"v": {"Ref": "AWS::Region"}}]}, "e": "1", "f": 1,
            })
        );
        assert!(read("a: !!binary aGk=").is_err(), "no CloudFormation");
        Ok(())
    }
}
