//! Requests to mirror: mappings and batch limits, as JSON in an event, in a file, or line by line.
//!
//! | module | job |
//! |---|---|
//! | `mapping` | one mapping: validates its URLs and options |
//! | `fields` | deserializes fields, and names them in errors |

mod fields;
mod mapping;

use std::num::NonZeroU64;

use serde::Deserialize;
use serde_json::Value;

use self::fields::{invalid_field, read_fields};
pub use self::mapping::{Mapping, MappingError, MirrorTask};
use super::BatchLimits;
use crate::error::{Error, ErrorKind, Result};
use crate::remote::open::S3Layout;

/// Maximum number of mappings in one event.
const MAX_EVENT_MAPPINGS: usize = 1000;

/// Place that a request is read from, which decides which remotes it may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestOrigin {
    /// An event of a function, which has a role, no profiles and no repositories of its own.
    Event,
    /// A command line, or a file that it names.
    Terminal {
        /// Layout of a target in S3 where nothing is stored yet.
        new_layout: S3Layout,
    },
}

/// The mappings to mirror.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MirrorRequest {
    /// Mappings in the order of the request. An invalid one does not hide the others.
    pub mappings: Vec<Mapping>,
    /// Commits and bytes of one push.
    pub batch: BatchLimits,
}

/// The fields of a request. Mappings are read one by one, so that each has its own error.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestFields {
    mappings: Option<Vec<Value>>,
    batch: Option<Value>,
    plan: Option<bool>,
}

/// The fields of `batch`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BatchFields {
    commits: Option<NonZeroU64>,
    bytes: Option<NonZeroU64>,
}

impl MirrorRequest {
    /// Reads a request.
    ///
    /// # Errors
    /// `InvalidEvent` for an event and `Config` at a terminal, naming the field, when the request as
    /// a whole cannot be read.
    pub fn read(origin: RequestOrigin, value: &Value) -> Result<Self> {
        if !value.is_object() {
            return Err(unknown_shape(origin, "it must be a JSON object"));
        }
        let fields: RequestFields =
            read_fields(origin, "", value).map_err(|error| error.with_hint(example(origin)))?;
        let mappings = fields
            .mappings
            .ok_or_else(|| unknown_shape(origin, "`mappings` is missing"))?;
        if mappings.is_empty() {
            let why = "it must have at least one mapping";
            return Err(invalid_field(origin, "mappings", why));
        }
        if origin == RequestOrigin::Event && mappings.len() > MAX_EVENT_MAPPINGS {
            let count = mappings.len();
            let why = format!("it has {count} mappings, and {MAX_EVENT_MAPPINGS} are allowed");
            return Err(invalid_field(origin, "mappings", &why)
                .with_hint("run a fleet of functions over them with Step Functions"));
        }
        let plan = fields.plan.unwrap_or(false);
        let mappings = mappings.iter().enumerate();
        let mappings = mappings.map(|(index, mapping)| {
            Mapping::read(origin, &format!("mappings[{index}]"), mapping, plan)
        });
        Ok(Self {
            batch: match &fields.batch {
                None => BatchLimits::default(),
                Some(batch) => read_batch(origin, batch)?,
            },
            mappings: mappings.collect(),
        })
    }
}

fn read_batch(origin: RequestOrigin, value: &Value) -> Result<BatchLimits> {
    let fields: BatchFields = read_fields(origin, "batch", value).map_err(|error| {
        error.with_hint("`batch` has `commits` and `bytes`, whole numbers above 0")
    })?;
    let default = BatchLimits::default();
    Ok(BatchLimits {
        commits: fields.commits.map_or(default.commits, NonZeroU64::get),
        bytes: fields.bytes.map(NonZeroU64::get).or(default.bytes),
    })
}

/// Returns the smallest request, as the hint of one that cannot be read.
fn example(origin: RequestOrigin) -> &'static str {
    match origin {
        RequestOrigin::Event => {
            "send {\"mappings\":[{\"source\":\"codecommit://repo\",\
             \"target\":\"s3://bucket/prefix\",\"layout\":\"dumb\"}]}"
        }
        RequestOrigin::Terminal { .. } => {
            "write {\"mappings\":[{\"source\":\"codecommit://repo\",\
             \"target\":\"s3://bucket/prefix\",\"layout\":\"dumb\"}]}"
        }
    }
}

/// Returns the error of a request whose shape is not known, with an example as its hint.
pub fn unknown_shape(origin: RequestOrigin, why: &str) -> Error {
    let error = match origin {
        RequestOrigin::Event => Error::new(
            ErrorKind::InvalidEvent,
            format!("the event is not understood: {why}"),
        ),
        RequestOrigin::Terminal { .. } => Error::new(
            ErrorKind::Config,
            format!("the mappings are not understood: {why}"),
        ),
    };
    error.with_hint(example(origin))
}
