//! Request counts by service, operation and principal, and concurrent requests.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use super::Service;

/// Requests of one kind by one principal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RequestLine {
    /// The service.
    pub service: Service,
    /// The operation, `GetFolder`.
    pub operation: String,
    /// The IAM action, `codecommit:GetFolder`.
    pub action: String,
    /// ARN of the principal; `None` for requests without known credentials.
    pub principal: Option<String>,
    /// Number of requests.
    pub count: u64,
    /// Number of requests that ended in a 4xx or 5xx, or without an answer.
    pub failed: u64,
    /// `X-Amzn-Trace-Id` of the last request that had it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// ARNs that IAM checks the action against, as far as the request identifies them;
    /// at most 10,000 of them.
    #[serde(skip)]
    pub resources: BTreeSet<String>,
}

/// Maximum number of ARNs that are stored for one kind of request.
const MAX_RESOURCES: usize = 10_000;

type Key = (Service, String, String, Option<String>);

#[derive(Debug, Default)]
struct RequestCounts {
    count: u64,
    failed: u64,
    trace: Option<String>,
    resources: BTreeSet<String>,
}

#[derive(Debug, Default)]
struct Counts {
    lines: BTreeMap<Key, RequestCounts>,
    in_flight: BTreeMap<Service, (u64, u64)>,
}

/// All counts since the start or the last reset.
#[derive(Debug, Clone, Default)]
pub struct RequestLog(Arc<Mutex<Counts>>);

impl RequestLog {
    /// Counts a request; it is in flight until the returned guard is dropped.
    pub fn begin(
        &self,
        service: Service,
        operation: &str,
        action: &str,
        principal: Option<String>,
    ) -> InFlight {
        let key = (service, operation.to_owned(), action.to_owned(), principal);
        let mut counts = self.counts();
        counts.lines.entry(key.clone()).or_default().count += 1;
        let (now, most) = counts.in_flight.entry(service).or_default();
        *now += 1;
        *most = (*most).max(*now);
        InFlight {
            log: self.clone(),
            key,
            failed: false,
        }
    }

    /// Returns the counts, by service and operation.
    pub fn lines(&self) -> Vec<RequestLine> {
        self.counts()
            .lines
            .iter()
            .map(
                |((service, operation, action, principal), tally)| RequestLine {
                    service: *service,
                    operation: operation.clone(),
                    action: action.clone(),
                    principal: principal.clone(),
                    count: tally.count,
                    failed: tally.failed,
                    trace: tally.trace.clone(),
                    resources: tally.resources.clone(),
                },
            )
            .collect()
    }

    /// Returns the number of requests of an operation.
    pub fn count(&self, service: Service, operation: &str) -> u64 {
        self.lines()
            .iter()
            .filter(|line| line.service == service && line.operation == operation)
            .map(|line| line.count)
            .sum()
    }

    /// Returns the maximum number of concurrent requests of a service.
    pub fn max_in_flight(&self, service: Service) -> u64 {
        self.counts()
            .in_flight
            .get(&service)
            .map_or(0, |(_, most)| *most)
    }

    /// Resets all counts; requests in flight stay in flight.
    pub fn reset(&self) {
        let mut counts = self.counts();
        counts.lines.clear();
        for (now, most) in counts.in_flight.values_mut() {
            *most = *now;
        }
    }

    fn counts(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request in flight.
#[derive(Debug)]
pub struct InFlight {
    log: RequestLog,
    key: Key,
    failed: bool,
}

impl InFlight {
    /// Marks the request as failed.
    pub fn fail(&mut self) {
        self.failed = true;
    }

    /// Records the trace that the request belongs to.
    pub fn trace(&self, header: &str) {
        if let Some(tally) = self.log.counts().lines.get_mut(&self.key) {
            tally.trace = Some(header.to_owned());
        }
    }

    /// Records the resources of the request.
    pub fn resource(&self, arn: String) {
        if let Some(tally) = self.log.counts().lines.get_mut(&self.key)
            && tally.resources.len() < MAX_RESOURCES
        {
            tally.resources.insert(arn);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut counts = self.log.counts();
        if let Some((now, _)) = counts.in_flight.get_mut(&self.key.0) {
            *now = now.saturating_sub(1);
        }
        if self.failed
            && let Some(tally) = counts.lines.get_mut(&self.key)
        {
            tally.failed += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maximum_in_flight_and_failed_requests_are_counted() {
        let log = RequestLog::default();
        let action = "s3:GetObject";
        let first = log.begin(Service::S3, "GetObject", action, None);
        let mut second = log.begin(Service::S3, "GetObject", action, None);
        second.fail();
        drop((first, second));
        log.begin(Service::S3, "GetObject", action, Some("arn".into()))
            .trace("Root=1-2-3");
        log.begin(Service::S3, "GetObject", action, None)
            .resource("arn:aws:s3:::b/k".into());
        assert_eq!(log.max_in_flight(Service::S3), 2);
        assert_eq!(log.count(Service::S3, "GetObject"), 4);
        let failed: Vec<u64> = log.lines().iter().map(|line| line.failed).collect();
        assert_eq!(failed, [1, 0], "principals are counted apart");
        let traces = log.lines().into_iter().map(|line| line.trace);
        assert!(traces.eq([None, Some("Root=1-2-3".to_owned())]));
        let about = |line: &RequestLine| line.resources.iter().cloned().collect::<Vec<_>>();
        assert_eq!(about(&log.lines()[0]), ["arn:aws:s3:::b/k"]);
        assert_eq!(about(&log.lines()[1]), Vec::<String>::new());
        log.reset();
        assert_eq!(log.max_in_flight(Service::S3), 0);
        assert!(log.lines().is_empty());
    }
}
