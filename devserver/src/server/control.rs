//! `/_dev/`: control of the server itself, for tests, benchmarks and the command line.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::{Value, json};

use super::body::{ServerBody, full};
use crate::delivery::Delivery;
use crate::faults::{Faults, RequestLog, Rule, Service};
use crate::lambda::{
    AsyncInvocations, FunctionRef, InvokeError, LambdaHost, MAX_SYNC_PAYLOAD_BYTES, Outcome,
};
use crate::pipeline::PipelineService;

/// State that the control paths read and change.
pub(super) struct Control {
    pub(super) faults: Arc<Faults>,
    pub(super) log: RequestLog,
    pub(super) queue: AsyncInvocations,
    pub(super) delivery: Delivery,
    pub(super) lambda: LambdaHost,
    pub(super) pipelines: PipelineService,
    pub(super) about: Value,
}

#[derive(Deserialize)]
struct NewRules {
    rules: Vec<Rule>,
}

type Refusal = (StatusCode, String);

impl Control {
    pub(super) async fn call(&self, request: Request<Incoming>) -> Response<ServerBody> {
        let (status, value) = match self.answer(request).await {
            Ok(value) => (StatusCode::OK, value),
            Err((status, message)) => (status, json!({ "message": message })),
        };
        let mut text =
            serde_json::to_string_pretty(&value).expect("because a JSON value is always writable");
        text.push('\n');
        let mut response = Response::new(full(text));
        *response.status_mut() = status;
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        response
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Value, Refusal> {
        // These paths need no signature, so a page in a browser must be kept from calling
        // them.
        if request.headers().contains_key(header::ORIGIN) {
            let why = "not for web pages".to_owned();
            return Err((StatusCode::FORBIDDEN, why));
        }
        let path = request.uri().path().trim_end_matches('/').to_owned();
        let internal = |error: std::io::Error| {
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            (status, error.to_string())
        };
        let what = path.strip_prefix("/_dev").unwrap_or(&path);
        match (request.method(), what) {
            (&Method::GET, "") => Ok(self.about.clone()),
            (&Method::GET, "/faults") => Ok(self.faults()),
            (&Method::POST, "/faults") => {
                let body = Limited::new(request.into_body(), 1 << 20).collect().await;
                let body = body.map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
                let new: NewRules = serde_json::from_slice(&body.to_bytes())
                    .map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
                let ids: Vec<u64> = new
                    .rules
                    .into_iter()
                    .map(|rule| self.faults.add(rule))
                    .collect();
                Ok(json!({ "ids": ids }))
            }
            (&Method::DELETE, "/faults") => {
                self.faults.clear();
                Ok(self.faults())
            }
            (&Method::GET, "/requests") => Ok(self.requests()),
            (&Method::DELETE, "/requests") => {
                self.log.reset();
                Ok(self.requests())
            }
            (&Method::GET, "/dead-letters") => {
                Ok(json!({ "deadLetters": self.queue.dead_letters() }))
            }
            (&Method::DELETE, "/dead-letters") => {
                self.queue.clear_dead_letters().map_err(internal)?;
                Ok(json!({ "deadLetters": [] }))
            }
            (&Method::GET, "/executions") => {
                Ok(json!({ "executions": self.pipelines.executions() }))
            }
            (&Method::GET, "/events") => Ok(json!({ "events": self.delivery.events() })),
            (&Method::GET, "/status") => Ok(json!({
                "pending": {
                    "events": self.delivery.pending(),
                    "invocations": self.queue.pending(),
                    "executions": self.pipelines.pending(),
                },
            })),
            (&Method::POST, what) if what.starts_with("/functions/") => {
                let name = what.trim_start_matches("/functions/").to_owned();
                let body = Limited::new(request.into_body(), MAX_SYNC_PAYLOAD_BYTES);
                let body = body.collect().await;
                let body = body.map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
                self.invoke(&name, body.to_bytes()).await
            }
            (method, what) => {
                if let Some(id) = what.strip_prefix("/faults/")
                    && method == Method::DELETE
                    && let Ok(id) = id.parse()
                    && self.faults.remove(id)
                {
                    return Ok(self.faults());
                }
                Err((
                    StatusCode::NOT_FOUND,
                    "unknown path: use faults, requests, dead-letters, events, executions, \
                     functions/NAME or status"
                        .into(),
                ))
            }
        }
    }

    /// Invokes a function; returns its `answer`, or its `error`.
    async fn invoke(&self, name: &str, event: Bytes) -> Result<Value, Refusal> {
        if let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(&event) {
            let why = format!("the event is not JSON: {error}");
            return Err((StatusCode::BAD_REQUEST, why));
        }
        let function = FunctionRef {
            name: name.to_owned(),
            qualifier: None,
        };
        let request_id = uuid::Uuid::new_v4().to_string();
        let invoked = self.lambda.invoke(&function, event, request_id).await;
        let invoked = invoked.map_err(|error| match error {
            InvokeError::NotFound(_) => {
                let functions = self.lambda.functions();
                let names: Vec<&str> = functions.iter().map(|f| f.name.as_str()).collect();
                let why = format!("no function `{name}`; there are: {}", names.join(", "));
                (StatusCode::NOT_FOUND, why)
            }
            InvokeError::Throttled(_) => {
                let why = format!("all environments of `{name}` are busy; try again");
                (StatusCode::TOO_MANY_REQUESTS, why)
            }
            InvokeError::ShuttingDown => {
                let why = "the server is shutting down".to_owned();
                (StatusCode::SERVICE_UNAVAILABLE, why)
            }
        })?;
        let read = |bytes: &[u8]| serde_json::from_slice(bytes).unwrap_or(Value::Null);
        Ok(match invoked.outcome {
            Outcome::Answer(answer) => json!({ "answer": read(&answer) }),
            Outcome::Failed(failure) => json!({ "error": read(&failure.payload) }),
        })
    }

    fn faults(&self) -> Value {
        json!({ "seed": self.faults.seed(), "faults": self.faults.rules() })
    }

    fn requests(&self) -> Value {
        let services = [
            Service::CodeCommit,
            Service::Git,
            Service::S3,
            Service::CodePipeline,
            Service::Lambda,
        ];
        let most: serde_json::Map<String, Value> = services
            .into_iter()
            .map(|service| {
                let most = self.log.max_in_flight(service);
                (service.name().to_owned(), most.into())
            })
            .collect();
        json!({ "maxInFlight": most, "requests": self.log.lines() })
    }
}
