//! [`FunctionInventory`] over the AWS SDK.

use async_trait::async_trait;
use aws_sdk_lambda::types::FunctionConfiguration;

use super::client::{SdkFunctions, convert};
use super::{DeployedFunction, FunctionArn, FunctionInventory, FunctionPage};
use crate::aws::{ApiCall, SdkFailure};
use crate::error::Result;

/// Tag that CloudFormation sets on the resources of a stack.
const STACK_NAME_TAG: &str = "aws:cloudformation:stack-name";

#[async_trait]
impl FunctionInventory for SdkFunctions {
    async fn list_functions(&self, next: Option<&str>) -> Result<FunctionPage> {
        let call = ApiCall {
            service: "Lambda",
            operation: "ListFunctions",
            permission: "lambda:ListFunctions",
            subject: "the functions of the account".to_owned(),
            resource: "`*`".to_owned(),
        };
        let answer = self
            .client
            .list_functions()
            .set_marker(next.map(str::to_owned))
            .send()
            .await
            .map_err(|error| convert(SdkFailure::of(&error), &call))?;
        Ok(FunctionPage {
            functions: answer.functions().iter().filter_map(read).collect(),
            next: answer.next_marker().map(str::to_owned),
        })
    }

    async fn stack_of(&self, function: &FunctionArn) -> Result<Option<String>> {
        let call = ApiCall {
            service: "Lambda",
            operation: "GetFunction",
            permission: "lambda:GetFunction",
            subject: format!("function `{function}`"),
            resource: format!("`{function}`"),
        };
        let answer = self
            .client
            .get_function()
            .function_name(function.as_str())
            .send()
            .await
            .map_err(|error| convert(SdkFailure::of(&error), &call))?;
        let tags = answer.tags();
        Ok(tags.and_then(|tags| tags.get(STACK_NAME_TAG)).cloned())
    }
}

/// Reads a listed function; `None` for one that has no name or no valid ARN.
fn read(function: &FunctionConfiguration) -> Option<DeployedFunction> {
    let arn = FunctionArn::new(function.function_arn()?).ok()?;
    let variables = function.environment().and_then(|all| all.variables());
    let variables = variables.into_iter().flatten();
    let memory = function.memory_size().map(|memory| memory.to_string());
    let own = [
        ("AWS_REGION", Some(arn.region().to_owned())),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", memory),
    ];
    let own = own
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Some(DeployedFunction {
        name: function.function_name()?.to_owned(),
        role_arn: function.role().unwrap_or_default().to_owned(),
        environment: variables
            .map(|(name, value)| (name.clone(), value.clone()))
            .chain(own)
            .collect(),
        arn,
    })
}
