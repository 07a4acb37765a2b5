//! Progress of work: drawn on a terminal's standard error, or as JSON lines for programs.
//!
//! On a terminal each running task has a line, from a quarter of a second on. Nothing is drawn into a
//! pipe or a file.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use branchline_core::mirror::{MeterReading, MirrorMeter};
use serde_json::{Value, json};

use crate::invocation::Invocation;
use crate::system;

/// Time before the first line is drawn.
const DELAY: Duration = Duration::from_millis(250);
/// Time between two drawings.
const INTERVAL: Duration = Duration::from_millis(100);
/// Time between two events for programs.
const EVENT_INTERVAL: Duration = Duration::from_secs(1);
/// Columns of a terminal whose width is not known.
const DEFAULT_COLUMNS: usize = 80;
/// Maximum number of lines that are drawn.
const MAX_LINES: usize = 8;

/// Form of the progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProgressForm {
    /// Nothing.
    None,
    /// Lines that are drawn again and again.
    Terminal,
    /// JSON lines on standard output.
    Json,
}

impl ProgressForm {
    /// Chooses the form for this process.
    pub(crate) fn of(invocation: &Invocation, json: bool, quiet: bool) -> Self {
        let is_dumb = invocation.text("TERM") == Some("dumb");
        match () {
            () if json => Self::Json,
            () if quiet || is_dumb || !std::io::stderr().is_terminal() => Self::None,
            () => Self::Terminal,
        }
    }
}

/// Counters of a running task.
pub(crate) trait Meter: Send + Sync {
    /// Describes the present values, after the task has run for `time`. Empty before the first one.
    fn parts(&self, time: Duration) -> Vec<String>;

    /// Returns the present values as fields of an event.
    fn fields(&self) -> Value;
}

/// The running tasks, and the timer that shows them.
pub(crate) struct Progress {
    state: Arc<Mutex<State>>,
    ticker: Option<tokio::task::JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    running: Vec<Running>,
    /// Lines that are on the screen.
    drawn: usize,
}

struct Running {
    index: usize,
    label: String,
    /// Shown before there are values.
    beginning: &'static str,
    meter: Arc<dyn Meter>,
    since: Instant,
}

impl Progress {
    /// Shows tasks from now on.
    pub(crate) fn start(form: ProgressForm) -> Self {
        let state = Arc::<Mutex<State>>::default();
        let shown = Arc::clone(&state);
        let ticker = match form {
            ProgressForm::None => None,
            ProgressForm::Terminal => Some(tokio::spawn(async move {
                tokio::time::sleep(DELAY).await;
                loop {
                    lock(&shown).draw();
                    tokio::time::sleep(INTERVAL).await;
                }
            })),
            ProgressForm::Json => Some(tokio::spawn(async move {
                loop {
                    tokio::time::sleep(EVENT_INTERVAL).await;
                    lock(&shown).print_events();
                }
            })),
        };
        Self { state, ticker }
    }

    /// Adds a task, which is shown until the returned value is dropped. `beginning` is shown before
    /// its meter has values.
    pub(crate) fn add(
        &self,
        index: usize,
        label: String,
        beginning: &'static str,
        meter: Arc<dyn Meter>,
    ) -> ProgressLine {
        lock(&self.state).running.push(Running {
            index,
            label,
            beginning,
            meter,
            since: Instant::now(),
        });
        ProgressLine {
            state: Arc::clone(&self.state),
            index,
        }
    }

    /// Runs `print`, which writes to the terminal, while no line is drawn.
    pub(crate) fn suspend(&self, print: impl FnOnce()) {
        let mut state = lock(&self.state);
        state.erase();
        print();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(ticker) = &self.ticker {
            ticker.abort();
        }
        lock(&self.state).erase();
    }
}

/// A task that is shown.
pub(crate) struct ProgressLine {
    state: Arc<Mutex<State>>,
    index: usize,
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        state.running.retain(|running| running.index != self.index);
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// Removes the lines from the screen.
    fn erase(&mut self) {
        if self.drawn > 0 {
            // Up to the first line, and clear from there.
            let text = format!("\r\u{1b}[{}A\u{1b}[J", self.drawn);
            let _ = std::io::stderr().write_all(text.as_bytes());
            self.drawn = 0;
        }
    }

    fn draw(&mut self) {
        let columns = columns();
        let mut text = String::new();
        if self.drawn > 0 {
            let _ = write!(text, "\r\u{1b}[{}A\u{1b}[J", self.drawn);
        }
        let lines = self.running.iter().take(MAX_LINES);
        self.drawn = lines.len();
        for running in lines {
            let mut parts = running.meter.parts(running.since.elapsed());
            if parts.is_empty() {
                parts.push(running.beginning.to_owned());
            }
            let line = line(&running.label, &parts.join(", "), columns);
            let _ = writeln!(text, "{line}");
        }
        let hidden = self.running.len().saturating_sub(MAX_LINES);
        if hidden > 0 {
            let _ = writeln!(text, "and {hidden} more");
            self.drawn += 1;
        }
        // The terminal may be gone, which does not matter to the work.
        let _ = std::io::stderr().write_all(text.as_bytes());
    }

    fn print_events(&self) {
        for running in &self.running {
            let mut event = running.meter.fields();
            if let Value::Object(fields) = &mut event {
                fields.insert("event".to_owned(), json!("progress"));
                fields.insert("mapping".to_owned(), json!(running.index));
                let seconds = running.since.elapsed().as_secs();
                fields.insert("seconds".to_owned(), json!(seconds));
            }
            // A reader that has gone away does not stop the work.
            let _ = writeln!(std::io::stdout(), "{event}");
        }
    }
}

impl Meter for MirrorMeter {
    fn parts(&self, time: Duration) -> Vec<String> {
        parts_of(self.read(), time)
    }

    fn fields(&self) -> Value {
        let MeterReading {
            refs_planned,
            refs_done,
            commits_planned,
            commits_left,
            pushes,
            objects,
            bytes,
            lfs_objects,
            lfs_bytes,
        } = self.read();
        json!({
            "refs": { "planned": refs_planned, "done": refs_done },
            "commits": { "planned": commits_planned, "left": commits_left },
            "pushes": pushes,
            "objects": objects,
            "bytes": bytes,
            "lfs": { "objects": lfs_objects, "bytes": lfs_bytes },
        })
    }
}

fn columns() -> usize {
    system::columns_of_stderr().unwrap_or(DEFAULT_COLUMNS)
}

/// Describes the values of a mirroring that has run for `time`.
fn parts_of(reading: MeterReading, time: Duration) -> Vec<String> {
    let mut parts = Vec::new();
    if reading.refs_planned > 0 {
        parts.push(format!(
            "{} of {} refs",
            reading.refs_done, reading.refs_planned
        ));
    }
    if reading.pushes > 1 {
        parts.push(format!("{} pushes", reading.pushes));
    }
    if reading.objects > 0 {
        parts.push(format!("{} objects", reading.objects));
    }
    if reading.bytes > 0 {
        parts.push(size_and_rate(reading.bytes, time));
    }
    if reading.lfs_bytes > 0 {
        let (objects, bytes) = (reading.lfs_objects, reading.lfs_bytes);
        let of_lfs = size_and_rate(bytes, time);
        parts.push(format!("{objects} LFS objects, {of_lfs}"));
    }
    let commits_done = reading.commits_planned.saturating_sub(reading.commits_left);
    if reading.commits_left > 0 {
        parts.push(format!(
            "{} of {} commits left",
            reading.commits_left, reading.commits_planned
        ));
    }
    if commits_done > 0 && reading.commits_left > 0 {
        #[expect(clippy::cast_precision_loss, reason = "the time left is rounded")]
        let left = time.as_secs_f64() * reading.commits_left as f64 / commits_done as f64;
        parts.push(format!("about {} left", duration(left)));
    }
    parts
}

/// Formats a number of bytes, and their number in a second.
pub(crate) fn size_and_rate(bytes: u64, time: Duration) -> String {
    let milliseconds = time.as_millis().max(1);
    let rate = u128::from(bytes) * 1000 / milliseconds;
    let rate = u64::try_from(rate).unwrap_or(u64::MAX);
    format!("{}, {}/s", size(bytes), size(rate))
}

/// Formats the line of a task, which ends before the last column.
fn line(label: &str, details: &str, columns: usize) -> String {
    let label = label.replace(char::is_control, " ");
    let max = columns.saturating_sub(1).max(20);
    // The label gives way to the details.
    let room = max.saturating_sub(details.chars().count() + 2);
    let length = label.chars().count();
    let label: String = if length > room {
        let end: String = label
            .chars()
            .skip(length - room.saturating_sub(2))
            .collect();
        format!("..{end}")
    } else {
        label
    };
    let line = format!("{label}: {details}");
    line.chars().take(max).collect()
}

/// Formats a number of bytes.
pub(crate) fn size(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let mut value = bytes as f64;
    for unit in ["bytes", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "bytes" {
                format!("{bytes} bytes")
            } else {
                format!("{value:.1} {unit}")
            };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// Formats a time in seconds.
fn duration(seconds: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a time is positive, and rounded"
    )]
    let seconds = seconds.ceil() as u64;
    match seconds {
        0..=99 => format!("{seconds} s"),
        100..=5999 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{} h", seconds.div_ceil(3600)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_what_is_known_and_fits_the_terminal() {
        let second = Duration::from_secs(1);
        let parts = parts_of(MeterReading::default(), second);
        assert!(parts.is_empty(), "{parts:?}");
        let reading = MeterReading {
            refs_planned: 3,
            refs_done: 1,
            commits_planned: 100,
            commits_left: 50,
            pushes: 2,
            objects: 7,
            bytes: 3 << 20,
            lfs_objects: 1,
            lfs_bytes: 6 << 20,
        };
        let details = parts_of(reading, 2 * second).join(", ");
        assert_eq!(
            line("a -> b", &details, 200),
            "a -> b: 1 of 3 refs, 2 pushes, 7 objects, 3.0 MiB, 1.5 MiB/s, \
             1 LFS objects, 6.0 MiB, 3.0 MiB/s, 50 of 100 commits left, about 2 s left"
        );
        for columns in [30, 80, 100] {
            let line = line(&"x".repeat(300), &details, columns);
            assert!(line.chars().count() < columns, "{line}");
        }
    }

    #[test]
    fn sizes_and_times_are_rounded() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1536, "1.5 KiB"),
            (1 << 40, "1.0 TiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        for (seconds, text) in [
            (0.2, "1 s"),
            (99.0, "99 s"),
            (150.0, "3 min"),
            (7000.0, "2 h"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }
}
