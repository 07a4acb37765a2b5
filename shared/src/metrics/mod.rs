//! What an invocation did, in numbers, and the one line of Embedded Metric Format that
//! tells CloudWatch.
//!
//! [`Metric`] is the closed list of names, so that alarms and dashboards can be checked
//! against it. [`Metrics`] collects while an invocation runs; [`MetricValues`] is what one
//! invocation came to, and writes itself as a line. Nothing here prints, and nothing knows
//! which function it counts for: [`crate::lambda`] does both.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value, json};

use crate::error::ErrorKind;
use crate::retry::{Limiter, RetryPolicy};

/// The namespace of all metrics.
pub const NAMESPACE: &str = "branchline";

/// The one dimension. Each further one would make every metric cost once more for each of
/// its values.
pub const DIMENSION: &str = "FunctionName";

/// A unit, one of those that CloudWatch knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A number of things.
    Count,
    /// A number of bytes.
    Bytes,
    /// A time.
    Milliseconds,
}

impl Unit {
    /// The name by which CloudWatch knows it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Count => "Count",
            Self::Bytes => "Bytes",
            Self::Milliseconds => "Milliseconds",
        }
    }
}

/// Something that is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Metric {
    /// How long the invocation took. The one metric that every line has.
    Duration,
    /// Calls to AWS, each try counted; a call is one request, and a second one where S3 is
    /// asked whether the bucket of a missing object is there.
    ApiRequests,
    /// How many of them were throttled.
    Throttles,
    /// Archives that were built and written.
    Archives,
    /// Their size.
    ArchiveBytes,
    /// The time that building and writing them took, all together.
    ArchiveDuration,
    /// Pipeline executions that were started; a start that is repeated with the same token
    /// counts again.
    ExecutionsStarted,
    /// Triggers that were added, changed, removed or put back.
    TriggersChanged,
    /// Mappings that were brought as far as the time allowed.
    Mirrors,
    /// Mappings that are not finished: the same request goes on with them.
    IncompleteMirrors,
    /// Bytes that mirrors wrote at their targets.
    MirrorBytes,
    /// What failed: items of the event, or the event as a whole.
    Failures,
    /// How many of the [`Failures`](Self::Failures) were of this kind.
    FailuresOf(ErrorKind),
}

impl Metric {
    /// All but [`FailuresOf`](Self::FailuresOf).
    const PLAIN: [Self; 12] = [
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
        Self::Failures,
    ];

    /// Every metric there is.
    pub fn all() -> impl Iterator<Item = Self> {
        let kinds = ErrorKind::ALL.into_iter().map(Self::FailuresOf);
        Self::PLAIN.into_iter().chain(kinds)
    }

    /// Its name in CloudWatch.
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
            Self::Failures => "Failures",
            Self::FailuresOf(kind) => match kind {
                ErrorKind::InvalidEvent => "FailuresInvalidEvent",
                ErrorKind::Config => "FailuresConfig",
                ErrorKind::NotFound => "FailuresNotFound",
                ErrorKind::AccessDenied => "FailuresAccessDenied",
                ErrorKind::Throttled => "FailuresThrottled",
                ErrorKind::FileTooLarge => "FailuresFileTooLarge",
                ErrorKind::Conflict => "FailuresConflict",
                ErrorKind::Transport => "FailuresTransport",
                ErrorKind::Corrupt => "FailuresCorrupt",
                ErrorKind::Deadline => "FailuresDeadline",
                ErrorKind::Internal => "FailuresInternal",
            },
        }
    }

    /// Its unit.
    pub fn unit(self) -> Unit {
        match self {
            Self::Duration | Self::ArchiveDuration => Unit::Milliseconds,
            Self::ArchiveBytes | Self::MirrorBytes => Unit::Bytes,
            _ => Unit::Count,
        }
    }
}

/// What counts its work, so that a function's frame can tell it.
pub trait HasMetrics {
    /// Where it is counted.
    fn metrics(&self) -> &Metrics;
}

/// The counts since they were last taken.
///
/// An execution environment serves one invocation at a time, so what was counted between
/// two takings belongs to one of them.
#[derive(Debug, Default)]
pub struct Metrics {
    limiters: Vec<Arc<Limiter>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    values: MetricValues,
    // Requests and throttles of all limiters that were taken before.
    taken: (u64, u64),
}

impl Metrics {
    /// Nothing yet; requests are counted by what runs under `paces`.
    pub fn with_limiters<'a>(paces: impl IntoIterator<Item = &'a RetryPolicy>) -> Self {
        let limiters = paces.into_iter().map(|pace| Arc::clone(pace.limiter()));
        Self {
            limiters: limiters.collect(),
            state: Mutex::default(),
        }
    }

    /// Counts `amount` more.
    pub fn add(&self, metric: Metric, amount: u64) {
        self.lock().values.add(metric, amount);
    }

    /// What was counted since the last taking, or the start.
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

/// What one invocation came to; what was not counted is not told, since each name that is
/// told costs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MetricValues(BTreeMap<Metric, u64>);

impl MetricValues {
    /// Counts `amount` more; nothing for zero.
    pub fn add(&mut self, metric: Metric, amount: u64) {
        if amount > 0 {
            let value = self.0.entry(metric).or_default();
            *value = value.saturating_add(amount);
        }
    }

    /// Tells a value even if it is zero.
    pub fn set(&mut self, metric: Metric, value: u64) {
        self.0.insert(metric, value);
    }

    /// The value of a metric, zero for what was not counted.
    pub fn get(&self, metric: Metric) -> u64 {
        self.0.get(&metric).copied().unwrap_or_default()
    }

    /// The line, without its end: a JSON object of CloudWatch's Embedded Metric Format.
    ///
    /// `properties` stand in it beside the values, and are no metrics: they find the line
    /// again in the log.
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
