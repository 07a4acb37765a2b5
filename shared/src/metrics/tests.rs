//! Checks the line against the specification of the format, and the counts.

use std::collections::BTreeSet;

use super::*;
use crate::error::Error;

/// `StandardUnit` of CloudWatch's API.
const UNITS: [&str; 27] = [
    "Seconds",
    "Microseconds",
    "Milliseconds",
    "Bytes",
    "Kilobytes",
    "Megabytes",
    "Gigabytes",
    "Terabytes",
    "Bits",
    "Kilobits",
    "Megabits",
    "Gigabits",
    "Terabits",
    "Percent",
    "Count",
    "Bytes/Second",
    "Kilobytes/Second",
    "Megabytes/Second",
    "Gigabytes/Second",
    "Terabytes/Second",
    "Bits/Second",
    "Kilobits/Second",
    "Megabits/Second",
    "Gigabits/Second",
    "Terabits/Second",
    "Count/Second",
    "None",
];

fn members(value: &Value) -> BTreeSet<&str> {
    let object = value.as_object().expect("it is an object");
    object.keys().map(String::as_str).collect()
}

fn is_text(value: &Value, most: usize) -> bool {
    let text = value.as_str().unwrap_or_default();
    (1..=most).contains(&text.chars().count()) && !text.trim().is_empty()
}

/// Panics unless `line` is a document of the Embedded Metric Format, by its specification
/// and JSON schema.
fn assert_is_emf(line: &str) -> Value {
    const LARGEST_EVENT: usize = 256 * 1024;
    assert!(!line.contains('\n'), "an event is one line");
    assert!(line.len() <= LARGEST_EVENT, "an event has at most 256 KiB");
    let root: Value = serde_json::from_str(line).expect("the event is JSON and nothing else");
    let metadata = &root["_aws"];
    assert_eq!(members(metadata), ["CloudWatchMetrics", "Timestamp"].into());
    let timestamp = metadata["Timestamp"].as_u64().expect("a whole number");
    assert!(
        (1_000_000_000_000..10_000_000_000_000).contains(&timestamp),
        "milliseconds since 1970: {timestamp}"
    );
    let directives = metadata["CloudWatchMetrics"].as_array().expect("an array");
    assert!(!directives.is_empty());
    for directive in directives {
        assert_eq!(
            members(directive),
            ["Dimensions", "Metrics", "Namespace"].into(),
            "no members but these are defined"
        );
        assert!(is_text(&directive["Namespace"], 1024));
        let sets = directive["Dimensions"].as_array().expect("an array");
        assert!(!sets.is_empty(), "at least one set of dimensions");
        for set in sets {
            let set = set.as_array().expect("a set is an array");
            assert!(set.len() <= 30, "at most 30 dimensions");
            for key in set {
                assert!(is_text(key, 250));
                let target = &root[key.as_str().expect("a key is text")];
                assert!(is_text(target, 1024), "its value is at the root: {target}");
            }
        }
        let metrics = directive["Metrics"].as_array().expect("an array");
        assert!((1..=100).contains(&metrics.len()), "at most 100 metrics");
        for metric in metrics {
            assert_eq!(members(metric), ["Name", "Unit"].into());
            assert!(is_text(&metric["Name"], 1024));
            let unit = metric["Unit"].as_str().expect("a unit is text");
            assert!(UNITS.contains(&unit), "CloudWatch knows no `{unit}`");
            let target = &root[metric["Name"].as_str().expect("a name is text")];
            assert!(target.is_number(), "its value is at the root: {target}");
        }
    }
    root
}

#[test]
fn the_line_keeps_the_formats_specification_even_with_every_metric_in_it() {
    let mut values = MetricValues::default();
    for (metric, value) in Metric::all().zip(1..) {
        values.add(metric, value);
    }
    let root = assert_is_emf(&values.to_emf("update", 1_796_000_000_123, &[("request.id", "r-1")]));
    assert_eq!(root["FunctionName"], "update");
    assert_eq!(root["request.id"], "r-1");
    assert_eq!(root["_aws"]["Timestamp"], 1_796_000_000_123_i64);
    for (metric, value) in Metric::all().zip(1..) {
        assert_eq!(root[metric.name()], value, "{metric:?}");
    }
    let logged = root["_aws"]["CloudWatchMetrics"][0]["Metrics"].as_array();
    assert_eq!(logged.map(Vec::len), Some(Metric::all().count()));
}

#[test]
fn names_are_told_apart_and_name_the_kind_of_failure() {
    let names: BTreeSet<&str> = Metric::all().map(Metric::name).collect();
    assert_eq!(names.len(), Metric::all().count(), "a name is used once");
    assert!(!names.contains(DIMENSION));
    for kind in ErrorKind::ALL {
        assert_eq!(
            Metric::FailuresOf(kind).name(),
            format!("{}{kind}", Metric::Failures.name())
        );
    }
}

#[test]
fn what_was_not_counted_is_not_told() {
    let mut values = MetricValues::default();
    values.add(Metric::Archives, 0);
    values.set(Metric::Duration, 0);
    values.add(Metric::ArchiveBytes, u64::MAX);
    values.add(Metric::ArchiveBytes, 1);
    let root = assert_is_emf(&values.to_emf("update", 1_796_000_000_000, &[]));
    assert_eq!(
        members(&root),
        ["ArchiveBytes", "Duration", "FunctionName", "_aws"].into()
    );
    assert_eq!(root["ArchiveBytes"], u64::MAX, "a count does not wrap");
}

#[tokio::test]
async fn each_taking_has_the_requests_since_the_one_before() {
    let policies = [RetryPolicy::new(2), RetryPolicy::new(2)];
    let metrics = Metrics::with_limiters(&policies);
    let ok = |policy: &RetryPolicy| {
        let policy = policy.clone();
        async move { policy.run(|| async { Ok(()) }).await.expect("it succeeds") }
    };
    ok(&policies[0]).await;
    let throttled = || async { Err::<(), _>(Error::new(ErrorKind::Throttled, "slow down")) };
    policies[1]
        .run_once(throttled)
        .await
        .expect_err("it is throttled");
    metrics.add(Metric::Archives, 1);
    metrics.add(Metric::Archives, 2);
    let first = metrics.take();
    assert_eq!(first.get(Metric::ApiRequests), 2);
    assert_eq!(first.get(Metric::Throttles), 1);
    assert_eq!(first.get(Metric::Archives), 3);
    ok(&policies[0]).await;
    let second = metrics.take();
    assert_eq!(second.get(Metric::ApiRequests), 1);
    assert_eq!(second.get(Metric::Throttles), 0);
    assert_eq!(second.get(Metric::Archives), 0);
    assert_eq!(
        metrics.take(),
        MetricValues::default(),
        "nothing happened since"
    );
}
