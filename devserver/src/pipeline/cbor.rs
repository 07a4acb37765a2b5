//! The protocol `smithy-rpc-v2-cbor` from the server's side (Smithy specification, "Smithy
//! RPC v2 CBOR protocol"): bodies in, bodies and errors out.

use ciborium::Value as Cbor;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Map, Number, Value};

use crate::aws_json::{ApiError, ApiResult};

/// Path prefix of operations: `<PREFIX>/<Op>`.
pub const PREFIX: &str = "/service/CodePipeline_20150709/operation/";

/// CBOR's tag of a time in seconds since the epoch.
const EPOCH_TIME_TAG: u64 = 1;

/// Members of CodePipeline's shapes that are timestamps.
const TIMESTAMPS: [&str; 4] = ["created", "updated", "startTime", "lastUpdateTime"];

/// Reads a request's body; an empty one is an empty structure.
pub fn read(body: &[u8]) -> Result<Value, ApiError> {
    if body.is_empty() {
        return Ok(Value::Object(Map::new()));
    }
    let malformed = |why: String| ApiError::new("SerializationException", why);
    let value: Cbor =
        ciborium::from_reader(body).map_err(|error| malformed(format!("no CBOR: {error}")))?;
    let value = to_json(value).map_err(malformed)?;
    if value.is_object() {
        Ok(value)
    } else {
        Err(malformed("the request's body must be a map".into()))
    }
}

fn to_json(value: Cbor) -> Result<Value, String> {
    Ok(match value {
        Cbor::Null => Value::Null,
        Cbor::Bool(value) => value.into(),
        Cbor::Integer(value) => {
            let value = i128::from(value);
            i64::try_from(value)
                .map(Value::from)
                .or_else(|_| u64::try_from(value).map(Value::from))
                .map_err(|_| format!("{value} is out of range"))?
        }
        Cbor::Float(value) => Number::from_f64(value).map_or(Value::Null, Value::Number),
        Cbor::Text(value) => value.into(),
        Cbor::Tag(EPOCH_TIME_TAG, value) => to_json(*value)?,
        Cbor::Array(items) => items
            .into_iter()
            .map(to_json)
            .collect::<Result<Vec<_>, _>>()?
            .into(),
        Cbor::Map(members) => {
            let mut map = Map::new();
            for (key, value) in members {
                let key = key
                    .into_text()
                    .map_err(|_| "a map key is not a text".to_owned())?;
                map.insert(key, to_json(value)?);
            }
            map.into()
        }
        // CodePipeline's inputs have no blobs, and the protocol uses no other tag.
        other => return Err(format!("{other:?} has no place here")),
    })
}

fn from_json(name: &str, value: &Value) -> Cbor {
    match value {
        Value::Null => Cbor::Null,
        Value::Bool(value) => Cbor::Bool(*value),
        Value::Number(number) if TIMESTAMPS.contains(&name) => {
            let seconds = Cbor::Float(number.as_f64().unwrap_or_default());
            Cbor::Tag(EPOCH_TIME_TAG, Box::new(seconds))
        }
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => Cbor::Integer(whole.into()),
            (None, real) => Cbor::Float(real.unwrap_or_default()),
        },
        Value::String(text) => Cbor::Text(text.clone()),
        Value::Array(items) => Cbor::Array(items.iter().map(|item| from_json("", item)).collect()),
        Value::Object(members) => Cbor::Map(
            members
                .iter()
                .map(|(key, value)| (Cbor::Text(key.clone()), from_json(key, value)))
                .collect(),
        ),
    }
}

/// Writes an operation's result as a response. An operation without output has no body.
pub fn response(result: ApiResult) -> Response<Vec<u8>> {
    let (status, body) = match result {
        Ok(Value::Null) => (StatusCode::OK, None),
        Ok(value) => (StatusCode::OK, Some(from_json("", &value))),
        Err(error) => {
            let shape = format!("com.amazonaws.codepipeline#{}", error.code);
            let body = serde_json::json!({ "__type": shape, "message": error.message });
            (error.status, Some(from_json("", &body)))
        }
    };
    let mut bytes = Vec::new();
    if let Some(body) = &body {
        ciborium::into_writer(body, &mut bytes).expect("because writing to memory cannot fail");
    }
    let mut response = Response::new(bytes);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert("smithy-protocol", HeaderValue::from_static("rpc-v2-cbor"));
    if body.is_some() {
        let cbor = HeaderValue::from_static("application/cbor");
        headers.insert(header::CONTENT_TYPE, cbor);
    }
    if let Ok(id) = HeaderValue::from_str(&uuid::Uuid::new_v4().to_string()) {
        headers.insert("x-amzn-requestid", id);
    }
    response
}
