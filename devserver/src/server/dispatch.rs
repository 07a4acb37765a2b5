//! Dispatches a request: counts it, applies faults, and calls its service.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::body::{ServerBody, TrackedBody, full};
use super::classify::{RequestTarget, access_key_id, classify, text};
use super::control::Control;
use super::{resource, sts};
use crate::account::{Account, Credentials};
use crate::aws_json::{self, ApiError, ApiResult};
use crate::delivery::Delivery;
use crate::faults::{Fault, Faults, InFlight, RequestLog, Service};
use crate::kms::KmsService;
use crate::lambda::LambdaApi;
use crate::pipeline::{PipelineService, cbor};
use crate::secrets::SecretService;

/// The largest body of a JSON, CBOR or Lambda request, in bytes: above Lambda's own limit,
/// so that Lambda's error is seen.
const MAX_API_BODY_BYTES: usize = 16 * 1024 * 1024;

/// A service that speaks a JSON protocol.
#[async_trait]
pub(super) trait JsonService: Send + Sync {
    async fn call(&self, operation: &str, input: Value, principal_arn: &str) -> ApiResult;

    /// Returns the repository of an input that names another thing of it.
    fn repository_of(&self, input: &Value) -> Option<String>;
}

/// A service that reads requests and writes answers itself.
#[async_trait]
pub(super) trait HttpService: Send + Sync {
    async fn call(&self, request: Request<Incoming>) -> Response<ServerBody>;
}

/// All services.
pub(super) struct Dispatcher {
    pub(super) account: Account,
    pub(super) faults: Arc<Faults>,
    pub(super) log: RequestLog,
    pub(super) control: Control,
    pub(super) codecommit: Arc<dyn JsonService>,
    pub(super) pipelines: PipelineService,
    pub(super) kms: KmsService,
    pub(super) delivery: Delivery,
    pub(super) secrets: SecretService,
    pub(super) lambda: LambdaApi,
    pub(super) git: Arc<dyn HttpService>,
    pub(super) s3: Arc<dyn HttpService>,
}

/// Error of a connection that is closed without an answer.
#[derive(Debug)]
pub(super) struct ConnectionDropped;

impl std::fmt::Display for ConnectionDropped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("closed by a fault")
    }
}

impl std::error::Error for ConnectionDropped {}

impl Dispatcher {
    /// Answers one request.
    pub(super) async fn call(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<ServerBody>, ConnectionDropped> {
        if request.uri().path().starts_with("/_dev") {
            return Ok(self.control.call(request).await);
        }
        let (parts, body) = request.into_parts();
        let target = classify(&parts);
        let credentials = access_key_id(&parts).and_then(|id| self.account.find(&id));
        let mut in_flight = self.log.begin(
            target.service,
            &target.operation,
            &target.action,
            credentials
                .as_ref()
                .map(|found| found.principal_arn.clone()),
        );
        if let Some(trace) = text(&parts.headers, "x-amzn-trace-id") {
            in_flight.trace(trace);
        }
        for arn in resource::of_request(&target, &parts, &self.account) {
            in_flight.resource(arn);
        }
        let decision = self.faults.decide(target.service, &target.operation);
        if !decision.latency.is_zero() {
            tokio::time::sleep(decision.latency).await;
        }
        if let Some(fault) = decision.fault {
            let (service, operation) = (target.service.name(), &target.operation);
            let what = format!("{service} {operation}: {}", fault.name());
            let trace = text(&parts.headers, "x-amzn-trace-id").and_then(invocation_of);
            // Those of an invocation are reported together at its end.
            if !trace.is_some_and(|trace| self.faults.count(trace, &what)) {
                tracing::info!("fault: {what}");
            }
        }
        let response = match decision.fault {
            Some(Fault::Drop) => {
                in_flight.fail();
                return Err(ConnectionDropped);
            }
            Some(Fault::Throttle) => throttled(&target),
            Some(Fault::Error) => failed(&target),
            Some(Fault::Conflict) => conflicting(&target),
            _ => {
                let request = Request::from_parts(parts, body);
                self.execute(&target, credentials, request, &in_flight)
                    .await
            }
        };
        if decision.fault == Some(Fault::LoseAnswer) {
            in_flight.fail();
            // A streamed answer may still be changing state.
            let _ = response.into_body().collect().await;
            return Err(ConnectionDropped);
        }
        let cut = decision.fault == Some(Fault::Cut);
        if cut || response.status().is_client_error() || response.status().is_server_error() {
            in_flight.fail();
        }
        if cut && http_body::Body::is_end_stream(response.body()) {
            // An empty body has no middle.
            return Err(ConnectionDropped);
        }
        Ok(response.map(|body| TrackedBody::new(body, cut, in_flight).boxed_unsync()))
    }

    async fn execute(
        &self,
        target: &RequestTarget,
        credentials: Option<Credentials>,
        request: Request<Incoming>,
        in_flight: &InFlight,
    ) -> Response<ServerBody> {
        match target.service {
            Service::Git => return self.git.call(request).await,
            Service::S3 | Service::Events => return self.s3.call(request).await,
            _ => {}
        }
        let (parts, body) = request.into_parts();
        // The body is always read, because a client that is still sending does not read the
        // answer.
        let body = Limited::new(body, MAX_API_BODY_BYTES).collect().await;
        let body = body.map(http_body_util::Collected::to_bytes);
        let principal = authenticate(&parts, credentials);
        if target.service == Service::Lambda {
            return match (principal, body) {
                (Ok(_), Ok(body)) => self.lambda.call(&parts, body).await.map(full),
                (Err(error), _) => lambda_error(&error),
                (_, Err(_)) => lambda_error(&too_large()),
            };
        }
        if target.service == Service::Sts {
            return match (principal, body) {
                (Ok(principal), Ok(body)) => {
                    sts::call(&self.account, &principal, &body, in_flight).map(full)
                }
                (Err(error), _) => sts::refuse(&error).map(full),
                (_, Err(_)) => sts::refuse(&too_large()).map(full),
            };
        }
        let result = async {
            let principal = principal?;
            let body = body.map_err(|_| too_large())?;
            let input = if target.cbor {
                cbor::read(&body)?
            } else {
                read_json(&body)?
            };
            let repository = self.codecommit.repository_of(&input);
            let arn = resource::of_input(target, &input, &self.account, repository.as_deref());
            if let Some(arn) = arn {
                in_flight.resource(arn);
            }
            let operation = &target.operation;
            match target.service {
                Service::CodePipeline => self.pipelines.call(operation, &input, &principal),
                Service::Kms => self.kms.call(operation, &input),
                Service::EventBridge => self.delivery.call(operation, &input),
                Service::SecretsManager => self.secrets.call(operation, &input),
                Service::Ssm => self.secrets.call_parameters(operation, &input),
                _ => self.codecommit.call(operation, input, &principal).await,
            }
        };
        api_response(target, result.await)
    }
}

/// Returns the last part of a trace's root, which identifies an invocation of a function:
/// `Root=1-<time>-<id>;..`.
fn invocation_of(trace: &str) -> Option<&str> {
    let mut parts = trace.split(';');
    let root = parts.find_map(|part| part.trim().strip_prefix("Root="))?;
    root.rsplit('-').next()
}

/// Finds the principal of a signed request. The signature is not verified: knowing the key
/// id of a development account is enough.
fn authenticate(request: &Parts, credentials: Option<Credentials>) -> Result<String, ApiError> {
    let refuse = |status, code: &str, message: &str| ApiError {
        status,
        ..ApiError::new(code, message)
    };
    if !request.headers.contains_key(header::AUTHORIZATION) {
        return Err(refuse(
            StatusCode::FORBIDDEN,
            "MissingAuthenticationTokenException",
            "Missing Authentication Token: sign the request with the credentials that the server \
             printed",
        ));
    }
    let token = text(&request.headers, "x-amz-security-token");
    match credentials {
        Some(found) if found.session_token.as_deref() == token => Ok(found.principal_arn),
        _ => Err(refuse(
            StatusCode::BAD_REQUEST,
            "UnrecognizedClientException",
            "The security token included in the request is invalid.",
        )),
    }
}

fn read_json(body: &[u8]) -> Result<Value, ApiError> {
    if body.is_empty() {
        return Ok(json!({}));
    }
    serde_json::from_slice(body)
        .map_err(|error| ApiError::new("SerializationException", error.to_string()))
}

fn too_large() -> ApiError {
    ApiError {
        status: StatusCode::PAYLOAD_TOO_LARGE,
        ..ApiError::new(
            "RequestTooLargeException",
            "the request's body is too large",
        )
    }
}

fn api_response(target: &RequestTarget, result: ApiResult) -> Response<ServerBody> {
    if target.cbor {
        return cbor::response(result).map(full);
    }
    let result = result.map(|value| if value.is_null() { json!({}) } else { value });
    aws_json::response(result).map(full)
}

fn lambda_error(error: &ApiError) -> Response<ServerBody> {
    crate::lambda::refuse(error.status, &error.code, &error.message, json!({})).map(full)
}

fn throttled(target: &RequestTarget) -> Response<ServerBody> {
    let status = match target.service {
        Service::CodePipeline | Service::EventBridge | Service::SecretsManager | Service::Ssm => {
            StatusCode::BAD_REQUEST
        }
        _ => StatusCode::TOO_MANY_REQUESTS,
    };
    match target.service {
        Service::S3 => s3_error(
            StatusCode::SERVICE_UNAVAILABLE,
            "SlowDown",
            "Please reduce your request rate.",
        ),
        Service::Lambda => crate::lambda::throttled("CallerRateLimitExceeded").map(full),
        Service::Sts => sts::refuse(&ApiError {
            status: StatusCode::BAD_REQUEST,
            ..ApiError::new("Throttling", "Rate exceeded")
        })
        .map(full),
        Service::Git => git_error(status, "Rate Exceeded"),
        _ => api_response(
            target,
            Err(ApiError {
                status,
                ..ApiError::new("ThrottlingException", "Rate exceeded")
            }),
        ),
    }
}

fn failed(target: &RequestTarget) -> Response<ServerBody> {
    let message = "We encountered an internal error. Please try again.";
    let status = StatusCode::INTERNAL_SERVER_ERROR;
    match target.service {
        Service::S3 => s3_error(status, "InternalError", message),
        Service::Lambda => crate::lambda::service_error(message).map(full),
        Service::Sts => sts::refuse(&ApiError::internal(message)).map(full),
        Service::Git => git_error(status, "Internal Service Error"),
        _ => api_response(target, Err(ApiError::internal(message))),
    }
}

fn conflicting(target: &RequestTarget) -> Response<ServerBody> {
    let status = StatusCode::CONFLICT;
    let error = |code: &str, message: &str| ApiError {
        status,
        ..ApiError::new(code, message)
    };
    match target.service {
        Service::S3 => s3_error(
            status,
            "ConditionalRequestConflict",
            "A conflicting conditional operation occurred during this request.",
        ),
        Service::Lambda => lambda_error(&error("ResourceConflictException", "it is being changed")),
        Service::Git => git_error(status, "Conflict"),
        Service::CodePipeline => api_response(
            target,
            Err(error(
                "ConflictException",
                "Your request cannot be handled because the pipeline is busy handling ongoing \
                 activities. Try again later.",
            )),
        ),
        _ => api_response(
            target,
            Err(ApiError::new(
                "ConcurrentReferenceUpdateException",
                "The reference is being updated by another request.",
            )),
        ),
    }
}

fn s3_error(status: StatusCode, code: &str, message: &str) -> Response<ServerBody> {
    let id = uuid::Uuid::new_v4().simple().to_string();
    let xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code>\
         <Message>{message}</Message><RequestId>{id}</RequestId></Error>"
    );
    let mut response = Response::new(full(xml));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/xml"),
    );
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert("x-amz-request-id", id);
    }
    response
}

fn git_error(status: StatusCode, message: &str) -> Response<ServerBody> {
    let mut response = Response::new(full(Bytes::from(message.to_owned())));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}
