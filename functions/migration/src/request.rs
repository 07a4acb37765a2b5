//! What the function is asked.

use branchline_core::mirror::{BatchLimits, RefSelection};
use branchline_core::remote::open::{RemoteSpec, S3Layout};
use branchline_core::remote::url::RemoteUrl;
use branchline_core::secret::SecretArn;
use branchline_core::{Error, ErrorKind, Result};
use serde_json::{Map, Value};

/// The most mappings of one request.
const MAX_MAPPINGS: usize = 1000;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// One bad mapping does not hide the others.
    pub mappings: Vec<Mapping>,
    /// How much goes over at once.
    pub batch: BatchLimits,
}

/// One source and one target, as they may be shown, and what to do or what is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// The source's URL without a user or password.
    pub source: String,
    /// The target's URL without a user or password.
    pub target: String,
    /// The work.
    pub work: std::result::Result<MirrorTask, MappingError>,
}

/// What is wrong with a mapping: the message of an `InvalidEvent`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappingError {
    /// What is wrong, the field named.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl MappingError {
    /// As an error.
    pub fn error(&self) -> Error {
        let error = Error::new(ErrorKind::InvalidEvent, &self.message);
        match &self.hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }
}

/// One source and one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MirrorTask {
    /// Where refs and objects come from.
    pub source: RemoteSpec,
    /// Where they go.
    pub target: RemoteSpec,
    /// Which refs.
    pub refs: RefSelection,
    /// Whether refs that are gone at the source are deleted.
    pub prune: bool,
    /// Whether the objects of git LFS are copied.
    pub lfs: bool,
    /// Whether only what an earlier, unfinished migration left behind is removed.
    pub clean: bool,
}

/// Reads an event; `None` for the test of a trigger.
///
/// # Errors
/// `InvalidEvent`, naming the field, when the shape as a whole is not known.
pub(crate) fn parse(event: &Value) -> Result<Option<Request>> {
    let Some(object) = event.as_object() else {
        return Err(unknown_shape("it is no JSON object"));
    };
    if let Some(records) = object.get("Records") {
        return from_records(records);
    }
    from_object(object).map(Some)
}

/// Trigger records carry the request in their `customData`.
fn from_records(records: &Value) -> Result<Option<Request>> {
    let records = records
        .as_array()
        .ok_or_else(|| unknown_shape("`Records` is no list"))?;
    let is_test = |record: &Value| {
        record.get("eventName").and_then(Value::as_str) == Some("TriggerEventTest")
    };
    if !records.is_empty() && records.iter().all(is_test) {
        return Ok(None);
    }
    let mut request: Option<Request> = None;
    for record in records.iter().filter(|record| !is_test(record)) {
        let object = record
            .get("customData")
            .and_then(Value::as_str)
            .and_then(|text| serde_json::from_str::<Map<String, Value>>(text).ok())
            .ok_or_else(|| {
                unknown_shape("the record's `customData` is no JSON object with `mappings`")
            })?;
        let read = from_object(&object)?;
        match &mut request {
            None => request = Some(read),
            Some(request) => {
                for mapping in read.mappings {
                    // Several records of one trigger carry the same text.
                    if !request.mappings.contains(&mapping) {
                        request.mappings.push(mapping);
                    }
                }
            }
        }
    }
    request
        .map(Some)
        .ok_or_else(|| unknown_shape("`Records` is empty"))
}

fn from_object(object: &Map<String, Value>) -> Result<Request> {
    for name in object.keys() {
        if !matches!(name.as_str(), "mappings" | "batch") {
            let shown: String = name.chars().take(80).collect();
            return Err(unknown_shape(&format!(
                "`{}` is not known here",
                shown.escape_debug()
            )));
        }
    }
    let mappings = match object.get("mappings") {
        Some(Value::Array(mappings)) if !mappings.is_empty() => mappings,
        Some(_) => return Err(invalid_field("mappings", "it must be a list of mappings")),
        None => return Err(unknown_shape("`mappings` is missing")),
    };
    if mappings.len() > MAX_MAPPINGS {
        return Err(invalid_field(
            "mappings",
            &format!(
                "it has {} mappings, and {MAX_MAPPINGS} are allowed",
                mappings.len()
            ),
        )
        .with_hint("run a fleet of functions over them with Step Functions"));
    }
    Ok(Request {
        batch: batch(object.get("batch"))?,
        mappings: mappings
            .iter()
            .enumerate()
            .map(|(at, mapping)| read_mapping(at, mapping))
            .collect(),
    })
}

fn batch(value: Option<&Value>) -> Result<BatchLimits> {
    let mut batch = BatchLimits::default();
    let object = match value {
        None | Some(Value::Null) => return Ok(batch),
        Some(Value::Object(object)) => object,
        Some(_) => return Err(invalid_field("batch", "it must be an object")),
    };
    for (name, value) in object {
        if !matches!(name.as_str(), "commits" | "bytes") {
            return Err(invalid_field(
                "batch",
                "it has `commits` and `bytes` and nothing else",
            ));
        }
        let number = value.as_u64().filter(|number| *number > 0);
        let number = number.ok_or_else(|| {
            invalid_field(
                &format!("batch.{name}"),
                "it must be a whole number above 0",
            )
        })?;
        if name == "commits" {
            batch.commits = number;
        } else {
            batch.bytes = Some(number);
        }
    }
    Ok(batch)
}

fn read_mapping(at: usize, value: &Value) -> Mapping {
    let field = |name: &str| format!("mappings[{at}].{name}");
    let Some(object) = value.as_object() else {
        let error = invalid_field(&format!("mappings[{at}]"), "it must be an object");
        return unreadable("?".to_owned(), "?".to_owned(), &error);
    };
    let url = |name: &str| -> Result<RemoteUrl> {
        match object.get(name) {
            Some(Value::String(text)) => {
                RemoteUrl::new(text).map_err(|error| in_field(&field(name), &error))
            }
            Some(_) => Err(invalid_field(&field(name), "it must be a URL")),
            None => Err(invalid_field(&field(name), "it is missing")),
        }
    };
    let (source, target) = (url("source"), url("target"));
    let shown = |url: &Result<RemoteUrl>| match url {
        Ok(url) => url.to_string(),
        Err(_) => "?".to_owned(),
    };
    let (source_shown, target_shown) = (shown(&source), shown(&target));
    let work = || -> Result<MirrorTask> {
        let fields = MappingFields {
            object,
            field: &field,
        };
        fields.check_names()?;
        fields.work(source?, target?)
    };
    match work() {
        Ok(work) => Mapping {
            source: source_shown,
            target: target_shown,
            work: Ok(work),
        },
        Err(error) => unreadable(source_shown, target_shown, &error),
    }
}

fn unreadable(source: String, target: String, error: &Error) -> Mapping {
    Mapping {
        source,
        target,
        work: Err(MappingError {
            message: error.to_string(),
            hint: error.hint().map(str::to_owned),
        }),
    }
}

/// The fields of a mapping.
struct MappingFields<'a, F> {
    object: &'a Map<String, Value>,
    field: &'a F,
}

impl<F: Fn(&str) -> String> MappingFields<'_, F> {
    fn check_names(&self) -> Result<()> {
        const KNOWN: [&str; 9] = [
            "source",
            "target",
            "layout",
            "refs",
            "prune",
            "credentials",
            "create",
            "lfs",
            "clean",
        ];
        for name in self.object.keys() {
            if !KNOWN.contains(&name.as_str()) {
                let shown: String = name.chars().take(80).collect();
                let shown = shown.escape_debug().to_string();
                return Err(invalid_field(&(self.field)(&shown), "it is not known")
                    .with_hint(format!("a mapping has {}", KNOWN.join(", "))));
            }
        }
        Ok(())
    }

    fn work(&self, source: RemoteUrl, target: RemoteUrl) -> Result<MirrorTask> {
        for (name, url) in [("source", &source), ("target", &target)] {
            let profile = match url {
                RemoteUrl::CodeCommit(url) => url.profile.as_ref(),
                RemoteUrl::S3(url) => url.profile.as_ref(),
                RemoteUrl::Http(_) => None,
                RemoteUrl::Local(_) => {
                    return Err(invalid_field(
                        &(self.field)(name),
                        "the function has no repositories of its own",
                    ));
                }
            };
            if profile.is_some() {
                return Err(invalid_field(
                    &(self.field)(name),
                    "the function has a role and no profiles",
                ));
            }
        }
        let is_s3 = |url: &RemoteUrl| matches!(url, RemoteUrl::S3(_));
        let layout = self.text("layout", S3Layout::new)?;
        if layout.is_some() && !is_s3(&source) && !is_s3(&target) {
            return Err(invalid_field(
                &(self.field)("layout"),
                "neither the source nor the target lies in S3",
            ));
        }
        let credentials = self.text("credentials", SecretArn::new)?;
        let is_http = |url: &RemoteUrl| matches!(url, RemoteUrl::Http(_));
        // They are the source's, unless that needs none.
        let (source_credentials, target_credentials) = match credentials {
            None => (None, None),
            some if is_http(&source) => (some, None),
            some if is_http(&target) => (None, some),
            Some(_) => {
                return Err(invalid_field(
                    &(self.field)("credentials"),
                    "only a remote at `https://` is logged in to with a secret",
                ));
            }
        };
        let create = self.flag("create", false)?;
        if create && !matches!(target, RemoteUrl::CodeCommit(_)) {
            return Err(invalid_field(
                &(self.field)("create"),
                "only a target in CodeCommit can be created",
            ));
        }
        // Where only one side lies in S3, the layout is that side's.
        let (source_layout, target_layout) = if is_s3(&target) {
            (None, layout)
        } else {
            (layout, None)
        };
        for (url, layout) in [(&source, source_layout), (&target, target_layout)] {
            if let RemoteUrl::S3(url) = url {
                S3Layout::of(url, layout)
                    .map_err(|error| in_field(&(self.field)("layout"), &error))?;
            }
        }
        Ok(MirrorTask {
            source: RemoteSpec {
                credentials: source_credentials,
                layout: source_layout,
                create: false,
                url: source,
            },
            target: RemoteSpec {
                credentials: target_credentials,
                layout: target_layout,
                create,
                url: target,
            },
            refs: self.refs()?,
            prune: self.flag("prune", false)?,
            lfs: self.flag("lfs", true)?,
            clean: self.flag("clean", false)?,
        })
    }

    fn text<T>(&self, name: &str, read: impl FnOnce(&str) -> Result<T>) -> Result<Option<T>> {
        match self.object.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => read(text)
                .map(Some)
                .map_err(|error| in_field(&(self.field)(name), &error)),
            Some(_) => Err(invalid_field(&(self.field)(name), "it must be a string")),
        }
    }

    fn flag(&self, name: &str, default: bool) -> Result<bool> {
        match self.object.get(name) {
            None | Some(Value::Null) => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(invalid_field(
                &(self.field)(name),
                "it must be `true` or `false`",
            )),
        }
    }

    fn refs(&self) -> Result<RefSelection> {
        let field = (self.field)("refs");
        let patterns = match self.object.get("refs") {
            None | Some(Value::Null) => return Ok(RefSelection::default()),
            Some(Value::Array(patterns)) => patterns,
            Some(_) => return Err(invalid_field(&field, "it must be a list of patterns")),
        };
        let patterns: Option<Vec<&str>> = patterns.iter().map(Value::as_str).collect();
        let patterns =
            patterns.ok_or_else(|| invalid_field(&field, "its patterns must be strings"))?;
        RefSelection::new(patterns).map_err(|error| in_field(&field, &error))
    }
}

fn unknown_shape(why: &str) -> Error {
    Error::new(
        ErrorKind::InvalidEvent,
        format!("the event is not understood: {why}"),
    )
    .with_hint(
        "send {\"mappings\":[{\"source\":\"codecommit://repo\",\
         \"target\":\"s3://bucket/prefix\",\"layout\":\"dumb\"}]}",
    )
}

fn invalid_field(field: &str, why: &str) -> Error {
    Error::new(
        ErrorKind::InvalidEvent,
        format!("field `{field}` of the event: {why}"),
    )
}

/// A lower layer's refusal of a field. Its message does not repeat a password.
fn in_field(field: &str, error: &Error) -> Error {
    let wrapped = invalid_field(field, &error.to_string());
    match error.hint() {
        Some(hint) => wrapped.with_hint(hint),
        None => wrapped,
    }
}

#[cfg(test)]
mod tests;
