//! `template.yaml` as CloudFormation would understand it: what a deployment with given
//! parameters gives each function as environment, policy and schedule.

mod evaluate;
mod yaml;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::Value;

/// A template: short forms written out (`!Ref x` is `{"Ref": "x"}`), anchors too.
#[derive(Debug, Clone)]
pub struct Template {
    document: Value,
}

impl Template {
    /// Reads the project's own.
    pub fn load() -> Result<Self> {
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
        let path = top
            .context("the project's top folder")?
            .join("template.yaml");
        Self::parse(&std::fs::read_to_string(&path).with_context(|| path.display().to_string())?)
    }

    /// Parses the text of a template.
    pub fn parse(text: &str) -> Result<Self> {
        let document = yaml::read(text)?;
        Ok(Self { document })
    }

    /// Returns the value at a path of names; `Null` if it is missing.
    pub fn at(&self, path: &[&str]) -> &Value {
        path.iter()
            .fold(&self.document, |value, name| &value[*name])
    }

    /// The entries of a section, in the order of their names.
    pub fn section(&self, name: &str) -> Result<impl Iterator<Item = (&str, &Value)>> {
        let entries = self.document[name].as_object();
        let entries = entries.with_context(|| format!("`{name}` is a section"))?;
        Ok(entries.iter().map(|(name, value)| (name.as_str(), value)))
    }

    /// The resources of a type, as their logical ids.
    pub fn resources_of<'a>(&'a self, kind: &'a str) -> Result<impl Iterator<Item = &'a str>> {
        let resources = self.section("Resources")?;
        Ok(resources
            .filter(move |(_, resource)| resource["Type"] == kind)
            .map(|(name, _)| name))
    }

    /// Resolves the template with these parameters, otherwise defaults.
    pub fn resolve(&self, parameters: &[(&str, &str)]) -> Result<ResolvedTemplate<'_>> {
        let mut all = BTreeMap::new();
        for (name, parameter) in self.section("Parameters")? {
            let default = match &parameter["Default"] {
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                other => bail!("parameter `{name}` has the default {other}"),
            };
            all.insert(name.to_owned(), default);
        }
        for (name, value) in parameters {
            let known = all.get_mut(*name);
            let known =
                known.with_context(|| format!("`{name}` is not a parameter of the template"))?;
            (*value).clone_into(known);
        }
        Ok(ResolvedTemplate {
            template: self,
            parameters: all,
            account: "123456789012".to_owned(),
            region: "eu-central-1".to_owned(),
            names: BTreeMap::new(),
        })
    }
}

/// One statement of a role's policies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// Statement id (`Sid`).
    pub sid: String,
    /// Actions that are allowed or denied.
    pub actions: Vec<String>,
    /// ARNs or patterns of resources.
    pub resources: Vec<String>,
}

/// A template with the values of its parameters.
#[derive(Debug, Clone)]
pub struct ResolvedTemplate<'a> {
    template: &'a Template,
    parameters: BTreeMap<String, String>,
    account: String,
    region: String,
    names: BTreeMap<String, String>,
}

impl ResolvedTemplate<'_> {
    /// Sets the physical name of the resource `resource`; by default that is its logical id.
    #[must_use]
    pub fn named(mut self, resource: &str, name: &str) -> Self {
        self.names.insert(resource.to_owned(), name.to_owned());
        self
    }

    /// Sets account and region, instead of 123456789012 and `eu-central-1`.
    #[must_use]
    pub fn at(mut self, account: &str, region: &str) -> Self {
        account.clone_into(&mut self.account);
        region.clone_into(&mut self.region);
        self
    }

    /// Returns the messages of the template's rules that these parameters break.
    pub fn refusals(&self) -> Result<Vec<String>> {
        let mut refusals = Vec::new();
        for (name, rule) in self.template.section("Rules")? {
            if let Some(condition) = rule.get("RuleCondition")
                && !self.holds(condition)?
            {
                continue;
            }
            let assertions = rule["Assertions"].as_array();
            for assertion in assertions.with_context(|| format!("rule `{name}`"))? {
                if !self.holds(&assertion["Assert"])? {
                    let words = assertion["AssertDescription"].as_str();
                    refusals.push(words.context("an assertion has words")?.to_owned());
                }
            }
        }
        Ok(refusals)
    }

    /// Whether a resource is made at all.
    pub fn has(&self, resource: &str) -> Result<bool> {
        let found = &self.template.document["Resources"][resource];
        if found.is_null() {
            return Ok(false);
        }
        found["Condition"]
            .as_str()
            .map_or(Ok(true), |name| self.condition(name))
    }

    /// A resource's properties, evaluated.
    pub fn properties(&self, resource: &str) -> Result<Value> {
        if !self.has(resource)? {
            bail!("`{resource}` is not a resource of this deployment");
        }
        let properties = &self.template.document["Resources"][resource]["Properties"];
        let evaluated = self.value(properties).context(resource.to_owned())?;
        evaluated.with_context(|| format!("`{resource}` has properties"))
    }

    /// The environment variables of a function, by its logical id.
    pub fn environment(&self, function: &str) -> Result<BTreeMap<String, String>> {
        let properties = self.properties(function)?;
        let variables = properties["Environment"]["Variables"].as_object();
        let variables = variables.with_context(|| format!("`{function}` has an environment"))?;
        let text = |(name, value): (&String, &Value)| {
            let text = value.as_str().map(str::to_owned);
            (name.clone(), text.unwrap_or_else(|| value.to_string()))
        };
        Ok(variables.iter().map(text).collect())
    }

    /// Returns the statements of the policies of a function's role.
    pub fn statements(&self, function: &str) -> Result<Vec<Statement>> {
        let role = &self.template.document["Resources"][function]["Properties"]["Role"];
        let role = role["Fn::GetAtt"][0].as_str();
        self.statements_of_role(role.with_context(|| format!("`{function}` names its role"))?)
    }

    /// Returns the statements that allow something to the role with this logical id.
    pub fn statements_of_role(&self, role: &str) -> Result<Vec<Statement>> {
        self.statements_with_effect(role, "Allow")
    }

    /// Returns the statements that deny something to the role with this logical id.
    pub fn denials_of_role(&self, role: &str) -> Result<Vec<Statement>> {
        self.statements_with_effect(role, "Deny")
    }

    fn statements_with_effect(&self, role: &str, effect: &str) -> Result<Vec<Statement>> {
        let properties = self.properties(role)?;
        let policies = properties["Policies"].as_array();
        let mut statements = Vec::new();
        for policy in policies.with_context(|| format!("`{role}` has policies"))? {
            let list = policy["PolicyDocument"]["Statement"].as_array();
            let list = list.context("a policy has statements")?;
            for statement in list
                .iter()
                .filter(|statement| statement["Effect"] == effect)
            {
                statements.push(read_statement(statement).with_context(|| role.to_owned())?);
            }
        }
        Ok(statements)
    }

    fn condition(&self, name: &str) -> Result<bool> {
        let condition = &self.template.document["Conditions"][name];
        if condition.is_null() {
            bail!("`{name}` is not a condition of the template");
        }
        self.holds(condition).with_context(|| name.to_owned())
    }
}

fn read_statement(statement: &Value) -> Result<Statement> {
    if !statement["NotAction"].is_null() {
        bail!("a function's policies name their actions: {statement}");
    }
    let list = |value: &Value| -> Result<Vec<String>> {
        let texts = match value {
            Value::Array(texts) => texts.as_slice(),
            one => std::slice::from_ref(one),
        };
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let texts: Option<Vec<String>> = texts.iter().map(text).collect();
        texts.with_context(|| anyhow!("texts: {value}"))
    };
    Ok(Statement {
        sid: statement["Sid"].as_str().unwrap_or_default().to_owned(),
        actions: list(&statement["Action"])?,
        resources: list(&statement["Resource"])?,
    })
}
