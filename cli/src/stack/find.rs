//! Finds the functions of a stack among those of the account: `update` writes artifacts
//! (`ARTIFACT_BUCKET`), and `lifecycle` names the `update` that its triggers call
//! (`UPDATE_FUNCTION_ARN`).

use branchline_core::function::{DeployedFunction, FunctionInventory};
use branchline_core::{Error, ErrorKind, Result};

use super::not_found;

/// Functions of one stack.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct StackFunctions {
    pub(super) lifecycle: Option<DeployedFunction>,
    pub(super) update: Option<DeployedFunction>,
}

impl StackFunctions {
    fn iter(&self) -> impl Iterator<Item = &DeployedFunction> {
        self.update.iter().chain(&self.lifecycle)
    }

    /// Returns the name of the stack, as far as the name of a function tells it: CloudFormation
    /// names functions `<stack>-<logical id>-<random>`.
    pub(super) fn name(&self) -> Option<&str> {
        let name = &self.iter().next()?.name;
        let parts = ["-UpdateFunction-", "-LifecycleFunction-"];
        let ends = parts.iter().filter_map(|part| name.rfind(part));
        Some(ends.max().map_or(name.as_str(), |end| &name[..end]))
    }

    fn is_named(&self, wanted: &str) -> bool {
        self.name() == Some(wanted) || self.iter().any(|function| function.name == wanted)
    }
}

fn setting<'a>(function: &'a DeployedFunction, name: &str) -> Option<&'a str> {
    let value = function.environment.get(name)?.trim();
    (!value.is_empty()).then_some(value)
}

/// Groups functions by stack.
fn stacks(functions: &[DeployedFunction]) -> Vec<StackFunctions> {
    let calls = |lifecycle: &DeployedFunction, update: &DeployedFunction| {
        let arn = setting(lifecycle, "UPDATE_FUNCTION_ARN");
        arn.is_some_and(|arn| update.arn.is_same_function(arn))
    };
    let updates = functions
        .iter()
        .filter(|function| setting(function, "ARTIFACT_BUCKET").is_some());
    let mut stacks: Vec<StackFunctions> = updates
        .map(|update| StackFunctions {
            lifecycle: functions
                .iter()
                .find(|function| calls(function, update))
                .cloned(),
            update: Some(update.clone()),
        })
        .collect();
    // A `lifecycle` whose `update` is gone is a stack, too.
    for lifecycle in functions {
        let is_used = |stack: &StackFunctions| {
            let update = stack.update.as_ref();
            update.is_some_and(|update| calls(lifecycle, update))
        };
        if setting(lifecycle, "UPDATE_FUNCTION_ARN").is_some() && !stacks.iter().any(is_used) {
            stacks.push(StackFunctions {
                lifecycle: Some(lifecycle.clone()),
                update: None,
            });
        }
    }
    stacks
}

/// Returns the stack of the name `wanted`, or the only one.
///
/// # Errors
/// `NotFound` if there is none, `Config` if there are several and none is named.
pub(super) async fn find(
    inventory: &dyn FunctionInventory,
    functions: &[DeployedFunction],
    wanted: Option<&str>,
    region: &str,
) -> Result<StackFunctions> {
    let mut stacks = stacks(functions);
    let Some(wanted) = wanted else {
        if stacks.len() > 1 {
            let names: Vec<String> = stacks
                .iter()
                .filter_map(StackFunctions::name)
                .map(|name| format!("`{name}`"))
                .collect();
            let message = format!("region `{region}` has {} stacks", stacks.len());
            return Err(Error::new(ErrorKind::Config, message)
                .with_hint(format!("name one by `--stack`: {}", names.join(", "))));
        }
        return stacks
            .pop()
            .ok_or_else(|| not_found(format!("region `{region}` has no function of branchline")));
    };
    if let Some(at) = stacks.iter().position(|stack| stack.is_named(wanted)) {
        return Ok(stacks.swap_remove(at));
    }
    // CloudFormation shortens long names, and a template may choose others: the tag is exact.
    for stack in stacks {
        let Some(function) = stack.iter().next() else {
            continue;
        };
        match inventory.stack_of(&function.arn).await {
            Ok(Some(name)) if name == wanted => return Ok(stack),
            Ok(_) => {}
            Err(error) => tracing::info!("the stack of a function: {}", error.report()),
        }
    }
    let message = format!("region `{region}` has no stack `{wanted}` with functions of branchline");
    Err(not_found(message))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use async_trait::async_trait;
    use branchline_core::function::{FunctionArn, FunctionPage};

    use super::*;

    fn function(name: &str, setting: Option<(&str, &str)>) -> DeployedFunction {
        let arn = format!("arn:aws:lambda:eu-west-1:111122223333:function:{name}");
        DeployedFunction {
            name: name.into(),
            arn: FunctionArn::new(&arn).expect("it is valid"),
            role_arn: String::new(),
            environment: setting
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into_iter()
                .collect(),
        }
    }

    fn update(name: &str) -> DeployedFunction {
        function(name, Some(("ARTIFACT_BUCKET", "artifacts")))
    }

    fn lifecycle(name: &str, update: &str) -> DeployedFunction {
        let arn = format!("arn:aws:lambda:eu-west-1:111122223333:function:{update}:live");
        function(name, Some(("UPDATE_FUNCTION_ARN", &arn)))
    }

    /// Stacks by the names of functions.
    struct Tags(BTreeMap<&'static str, &'static str>);

    #[async_trait]
    impl FunctionInventory for Tags {
        async fn list_functions(&self, _next: Option<&str>) -> Result<FunctionPage> {
            unreachable!("because the functions are given");
        }

        async fn stack_of(&self, function: &FunctionArn) -> Result<Option<String>> {
            let name = super::super::name_in_arn(function.as_str());
            Ok(self.0.get(name).map(|stack| (*stack).to_owned()))
        }
    }

    fn account() -> Vec<DeployedFunction> {
        vec![
            function("other", None),
            update("a-UpdateFunction-1x"),
            lifecycle("a-LifecycleFunction-2y", "a-UpdateFunction-1x"),
            update("short"),
            lifecycle("gone-LifecycleFunction-3z", "gone-UpdateFunction-4"),
        ]
    }

    #[tokio::test]
    async fn a_stack_is_found_by_its_name_by_a_function_or_by_its_tag() {
        let tags = Tags([("short", "a-long-name")].into());
        let functions = account();
        for (wanted, update, lifecycle) in [
            ("a", Some("a-UpdateFunction-1x"), true),
            ("a-LifecycleFunction-2y", Some("a-UpdateFunction-1x"), true),
            ("short", Some("short"), false),
            ("a-long-name", Some("short"), false),
            ("gone", None, true),
        ] {
            let found = find(&tags, &functions, Some(wanted), "eu-west-1").await;
            let found = found.expect(wanted);
            let name = found.update.as_ref().map(|function| function.name.as_str());
            assert_eq!(name, update, "{wanted}");
            assert_eq!(found.lifecycle.is_some(), lifecycle, "{wanted}");
        }
        let error = find(&tags, &functions, Some("b"), "eu-west-1").await;
        let error = error.expect_err("no stack has the name");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.hint().is_some_and(|hint| hint.contains("--region")));
    }

    #[tokio::test]
    async fn the_only_stack_needs_no_name_and_several_are_listed() {
        let tags = Tags(BTreeMap::new());
        let functions = account();
        let error = find(&tags, &functions, None, "eu-west-1").await;
        let hint = error.expect_err("there are three").report();
        for name in ["`a`", "`short`", "`gone`"] {
            assert!(hint.contains(name), "{hint}");
        }
        let found = find(&tags, &functions[..3], None, "eu-west-1").await;
        assert_eq!(found.expect("there is one").name(), Some("a"));
        let error = find(&tags, &functions[..1], None, "eu-west-1").await;
        assert_eq!(
            error.expect_err("there is none").kind(),
            ErrorKind::NotFound
        );
    }
}
