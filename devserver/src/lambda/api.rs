//! The Lambda API (2015-03-31) over HTTP: `Invoke`, `ListFunctions`, `GetFunction`,
//! `GetFunctionConfiguration`, `UpdateFunctionConfiguration`.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::request::Parts;
use http::{Method, Response, StatusCode, header};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::function::{FunctionConfig, FunctionRef};
use super::host::{InvokeError, LambdaHost};
use super::queue::AsyncInvocations;
use super::{MAX_ASYNC_PAYLOAD_BYTES, MAX_SYNC_PAYLOAD_BYTES, Outcome};

/// Path prefix of the API.
const PREFIX: &str = "/2015-03-31/functions";

/// Tag that CloudFormation sets on the functions of a stack.
const STACK_TAG: &str = "aws:cloudformation:stack-name";

/// Answers requests of the AWS CLI and SDKs.
#[derive(Clone)]
pub struct LambdaApi {
    host: LambdaHost,
    queue: AsyncInvocations,
}

type ApiResponse = Response<Bytes>;

/// Settings that `UpdateFunctionConfiguration` can change here.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct NewConfiguration {
    environment: Option<NewEnvironment>,
    timeout: Option<u64>,
    memory_size: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct NewEnvironment {
    #[serde(default)]
    variables: BTreeMap<String, String>,
}

impl LambdaApi {
    /// Creates an API over `host`, whose `Event` invocations go to `queue`.
    pub fn new(host: LambdaHost, queue: AsyncInvocations) -> Self {
        Self { host, queue }
    }

    /// Returns the operation that a request names.
    pub fn operation(method: &Method, path: &str) -> &'static str {
        let rest = path.strip_prefix(PREFIX).unwrap_or(path);
        let parts: Vec<&str> = rest.split('/').filter(|part| !part.is_empty()).collect();
        match (method, parts.as_slice()) {
            (&Method::GET, []) => "ListFunctions",
            (&Method::GET, [_]) => "GetFunction",
            (&Method::GET, [_, "configuration"]) => "GetFunctionConfiguration",
            (&Method::PUT, [_, "configuration"]) => "UpdateFunctionConfiguration",
            (&Method::POST, [_, "invocations"]) => "Invoke",
            _ => "Unknown",
        }
    }

    /// Carries out one request.
    pub async fn call(&self, request: &Parts, body: Bytes) -> ApiResponse {
        let path = request.uri.path();
        let rest = path.strip_prefix(PREFIX).unwrap_or(path);
        let name = rest.split('/').find(|part| !part.is_empty());
        let name = percent_decode_str(name.unwrap_or_default()).decode_utf8_lossy();
        match Self::operation(&request.method, path) {
            "ListFunctions" => ok(&json!({
                "Functions": self.host.functions().iter().map(|f| self.describe(f)).collect::<Vec<_>>()
            })),
            "GetFunction" => self.with(&name, |config| {
                let tags = config.stack.iter();
                let tags: BTreeMap<&str, &String> = tags.map(|stack| (STACK_TAG, stack)).collect();
                ok(&json!({
                    "Configuration": self.describe(config),
                    "Concurrency": config
                        .reserved_concurrency
                        .map(|n| json!({ "ReservedConcurrentExecutions": n })),
                    "Tags": tags,
                }))
            }),
            "GetFunctionConfiguration" => self.with(&name, |config| ok(&self.describe(config))),
            "UpdateFunctionConfiguration" => self.update(&name, &body),
            "Invoke" => self.invoke(request, &name, body).await,
            _ => refuse(
                StatusCode::NOT_FOUND,
                "UnknownOperationException",
                "this operation is not offered",
                json!({}),
            ),
        }
    }

    fn with(&self, name: &str, then: impl FnOnce(&FunctionConfig) -> ApiResponse) -> ApiResponse {
        match FunctionRef::parse(name, self.host.account())
            .and_then(|function| self.host.function(&function.name))
        {
            Some(config) => then(&config),
            None => self.not_found(name),
        }
    }

    fn not_found(&self, name: &str) -> ApiResponse {
        let arn = match FunctionRef::parse(name, self.host.account()) {
            Some(function) => function.arn(self.host.account()),
            None => name.to_owned(),
        };
        refuse(
            StatusCode::NOT_FOUND,
            "ResourceNotFoundException",
            &format!("Function not found: {arn}"),
            json!({ "Type": "User" }),
        )
    }

    /// Changes a function; later invocations start new environments.
    fn update(&self, name: &str, body: &[u8]) -> ApiResponse {
        let found = FunctionRef::parse(name, self.host.account())
            .and_then(|function| self.host.function(&function.name));
        let Some(mut config) = found else {
            return self.not_found(name);
        };
        let invalid = |message: &str| {
            let code = "InvalidParameterValueException";
            refuse(
                StatusCode::BAD_REQUEST,
                code,
                message,
                json!({ "Type": "User" }),
            )
        };
        let new: NewConfiguration = match serde_json::from_slice(body) {
            Ok(new) => new,
            Err(error) => return invalid(&error.to_string()),
        };
        if let Some(environment) = new.environment {
            config.environment = environment.variables;
        }
        config.timeout = new.timeout.map_or(config.timeout, Duration::from_secs);
        config.memory_mb = new.memory_size.unwrap_or(config.memory_mb);
        match self.host.add(config.clone()) {
            Ok(()) => ok(&self.describe(&config)),
            Err(why) => invalid(&why),
        }
    }

    async fn invoke(&self, request: &Parts, name: &str, body: Bytes) -> ApiResponse {
        let header = |name: &str| request.headers.get(name).and_then(|v| v.to_str().ok());
        let Some(mut function) = FunctionRef::parse(name, self.host.account()) else {
            return self.not_found(name);
        };
        if self.host.function(&function.name).is_none() {
            return self.not_found(name);
        }
        if let Some(qualifier) = query(request, "Qualifier") {
            function.qualifier = Some(qualifier);
        }
        let kind = header("x-amz-invocation-type").unwrap_or("RequestResponse");
        let limit = match kind {
            "Event" => MAX_ASYNC_PAYLOAD_BYTES,
            _ => MAX_SYNC_PAYLOAD_BYTES,
        };
        if body.len() > limit {
            return refuse(
                StatusCode::PAYLOAD_TOO_LARGE,
                "RequestTooLargeException",
                &format!("Request must be smaller than {limit} bytes for the Invoke operation"),
                json!({ "Type": "User" }),
            );
        }
        // Lambda passes an empty object to a function that is invoked without a payload.
        let payload = if body.is_empty() {
            Bytes::from_static(b"{}")
        } else {
            body
        };
        if let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(&payload) {
            return refuse(
                StatusCode::BAD_REQUEST,
                "InvalidRequestContentException",
                &format!("Could not parse request body into json: {error}"),
                json!({ "Type": "User" }),
            );
        }
        match kind {
            "DryRun" => empty(StatusCode::NO_CONTENT, &Uuid::new_v4().to_string()),
            "Event" => match self
                .queue
                .submit(&function.arn(self.host.account()), &payload)
            {
                Ok(request_id) => empty(StatusCode::ACCEPTED, &request_id),
                Err(error) => service_error(&error.to_string()),
            },
            "RequestResponse" => {
                let tail = header("x-amz-log-type").is_some_and(|kind| kind == "Tail");
                self.invoke_now(&function, payload, tail).await
            }
            other => refuse(
                StatusCode::BAD_REQUEST,
                "InvalidParameterValueException",
                &format!("unknown invocation type `{other}`: use RequestResponse, Event or DryRun"),
                json!({ "Type": "User" }),
            ),
        }
    }

    async fn invoke_now(&self, function: &FunctionRef, payload: Bytes, tail: bool) -> ApiResponse {
        let request_id = Uuid::new_v4().to_string();
        match self.host.invoke(function, payload, request_id).await {
            Ok(invoked) => {
                let builder = Response::builder()
                    .header(header::CONTENT_TYPE, "application/json")
                    .header("x-amzn-RequestId", &invoked.request_id)
                    .header("X-Amz-Executed-Version", "$LATEST");
                let builder = if tail {
                    builder.header("X-Amz-Log-Result", STANDARD.encode(&invoked.log_tail))
                } else {
                    builder
                };
                let response = match invoked.outcome {
                    Outcome::Answer(body) => builder.body(body),
                    Outcome::Failed(failure) => builder
                        .header("X-Amz-Function-Error", "Unhandled")
                        .body(failure.payload),
                };
                response.expect("because UUIDs and base64 are legal header values")
            }
            Err(InvokeError::NotFound(arn)) => self.not_found(&arn),
            Err(InvokeError::Throttled(reserved)) => {
                let reason = if reserved {
                    "ReservedFunctionConcurrentInvocationLimitExceeded"
                } else {
                    "ConcurrentInvocationLimitExceeded"
                };
                throttled(reason)
            }
            Err(InvokeError::ShuttingDown) => service_error("the server is shutting down"),
        }
    }

    fn describe(&self, config: &FunctionConfig) -> Value {
        let account = self.host.account();
        json!({
            "FunctionName": config.name,
            "FunctionArn": account.function_arn(&config.name),
            "Runtime": "provided.al2023",
            "Role": format!("arn:aws:iam::{}:role/{}-role", account.id, config.name),
            "Handler": "bootstrap",
            "Timeout": config.timeout.as_secs().max(1),
            "MemorySize": config.memory_mb,
            "Version": "$LATEST",
            "PackageType": "Zip",
            "State": "Active",
            "LastUpdateStatus": "Successful",
            "Environment": { "Variables": config.environment },
        })
    }
}

/// Builds the answer of a throttled invocation.
pub(crate) fn throttled(reason: &str) -> ApiResponse {
    let mut response = refuse(
        StatusCode::TOO_MANY_REQUESTS,
        "TooManyRequestsException",
        "Rate Exceeded.",
        json!({ "Type": "User", "Reason": reason }),
    );
    let second = header::HeaderValue::from_static("1");
    response.headers_mut().insert(header::RETRY_AFTER, second);
    response
}

/// Builds the answer of a service failure.
pub(crate) fn service_error(message: &str) -> ApiResponse {
    refuse(
        StatusCode::INTERNAL_SERVER_ERROR,
        "ServiceException",
        message,
        json!({ "Type": "Service" }),
    )
}

fn query(request: &Parts, wanted: &str) -> Option<String> {
    let query = request.uri.query()?;
    query.split('&').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        (name == wanted).then(|| percent_decode_str(value).decode_utf8_lossy().into_owned())
    })
}

fn ok(value: &Value) -> ApiResponse {
    let mut response = Response::new(Bytes::from(value.to_string()));
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

fn empty(status: StatusCode, request_id: &str) -> ApiResponse {
    Response::builder()
        .status(status)
        .header("x-amzn-RequestId", request_id)
        .header("X-Amz-Executed-Version", "$LATEST")
        .body(Bytes::new())
        .expect("because a UUID is a legal header value")
}

/// Builds a REST-JSON error: the code in a header, the rest in the body.
pub(crate) fn refuse(
    status: StatusCode,
    code: &str,
    message: &str,
    mut body: Value,
) -> ApiResponse {
    body["message"] = message.into();
    body["Message"] = message.into();
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/json")
        .header("x-amzn-ErrorType", code)
        .header("x-amzn-RequestId", Uuid::new_v4().to_string())
        .body(Bytes::from(body.to_string()))
        .expect("because codes are legal header values")
}
