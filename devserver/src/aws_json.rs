//! The protocol `awsJson1_1` from the server's side: bodies in, bodies and errors out.

use branchline_core::git::escaped_excerpt;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

/// A failure as an AWS service answers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// The HTTP status; 400 for nearly all modelled errors.
    pub status: StatusCode,
    /// The shape's name, `RepositoryDoesNotExistException`.
    pub code: String,
    /// Message for the caller.
    pub message: String,
}

impl ApiError {
    /// Creates a modelled error with status 400.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            code: code.into(),
            message: message.into(),
        }
    }

    /// Creates a failure of the server itself, status 500.
    pub fn internal(error: impl std::fmt::Display) -> Self {
        Self {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            code: "InternalFailure".into(),
            message: error.to_string(),
        }
    }
}

/// Creates the error for an operation that the server does not offer, naming those that it does.
pub fn unknown_operation<'a>(
    service: &str,
    operation: &str,
    offered: impl IntoIterator<Item = &'a str>,
) -> ApiError {
    let offered: Vec<&str> = offered.into_iter().collect();
    let shown = escaped_excerpt(operation.as_bytes());
    ApiError::new(
        "UnknownOperationException",
        format!(
            "the development server has no operation {shown} of {service}; it offers {}",
            offered.join(", ")
        ),
    )
}

/// Result of an operation: its output, or a modelled error.
pub type ApiResult = Result<Value, ApiError>;

/// Writes an operation's result as a response, with a fresh `x-amzn-RequestId`.
pub fn response(result: ApiResult) -> Response<Vec<u8>> {
    let request_id = uuid::Uuid::new_v4().to_string();
    let (status, code, body) = match result {
        Ok(value) => (StatusCode::OK, None, value),
        Err(error) => (
            error.status,
            Some(error.code.clone()),
            json!({ "__type": error.code, "message": error.message }),
        ),
    };
    let mut response = Response::new(body.to_string().into_bytes());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/x-amz-json-1.1"),
    );
    if let Ok(value) = HeaderValue::from_str(&request_id) {
        headers.insert("x-amzn-requestid", value);
    }
    if let Some(value) = code.and_then(|code| HeaderValue::from_str(&code).ok()) {
        headers.insert("x-amzn-errortype", value);
    }
    response
}
