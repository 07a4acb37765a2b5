//! Problems of a pipeline that starts run into. Pure: from a declaration and the starts that are
//! intended to findings.

use super::declaration::{PipelineDeclaration, SourceAction};
use crate::git::escaped_excerpt;
use crate::name::{BucketName, PipelineName};

/// Starts of a pipeline, as far as its declaration must fit them.
#[derive(Debug, Clone, Copy)]
pub struct IntendedStart<'a> {
    /// Pipeline to start.
    pub pipeline: &'a PipelineName,
    /// Name of the source action that is pinned.
    pub source_action: &'a str,
    /// Bucket of the artifacts.
    pub bucket: &'a BucketName,
    /// Key that the action reads.
    pub key: IntendedKey<'a>,
    /// Names of the variables that are passed.
    pub variables: &'a [&'a str],
}

/// Key that a source action reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IntendedKey<'a> {
    /// Each start names the key of its artifact.
    Override,
    /// The action's configuration names this key.
    Configured(&'a str),
    /// The action's configuration names one of several keys.
    Unknown,
}

/// Kind of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PipelineProblem {
    /// The pipeline does not exist.
    Missing,
    /// The pipeline has no source action of the name.
    NoSourceAction,
    /// The action reads another provider than S3.
    OtherProvider,
    /// The pipeline starts itself.
    Polls,
    /// The action does not allow the override of its key.
    NoKeyOverride,
    /// The action reads another bucket.
    OtherBucket,
    /// The action reads another key.
    OtherKey,
    /// The pipeline is of type V1, which has no variables.
    NoVariables,
    /// The pipeline does not declare a variable.
    UndeclaredVariables,
}

impl PipelineProblem {
    /// Returns the name, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Missing => "pipeline-missing",
            Self::NoSourceAction => "no-source-action",
            Self::OtherProvider => "other-provider",
            Self::Polls => "pipeline-polls",
            Self::NoKeyOverride => "no-key-override",
            Self::OtherBucket => "other-bucket",
            Self::OtherKey => "other-key",
            Self::NoVariables => "no-variables",
            Self::UndeclaredVariables => "undeclared-variables",
        }
    }
}

/// Problem of a pipeline, with its effect and the remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipelineFinding {
    /// Kind of the problem.
    pub problem: PipelineProblem,
    /// The problem, which names pipeline and action.
    pub message: String,
    /// Effect of the problem.
    pub effect: &'static str,
    /// Change that ends the problem.
    pub remedy: String,
}

impl PipelineFinding {
    /// Makes the finding for a pipeline that does not exist.
    pub fn missing(pipeline: &PipelineName) -> Self {
        Self {
            problem: PipelineProblem::Missing,
            message: format!("pipeline `{pipeline}` does not exist"),
            effect: "its branches are archived and not started, and fail unless \
                     `PIPELINE_MISSING` is `skip`",
            remedy: format!(
                "create the pipeline `{pipeline}` in the functions' account and region, or correct \
                 `PIPELINE_NAME`"
            ),
        }
    }

    /// Returns problem, effect and remedy as one line.
    pub fn report(&self) -> String {
        let Self {
            message,
            effect,
            remedy,
            ..
        } = self;
        format!("{message}: {effect}; hint: {remedy}")
    }
}

/// Configuration that lets starts name the key of an object.
const ALLOW_KEY_OVERRIDE: &str = "AllowOverrideForS3ObjectKey";
/// Configuration that lets CodePipeline check for changes itself; `true` if it is missing (CodePipeline
/// user guide, "Amazon S3 source action").
const POLL: &str = "PollForSourceChanges";

/// Compares a pipeline's declaration with its intended starts.
pub fn check_pipeline(
    declaration: &PipelineDeclaration,
    start: &IntendedStart<'_>,
) -> Vec<PipelineFinding> {
    let mut findings = Vec::new();
    let named = |action: &&SourceAction| action.name == start.source_action;
    match declaration.sources.iter().find(named) {
        None => findings.push(no_source_action(declaration, start)),
        Some(action) if action.provider != "S3" => findings.push(other_provider(action, start)),
        Some(action) => check_action(action, start, &mut findings),
    }
    findings.extend(check_variables(declaration, start));
    findings
}

fn no_source_action(
    declaration: &PipelineDeclaration,
    start: &IntendedStart<'_>,
) -> PipelineFinding {
    let IntendedStart {
        pipeline,
        source_action,
        ..
    } = start;
    let is_s3 = |action: &&SourceAction| action.provider == "S3";
    let names = declaration.sources.iter().filter(is_s3);
    let names: Vec<String> = names
        .map(|action| format!("`{}`", escaped_excerpt(action.name.as_bytes())))
        .collect();
    let remedy = match names.as_slice() {
        [] => format!("add a source action `{source_action}` of the provider S3"),
        names => format!("set `PIPELINE_SOURCE_ACTION` to {}", names.join(" or ")),
    };
    PipelineFinding {
        problem: PipelineProblem::NoSourceAction,
        message: format!("pipeline `{pipeline}` has no source action `{source_action}`"),
        effect: "CodePipeline refuses each start that pins the action",
        remedy,
    }
}

fn other_provider(action: &SourceAction, start: &IntendedStart<'_>) -> PipelineFinding {
    let IntendedStart {
        pipeline,
        source_action,
        bucket,
        ..
    } = start;
    let provider = escaped_excerpt(action.provider.as_bytes());
    PipelineFinding {
        problem: PipelineProblem::OtherProvider,
        message: format!(
            "source action `{source_action}` of pipeline `{pipeline}` reads {provider} and not S3"
        ),
        effect: "CodePipeline refuses each start that pins the action to an artifact",
        remedy: format!(
            "let a source action of the provider S3 read the bucket `{bucket}`, and name it in \
             `PIPELINE_SOURCE_ACTION`"
        ),
    }
}

fn check_action(
    action: &SourceAction,
    start: &IntendedStart<'_>,
    findings: &mut Vec<PipelineFinding>,
) {
    let IntendedStart {
        pipeline,
        source_action,
        bucket,
        ..
    } = start;
    let subject = format!("source action `{source_action}` of pipeline `{pipeline}`");
    let mut add = |problem, message, effect, remedy: String| {
        findings.push(PipelineFinding {
            problem,
            message,
            effect,
            remedy,
        });
    };
    if action.flag(POLL, true) {
        add(
            PipelineProblem::Polls,
            format!("{subject} polls: its `{POLL}` is not `false`"),
            "CodePipeline starts an execution of its own, without a pin, whenever the configured \
             key changes",
            format!("set `{POLL}` to `false` in the action's configuration"),
        );
    }
    if start.key == IntendedKey::Override && !action.flag(ALLOW_KEY_OVERRIDE, false) {
        add(
            PipelineProblem::NoKeyOverride,
            format!("{subject} has no `{ALLOW_KEY_OVERRIDE}`"),
            "CodePipeline refuses each start that names the key of its artifact",
            format!(
                "set `{ALLOW_KEY_OVERRIDE}` to `true` in the action's configuration, or use one \
                 fixed `ARTIFACT_KEY`"
            ),
        );
    }
    if let Some(read) = action.configured("S3Bucket")
        && read != bucket.as_str()
    {
        let read = escaped_excerpt(read.as_bytes());
        add(
            PipelineProblem::OtherBucket,
            format!("{subject} reads bucket `{read}`, and artifacts are in bucket `{bucket}`"),
            "executions do not find the artifact, or read another object of the same key",
            format!("set `S3Bucket` to `{bucket}` in the action's configuration"),
        );
    }
    if let IntendedKey::Configured(key) = start.key
        && let Some(read) = action.configured("S3ObjectKey")
        && read != key
    {
        let read = escaped_excerpt(read.as_bytes());
        add(
            PipelineProblem::OtherKey,
            format!("{subject} reads key `{read}`, and the artifact's key is `{key}`"),
            "executions read another object, or fail because it has no such version",
            format!(
                "set `S3ObjectKey` to `{key}` in the action's configuration, or set \
                 `PIPELINE_PIN` to `key-and-version`"
            ),
        );
    }
}

fn check_variables(
    declaration: &PipelineDeclaration,
    start: &IntendedStart<'_>,
) -> Option<PipelineFinding> {
    let pipeline = start.pipeline;
    let effect = "CodePipeline refuses each start that passes variables";
    let undeclared: Vec<String> = start
        .variables
        .iter()
        .filter(|name| !declaration.variables.iter().any(|known| known == *name))
        .map(|name| format!("`{name}`"))
        .collect();
    if undeclared.is_empty() {
        return None;
    }
    let (problem, message, remedy) = if declaration.is_v2 {
        (
            PipelineProblem::UndeclaredVariables,
            format!(
                "pipeline `{pipeline}` does not declare {}",
                undeclared.join(", ")
            ),
            "declare them in the pipeline, or set `PIPELINE_VARIABLES` to `false`",
        )
    } else {
        (
            PipelineProblem::NoVariables,
            format!("pipeline `{pipeline}` is of type V1, which has no variables"),
            "change the pipeline to type V2 and declare the variables, or set \
             `PIPELINE_VARIABLES` to `false`",
        )
    };
    Some(PipelineFinding {
        problem,
        message,
        effect,
        remedy: remedy.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn action(configuration: &[(&str, &str)]) -> SourceAction {
        let configuration = configuration.iter();
        SourceAction {
            name: "Source".into(),
            provider: "S3".into(),
            role_arn: None,
            configuration: configuration
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    fn declaration(action: SourceAction) -> PipelineDeclaration {
        PipelineDeclaration {
            role_arn: "arn:aws:iam::111122223333:role/pipeline".into(),
            is_v2: true,
            variables: vec!["COMMIT_ID".into()],
            sources: vec![action],
        }
    }

    fn problems(
        declaration: &PipelineDeclaration,
        key: IntendedKey<'_>,
        variables: &[&str],
    ) -> Vec<PipelineProblem> {
        let findings = check_pipeline(
            declaration,
            &IntendedStart {
                pipeline: &PipelineName::new("deploy").expect("it is valid"),
                source_action: "Source",
                bucket: &BucketName::new("artifacts").expect("it is valid"),
                key,
                variables,
            },
        );
        for finding in &findings {
            let report = finding.report();
            assert!(report.contains("`deploy`"), "{report}");
            assert!(report.contains("; hint: "), "{report}");
        }
        findings
            .into_iter()
            .map(|finding| finding.problem)
            .collect()
    }

    const GOOD: [(&str, &str); 4] = [
        ("S3Bucket", "artifacts"),
        ("S3ObjectKey", "a.zip"),
        ("PollForSourceChanges", "false"),
        ("AllowOverrideForS3ObjectKey", "true"),
    ];

    fn changed(name: &str, value: Option<&str>) -> PipelineDeclaration {
        let mut action = action(&GOOD);
        action.configuration.remove(name);
        if let Some(value) = value {
            action.configuration.insert(name.into(), value.into());
        }
        declaration(action)
    }

    #[test]
    fn a_pipeline_that_fits_its_starts_has_no_findings() {
        let good = declaration(action(&GOOD));
        for key in [
            IntendedKey::Override,
            IntendedKey::Unknown,
            IntendedKey::Configured("a.zip"),
        ] {
            assert_eq!(problems(&good, key, &["COMMIT_ID"]), [], "{key:?}");
        }
        let no_override = changed("AllowOverrideForS3ObjectKey", None);
        let key = IntendedKey::Configured("a.zip");
        assert_eq!(problems(&no_override, key, &[]), [], "the key is not named");
    }

    #[test]
    fn each_setting_of_the_action_that_does_not_fit_is_found() {
        use PipelineProblem::{NoKeyOverride, OtherBucket, OtherKey, Polls};
        let fixed = IntendedKey::Configured("a.zip");
        let named = IntendedKey::Override;
        for (name, value, key, problem) in [
            ("PollForSourceChanges", None, named, Polls),
            ("PollForSourceChanges", Some("TRUE"), fixed, Polls),
            ("AllowOverrideForS3ObjectKey", None, named, NoKeyOverride),
            (
                "AllowOverrideForS3ObjectKey",
                Some("false"),
                named,
                NoKeyOverride,
            ),
            ("S3Bucket", Some("other"), named, OtherBucket),
            ("S3ObjectKey", Some("b.zip"), fixed, OtherKey),
        ] {
            let found = problems(&changed(name, value), key, &[]);
            assert_eq!(found, [problem], "{name}={value:?}");
        }
        let other_key = changed("S3ObjectKey", Some("b.zip"));
        assert_eq!(problems(&other_key, named, &[]), []);
    }

    #[test]
    fn a_missing_action_and_another_provider_are_found() {
        let renamed = SourceAction {
            name: "Fetch".into(),
            ..action(&GOOD)
        };
        let found = problems(&declaration(renamed), IntendedKey::Override, &[]);
        assert_eq!(found, [PipelineProblem::NoSourceAction]);
        let nothing = PipelineDeclaration::default();
        let found = problems(&nothing, IntendedKey::Override, &[]);
        assert_eq!(found, [PipelineProblem::NoSourceAction]);
        let other = SourceAction {
            provider: "CodeCommit".into(),
            ..action(&[])
        };
        let found = problems(&declaration(other), IntendedKey::Override, &[]);
        assert_eq!(found, [PipelineProblem::OtherProvider]);
    }

    #[test]
    fn variables_need_their_declaration_in_a_pipeline_of_type_v2() {
        let v2 = declaration(action(&GOOD));
        let v1 = PipelineDeclaration {
            is_v2: false,
            variables: Vec::new(),
            ..v2.clone()
        };
        let named = IntendedKey::Override;
        let found = problems(&v2, named, &["COMMIT_ID", "BRANCH_NAME"]);
        assert_eq!(found, [PipelineProblem::UndeclaredVariables]);
        let found = problems(&v1, named, &["COMMIT_ID"]);
        assert_eq!(found, [PipelineProblem::NoVariables]);
        assert_eq!(problems(&v1, named, &[]), []);
    }
}
