//! Log lines on standard error: warnings, and more when the user asks for it.

use std::fmt;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Registry;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, Layer};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::invocation::Invocation;

/// The level of the log, which git's `option verbosity` raises.
#[derive(Debug, Clone, Default)]
pub(crate) struct Verbosity(Option<reload::Handle<Targets, Registry>>);

impl Verbosity {
    /// Logs each step from now on.
    pub(crate) fn raise(&self) {
        if let Some(handle) = &self.0 {
            // Fails when the subscriber is gone.
            let _ = handle.reload(targets(Level::INFO));
        }
    }
}

/// Only branchline's own lines, because those of other crates may have contents.
fn targets(level: Level) -> Targets {
    Targets::new().with_target("branchline", level)
}

/// Starts the log: warnings, and with `GIT_REMOTE_S3_VERBOSE` each step.
pub(crate) fn start(invocation: &Invocation) -> Verbosity {
    let is_on = |text: &str| ["1", "true", "yes"].contains(&text.to_ascii_lowercase().as_str());
    let verbose = invocation.text("GIT_REMOTE_S3_VERBOSE").is_some_and(is_on);
    let level = if verbose { Level::INFO } else { Level::WARN };
    let (filter, handle) = reload::Layer::new(targets(level));
    let lines = Layer::default()
        .event_format(Lines)
        .with_writer(std::io::stderr)
        .with_filter(filter);
    let started = Registry::default().with(lines).try_init();
    Verbosity(started.is_ok().then_some(handle))
}

/// `warning: <text>` as git prints warnings, else `<module>: INFO: <text>`.
struct Lines;

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        match *metadata.level() {
            Level::ERROR => write!(writer, "error: ")?,
            Level::WARN => write!(writer, "warning: ")?,
            level => write!(writer, "{}: {level}: ", metadata.target())?,
        }
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}
