//! Mirrors: both sides of the mappings of a list, compared by the preview of a mirroring.

use std::path::Path;

use branchline_core::git::escaped_excerpt;
use branchline_core::mirror::{
    self, BatchLimits, Mapping, MappingLimits, MirrorPreview, MirrorRequest, MirrorTask,
    ReleaseLimit, RequestOrigin, TableMemory,
};
use branchline_core::name::{BucketName, KeyPrefix, ObjectKey};
use branchline_core::remote::Head;
use branchline_core::remote::open::S3Layout;
use branchline_core::remote::url::{RemoteUrl, S3Url};
use branchline_core::retry::{RetryPolicy, Retrying};
use branchline_core::storage::client::SdkObjectStore;
use branchline_core::storage::{GetOptions, ObjectStore};
use branchline_core::{Error, ErrorKind, Result};
use bstr::BString;
use futures_util::{StreamExt as _, stream};
use serde::Serialize;
use serde_json::{Value, json};

use super::branches::now;
use super::text_of;
use crate::connection::MEMORY_BYTES;
use crate::remotes::{TerminalRemotes, explain_for};
use crate::stack::Stack;

/// Key of the list of mappings in the bucket of artifacts, as `docs/fleets.md` stores it.
const FLEET_LIST: &str = "fleets/mappings.json";
/// Maximum number of mappings that are compared at once.
const CONCURRENT_MAPPINGS: usize = 4;
/// Maximum number of concurrent requests to S3.
const CONCURRENT_REQUESTS: usize = 8;
/// Maximum number of pages of a list of bundles that are read for the time of the last change.
const MAX_LISTED_PAGES: usize = 10;

/// List of mappings.
pub(super) enum MappingList<'a> {
    /// A file, or an object in S3.
    Named(&'a str),
    /// The list that the fleets of a stack read, if it is there.
    Of(&'a Stack),
}

/// State of a mirror.
#[derive(Debug, Serialize)]
pub(crate) struct MirrorReport {
    pub(super) source: String,
    pub(super) target: String,
    pub(super) state: MirrorState,
    /// Age of the newest object that stores refs of a target in S3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last_changed_seconds: Option<i64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) created: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) updated: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) deleted: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) set_aside: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) head: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum MirrorState {
    /// A mirroring would change nothing.
    Equal,
    /// A mirroring would change refs.
    Differs,
    /// A side cannot be read.
    Failed,
}

impl MirrorReport {
    pub(super) fn is_behind(&self) -> bool {
        self.state == MirrorState::Differs
    }

    pub(super) fn has_failed(&self) -> bool {
        self.state == MirrorState::Failed
    }

    fn new(mapping: &Mapping, state: MirrorState) -> Self {
        Self {
            source: mapping.source.clone(),
            target: mapping.target.clone(),
            state,
            last_changed_seconds: None,
            created: Vec::new(),
            updated: Vec::new(),
            deleted: Vec::new(),
            set_aside: Vec::new(),
            head: None,
            error: None,
        }
    }

    fn failed(mapping: &Mapping, error: &Error) -> Self {
        Self {
            error: Some(text_of(error)),
            ..Self::new(mapping, MirrorState::Failed)
        }
    }

    fn of_preview(mapping: &Mapping, preview: &MirrorPreview) -> Self {
        let names = |refs: &[BString]| refs.iter().map(ToString::to_string).collect();
        let state = if preview.is_empty() {
            MirrorState::Equal
        } else {
            MirrorState::Differs
        };
        let head = preview.head.as_ref().map(|head| match head {
            Head::Symbolic(name) => name.to_string(),
            Head::Detached(id) => id.to_string(),
        });
        let set_aside = preview.stats.set_aside.keys();
        Self {
            created: names(&preview.created),
            updated: names(&preview.updated),
            deleted: names(&preview.deleted),
            set_aside: set_aside.map(ToString::to_string).collect(),
            head,
            ..Self::new(mapping, state)
        }
    }
}

/// Compares the mirrors of a list.
///
/// # Errors
/// Failures of reading the list; those of single mirrors are part of their reports.
pub(super) async fn read(
    remotes: &TerminalRemotes,
    list: MappingList<'_>,
) -> Result<Vec<MirrorReport>> {
    let Some((name, bytes)) = read_list(remotes, list).await? else {
        return Ok(Vec::new());
    };
    let mappings = parse(&bytes).map_err(|error| error.context(format!("`{name}`")))?;
    let reports = stream::iter(&mappings).map(|mapping| compare(remotes, mapping));
    Ok(reports.buffered(CONCURRENT_MAPPINGS).collect().await)
}

/// Reads a list; `None` for that of a stack that has none.
async fn read_list(
    remotes: &TerminalRemotes,
    list: MappingList<'_>,
) -> Result<Option<(String, Vec<u8>)>> {
    match list {
        MappingList::Named(name) => {
            let bytes = match name.strip_prefix("s3://") {
                None => read_file(Path::new(name))?,
                Some(rest) => {
                    let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
                    let (bucket, key) = (BucketName::new(bucket)?, ObjectKey::new(key)?);
                    let aws = remotes.aws_of_bucket(None, None).await?;
                    let policy = RetryPolicy::new(CONCURRENT_REQUESTS);
                    let store = Retrying::new(SdkObjectStore::new(&aws), policy);
                    read_object(&store, &bucket, &key).await?
                }
            };
            Ok(Some((name.to_owned(), bytes)))
        }
        MappingList::Of(stack) => {
            let (bucket, store) = (stack.update_config()?.bucket, stack.store());
            let key = ObjectKey::new(FLEET_LIST)?;
            match read_object(&*store, &bucket, &key).await {
                Ok(bytes) => Ok(Some((format!("s3://{bucket}/{key}"), bytes))),
                Err(error)
                    if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::AccessDenied) =>
                {
                    tracing::info!("no list of mappings: {}", error.report());
                    Ok(None)
                }
                Err(error) => Err(error),
            }
        }
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| {
        let message = format!("`{}` cannot be read", path.display());
        Error::new(ErrorKind::Config, message)
            .with_source(error)
            .with_hint("name a file of mappings in JSON, or `s3://bucket/key`")
    })
}

async fn read_object(
    store: &dyn ObjectStore,
    bucket: &BucketName,
    key: &ObjectKey,
) -> Result<Vec<u8>> {
    let options = GetOptions::default();
    let object = store.get_object(bucket, key, &options).await?;
    Ok(object.body.to_vec())
}

/// Reads mappings: a JSON array as fleets read it, or a request of the function `migration`.
fn parse(bytes: &[u8]) -> Result<Vec<Mapping>> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| {
        Error::new(ErrorKind::Config, "the list of mappings is not JSON")
            .with_source(error)
            .with_hint("write `[{\"source\":\"..\",\"target\":\"..\"}]`")
    })?;
    let mut request = match value {
        Value::Array(mappings) => json!({ "mappings": mappings }),
        other => other,
    };
    if let Value::Object(fields) = &mut request {
        fields.insert("plan".to_owned(), json!(true));
    }
    let origin = RequestOrigin::Terminal {
        new_layout: S3Layout::Bundle,
    };
    Ok(MirrorRequest::read(origin, &request)?.mappings)
}

async fn compare(remotes: &TerminalRemotes, mapping: &Mapping) -> MirrorReport {
    let task = match &mapping.task {
        Ok(task) => task,
        Err(invalid) => return MirrorReport::failed(mapping, &invalid.error()),
    };
    let limits = MappingLimits {
        batch: BatchLimits::default(),
        memory: MEMORY_BYTES / CONCURRENT_MAPPINGS,
        tables: TableMemory::default(),
        stop: None,
        release: ReleaseLimit::default(),
        meter: None,
    };
    let run = mirror::run_mapping(remotes, task, &limits).await;
    if let Some(error) = run.result.error {
        let error = explain_for(error, &[&task.source.url, &task.target.url]).await;
        return MirrorReport::failed(mapping, &error);
    }
    let Some(preview) = run.preview else {
        let error = Error::new(ErrorKind::Internal, "the mirroring was not previewed");
        return MirrorReport::failed(mapping, &error);
    };
    MirrorReport {
        last_changed_seconds: last_changed(remotes, task).await,
        ..MirrorReport::of_preview(mapping, &preview)
    }
}

/// Returns the age of the newest object that stores refs of a target in S3, in seconds.
async fn last_changed(remotes: &TerminalRemotes, task: &MirrorTask) -> Option<i64> {
    let RemoteUrl::S3(url) = &task.target.url else {
        return None;
    };
    match newest_ref_object(remotes, url).await {
        Ok(time) => time.map(|time| (now() - time).max(0)),
        Err(error) => {
            let url = escaped_excerpt(url.to_string().as_bytes());
            tracing::info!("the last change of `{url}`: {}", error.report());
            None
        }
    }
}

/// Returns the time of the newest object that stores refs, in seconds since the epoch:
/// `info/refs` of the dumb layouts, else the bundles.
async fn newest_ref_object(remotes: &TerminalRemotes, url: &S3Url) -> Result<Option<i64>> {
    let aws = remotes.aws_of_bucket(url.profile.as_deref(), None).await?;
    let policy = RetryPolicy::new(CONCURRENT_REQUESTS);
    let store = Retrying::new(SdkObjectStore::new(&aws), policy);
    let prefix = url.prefix.as_ref().map_or("", KeyPrefix::as_str);
    let below = |name: &str| match prefix.trim_end_matches('/') {
        "" => name.to_owned(),
        prefix => format!("{prefix}/{name}"),
    };
    let key = ObjectKey::new(&below("info/refs"))?;
    if let Some(head) = store.head(&url.bucket, &key).await? {
        return Ok(Some(head.last_modified));
    }
    let mut newest = None;
    let mut next: Option<String> = None;
    for _ in 0..MAX_LISTED_PAGES {
        let refs = below("refs/");
        let page = store
            .list(&url.bucket, &refs, None, next.as_deref())
            .await?;
        let times = page.objects.iter().map(|object| object.last_modified);
        newest = newest.max(times.max());
        next = page.next;
        if next.is_none() {
            break;
        }
    }
    Ok(newest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_an_array_or_a_request_and_its_mappings_are_only_planned() {
        let pair = r#"{"source":"codecommit://a","target":"s3://bucket/a"}"#;
        for text in [format!("[{pair}]"), format!(r#"{{"mappings":[{pair}]}}"#)] {
            let mappings = parse(text.as_bytes()).expect("it is valid");
            let task = mappings[0].task.as_ref().expect("it is valid");
            assert!(task.plan, "nothing is written");
        }
        for (text, part) in [
            ("{", "not JSON"),
            ("[]", "at least one mapping"),
            (r#"{"mapping":[]}"#, "`mapping`"),
            ("7", "JSON object"),
        ] {
            let error = parse(text.as_bytes()).expect_err("it is not valid");
            assert!(error.report().contains(part), "{}", error.report());
        }
    }
}
