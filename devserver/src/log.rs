//! The server's log: one line for each event that a user cares about.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// Format of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Lines for terminals.
    Text,
    /// JSON objects for machines.
    Json,
}

/// Sends the log to standard error. `filter` is a `RUST_LOG` value; by default the
/// server's own lines at `info`, or at `debug` (with the output of functions) if `verbose`.
pub fn init(format: Format, verbose: bool, filter: Option<&str>) {
    let default = if verbose {
        "warn,branchline_dev=debug"
    } else {
        "warn,branchline_dev=info"
    };
    let filter = filter.unwrap_or(default);
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new(default));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format {
        Format::Json => builder.json().flatten_event(true).init(),
        Format::Text => builder
            .with_target(false)
            .with_ansi(std::io::stderr().is_terminal())
            .event_format(Plain)
            .init(),
    }
}

/// `12:34:56.789 message`, and the level unless it is `INFO`. Fields are for JSON only,
/// because the message names them.
struct Plain;

impl<S, N> tracing_subscriber::fmt::FormatEvent<S, N> for Plain
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
    N: for<'a> tracing_subscriber::fmt::FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &tracing_subscriber::fmt::FmtContext<'_, S, N>,
        mut writer: tracing_subscriber::fmt::format::Writer<'_>,
        event: &tracing::Event<'_>,
    ) -> std::fmt::Result {
        let mut line = Line::default();
        event.record(&mut line);
        let time = jiff::Timestamp::now().strftime("%H:%M:%S%.3f");
        let level = match *event.metadata().level() {
            tracing::Level::INFO => "",
            tracing::Level::WARN => "warning: ",
            tracing::Level::ERROR => "error: ",
            _ => "  ",
        };
        let Line {
            message,
            duration,
            function,
        } = line;
        match (level, function) {
            // The output of functions has a target of its own.
            ("  ", Some(name)) => write!(writer, "{time}   {name} | {message}")?,
            _ => write!(writer, "{time} {level}{message}")?,
        }
        if let Some(duration) = duration {
            write!(writer, " ({duration} ms)")?;
        }
        writeln!(writer)
    }
}

#[derive(Default)]
struct Line {
    message: String,
    duration: Option<u64>,
    function: Option<String>,
}

impl tracing::field::Visit for Line {
    fn record_u64(&mut self, field: &tracing::field::Field, value: u64) {
        if field.name() == "duration_ms" {
            self.duration = Some(value);
        }
    }

    fn record_str(&mut self, field: &tracing::field::Field, value: &str) {
        match field.name() {
            "function.name" => self.function = Some(value.to_owned()),
            "message" => value.clone_into(&mut self.message),
            _ => {}
        }
    }

    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        }
    }
}
