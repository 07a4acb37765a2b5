//! Prints results of mappings: lines for people, or JSON for programs, on standard output; warnings
//! and errors on standard error.

use std::io::Write as _;

use branchline_core::mirror::{Comparison, MappingAnswer, MappingStatus, PlanAnswer};
use branchline_core::{Error, Result};
use serde_json::{Value, json};

use super::verify;
use crate::exit::ExitStatus;
use crate::failure::one_line;
use crate::progress::size;

/// Result of one mapping.
pub(crate) struct Outcome {
    /// `None` for a line that could not be read.
    answer: Option<MappingAnswer>,
    error: Option<Error>,
    is_plan: bool,
    comparison: Option<Result<Comparison>>,
}

/// Result of one mapping, as far as it decides the exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OutcomeClass {
    Done,
    /// Failed after a part was done.
    Partial,
    Failed,
}

impl Outcome {
    pub(super) fn new(
        answer: MappingAnswer,
        error: Option<Error>,
        is_plan: bool,
        comparison: Option<Result<Comparison>>,
    ) -> Self {
        Self {
            answer: Some(answer),
            error,
            is_plan,
            comparison,
        }
    }

    pub(super) fn unreadable(error: Error) -> Self {
        Self {
            answer: None,
            error: Some(error),
            is_plan: false,
            comparison: None,
        }
    }

    /// Replaces the error, if there is one.
    pub(crate) fn with_error(mut self, change: impl FnOnce(Error) -> Error) -> Self {
        self.error = self.error.map(change);
        if let (Some(answer), Some(error)) = (&mut self.answer, &self.error) {
            answer.error = Some(error.report());
        }
        self
    }

    /// Returns whether the mapping was mirrored, and not only planned.
    pub(super) fn is_mirrored(&self) -> bool {
        let is_complete = |answer: &MappingAnswer| answer.status == MappingStatus::Complete;
        !self.is_plan && self.answer.as_ref().is_some_and(is_complete)
    }

    /// Adds a warning.
    pub(super) fn warn(&mut self, warning: String) {
        if let Some(answer) = &mut self.answer {
            answer.warnings.push(warning);
        }
    }

    fn is_verified(&self) -> bool {
        match &self.comparison {
            None => true,
            Some(Ok(comparison)) => comparison.is_equal(),
            Some(Err(_)) => false,
        }
    }

    pub(crate) fn class(&self) -> OutcomeClass {
        let Some(answer) = &self.answer else {
            return OutcomeClass::Failed;
        };
        let refs = &answer.refs;
        let has_changed = refs.created + refs.updated + refs.deleted > 0 || answer.objects > 0;
        match answer.status {
            _ if self.is_plan && self.error.is_none() => OutcomeClass::Done,
            MappingStatus::Complete if self.is_verified() => OutcomeClass::Done,
            MappingStatus::Incomplete => OutcomeClass::Partial,
            MappingStatus::Failed if has_changed => OutcomeClass::Partial,
            MappingStatus::Complete | MappingStatus::Failed => OutcomeClass::Failed,
        }
    }
}

/// Returns the exit status of all mappings together.
pub(crate) fn status(outcomes: &[OutcomeClass]) -> ExitStatus {
    let is = |class: OutcomeClass| outcomes.contains(&class);
    match () {
        () if is(OutcomeClass::Partial) => ExitStatus::Partial,
        () if !is(OutcomeClass::Failed) => ExitStatus::Done,
        () if is(OutcomeClass::Done) => ExitStatus::Partial,
        () => ExitStatus::Failed,
    }
}

/// Prints results.
pub(crate) struct Report {
    json: bool,
    quiet: bool,
}

impl Report {
    pub(crate) fn new(json: bool, quiet: bool) -> Self {
        Self { json, quiet }
    }

    /// Prints the result of the mapping with this number.
    pub(crate) fn print(&self, index: usize, outcome: &Outcome) {
        if self.json {
            print_line(&json_of(index, outcome).to_string());
        } else if let Some(answer) = &outcome.answer {
            if outcome.error.is_none() && !self.quiet {
                print_line(&summary(answer));
                if let Some(plan) = &answer.plan {
                    for line in plan_lines(plan) {
                        print_line(&line);
                    }
                }
            }
            for warning in &answer.warnings {
                eprintln!("warning: {} -> {}: {warning}", answer.source, answer.target);
            }
            match &outcome.comparison {
                Some(Ok(comparison)) if !comparison.is_equal() || !self.quiet => {
                    for line in verify::lines(comparison) {
                        print_line(&line);
                    }
                }
                _ => {}
            }
        }
        if let Some(error) = &outcome.error {
            let between = outcome.answer.as_ref().map_or_else(String::new, |answer| {
                format!("{} -> {}: ", answer.source, answer.target)
            });
            eprintln!("error: {between}{}", one_line(error));
        }
        if let Some(Err(error)) = &outcome.comparison {
            eprintln!(
                "error: the sides could not be compared: {}",
                one_line(error)
            );
        }
    }

    /// Prints the end of the run for programs.
    pub(crate) fn end(&self, status: ExitStatus, mappings: usize) {
        if self.json {
            let status = match status {
                ExitStatus::Done => "complete",
                ExitStatus::Partial => "partial",
                _ => "failed",
            };
            let end = json!({ "event": "end", "status": status, "mappings": mappings });
            print_line(&end.to_string());
        }
    }
}

/// Prints a line to standard output. A reader that has gone away does not stop the work.
fn print_line(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn json_of(index: usize, outcome: &Outcome) -> Value {
    let mut event = json!({ "event": "result", "mapping": index });
    let mut add = |value: Value| {
        if let (Value::Object(event), Value::Object(fields)) = (&mut event, value) {
            event.extend(fields);
        }
    };
    match &outcome.answer {
        Some(answer) => add(serde_json::to_value(answer).unwrap_or_default()),
        None => add(json!({
            "status": "failed",
            "error": outcome.error.as_ref().map(Error::report),
        })),
    }
    if let Some(error) = &outcome.error {
        add(json!({ "error_kind": error.kind().name() }));
    }
    match &outcome.comparison {
        Some(Ok(comparison)) => add(json!({ "verify": verify::json(comparison) })),
        Some(Err(error)) => add(json!({ "verify": {
            "equal": false,
            "error": error.report(),
            "error_kind": error.kind().name(),
        } })),
        None => {}
    }
    event
}

/// Describes a result in one line.
fn summary(answer: &MappingAnswer) -> String {
    let refs = &answer.refs;
    let counts = [
        ("created", refs.created),
        ("updated", refs.updated),
        ("deleted", refs.deleted),
        ("set aside", refs.set_aside),
        ("unchanged", refs.unchanged),
    ];
    let would = if answer.plan.is_some() {
        "would be "
    } else {
        ""
    };
    let counts = counts.iter().filter(|(_, count)| *count > 0);
    let mut parts: Vec<String> = counts
        .map(|(what, count)| format!("{count} {what}"))
        .collect();
    if parts.is_empty() {
        parts.push("none".to_owned());
    }
    let lfs = &answer.lfs;
    let mut facts = vec![format!("refs {would}{}", parts.join(", "))];
    if answer.objects > 0 {
        let size = size(answer.bytes);
        facts.push(format!("{} objects, {size}", answer.objects));
    }
    if lfs.objects > 0 {
        let size = size(lfs.bytes);
        facts.push(format!("{} LFS objects, {size}", lfs.objects));
    }
    if lfs.missing > 0 {
        facts.push(format!("{} LFS objects are missing", lfs.missing));
    }
    if lfs.left_out > 0 {
        facts.push(format!("{} LFS objects are left out", lfs.left_out));
    }
    let (source, target) = (&answer.source, &answer.target);
    format!("{source} -> {target}: {}", facts.join("; "))
}

fn plan_lines(plan: &PlanAnswer) -> Vec<String> {
    let mut lines = Vec::new();
    let mut add = |what: &str, name: &str, more: &str| {
        lines.push(format!("  {what} {name}{more}"));
    };
    for name in &plan.created {
        add("create", name, "");
    }
    for name in &plan.updated {
        match plan.forced.get(name) {
            Some(ids) => add("force", name, &format!(" ({ids})")),
            None => add("update", name, ""),
        }
    }
    for name in &plan.deleted {
        add("delete", name, "");
    }
    for (name, kept) in &plan.set_aside {
        add("set aside", name, &format!(" as {kept}"));
    }
    for (name, reason) in &plan.rejected {
        add("reject", name, &format!(": {reason}"));
    }
    if let Some(head) = &plan.head {
        add("set HEAD to", head, "");
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_partial_when_some_was_done_and_some_was_not() {
        use OutcomeClass::{Done, Failed, Partial};
        for (outcomes, expected) in [
            (&[][..], ExitStatus::Done),
            (&[Done, Done], ExitStatus::Done),
            (&[Done, Failed], ExitStatus::Partial),
            (&[Failed, Partial], ExitStatus::Partial),
            (&[Failed, Failed], ExitStatus::Failed),
        ] {
            assert_eq!(status(outcomes), expected, "{outcomes:?}");
        }
    }
}
