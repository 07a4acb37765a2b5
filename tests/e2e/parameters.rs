//! Invalid parameters are refused before the first event: by a parameter's own pattern or
//! bounds, by the template's rules, or by the function at init, which names the variable.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use branchline_core::settings::Settings;
use branchline_tests::template::Template;
use serde_json::{Value, json};

/// A function's name in the template, and how it reads its settings.
type Function = (&'static str, fn(&Settings) -> Result<(), String>);

const UPDATE: Function = ("UpdateFunction", |settings| {
    message_of(branchline_update::Config::read(settings))
});
const LIFECYCLE: Function = ("LifecycleFunction", |settings| {
    message_of(branchline_lifecycle::Config::read(settings))
});
const MIGRATION: Function = ("MigrationFunction", |settings| {
    message_of(branchline_migration::Config::read(settings))
});

fn message_of<T>(read: branchline_core::Result<T>) -> Result<(), String> {
    read.map(drop).map_err(|error| error.report())
}

/// Initializes a function with the environment that a stack with these parameters gives it.
fn init(function: Function, parameters: &[(&str, &str)]) -> Result<Result<(), String>> {
    let template = Template::load()?;
    let deployment = template.resolve(parameters)?;
    let refusals = deployment.refusals()?;
    ensure!(refusals.is_empty(), "a rule is earlier: {refusals:?}");
    let memory = deployment.properties(function.0)?["MemorySize"].clone();
    let memory = memory
        .as_str()
        .map_or_else(|| memory.to_string(), str::to_owned);
    let by_lambda = [
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE".to_owned(), memory),
        ("AWS_REGION".to_owned(), "eu-central-1".to_owned()),
    ];
    let settings = deployment.environment(function.0)?.into_iter();
    Ok(function.1(&settings.chain(by_lambda).collect()))
}

const SAMPLE: (&str, &str) = ("SamplePipeline", "true");
const KEY: &str = "arn:aws:kms:eu-central-1:123456789012:key/k";

/// Parameters, and the one that a refusal must name.
type Refused = (&'static [(&'static str, &'static str)], &'static str);

#[test]
#[expect(clippy::too_many_lines, reason = "a table of refusals, one line each")]
fn rules_refuse_contradicting_parameters_by_name() -> Result<()> {
    let template = Template::load()?;
    let refused: [Refused; 25] = [
        (&[SAMPLE, ("PipelineName", "deploy")], "PipelineName"),
        (
            &[SAMPLE, ("PipelineNamePattern", "d*")],
            "PipelineNamePattern",
        ),
        (
            &[SAMPLE, ("PipelineSourceAction", "S3")],
            "PipelineSourceAction",
        ),
        (
            &[
                ("PipelineName", "deploy"),
                ("Triggers", "[]"),
                ("PipelineNamePattern", "d*"),
            ],
            "PipelineName",
        ),
        (&[("Triggers", "[]")], "PipelineNamePattern"),
        (&[SAMPLE, ("PipelinePin", "none")], "PipelinePin"),
        (&[SAMPLE, ("PipelinePin", "version")], "SamplePipeline"),
        (&[("PipelinePin", "version")], "PipelineName"),
        (&[("PipelineVariables", "true")], "PipelineVariables"),
        (&[("PipelineSourceAction", "S3")], "PipelineSourceAction"),
        (
            &[
                ("PipelineName", "deploy"),
                ("PipelinePin", "none"),
                ("PipelineSourceAction", "S3"),
            ],
            "PipelinePin",
        ),
        (
            &[("DeleteArtifacts", "true"), ("UpdateSchedule", "")],
            "UpdateSchedule",
        ),
        (&[("BackupSchedule", "rate(1 day)")], "MirrorBucket"),
        (&[("Sse", "AES256"), ("KmsKeyId", KEY)], "KmsKeyId"),
        (
            &[("Sse", "AES256"), ("MirrorKmsKeyId", KEY)],
            "MirrorKmsKeyId",
        ),
        (
            &[
                ("AlarmEmail", "ops@example.com"),
                ("AlarmTopicArn", "arn:aws:sns:eu-central-1:123456789012:ops"),
            ],
            "AlarmTopicArn",
        ),
        (
            &[("PushEvents", "eventbridge"), ("TriggerCustomData", "{}")],
            "TriggerCustomData",
        ),
        (
            &[("MigrationSecurityGroupIds", "sg-01234567")],
            "MigrationSubnetIds",
        ),
        (
            &[("MigrationSubnetIds", "subnet-01234567")],
            "MigrationSecurityGroupIds",
        ),
        (
            &[("CreateAlarms", "false"), ("AlarmEmail", "ops@example.com")],
            "AlarmEmail",
        ),
        (
            &[
                ("CreateAlarms", "false"),
                ("AlarmTopicArn", "arn:aws:sns:eu-central-1:123456789012:ops"),
            ],
            "AlarmTopicArn",
        ),
        (
            &[
                ("PipelinePin", "key-and-version"),
                ("PipelineVariables", "false"),
            ],
            "PipelinePin",
        ),
        (
            &[("PipelineName", "deploy"), ("PullRequestComment", "true")],
            "PipelineVariables",
        ),
        (
            &[
                ("PipelineName", "deploy"),
                ("PipelineSource", "codecommit"),
                ("PipelinePin", "version"),
            ],
            "PipelinePin",
        ),
        (
            &[SAMPLE, ("PipelineSource", "codecommit")],
            "SamplePipeline",
        ),
    ];
    let mut rules = std::collections::BTreeSet::new();
    for (parameters, named) in refused {
        let refusals = template.resolve(parameters)?.refusals()?;
        let [words] = refusals.as_slice() else {
            panic!("one thing is wrong with {parameters:?}: {refusals:?}");
        };
        assert!(words.contains(named), "{parameters:?}: {words}");
        rules.extend(refusals);
    }
    let mut all = 0;
    for (_, rule) in template.section("Rules")? {
        all += rule["Assertions"].as_array().map_or(0, Vec::len);
    }
    assert_eq!(rules.len(), all, "each assertion has refused something");
    Ok(())
}

#[test]
fn rules_accept_valid_parameters() -> Result<()> {
    let template = Template::load()?;
    let accepted: [&[(&str, &str)]; 22] = [
        &[],
        &[SAMPLE],
        &[SAMPLE, ("PipelineVariables", "true")],
        &[SAMPLE, ("PullRequestApproval", "true")],
        &[
            ("PipelineName", "{repository}"),
            ("PipelineVariables", "true"),
            ("PullRequestComment", "true"),
        ],
        &[
            ("PipelineName", "{repository}"),
            ("PipelineSource", "codecommit"),
        ],
        &[SAMPLE, ("ArtifactBucket", "ours"), ("KmsKeyId", KEY)],
        &[("Sse", "aws:kms"), ("KmsKeyId", KEY)],
        &[
            ("PipelineName", "deploy"),
            ("PipelinePin", "version"),
            ("PipelineVariables", "true"),
            ("PipelineSourceAction", "S3"),
        ],
        &[("PipelineName", "deploy"), ("PipelinePin", "none")],
        // Custom data names the pipelines.
        &[
            ("PipelineNamePattern", "team-*"),
            ("PipelinePin", "version"),
        ],
        &[("Triggers", "[]"), ("PipelineNamePattern", "team-*")],
        &[("Triggers", "[]"), SAMPLE],
        &[("DeleteArtifacts", "true")],
        &[("UpdateSchedule", ""), ("LifecycleSchedule", "")],
        &[
            ("BackupSchedule", "rate(1 day)"),
            ("MirrorBucket", "mirrors"),
        ],
        &[("AlarmEmail", "ops@example.com")],
        &[("PushEvents", "both")],
        &[("TriggerCustomData", "{}")],
        &[
            ("MigrationSubnetIds", "subnet-01234567"),
            ("MigrationSecurityGroupIds", "sg-01234567"),
        ],
        &[("CreateAlarms", "false"), ("CreateDashboard", "false")],
        &[("AlarmTopicArn", "arn:aws:sns:eu-central-1:123456789012:ops")],
    ];
    for parameters in accepted {
        let refusals = template.resolve(parameters)?.refusals()?;
        assert_eq!(refusals, Vec::<String>::new(), "{parameters:?}");
    }
    Ok(())
}

/// Rules neither search a text nor compare numbers.
#[test]
fn a_setting_that_no_rule_covers_is_refused_at_init_by_name() -> Result<()> {
    const ELSEWHERE: &str = "arn:aws:kms:us-east-1:123456789012:key/k";
    let refused: [(Function, Refused); 12] = [
        (
            UPDATE,
            (
                &[
                    ("DeleteArtifacts", "true"),
                    ("ArtifactKey", "{repository}.zip"),
                ],
                "DELETE_ARTIFACTS",
            ),
        ),
        (
            UPDATE,
            (
                &[
                    ("PipelineName", "deploy"),
                    ("PipelinePin", "version"),
                    ("ArtifactKey", "{branch}/{commit}.zip"),
                ],
                "PIPELINE_PIN",
            ),
        ),
        (
            UPDATE,
            (
                &[("Triggers", "[]"), ("PipelineNamePattern", "d*")],
                "TRIGGERS",
            ),
        ),
        (UPDATE, (&[("KmsKeyId", ELSEWHERE)], "KMS_KEY_ID")),
        (UPDATE, (&[("BranchesInclude", "a[b")], "BRANCHES_INCLUDE")),
        (UPDATE, (&[("ArchivePrefix", "../")], "ARCHIVE_PREFIX")),
        (UPDATE, (&[("Repositories", "a[b")], "REPOSITORIES")),
        (MIGRATION, (&[("MirrorKmsKeyId", ELSEWHERE)], "KMS_KEY_ID")),
        (
            MIGRATION,
            (
                &[
                    ("MigrationMemorySize", "512"),
                    ("MigrationMemoryMib", "449"),
                ],
                "MIGRATION_MEMORY_MIB",
            ),
        ),
        (
            LIFECYCLE,
            (&[("BranchesExclude", "a\\")], "BRANCHES_EXCLUDE"),
        ),
        (LIFECYCLE, (&[("Repositories", "a[b")], "REPOSITORIES")),
        (
            MIGRATION,
            (&[("AssumeRoleArns", "reader")], "ASSUME_ROLE_ARNS"),
        ),
    ];
    for (function, (parameters, variable)) in refused {
        let error = init(function, parameters)?.expect_err(variable);
        let named = format!("`{variable}` is ");
        assert!(error.starts_with(&named), "{parameters:?}: {error}");
    }
    for (function, parameters) in [
        (UPDATE, &[("KmsKeyId", KEY)][..]),
        (
            UPDATE,
            &[("PipelineName", "deploy"), ("ArtifactKey", "{commit}.zip")],
        ),
        (MIGRATION, &[("MirrorKmsKeyId", KEY), ("Sse", "aws:kms")]),
        (UPDATE, &[("Sse", "AES256")]),
        (
            MIGRATION,
            &[
                ("MigrationMemorySize", "512"),
                ("MigrationMemoryMib", "448"),
            ],
        ),
    ] {
        assert_eq!(init(function, parameters)?, Ok(()), "{parameters:?}");
    }
    Ok(())
}

#[test]
fn the_templates_bounds_are_the_functions_own() -> Result<()> {
    let template = Template::load()?;
    for (function, parameter) in [
        (UPDATE, "CodecommitConcurrency"),
        (MIGRATION, "DeadlineMarginSeconds"),
    ] {
        let bound = |name| -> Result<i64> {
            let bound = template.at(&["Parameters", parameter, name]).as_i64();
            bound.context(parameter)
        };
        let (least, most) = (bound("MinValue")?, bound("MaxValue")?);
        for (value, works) in [
            (least - 1, false),
            (least, true),
            (most, true),
            (most + 1, false),
        ] {
            let started = init(function, &[(parameter, &value.to_string())])?;
            assert_eq!(started.is_ok(), works, "{parameter}={value}: {started:?}");
        }
    }
    // Every memory that the template allows is one that the functions start with.
    for (function, parameter) in [
        (LIFECYCLE, "LifecycleMemorySize"),
        (UPDATE, "UpdateMemorySize"),
        (MIGRATION, "MigrationMemorySize"),
    ] {
        for bound in ["MinValue", "MaxValue"] {
            let value = template.at(&["Parameters", parameter, bound]).to_string();
            assert_eq!(
                init(function, &[(parameter, &value)])?,
                Ok(()),
                "{parameter}={value}"
            );
        }
    }
    let least = template.at(&["Parameters", "UpdateMemorySize", "MinValue"]);
    let less = least.as_i64().context("a number")? - 1;
    let refused = init(UPDATE, &[("UpdateMemorySize", &less.to_string())])?;
    let error = refused.expect_err("the function has too little memory");
    assert!(error.contains("at least 192 MB"), "{error}");
    Ok(())
}

/// Returns for each value whether the parameter's pattern matches. Python's expressions mean
/// the same as Java's for the patterns of the template.
pub(super) fn matches(pattern: &str, values: &[&str]) -> Result<Vec<bool>> {
    let code = "import json, re, sys\n\
                pattern, values = json.load(sys.stdin)\n\
                print(json.dumps([bool(re.fullmatch(pattern, value)) for value in values]))";
    let mut python = Command::new("python3")
        .args(["-c", code])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let input = json!([pattern, values]).to_string();
    let mut stdin = python.stdin.take().context("it is piped")?;
    stdin.write_all(input.as_bytes())?;
    drop(stdin);
    let output = python.wait_with_output()?;
    ensure!(output.status.success(), "python3 reads `{pattern}`");
    Ok(serde_json::from_slice(&output.stdout)?)
}

#[test]
fn patterns_match_valid_values_only() -> Result<()> {
    let template = Template::load()?;
    let cases: [(&str, &[&str], &[&str]); 20] = [
        (
            "RepositoryNamePattern",
            &["*", "team-*", "api", "team-*,api,*-infra", "a,b,c,d,e"],
            &[
                "",
                "a/b",
                "**",
                "a b",
                "a, b",
                "a,,b",
                ",a",
                "a,**",
                "a,b,c,d,e,f",
            ],
        ),
        (
            "ArtifactBucket",
            &["", "ours"],
            &["a", "s3://ours", "ours/x"],
        ),
        (
            "ArtifactKey",
            &["{repository}/{branch}.zip", "x.zip", "{ref}/{tag}/{commit}"],
            &["", "/x", "{slug}.zip", "{branch"],
        ),
        ("ArchivePrefix", &["", "src/"], &["/etc/", "a\\b"]),
        (
            "KmsKeyId",
            &["", KEY, "arn:aws-cn:kms:cn-north-1:123456789012:key/mrk-1"],
            &[
                "k",
                "alias/k",
                "arn:aws:kms:eu-central-1:123456789012:alias/k",
            ],
        ),
        ("MirrorKmsKeyId", &["", KEY], &["k", "alias/k"]),
        (
            "PipelineName",
            &["", "deploy", "{repository}-{branch}", "{tag}"],
            &["a/b", "{ref}"],
        ),
        ("PipelineSourceAction", &["Source"], &["", "a b"]),
        (
            "LifecycleSchedule",
            &["", "rate(1 hour)", "rate(15 minutes)", "cron(0 2 * * ? *)"],
            &[
                "hourly",
                "rate(0 hours)",
                "rate(1 week)",
                "cron(0 2 * * *)",
                "rate(1 hour) x",
            ],
        ),
        ("TriggerPrefix", &["branchline"], &["", "a b"]),
        (
            "MigrationRegions",
            &["", "*", "eu-west-1", "eu-*"],
            &["Europe", "eu west", "e"],
        ),
        (
            "MigrationMemoryMib",
            &["", "32", "100", "9999"],
            &["0", "31", "032", "1.5", "10000"],
        ),
        (
            "BackupPrefix",
            &["backup", "a/b.c/d_e", "x"],
            &["", "/a", "a/", "a//b", "../a", "a/..", "a/./b", "."],
        ),
        (
            "CredentialsSecretArn",
            &[
                "",
                "arn:aws:secretsmanager:eu-central-1:123456789012:secret:git/*",
            ],
            &["git/x", "arn:aws:ssm:eu-central-1:123456789012:parameter/x"],
        ),
        (
            "AssumeRoleArns",
            &[
                "",
                "arn:aws:iam::444455556666:role/reader",
                "arn:aws:iam::444455556666:role/a,arn:aws-cn:iam::777788889999:role/b/*",
            ],
            &[
                "reader",
                "arn:aws:iam::*:role/reader",
                "arn:aws:iam::444455556666:user/u",
                "arn:aws:iam::444455556666:role/a,",
            ],
        ),
        (
            "MigrationSubnetIds",
            &[
                "",
                "subnet-01234567",
                "subnet-01234567,subnet-0123456789abcdef0",
            ],
            &[
                "subnet-1",
                "sg-01234567",
                "subnet-01234567,",
                "subnet-01234567, subnet-89abcdef",
            ],
        ),
        (
            "MigrationSecurityGroupIds",
            &["", "sg-01234567", "sg-01234567,sg-0123456789abcdef0"],
            &["sg-1", "subnet-01234567"],
        ),
        (
            "RolePath",
            &["/", "/team/", "/team/branchline/"],
            &["", "team", "/team", "//", "/a b/"],
        ),
        (
            "RoleNamePrefix",
            &["", "team-"],
            &["a/b", "a b", "a-prefix-that-is-too-long"],
        ),
        (
            "AlarmTopicArn",
            &["", "arn:aws:sns:eu-central-1:123456789012:ops"],
            &["ops", "arn:aws:sns:eu-central-1:123456789012:ops.fifo"],
        ),
    ];
    for (parameter, good, bad) in cases {
        let pattern = template.at(&["Parameters", parameter, "AllowedPattern"]);
        let pattern = pattern.as_str().context(parameter)?;
        let values = [good, bad].concat();
        for (value, passes) in values.iter().zip(matches(pattern, &values)?) {
            assert_eq!(passes, good.contains(value), "{parameter}={value}");
        }
    }
    // A default is a value like any other.
    for (name, parameter) in template.section("Parameters")? {
        if let (Some(pattern), Some(default)) = (
            parameter["AllowedPattern"].as_str(),
            parameter["Default"].as_str(),
        ) {
            assert_eq!(matches(pattern, &[default])?, [true], "{name}={default}");
        }
        if let Some(values) = parameter["AllowedValues"].as_array() {
            let default: &Value = &parameter["Default"];
            assert!(values.contains(default), "{name}={default}");
        }
    }
    Ok(())
}
