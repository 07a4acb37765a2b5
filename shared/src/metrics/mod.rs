//! Metrics of an invocation, and the line of Embedded Metric Format that CloudWatch reads.
//!
//! [`Metric`] is the closed list of names, so that alarms and dashboards can be checked
//! against it. [`Metrics`] counts during an invocation; [`MetricValues`] has the result of
//! one invocation and formats the line. [`crate::lambda`] prints the line and adds the
//! function's name.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value, json};

use crate::error::ErrorKind;
use crate::retry::{Limiter, RetryPolicy};

/// Namespace of all metrics.
pub const NAMESPACE: &str = "branchline";

/// The only dimension, because each value of a further one would multiply the cost of every
/// metric.
pub const DIMENSION: &str = "FunctionName";

/// Unit of CloudWatch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are CloudWatch's")]
pub enum Unit {
    Count,
    Bytes,
    Milliseconds,
}

impl Unit {
    /// Returns CloudWatch's name of the unit.
    pub fn name(self) -> &'static str {
        match self {
            Self::Count => "Count",
            Self::Bytes => "Bytes",
            Self::Milliseconds => "Milliseconds",
        }
    }
}

/// Metric of an invocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Metric {
    /// Time of the invocation; the only metric that every line has.
    Duration,
    /// Calls to AWS, including retries. A call is one request, or two where S3 has to check
    /// the bucket of a missing object.
    ApiRequests,
    /// Throttled calls among the [`ApiRequests`](Self::ApiRequests).
    Throttles,
    /// Archives built and written.
    Archives,
    /// Total size of the archives.
    ArchiveBytes,
    /// Total time of building and writing archives.
    ArchiveDuration,
    /// Pipeline executions started; a start repeated with its token counts again.
    ExecutionsStarted,
    /// Triggers added, changed, removed or restored.
    TriggersChanged,
    /// Mappings processed, complete or not.
    Mirrors,
    /// Mappings that are incomplete; the same request resumes them.
    IncompleteMirrors,
    /// Bytes that mirrors wrote to their targets.
    MirrorBytes,
    /// Bytes of git LFS objects that mirrors wrote to their targets.
    MirrorLfsBytes,
    /// Git LFS objects that targets lack because the sources do not provide them.
    MissingLfsObjects,
    /// Failed items of the event, or 1 for the event as a whole.
    Failures,
    /// [`Failures`](Self::Failures) of this kind.
    FailuresOf(ErrorKind),
}

impl Metric {
    /// All metrics except [`FailuresOf`](Self::FailuresOf).
    const PLAIN: [Self; 14] = [
        Self::Duration,
        Self::ApiRequests,
        Self::Throttles,
        Self::Archives,
        Self::ArchiveBytes,
        Self::ArchiveDuration,
        Self::ExecutionsStarted,
        Self::TriggersChanged,
        Self::Mirrors,
        Self::IncompleteMirrors,
        Self::MirrorBytes,
        Self::MirrorLfsBytes,
        Self::MissingLfsObjects,
        Self::Failures,
    ];

    /// Returns every metric.
    pub fn all() -> impl Iterator<Item = Self> {
        let kinds = ErrorKind::ALL.into_iter().map(Self::FailuresOf);
        Self::PLAIN.into_iter().chain(kinds)
    }

    /// Returns the metric's name in CloudWatch.
    pub fn name(self) -> &'static str {
        match self {
            Self::Duration => "Duration",
            Self::ApiRequests => "ApiRequests",
            Self::Throttles => "Throttles",
            Self::Archives => "Archives",
            Self::ArchiveBytes => "ArchiveBytes",
            Self::ArchiveDuration => "ArchiveDuration",
            Self::ExecutionsStarted => "ExecutionsStarted",
            Self::TriggersChanged => "TriggersChanged",
            Self::Mirrors => "Mirrors",
            Self::IncompleteMirrors => "IncompleteMirrors",
            Self::MirrorBytes => "MirrorBytes",
            Self::MirrorLfsBytes => "MirrorLfsBytes",
            Self::MissingLfsObjects => "MissingLfsObjects",
            Self::Failures => "Failures",
            Self::FailuresOf(kind) => match kind {
                ErrorKind::InvalidEvent => "FailuresInvalidEvent",
                ErrorKind::Config => "FailuresConfig",
                ErrorKind::NotFound => "FailuresNotFound",
                ErrorKind::AccessDenied => "FailuresAccessDenied",
                ErrorKind::Throttled => "FailuresThrottled",
                ErrorKind::FileTooLarge => "FailuresFileTooLarge",
                ErrorKind::Conflict => "FailuresConflict",
                ErrorKind::Rejected => "FailuresRejected",
                ErrorKind::Transport => "FailuresTransport",
                ErrorKind::Corrupt => "FailuresCorrupt",
                ErrorKind::Deadline => "FailuresDeadline",
                ErrorKind::Internal => "FailuresInternal",
            },
        }
    }

    /// Returns the metric's unit.
    pub fn unit(self) -> Unit {
        match self {
            Self::Duration | Self::ArchiveDuration => Unit::Milliseconds,
            Self::ArchiveBytes | Self::MirrorBytes | Self::MirrorLfsBytes => Unit::Bytes,
            _ => Unit::Count,
        }
    }
}

/// Gives access to a context's metrics.
pub trait HasMetrics {
    /// Returns the metrics of this context.
    fn metrics(&self) -> &Metrics;
}

/// Counts since the last [`take`](Self::take).
///
/// An execution environment serves one invocation at a time, so that the
/// counts between two calls belong to one invocation.
#[derive(Debug, Default)]
pub struct Metrics {
    limiters: Vec<Arc<Limiter>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    values: MetricValues,
    // Requests and throttled ones of all limiters at the last `take`.
    taken: (u64, u64),
}

impl Metrics {
    /// Starts at zero; requests are counted by the limiters of `policies`.
    pub fn with_limiters<'a>(policies: impl IntoIterator<Item = &'a RetryPolicy>) -> Self {
        let limiters = policies
            .into_iter()
            .map(|policy| Arc::clone(policy.limiter()));
        Self {
            limiters: limiters.collect(),
            state: Mutex::default(),
        }
    }

    /// Adds `amount` to a metric.
    pub fn add(&self, metric: Metric, amount: u64) {
        self.lock().values.add(metric, amount);
    }

    /// Returns the counts since the last call, and resets them.
    pub fn take(&self) -> MetricValues {
        let mut state = self.lock();
        let mut values = std::mem::take(&mut state.values);
        let (mut requests, mut refused) = (0, 0);
        for limiter in &self.limiters {
            let (calls, throttled) = limiter.request_and_throttle_counts();
            requests += calls;
            refused += throttled;
        }
        values.add(Metric::ApiRequests, requests - state.taken.0);
        values.add(Metric::Throttles, refused - state.taken.1);
        state.taken = (requests, refused);
        values
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Metrics of one invocation. Zero counts are omitted, because each reported name costs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MetricValues(BTreeMap<Metric, u64>);

impl MetricValues {
    /// Adds `amount` to a metric; zero has no effect.
    pub fn add(&mut self, metric: Metric, amount: u64) {
        if amount > 0 {
            let value = self.0.entry(metric).or_default();
            *value = value.saturating_add(amount);
        }
    }

    /// Sets a value, which is reported even if it is zero.
    pub fn set(&mut self, metric: Metric, value: u64) {
        self.0.insert(metric, value);
    }

    /// Returns the value of a metric; zero if it was not counted.
    pub fn get(&self, metric: Metric) -> u64 {
        self.0.get(&metric).copied().unwrap_or_default()
    }

    /// Formats the line without its line feed: a JSON object of CloudWatch's Embedded Metric
    /// Format.
    ///
    /// `properties` are further members by which the line is found in the log; they are not
    /// metrics.
    pub fn to_emf(
        &self,
        function_name: &str,
        timestamp_ms: i64,
        properties: &[(&str, &str)],
    ) -> String {
        let definitions: Vec<Value> = self
            .0
            .keys()
            .map(|metric| json!({ "Name": metric.name(), "Unit": metric.unit().name() }))
            .collect();
        let mut root: Map<String, Value> = properties
            .iter()
            .map(|(name, value)| ((*name).to_owned(), Value::from(*value)))
            .collect();
        root.insert(DIMENSION.to_owned(), function_name.into());
        for (metric, value) in &self.0 {
            root.insert(metric.name().to_owned(), (*value).into());
        }
        let directive = json!({
            "Namespace": NAMESPACE,
            "Dimensions": [[DIMENSION]],
            "Metrics": definitions,
        });
        root.insert(
            "_aws".to_owned(),
            json!({ "Timestamp": timestamp_ms, "CloudWatchMetrics": [directive] }),
        );
        Value::Object(root).to_string()
    }
}

#[cfg(test)]
mod tests;
