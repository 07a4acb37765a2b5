//! The state of branches and mirrors as lines of a terminal.

use std::fmt::Write as _;

use super::StatusReport;
use super::branches::{
    ArtifactReport, ArtifactState, BranchReport, PipelineReport, TriggerReport, TriggerState,
};
use super::mirrors::{MirrorReport, MirrorState};
use crate::progress::size;

/// Digits of a commit id.
const SHOWN_DIGITS: usize = 7;
/// Maximum number of columns of a branch's or trigger's name, which is shortened in its middle.
const MAX_NAME_COLUMNS: usize = 40;
/// Maximum number of refs of a mirror that are named.
const MAX_SHOWN_REFS: usize = 5;

/// Formats a report.
pub(super) fn format(report: &StatusReport) -> String {
    let mut text = String::new();
    if let (Some(stack), Some(region)) = (&report.stack, &report.region) {
        let _ = writeln!(text, "stack {stack} in {region}\n");
    }
    for repository in &report.repositories {
        let _ = writeln!(text, "{}", printable(&repository.repository));
        let rows: Vec<Row> = repository.branches.iter().map(row).collect();
        text.push_str(&aligned(&rows));
        if rows.is_empty() && repository.errors.is_empty() {
            text.push_str("  no branches\n");
        }
        text.push('\n');
    }
    if !report.mirrors.is_empty() {
        text.push_str("mirrors\n");
        for mirror in &report.mirrors {
            let _ = writeln!(text, "  {}", mirror_line(mirror));
        }
        text.push('\n');
    }
    text
}

/// Columns of a branch: mark, branch, tip, trigger, artifact, pipeline.
type Row = [String; 6];

const TITLES: [&str; 6] = ["", "BRANCH", "TIP", "TRIGGER", "ARTIFACT", "PIPELINE"];

fn row(branch: &BranchReport) -> Row {
    let mark = if branch.behind { "!" } else { " " };
    [
        mark.to_owned(),
        shortened(&branch.branch),
        branch.tip.as_deref().map_or("-", digits).to_owned(),
        trigger(&branch.trigger),
        artifact(&branch.artifact),
        branch.pipeline.as_ref().map_or("-".to_owned(), pipeline),
    ]
}

fn trigger(trigger: &TriggerReport) -> String {
    match (trigger.state, &trigger.name) {
        (TriggerState::Missing, _) => "missing".to_owned(),
        (_, Some(name)) => shortened(name),
        (_, None) => "-".to_owned(),
    }
}

fn artifact(artifact: &ArtifactReport) -> String {
    let commit = artifact.commit.as_deref().map_or("", digits);
    let state = match artifact.state {
        ArtifactState::Current => "up to date".to_owned(),
        ArtifactState::OtherCommit => format!("of {commit}"),
        ArtifactState::OtherSettings => "of other settings".to_owned(),
        ArtifactState::OtherBranch => "of another branch".to_owned(),
        ArtifactState::Foreign => "of another writer".to_owned(),
        ArtifactState::Missing => "missing".to_owned(),
        ArtifactState::Skipped => "skipped".to_owned(),
        ArtifactState::NotSelected => "not selected".to_owned(),
    };
    let facts = [
        artifact.size_bytes.map(size),
        artifact.age_seconds.map(age),
        artifact.reason.as_deref().map(printable),
    ];
    let facts: Vec<String> = [Some(state)].into_iter().chain(facts).flatten().collect();
    facts.join(", ")
}

fn pipeline(pipeline: &PipelineReport) -> String {
    let status = match (&pipeline.status, &pipeline.execution_id) {
        (Some(status), _) => printable(status),
        (None, Some(_)) => "started".to_owned(),
        (None, None) => "not started".to_owned(),
    };
    match &pipeline.summary {
        Some(summary) => format!("{} {status}: {}", pipeline.name, printable(summary)),
        None => format!("{} {status}", pipeline.name),
    }
}

fn mirror_line(mirror: &MirrorReport) -> String {
    let (source, target) = (printable(&mirror.source), printable(&mirror.target));
    let mark = if mirror.is_behind() { "!" } else { " " };
    let state = match mirror.state {
        MirrorState::Equal => "up to date".to_owned(),
        MirrorState::Failed => "cannot be compared".to_owned(),
        MirrorState::Differs => differences(mirror),
    };
    let changed = mirror.last_changed_seconds.map(age);
    let changed = changed.map_or_else(String::new, |age| format!(", changed {age} ago"));
    format!("{mark} {source} -> {target}: {state}{changed}")
}

fn differences(mirror: &MirrorReport) -> String {
    let groups = [
        ("new", &mirror.created),
        ("moved", &mirror.updated),
        ("gone", &mirror.deleted),
        ("set aside", &mirror.set_aside),
    ];
    let groups = groups.iter().filter(|(_, names)| !names.is_empty());
    let mut parts: Vec<String> = groups
        .map(|(what, names)| {
            let shown = names.iter().take(MAX_SHOWN_REFS).map(|name| {
                let short = name.strip_prefix("refs/heads/").unwrap_or(name);
                printable(short)
            });
            let shown: Vec<String> = shown.collect();
            let more = if names.len() > MAX_SHOWN_REFS {
                ", .."
            } else {
                ""
            };
            format!("{} {what} ({}{more})", names.len(), shown.join(", "))
        })
        .collect();
    if let Some(head) = &mirror.head {
        parts.push(format!("HEAD is to be {}", printable(head)));
    }
    format!("behind: {}", parts.join(", "))
}

/// Formats rows with columns of equal widths.
fn aligned(rows: &[Row]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let titles = TITLES.map(str::to_owned);
    let all = || std::iter::once(&titles).chain(rows);
    let mut widths = [0; 6];
    for row in all() {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in all() {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

fn digits(id: &str) -> &str {
    id.get(..SHOWN_DIGITS).unwrap_or(id)
}

fn shortened(name: &str) -> String {
    let name = printable(name);
    let length = name.chars().count();
    if length <= MAX_NAME_COLUMNS {
        return name;
    }
    let half = (MAX_NAME_COLUMNS - 2) / 2;
    let start: String = name.chars().take(half).collect();
    let end: String = name.chars().skip(length - half).collect();
    format!("{start}..{end}")
}

/// Replaces control characters, which a name in git or a message of a service may contain.
fn printable(text: &str) -> String {
    text.replace(char::is_control, "?")
}

/// Formats an age.
fn age(seconds: i64) -> String {
    match seconds {
        ..=99 => format!("{} s", seconds.max(0)),
        100..=5_999 => format!("{} min", seconds / 60),
        6_000..=172_799 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_rounded_down() {
        for (seconds, text) in [
            (-1, "0 s"),
            (99, "99 s"),
            (100, "1 min"),
            (7_200, "2 h"),
            (172_800, "2 d"),
        ] {
            assert_eq!(age(seconds), text);
        }
    }

    #[test]
    fn a_long_name_keeps_its_ends_and_no_control_character() {
        assert_eq!(shortened("main"), "main");
        assert_eq!(shortened("a\u{1b}[2J"), "a?[2J");
        let long = format!("feature/{}/end", "x".repeat(100));
        let short = shortened(&long);
        assert_eq!(short.chars().count(), MAX_NAME_COLUMNS);
        assert!(short.starts_with("feature/x") && short.ends_with("x/end"));
    }

    #[test]
    fn columns_are_as_wide_as_their_longest_cell() {
        let row = |cells: [&str; 6]| cells.map(str::to_owned);
        let text = aligned(&[
            row(["!", "a", "1234567", "-", "missing", "-"]),
            row([" ", "feature/long", "-", "trigger", "x", "deploy Failed"]),
        ]);
        assert_eq!(
            text,
            "   BRANCH        TIP      TRIGGER  ARTIFACT  PIPELINE\n\
             !  a             1234567  -        missing   -\n\
             \x20  feature/long  -        trigger  x         deploy Failed\n"
        );
    }
}
