//! Standard output that cannot be written: its reader has gone away, as in `branchline .. | head`, or
//! its disk is full.
//!
//! `println!` and `eprintln!` panic then. The panic unwinds the work, whose values release their
//! locks, and becomes an exit status here.

use std::any::Any;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, resume_unwind, set_hook, take_hook};

use futures_util::FutureExt as _;

use crate::exit::ExitStatus;

/// Start of the message of a panic of `println!`, which ends with the system's error.
const STDOUT_PANIC: &str = "failed printing to stdout: ";
/// Start of the message of a panic of `eprintln!`, which ends with the system's error.
const STDERR_PANIC: &str = "failed printing to stderr: ";
/// The system's error for a reader that has gone away.
const CLOSED: &str = "Broken pipe";

/// Runs `work`. An output that cannot be written ends it with [`ExitStatus::Failed`], and with a
/// message unless its reader has gone away.
pub(crate) async fn run_until_closed(work: impl Future<Output = ExitStatus>) -> ExitStatus {
    silence_panics();
    let payload = match AssertUnwindSafe(work).catch_unwind().await {
        Ok(status) => return status,
        Err(payload) => payload,
    };
    let Some(why) = output_failure(&*payload) else {
        resume_unwind(payload);
    };
    if !why.starts_with(CLOSED) {
        let hint = "hint: make room, or redirect the output";
        // Standard error may be closed, too.
        let _ = writeln!(
            std::io::stderr(),
            "error: standard output cannot be written: {why}; {hint}"
        );
    }
    ExitStatus::Failed
}

/// Lets panics about outputs print nothing.
fn silence_panics() {
    let print = take_hook();
    set_hook(Box::new(move |panic| {
        if output_failure(panic.payload()).is_none() {
            print(panic);
        }
    }));
}

/// Returns the system's error of a panic of `println!` or `eprintln!`.
fn output_failure(payload: &(dyn Any + Send)) -> Option<&str> {
    let message = payload.downcast_ref::<String>()?;
    let stdout = message.strip_prefix(STDOUT_PANIC);
    stdout.or_else(|| message.strip_prefix(STDERR_PANIC))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_panics_about_outputs_are_recognised() {
        let payload = |message: &str| -> Box<dyn Any + Send> { Box::new(message.to_owned()) };
        let closed = payload("failed printing to stdout: Broken pipe (os error 32)");
        assert_eq!(
            output_failure(&*closed),
            Some("Broken pipe (os error 32)"),
            "the message of std has not changed"
        );
        assert_eq!(output_failure(&*payload("index out of bounds")), None);
        let text: Box<dyn Any + Send> = Box::new("failed printing to stdout: x");
        assert_eq!(output_failure(&*text), None, "std formats its message");
    }
}
