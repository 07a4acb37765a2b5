//! `doctor`: problems of a repository, and their fixes. It asks nothing: what is to be fixed, and
//! how, is said by options.

use branchline_core::Result;
use branchline_core::remote::maintenance::{Examination, FixChoices, Problem, ProblemKind};
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::located::{Located, branch};
use crate::exit::ExitStatus;
use crate::failure::one_line;
use crate::invocation::Invocation;

pub(crate) const EXAMPLES: &str = "\
Fixes:
  locks    deletes locks that killed clients left
  bundles  keeps one bundle of each ref, and the others with commits of their own as
           `<ref>__<first digits of the id>`
  names    sets a ref aside as `refs/stale/heads/a` that is in the way of others, such as `a` of
           `a/b`
  head     lets `HEAD` name a branch

Examples:
  branchline remote doctor origin
  branchline remote doctor --fix s3://bucket/team/project
  branchline remote doctor --fix=bundles --keep 1a2b3c4 --delete-bundle origin
  branchline remote doctor --fix=head --head trunk --json origin

Exit status: 0 without problems, 3 if some are left, 1 after a failure.";

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// URL in S3, or the name of a remote of the current repository.
    #[arg(value_name = "URL")]
    pub(super) remote: String,
    #[command(flatten)]
    pub(super) options: DoctorOptions,
}

#[derive(Debug, Args)]
pub(super) struct DoctorOptions {
    /// Fixes problems: all of them, or those that are named.
    #[arg(
        long,
        value_name = "FIXES",
        value_enum,
        value_delimiter = ',',
        num_args = 0..,
        require_equals = true
    )]
    pub(super) fix: Option<Vec<Fix>>,
    /// Branch that `HEAD` is to name; `main`, `master` or the first one by default.
    #[arg(long, value_name = "BRANCH")]
    pub(super) head: Option<String>,
    /// First digits of the id of a bundle to keep; may be repeated. By default the newest that
    /// descends from others.
    #[arg(long, value_name = "ID")]
    pub(super) keep: Vec<String>,
    /// Deletes the other bundles of a ref instead of keeping them under other names.
    #[arg(short = 'd', long)]
    pub(super) delete_bundle: bool,
    /// Ref to set aside; may be repeated. By default the older one.
    #[arg(long, value_name = "REF")]
    pub(super) set_aside: Vec<String>,
    /// Age in seconds from which a lock is abandoned; 60 by default.
    #[arg(long, value_name = "SECONDS")]
    pub(super) lock_ttl: Option<u64>,
    /// Prints the result as JSON.
    #[arg(long)]
    pub(super) json: bool,
}

/// Fixes by name, in the order in which they are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Fix {
    Locks,
    Bundles,
    Names,
    Head,
}

impl Fix {
    /// Returns the fix of a kind of problems, if there is one.
    fn of(kind: ProblemKind) -> Option<Self> {
        Some(match kind {
            ProblemKind::StaleLock => Self::Locks,
            ProblemKind::SeveralBundles => Self::Bundles,
            ProblemKind::RefsInTheWay => Self::Names,
            ProblemKind::Head => Self::Head,
            ProblemKind::UnreadableBundle
            | ProblemKind::MissingPack
            | ProblemKind::MixedLayouts
            | ProblemKind::MixedHashes => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Locks => "locks",
            Self::Bundles => "bundles",
            Self::Names => "names",
            Self::Head => "head",
        }
    }
}

/// The printed result.
#[derive(Debug, Serialize)]
struct Report {
    remote: String,
    layout: &'static str,
    head: Option<String>,
    refs: Vec<ReportedRef>,
    /// Changes that were made.
    fixed: Vec<ReportedFix>,
    /// Problems that are left.
    problems: Vec<ReportedProblem>,
}

#[derive(Debug, Serialize)]
struct ReportedRef {
    name: String,
    id: String,
    bundles: usize,
    protected: bool,
    archive: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    lock_age_seconds: Option<i64>,
}

#[derive(Debug, Serialize)]
struct ReportedFix {
    kind: &'static str,
    refs: Vec<String>,
    result: String,
}

#[derive(Debug, Serialize)]
struct ReportedProblem {
    kind: &'static str,
    refs: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    bundles: Vec<String>,
    message: String,
    /// Value of `--fix` that fixes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<&'static str>,
    /// Reason why a fix failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Examines a repository, and fixes what the options name.
pub(crate) async fn run(invocation: &Invocation, args: &DoctorArgs) -> Result<ExitStatus> {
    examine(invocation, &args.remote, &args.options).await
}

/// Like [`run`], for `git-s3`.
pub(super) async fn examine(
    invocation: &Invocation,
    remote: &str,
    options: &DoctorOptions,
) -> Result<ExitStatus> {
    let choices = FixChoices {
        head: options.head.as_deref().map(branch).transpose()?,
        keep: options
            .keep
            .iter()
            .map(|id| id.to_ascii_lowercase())
            .collect(),
        delete_others: options.delete_bundle,
        set_aside: options
            .set_aside
            .iter()
            .map(|name| branch(name))
            .collect::<Result<_>>()?,
    };
    let located = Located::open(invocation, remote, options.lock_ttl).await?;
    let report = located
        .explained(doctor(&located, options, &choices).await)
        .await?;
    if options.json {
        println!("{}", serde_json::json!(report));
    } else {
        report.print();
    }
    Ok(if report.problems.is_empty() {
        ExitStatus::Done
    } else {
        ExitStatus::Partial
    })
}

async fn doctor(
    located: &Located,
    options: &DoctorOptions,
    choices: &FixChoices,
) -> Result<Report> {
    let maintenance = located.maintenance()?;
    let mut examination = maintenance.examine().await?;
    let mut fixed = Vec::new();
    let mut failed: Vec<(Problem, String)> = Vec::new();
    let selected = |problem: &Problem| match &options.fix {
        None => false,
        Some(chosen) if chosen.is_empty() => Fix::of(problem.kind).is_some(),
        Some(chosen) => Fix::of(problem.kind).is_some_and(|fix| chosen.contains(&fix)),
    };
    // A fix can be the cause of the next problem: a ref that is set aside may be that of `HEAD`.
    loop {
        let is_next = |found: &&Problem| selected(found) && reason(&failed, found).is_none();
        let Some(kind) = examination
            .problems
            .iter()
            .find(is_next)
            .map(|found| found.kind)
        else {
            break;
        };
        let mut tried = Vec::new();
        for problem in examination
            .problems
            .iter()
            .filter(|found| found.kind == kind)
        {
            if reason(&failed, problem).is_some() {
                continue;
            }
            match maintenance.fix(problem, choices).await {
                Ok(result) => {
                    fixed.push(ReportedFix {
                        kind: kind.name(),
                        refs: texts(&problem.refs),
                        result,
                    });
                    tried.push(problem.clone());
                }
                Err(error) => failed.push((problem.clone(), one_line(&error))),
            }
        }
        examination = maintenance.examine().await?;
        for problem in tried {
            if examination
                .problems
                .iter()
                .any(|left| is_same(left, &problem))
            {
                failed.push((problem, "the problem came back".to_owned()));
            }
        }
    }
    Ok(Report::new(located, examination, fixed, &failed))
}

/// Returns whether two problems are of one kind, and of the same refs.
fn is_same(one: &Problem, other: &Problem) -> bool {
    one.kind == other.kind && one.refs == other.refs
}

/// Returns the reason why a problem was not fixed.
fn reason<'a>(failed: &'a [(Problem, String)], problem: &Problem) -> Option<&'a String> {
    let mut failed = failed.iter();
    let found = failed.find(|(known, _)| is_same(known, problem));
    found.map(|(_, reason)| reason)
}

fn texts(names: &[bstr::BString]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

impl Report {
    fn new(
        located: &Located,
        examination: Examination,
        fixed: Vec<ReportedFix>,
        failed: &[(Problem, String)],
    ) -> Self {
        let refs = examination.refs.into_iter().map(|found| ReportedRef {
            name: found.name.to_string(),
            id: found.id.to_string(),
            bundles: found.bundles,
            protected: found.protected,
            archive: found.has_archive,
            lock_age_seconds: found.lock_age_seconds,
        });
        let problems = examination.problems.into_iter().map(|problem| {
            let error = reason(failed, &problem).cloned();
            ReportedProblem {
                kind: problem.kind.name(),
                refs: texts(&problem.refs),
                bundles: problem.bundles.iter().map(ToString::to_string).collect(),
                fix: Fix::of(problem.kind).map(Fix::name),
                error,
                message: problem.message,
            }
        });
        Self {
            remote: located.url.to_string(),
            layout: examination.layout,
            head: examination.head.map(|name| name.to_string()),
            refs: refs.collect(),
            fixed,
            problems: problems.collect(),
        }
    }

    /// Prints the result for people.
    fn print(&self) {
        println!("{} (layout `{}`)", self.remote, self.layout);
        println!("HEAD {}", self.head.as_deref().unwrap_or("is missing"));
        for found in &self.refs {
            let star = if found.protected { "*" } else { " " };
            let several = match found.bundles {
                1 => String::new(),
                count => format!("  {count} bundles"),
            };
            println!("{star} {} {}{several}", found.id, found.name);
        }
        for fix in &self.fixed {
            println!("fixed: {}", fix.result);
        }
        for problem in &self.problems {
            println!("problem: {}", problem.message);
            match (&problem.error, problem.fix) {
                (Some(error), _) => println!("  not fixed: {error}"),
                (None, Some(fix)) => println!("  `--fix={fix}` fixes it"),
                (None, None) => {}
            }
        }
        if self.problems.is_empty() {
            println!("no problems");
        }
    }
}
