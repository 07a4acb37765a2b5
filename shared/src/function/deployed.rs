//! The functions of an account and region, as Lambda lists them.

use std::collections::BTreeMap;
use std::fmt;

use async_trait::async_trait;

use super::FunctionArn;
use crate::error::Result;

/// A function that is deployed.
#[derive(Clone, PartialEq, Eq)]
pub struct DeployedFunction {
    /// Name of the function.
    pub name: String,
    /// ARN without a qualifier.
    pub arn: FunctionArn,
    /// ARN of the function's role.
    pub role_arn: String,
    /// Environment variables, with `AWS_REGION` and `AWS_LAMBDA_FUNCTION_MEMORY_SIZE` as Lambda
    /// sets them.
    pub environment: BTreeMap<String, String>,
}

impl fmt::Debug for DeployedFunction {
    /// Shows only the names of variables, because values may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&String> = self.environment.keys().collect();
        f.debug_struct("DeployedFunction")
            .field("arn", &self.arn.as_str())
            .field("environment", &names)
            .finish_non_exhaustive()
    }
}

/// One page of a list of functions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionPage {
    /// Functions of this page.
    pub functions: Vec<DeployedFunction>,
    /// Token of the next page; `None` on the last one.
    pub next: Option<String>,
}

/// Reads the functions of an account and region. Every method is one request.
#[async_trait]
pub trait FunctionInventory: Send + Sync {
    /// Lists the functions, one page from the token `next`.
    async fn list_functions(&self, next: Option<&str>) -> Result<FunctionPage>;

    /// Returns the name of the CloudFormation stack that a function belongs to, from the tag that
    /// CloudFormation sets.
    async fn stack_of(&self, function: &FunctionArn) -> Result<Option<String>>;
}

/// Reads all pages of [`FunctionInventory::list_functions`].
pub async fn all_functions(inventory: &dyn FunctionInventory) -> Result<Vec<DeployedFunction>> {
    let mut functions = Vec::new();
    let mut next: Option<String> = None;
    loop {
        let page = inventory.list_functions(next.as_deref()).await?;
        functions.extend(page.functions);
        next = match page.next {
            // Ends at a repeated token, because it would be followed forever.
            Some(token) if next.as_deref() != Some(token.as_str()) => Some(token),
            _ => break,
        };
    }
    Ok(functions)
}
