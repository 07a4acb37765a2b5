//! Log of a function: filter and format.
//!
//! As JSON, one line is one object: `timestamp`, `level`, `message`, the event's own fields
//! under their dotted names, and those of the [`INVOCATION`] around it. AWS Lambda
//! reads `timestamp` and `level`: a line without a time in RFC 3339 counts as `INFO`, so
//! that a stricter level drops it.

use std::fmt;
use std::io::Write as _;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::settings::Settings;

/// Name of the span around an invocation, whose fields are on each line.
pub(crate) const INVOCATION: &str = "invocation";

/// Starts logging to standard output by Lambda's advanced logging controls,
/// `AWS_LAMBDA_LOG_FORMAT` and `AWS_LAMBDA_LOG_LEVEL`. A second start has no effect.
pub(crate) fn start(settings: &Settings) {
    let registry = tracing_subscriber::registry().with(filter(level(settings)));
    let format = settings.get("AWS_LAMBDA_LOG_FORMAT").unwrap_or_default();
    // Fails where a subscriber is set already, which then stays.
    let _ = if format.eq_ignore_ascii_case("json") {
        registry.with(Json).try_init()
    } else {
        // Without the time, because Lambda adds it to lines that are not JSON.
        let text = tracing_subscriber::fmt::layer()
            .with_target(false)
            .without_time()
            .with_ansi(false);
        registry.with(text).try_init()
    };
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("for no reason given");
        let location = panic.location().map(ToString::to_string);
        tracing::error!(panic.location = location, "panicked: {message}");
    }));
}

/// Returns the configured level.
fn level(settings: &Settings) -> LevelFilter {
    match settings.get("AWS_LAMBDA_LOG_LEVEL") {
        Some("FATAL") => LevelFilter::ERROR,
        Some(level) => level.parse().unwrap_or(LevelFilter::INFO),
        None => LevelFilter::INFO,
    }
}

/// Makes the filter: branchline's lines at `level`, and warnings of other crates. Their
/// finer levels log whole requests and answers, with the contents of a repository's files.
fn filter(level: LevelFilter) -> Targets {
    Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_target("branchline", level)
        // Off, because it repeats failures that are logged already.
        .with_target("lambda_runtime::layers::panic", LevelFilter::OFF)
}

/// Returns the level for the metrics line: the configured one, because Lambda drops lines of
/// finer levels.
pub(crate) fn passing_level(settings: &Settings) -> String {
    let level = settings.get("AWS_LAMBDA_LOG_LEVEL").unwrap_or("INFO");
    level.to_ascii_uppercase()
}

/// Returns the current time.
pub(crate) fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

/// Formats a time in RFC 3339, to the millisecond.
pub(crate) fn rfc3339(time: jiff::Timestamp) -> String {
    format!("{time:.3}")
}

/// Writes one line to standard output.
pub(crate) fn write_line(line: &str) {
    // A log that cannot be written must not stop the function.
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// Layer that writes each event as a line of JSON.
struct Json;

/// Fields of an invocation, stored in its span.
struct SpanFields(Fields);

impl<S> Layer<S> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        // Spans of the SDK are left out.
        if attributes.metadata().name() != INVOCATION {
            return;
        }
        if let Some(span) = context.span(id) {
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            span.extensions_mut().insert(SpanFields(fields));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut invocation = Fields::default();
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(SpanFields(fields)) = span.extensions().get() {
                invocation.0.clone_from(&fields.0);
            }
        }
        write_line(&line(event, now(), invocation));
    }
}

/// Formats an event as a line without its line feed.
fn line(event: &Event<'_>, time: jiff::Timestamp, invocation: Fields) -> String {
    let mut fields = invocation;
    event.record(&mut fields);
    let Fields(mut root) = fields;
    root.insert("timestamp".to_owned(), rfc3339(time).into());
    root.insert("level".to_owned(), event.metadata().level().as_str().into());
    Value::Object(root).to_string()
}

/// Fields as members of a JSON object.
#[derive(Default)]
struct Fields(Map<String, Value>);

impl Fields {
    fn insert(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.insert(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.insert(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.insert(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.insert(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.insert(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.insert(field, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(level: Option<&str>) -> Settings {
        level
            .map(|level| ("AWS_LAMBDA_LOG_LEVEL", level))
            .into_iter()
            .collect()
    }

    #[test]
    fn other_crates_are_logged_from_warnings_on_at_every_level() {
        use tracing::Level;
        let trace = filter(level(&set(Some("TRACE"))));
        assert!(trace.would_enable("branchline_core::retry", &Level::TRACE));
        assert!(!trace.would_enable("aws_sigv4", &Level::INFO));
        assert!(trace.would_enable("aws_sigv4", &Level::WARN));
        assert!(!trace.would_enable("lambda_runtime::layers::panic", &Level::ERROR));
        assert!(trace.would_enable("lambda_runtime::runtime", &Level::ERROR));
        let fatal = filter(level(&set(Some("FATAL"))));
        assert!(fatal.would_enable("branchline_update", &Level::ERROR));
        assert!(!fatal.would_enable("branchline_update", &Level::WARN));
        assert!(!fatal.would_enable("aws_sigv4", &Level::WARN));
    }

    #[test]
    fn the_metrics_line_has_the_configured_level() {
        assert_eq!(passing_level(&set(None)), "INFO");
        assert_eq!(passing_level(&set(Some("warn"))), "WARN");
    }

    #[test]
    fn the_time_is_rfc_3339_to_the_millisecond() {
        let time = jiff::Timestamp::from_millisecond(1_796_000_000_007).expect("it is a time");
        assert_eq!(rfc3339(time), "2026-11-30T00:53:20.007Z");
    }

    #[test]
    fn a_line_has_the_fields_of_event_and_invocation_at_its_root() {
        use std::sync::{Arc, Mutex};

        /// Layer that collects lines instead of writing them.
        struct CapturedLines(Arc<Mutex<Vec<String>>>);
        impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for CapturedLines {
            fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
                let mut invocation = Fields::default();
                invocation.0.insert("request.id".to_owned(), "r-1".into());
                let time = jiff::Timestamp::UNIX_EPOCH;
                let lines = &mut self.0.lock().expect("nothing panicked");
                lines.push(line(event, time, invocation));
            }
        }
        let lines = Arc::default();
        let subscriber = tracing_subscriber::registry().with(CapturedLines(Arc::clone(&lines)));
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(
                repository.name = %"demo", size_bytes = 7_u64, mode = ?Some(1),
                reason = None::<&str>, on = true, "it is \"so\"\nand so"
            );
        });
        let lines = lines.lock().expect("nothing panicked");
        let [line] = lines.as_slice() else {
            panic!("one event is one line: {lines:?}");
        };
        assert!(!line.contains('\n'));
        let value: Value = serde_json::from_str(line).expect("it is JSON");
        let expected = serde_json::json!({
            "timestamp": "1970-01-01T00:00:00.000Z",
            "level": "WARN",
            "message": "it is \"so\"\nand so",
            "repository.name": "demo",
            "size_bytes": 7,
            "mode": "Some(1)",
            "on": true,
            "request.id": "r-1",
        });
        assert_eq!(value, expected);
    }
}
