//! The Lambda Runtime API (2018-06-01) of one execution environment.
//!
//! Each environment has its own listener, because `AWS_LAMBDA_RUNTIME_API` is a host
//! and a port without a path.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio::task::JoinHandle;

use super::{FunctionError, MAX_SYNC_PAYLOAD_BYTES, Outcome};

/// An invocation that waits for the process.
#[derive(Debug, Clone)]
pub(super) struct PendingInvocation {
    pub(super) request_id: String,
    pub(super) payload: Bytes,
    pub(super) deadline_ms: u128,
    pub(super) function_arn: String,
    pub(super) trace_id: String,
}

/// Event that a process reports.
#[derive(Debug)]
pub(super) enum ProcessEvent {
    /// Requested work: initialised, and done with the previous invocation.
    Polled,
    /// Finished its invocation.
    Finished(Outcome),
    /// Failed to initialise.
    InitFailed(FunctionError),
}

struct Shared {
    work: AsyncMutex<mpsc::Receiver<PendingInvocation>>,
    happenings: mpsc::UnboundedSender<ProcessEvent>,
    current: Mutex<Option<String>>,
}

/// A running Runtime API; dropping it closes the listener and its connections.
pub(super) struct RuntimeApi {
    pub(super) address: SocketAddr,
    pub(super) work: mpsc::Sender<PendingInvocation>,
    pub(super) happenings: mpsc::UnboundedReceiver<ProcessEvent>,
    listener: JoinHandle<()>,
}

impl Drop for RuntimeApi {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl RuntimeApi {
    /// Listens on a port that the system chooses.
    pub(super) async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (work, work_receiver) = mpsc::channel(1);
        let (sender, happenings) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            work: AsyncMutex::new(work_receiver),
            happenings: sender,
            current: Mutex::default(),
        });
        let listener = tokio::spawn(async move {
            // Connections live in this set so that they end with the listener.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let shared = Arc::clone(&shared);
                connections.spawn(async move {
                    let service = hyper::service::service_fn(|request| {
                        let shared = Arc::clone(&shared);
                        async move { Ok::<_, std::convert::Infallible>(shared.call(request).await) }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self {
            address,
            work,
            happenings,
            listener,
        })
    }
}

type RuntimeResponse = Response<Full<Bytes>>;

impl Shared {
    async fn call(&self, request: Request<Incoming>) -> RuntimeResponse {
        let path = request.uri().path().to_owned();
        let Some(path) = path.strip_prefix("/2018-06-01/runtime/") else {
            return refuse(StatusCode::NOT_FOUND, "NotFound", "no such resource");
        };
        let parts: Vec<&str> = path.split('/').collect();
        match (request.method(), parts.as_slice()) {
            (&Method::GET, ["invocation", "next"]) => self.next().await,
            (&Method::POST, ["invocation", id, "response"]) => {
                self.finish(id, request, |body, _| Outcome::Answer(body))
                    .await
            }
            (&Method::POST, ["invocation", id, "error"]) => {
                self.finish(id, request, |body, error_type| {
                    Outcome::Failed(FunctionError::reported(body, error_type, "Runtime.Unknown"))
                })
                .await
            }
            (&Method::POST, ["init", "error"]) => {
                let error_type = error_type_of(&request);
                match read(request).await {
                    Ok(body) => {
                        let failure = FunctionError::reported(
                            body,
                            error_type.as_deref(),
                            "Runtime.InitError",
                        );
                        let _ = self.happenings.send(ProcessEvent::InitFailed(failure));
                        accepted()
                    }
                    Err(answer) => answer,
                }
            }
            _ => refuse(StatusCode::NOT_FOUND, "NotFound", "no such resource"),
        }
    }

    async fn next(&self) -> RuntimeResponse {
        let mut work = self.work.lock().await;
        let _ = self.happenings.send(ProcessEvent::Polled);
        let Some(work) = work.recv().await else {
            return refuse(StatusCode::GONE, "Shutdown", "the environment is closing");
        };
        *self.current() = Some(work.request_id.clone());
        let response = Response::builder()
            .header(header::CONTENT_TYPE, "application/json")
            .header("Lambda-Runtime-Aws-Request-Id", &work.request_id)
            .header("Lambda-Runtime-Deadline-Ms", work.deadline_ms.to_string())
            .header("Lambda-Runtime-Invoked-Function-Arn", &work.function_arn)
            .header("Lambda-Runtime-Trace-Id", &work.trace_id)
            .body(Full::new(work.payload));
        response.expect("because ids, numbers and ARNs are legal header values")
    }

    async fn finish(
        &self,
        id: &str,
        request: Request<Incoming>,
        outcome: impl FnOnce(Bytes, Option<&str>) -> Outcome,
    ) -> RuntimeResponse {
        if self.current().as_deref() != Some(id) {
            return refuse(
                StatusCode::BAD_REQUEST,
                "InvalidRequestID",
                "this is not the request that the environment has",
            );
        }
        let error_type = error_type_of(&request);
        let (outcome, answer) = match read(request).await {
            Ok(body) => (outcome(body, error_type.as_deref()), accepted()),
            Err(answer) => {
                let failure = FunctionError::new(
                    "Function.ResponseSizeTooLarge",
                    format!(
                        "Response payload size exceeded maximum allowed payload size \
                         ({MAX_SYNC_PAYLOAD_BYTES} bytes)."
                    ),
                );
                (Outcome::Failed(failure), answer)
            }
        };
        // Of two answers to one request only the first is valid.
        if self.current().take().as_deref() == Some(id) {
            let _ = self.happenings.send(ProcessEvent::Finished(outcome));
        }
        answer
    }

    fn current(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn error_type_of(request: &Request<Incoming>) -> Option<String> {
    let value = request
        .headers()
        .get("lambda-runtime-function-error-type")?;
    value.to_str().ok().map(str::to_owned)
}

async fn read(request: Request<Incoming>) -> Result<Bytes, RuntimeResponse> {
    match Limited::new(request.into_body(), MAX_SYNC_PAYLOAD_BYTES)
        .collect()
        .await
    {
        Ok(body) => Ok(body.to_bytes()),
        Err(_) => Err(refuse(
            StatusCode::PAYLOAD_TOO_LARGE,
            "RequestEntityTooLarge",
            "the answer is too large",
        )),
    }
}

fn accepted() -> RuntimeResponse {
    let mut response = Response::new(Full::new(Bytes::from_static(b"{\"status\":\"OK\"}\n")));
    *response.status_mut() = StatusCode::ACCEPTED;
    response
}

fn refuse(status: StatusCode, error_type: &str, message: &str) -> RuntimeResponse {
    let body = serde_json::json!({ "errorType": error_type, "errorMessage": message });
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    response
}
