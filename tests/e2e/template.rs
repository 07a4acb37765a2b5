//! The template does what the documentation says: every setting reaches its function, the
//! defaults are the functions' own, and policies name what they allow.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use branchline_core::settings::Settings;
use branchline_test_support::git;
use branchline_tests::environment::{BUCKET, Setup, TestEnvironment};
use branchline_tests::template::{ResolvedTemplate, Template};
use serde_json::{Value, json};

use super::reference::{REFERENCE, table};

const LIFECYCLE: &str = "LifecycleFunction";
const UPDATE: &str = "UpdateFunction";
const MIGRATION: &str = "MigrationFunction";
const FUNCTIONS: [(&str, &str); 3] = [
    ("lifecycle", LIFECYCLE),
    ("update", UPDATE),
    ("migration", MIGRATION),
];

/// Of the settings, those that are no parameter: the template knows their values.
const WIRED: [&str; 1] = ["UPDATE_FUNCTION_ARN"];

/// `BRANCHES_INCLUDE` is the parameter `BranchesInclude`.
fn parameter_of(setting: &str) -> String {
    let words = setting.split('_').map(|word| {
        let (first, rest) = word.split_at(1);
        first.to_owned() + &rest.to_lowercase()
    });
    words.collect()
}

/// The settings in a function's table of the reference.
fn documented_settings(function: &str) -> BTreeSet<String> {
    let rows = table(REFERENCE, &format!("### Settings of {function}"));
    let names = rows.iter().flat_map(|row| row[0].split(", "));
    names
        .map(|name| name.trim_matches('`').to_owned())
        .collect()
}

#[test]
fn every_setting_reaches_its_function_from_the_parameter_of_its_name() -> Result<()> {
    let template = Template::load()?;
    for (name, function) in FUNCTIONS {
        let deployed = template.resolve(&[])?.environment(function)?;
        let there: BTreeSet<String> = deployed.keys().cloned().collect();
        let documented = documented_settings(name);
        assert_eq!(there, documented, "{name} gets the reference's settings");
        for setting in there.iter().filter(|name| !WIRED.contains(&name.as_str())) {
            let parameter = match (name, setting.as_str()) {
                // Mirrors for the public do not share the key of artifacts.
                ("migration", "KMS_KEY_ID") => "MirrorKmsKeyId".to_owned(),
                _ => parameter_of(setting),
            };
            let marked = [(&*parameter, "marked")];
            let marked = template.resolve(&marked).context(setting.clone())?;
            let environment = marked.environment(function)?;
            assert_eq!(environment[setting], "marked", "{setting} of {name}");
            let others =
                |(name, value): &(&String, &String)| *name != setting && *value == "marked";
            assert_eq!(
                environment.iter().find(others),
                None,
                "only {setting} gets the value"
            );
        }
    }
    let environment = template.resolve(&[])?.environment(LIFECYCLE)?;
    assert_eq!(
        environment["UPDATE_FUNCTION_ARN"],
        "arn:aws:lambda:eu-central-1:123456789012:function:UpdateFunction"
    );
    Ok(())
}

#[test]
fn the_defaults_are_the_functions_own() -> Result<()> {
    let template = Template::load()?;
    let deployment = template.resolve(&[])?;
    let read = |function: &str, needed: &[&str]| -> Result<[Settings; 2]> {
        let all = deployment.environment(function)?;
        let needed = needed.iter().map(|name| (*name, all[*name].clone()));
        let needed: Settings = needed.collect();
        Ok([all.into_iter().collect(), needed])
    };
    let update = read(UPDATE, &["ARTIFACT_BUCKET"])?.map(|settings| {
        let config = branchline_update::Config::read(&settings).expect("it is valid");
        format!("{config:#?}")
    });
    assert_eq!(update[0], update[1], "update");
    let lifecycle = read(LIFECYCLE, &["UPDATE_FUNCTION_ARN"])?.map(|settings| {
        let config = branchline_lifecycle::Config::read(&settings).expect("it is valid");
        format!("{config:#?}")
    });
    assert_eq!(lifecycle[0], lifecycle[1], "lifecycle");
    let migration = read(MIGRATION, &[])?.map(|settings| {
        let config = branchline_migration::Config::read(&settings).expect("it is valid");
        format!("{config:#?}")
    });
    assert_eq!(migration[0], migration[1], "migration");
    Ok(())
}

#[test]
fn every_parameter_is_explained_grouped_and_labelled_once() -> Result<()> {
    let template = Template::load()?;
    let interface = template.at(&["Metadata", "AWS::CloudFormation::Interface"]);
    let groups = interface["ParameterGroups"].as_array().context("groups")?;
    let grouped = groups
        .iter()
        .filter_map(|group| group["Parameters"].as_array());
    let mut grouped: Vec<&str> = grouped.flatten().filter_map(Value::as_str).collect();
    grouped.sort_unstable();
    let names: Vec<&str> = template
        .section("Parameters")?
        .map(|(name, _)| name)
        .collect();
    assert_eq!(grouped, names, "each parameter is in one group");
    let labels = interface["ParameterLabels"].as_object().context("labels")?;
    let labels: Vec<&str> = labels.keys().map(String::as_str).collect();
    assert_eq!(labels, names, "each parameter has a label");
    for (name, parameter) in template.section("Parameters")? {
        let description = parameter["Description"].as_str();
        assert!(
            description.is_some_and(|text| text.ends_with('.')),
            "{name}"
        );
        let bounded = ["AllowedPattern", "AllowedValues", "MaxLength", "MinValue"];
        assert!(
            bounded.iter().any(|bound| !parameter[*bound].is_null()),
            "{name} takes anything"
        );
        let pattern = &parameter["AllowedPattern"];
        assert_eq!(
            pattern.is_null(),
            parameter["ConstraintDescription"].is_null(),
            "{name} tells its pattern in words"
        );
    }
    Ok(())
}

/// The actions and resources of a function's statement of that name.
fn statement(
    deployment: &ResolvedTemplate<'_>,
    function: &str,
    sid: &str,
) -> Result<Option<(Vec<String>, Vec<String>)>> {
    let statements = deployment.statements(function)?;
    let found = statements
        .into_iter()
        .find(|statement| statement.sid == sid);
    Ok(found.map(|statement| (statement.actions, statement.resources)))
}

const ROLES: &str =
    "arn:aws:iam::444455556666:role/reader,arn:aws:iam::777788889999:role/mirrors/*";
const SUBNET: &str = "subnet-0123456789abcdef0";
const SECURITY_GROUP: &str = "sg-0123456789abcdef0";

#[test]
fn policies_name_what_they_allow() -> Result<()> {
    let template = Template::load()?;
    let everything = template.resolve(&[
        ("PipelineName", "deploy"),
        ("DeleteArtifacts", "true"),
        ("MigrationAccess", "create"),
        ("MirrorBucket", "mirrors"),
        ("KmsKeyId", "arn:aws:kms:eu-central-1:123456789012:key/k"),
        (
            "MirrorKmsKeyId",
            "arn:aws:kms:eu-central-1:123456789012:key/m",
        ),
        ("RepositoryNamePattern", "team-*"),
        ("AssumeRoleArns", ROLES),
        ("MigrationSubnetIds", SUBNET),
        ("MigrationSecurityGroupIds", SECURITY_GROUP),
    ])?;
    for (name, function) in FUNCTIONS {
        for statement in everything.statements(function)? {
            let actions = &statement.actions;
            assert!(
                !statement.sid.is_empty(),
                "{name}: each statement says what it is for"
            );
            assert!(
                actions.iter().all(|action| !action.contains('*')),
                "{name}: {actions:?}"
            );
            let knows_no_resource = |action: &String| {
                action == "codecommit:ListRepositories"
                    || action.starts_with("xray:Put")
                    || action.starts_with("ec2:")
            };
            assert_eq!(
                statement.resources == ["*"],
                actions.iter().all(knows_no_resource),
                "{name}: {actions:?} on {:?}",
                statement.resources
            );
            for resource in statement
                .resources
                .iter()
                .filter(|text| text.contains(":codecommit:"))
            {
                assert_eq!(
                    resource,
                    "arn:aws:codecommit:eu-central-1:123456789012:team-*"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn update_may_start_the_pipelines_that_are_named_and_no_other() -> Result<()> {
    let template = Template::load()?;
    for (parameters, pipelines) in [
        (&[("PipelineName", "deploy")][..], Some("deploy")),
        (&[("PipelineName", "deploy-{branch}")], Some("deploy-*")),
        (&[("PipelineName", "{repository}-{branch}")], Some("*")),
        (
            &[
                ("PipelineName", "{branch}"),
                ("PipelineNamePattern", "team-*"),
            ],
            Some("team-*"),
        ),
        (&[("PipelineNamePattern", "team-*")], Some("team-*")),
        (&[("SamplePipeline", "true")], Some("branchline-sample")),
        (&[], None),
    ] {
        let deployment = template.resolve(parameters)?;
        let found = statement(&deployment, UPDATE, "StartPipelines")?;
        let wanted = pipelines.map(|name| {
            let arn = format!("arn:aws:codepipeline:eu-central-1:123456789012:{name}");
            (
                [
                    "codepipeline:GetPipeline",
                    "codepipeline:StartPipelineExecution",
                ]
                .map(str::to_owned)
                .to_vec(),
                vec![arn],
            )
        });
        assert_eq!(found, wanted, "{parameters:?}");
        let tags = statement(&deployment, UPDATE, "TagArtifacts")?;
        assert_eq!(
            tags.is_some(),
            pipelines.is_some(),
            "tags are for executions"
        );
    }
    // A pattern for those that custom data names does not take the one that is set away.
    let both = template.resolve(&[
        ("PipelineName", "deploy"),
        ("PipelineNamePattern", "team-*"),
    ])?;
    let (_, resources) = statement(&both, UPDATE, "StartPipelines")?.context("it starts some")?;
    let wanted = ["team-*", "deploy"]
        .map(|name| format!("arn:aws:codepipeline:eu-central-1:123456789012:{name}"));
    assert_eq!(resources, wanted);
    Ok(())
}

#[test]
fn migration_reaches_the_regions_that_are_named() -> Result<()> {
    let template = Template::load()?;
    for (regions, wanted) in [
        ("", "eu-central-1"),
        ("*", "*"),
        ("eu-west-1", "eu-west-1"),
        ("eu-*", "eu-*"),
    ] {
        let parameters = [("MigrationRegions", regions), ("MigrationAccess", "create")];
        let deployment = template.resolve(&parameters)?;
        let own = format!("arn:aws:codecommit:{wanted}:123456789012:*");
        for sid in [
            "ReadRepositories",
            "PushToRepositories",
            "CreateRepositories",
        ] {
            let (_, resources) = statement(&deployment, MIGRATION, sid)?.context(sid)?;
            assert_eq!(resources, [own.as_str()], "{sid}");
        }
    }
    Ok(())
}

/// Triggers that name pull requests, and triggers that name tags.
const PULLS: &str = r#"[{"pipeline": "a", "gitConfiguration": {"sourceActionName": "Source",
    "pullRequest": [{}]}}]"#;
const TAGS: &str = r#"[{"pipeline": "a", "gitConfiguration": {"sourceActionName": "Source",
    "push": [{"tags": {"includes": ["v*"]}}]}}]"#;

#[test]
fn tags_and_pull_requests_reach_update_only_where_triggers_name_them() -> Result<()> {
    let template = Template::load()?;
    let states = |triggers: &str| -> Result<(Value, Value, Vec<bool>)> {
        let deployment = template.resolve(&[("Triggers", triggers)])?;
        let events = &deployment.properties("UpdateFunction")?["Events"];
        let rule = &events["PullRequests"]["Properties"]["State"];
        let types = &events["Pushes"]["Properties"]["Pattern"]["detail"]["referenceType"];
        let granted = ["ReadPullRequests", "DeletePullRequests", "ReadTags"];
        let granted = granted
            .iter()
            .map(|sid| Ok(statement(&deployment, UPDATE, sid)?.is_some()))
            .collect::<Result<_>>()?;
        Ok((rule.clone(), types.clone(), granted))
    };
    let branch = json!(["branch"]);
    let both = json!(["branch", "tag"]);
    for (triggers, rule, types, granted) in [
        ("", "DISABLED", &branch, [false; 3]),
        ("[]", "DISABLED", &branch, [false; 3]),
        (PULLS, "ENABLED", &branch, [true, true, false]),
        (TAGS, "DISABLED", &both, [false, false, true]),
    ] {
        let (found_rule, found_types, found_granted) = states(triggers)?;
        assert_eq!(found_rule, rule, "{triggers}");
        assert_eq!(found_types, *types, "{triggers}");
        assert_eq!(found_granted, granted, "{triggers}");
    }
    Ok(())
}

#[test]
fn optional_features_are_granted_only_when_enabled() -> Result<()> {
    let template = Template::load()?;
    let secret = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:git-*";
    let parameter = "arn:aws:ssm:eu-central-1:123456789012:parameter/git/*";
    let key = "arn:aws:kms:eu-central-1:123456789012:key/k";
    for (function, sid, parameters) in [
        (UPDATE, "DeleteArtifacts", ("DeleteArtifacts", "true")),
        (UPDATE, "FindMergeBases", ("Triggers", "[]")),
        (UPDATE, "DeletePullRequests", ("Triggers", PULLS)),
        (UPDATE, "ReadPullRequests", ("Triggers", PULLS)),
        (UPDATE, "ReadTags", ("Triggers", TAGS)),
        (UPDATE, "UseKey", ("KmsKeyId", key)),
        (LIFECYCLE, "EncryptDeadLetters", ("KmsKeyId", key)),
        (MIGRATION, "EncryptDeadLetters", ("KmsKeyId", key)),
        (MIGRATION, "UseKey", ("MirrorKmsKeyId", key)),
        (MIGRATION, "AssumeRoles", ("AssumeRoleArns", ROLES)),
        (MIGRATION, "AttachToSubnets", ("MigrationSubnetIds", SUBNET)),
        (MIGRATION, "LookIntoMirrors", ("MirrorBucket", "mirrors")),
        (
            MIGRATION,
            "ReadAndWriteMirrors",
            ("MirrorBucket", "mirrors"),
        ),
        (MIGRATION, "ReadSecrets", ("CredentialsSecretArn", secret)),
        (
            MIGRATION,
            "ReadParameters",
            ("CredentialsParameterArn", parameter),
        ),
        (
            MIGRATION,
            "CreateRepositories",
            ("MigrationAccess", "create"),
        ),
    ] {
        let granted = |parameters| statement(&template.resolve(parameters)?, function, sid);
        assert_eq!(granted(&[])?, None, "{sid} by default");
        assert!(granted(&[parameters])?.is_some(), "{sid} when asked for");
    }
    let assumes = template.resolve(&[("AssumeRoleArns", ROLES)])?;
    let (actions, roles) = statement(&assumes, MIGRATION, "AssumeRoles")?.context("roles")?;
    assert_eq!(actions, ["sts:AssumeRole"]);
    assert_eq!(roles, ROLES.split(',').collect::<Vec<_>>(), "no other role");
    let untraced = template.resolve(&[("Tracing", "false")])?;
    for (name, function) in FUNCTIONS {
        assert!(statement(&template.resolve(&[])?, function, "SendTraces")?.is_some());
        assert_eq!(
            statement(&untraced, function, "SendTraces")?,
            None,
            "{name}"
        );
    }
    let reads = template.resolve(&[("MigrationAccess", "read")])?;
    assert_eq!(statement(&reads, MIGRATION, "PushToRepositories")?, None);
    Ok(())
}

#[test]
fn a_bucket_that_is_given_is_used_and_none_is_created() -> Result<()> {
    let template = Template::load()?;
    let given = template.resolve(&[("ArtifactBucket", "ours")])?;
    assert!(!given.has("Artifacts")? && !given.has("ArtifactsPolicy")?);
    assert_eq!(given.environment(UPDATE)?["ARTIFACT_BUCKET"], "ours");
    let created = template.resolve(&[])?.named("Artifacts", "made");
    for (deployment, bucket) in [(&given, "ours"), (&created, "made")] {
        let (_, resources) =
            statement(deployment, UPDATE, "WriteArtifacts")?.context("it writes")?;
        assert_eq!(resources, [format!("arn:aws:s3:::{bucket}/*")]);
    }
    let bucket = created.properties("Artifacts")?;
    assert_eq!(bucket["VersioningConfiguration"]["Status"], "Enabled");
    let rules = bucket["LifecycleConfiguration"]["Rules"]
        .as_array()
        .context("rules")?;
    let has = |part: &str| {
        rules
            .iter()
            .any(|rule| rule["Status"] == "Enabled" && !rule[part].is_null())
    };
    assert!(has("NoncurrentVersionExpiration") && has("AbortIncompleteMultipartUpload"));
    for name in ["Artifacts", "SampleBucket"] {
        let bucket = template.at(&["Resources", name]);
        assert_eq!(
            bucket["DeletionPolicy"], "Retain",
            "{name} outlives the stack"
        );
        assert_eq!(bucket["UpdateReplacePolicy"], "Retain", "{name}");
    }
    Ok(())
}

#[test]
fn codecommit_may_call_what_triggers_call() -> Result<()> {
    let template = Template::load()?;
    let deployment = template.resolve(&[("RepositoryNamePattern", "team-*")])?;
    for (permission, parameters) in [
        ("UpdateFromCodeCommit", &[][..]),
        ("LifecycleFromCodeCommit", &[]),
        // Whoever may set a trigger may use the whole role of migration then.
        ("MigrationFromCodeCommit", &[("MigrationTriggers", "true")]),
    ] {
        assert_eq!(deployment.has(permission)?, parameters.is_empty());
        let all = [&[("RepositoryNamePattern", "team-*")], parameters].concat();
        let deployment = template.resolve(&all)?;
        let properties = deployment.properties(permission)?;
        assert_eq!(properties["Principal"], "codecommit.amazonaws.com");
        assert_eq!(properties["SourceAccount"], "123456789012");
        assert_eq!(
            properties["SourceArn"],
            "arn:aws:codecommit:eu-central-1:123456789012:team-*"
        );
    }
    let lifecycle = deployment.properties(LIFECYCLE)?;
    assert_eq!(
        lifecycle["ReservedConcurrentExecutions"], 1,
        "triggers have one writer"
    );
    Ok(())
}

/// "The pattern may be a list."
#[test]
fn each_pattern_of_repositories_is_allowed_everywhere_and_nothing_else_is() -> Result<()> {
    let template = Template::load()?;
    let all = ["team-*", "api", "*-infra", "x.y", "last"];
    for count in 1..=all.len() {
        let patterns = &all[..count];
        let list = patterns.join(",");
        let deployment = template.resolve(&[
            ("RepositoryNamePattern", &list),
            ("MigrationTriggers", "true"),
            ("MigrationAccess", "create"),
        ])?;
        let arns: Vec<String> = patterns
            .iter()
            .map(|pattern| format!("arn:aws:codecommit:eu-central-1:123456789012:{pattern}"))
            .collect();
        for (_, function) in FUNCTIONS {
            let environment = deployment.environment(function)?;
            if let Some(repositories) = environment.get("REPOSITORIES") {
                assert_eq!(*repositories, list);
            }
            for statement in deployment.statements(function)? {
                let resources = statement.resources;
                if resources.iter().any(|text| text.contains(":codecommit:")) {
                    assert_eq!(resources, arns, "{function}: {}", statement.sid);
                }
            }
            let permitted: Result<Vec<Value>> = template
                .resources_of("AWS::Lambda::Permission")?
                .filter(|name| name.contains("FromCodeCommit"))
                .filter_map(|name| match deployment.has(name) {
                    Ok(true) => Some(deployment.properties(name)),
                    Ok(false) => None,
                    Err(error) => Some(Err(error)),
                })
                .collect();
            let permitted: Vec<Value> = permitted?
                .into_iter()
                .filter(|permission| permission["FunctionName"] == function)
                .map(|permission| permission["SourceArn"].clone())
                .collect();
            assert_eq!(json!(permitted), json!(arns), "{function}");
        }
        let wildcards: Vec<Value> = patterns
            .iter()
            .map(|pattern| json!({ "wildcard": pattern }))
            .collect();
        for (function, rule) in [(LIFECYCLE, "Branches"), (UPDATE, "Pushes")] {
            let events = deployment.properties(function)?["Events"].clone();
            let detail = &events[rule]["Properties"]["Pattern"]["detail"];
            assert_eq!(detail["repositoryName"], json!(wildcards), "{function}");
        }
    }
    Ok(())
}

#[test]
fn the_repository_applications_version_is_this_one() -> Result<()> {
    let template = Template::load()?;
    let application = template.at(&["Metadata", "AWS::ServerlessRepo::Application"]);
    assert_eq!(application["SemanticVersion"], env!("CARGO_PKG_VERSION"));
    assert_eq!(application["SpdxLicenseId"], "Apache-2.0");
    Ok(())
}

/// The variables of a function as a stage takes them.
fn variables(environment: BTreeMap<String, String>) -> Vec<(&'static str, String)> {
    let own = |(name, value): (String, String)| (&*name.leak(), value);
    environment.into_iter().map(own).collect()
}

/// CloudFormation's `PascalCase` as the API's `camelCase`; a configuration's names stay.
fn as_api(value: &Value) -> Value {
    match value {
        Value::Object(map) => map
            .iter()
            .map(|(name, value)| {
                let (first, rest) = name.split_at(1);
                let own = if name == "Configuration" {
                    value.clone()
                } else {
                    as_api(value)
                };
                (first.to_lowercase() + rest, own)
            })
            .collect(),
        Value::Array(items) => items.iter().map(as_api).collect(),
        plain => plain.clone(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deployed_template_archives_a_branch_and_starts_the_sample_pipeline() -> Result<()> {
    let template = Template::load()?;
    let deployment = template
        .resolve(&[("SamplePipeline", "true")])?
        .at("123456789012", "us-east-1")
        .named("Artifacts", BUCKET)
        .named("UpdateFunction", branchline_tests::environment::UPDATE);
    let stage = TestEnvironment::start(Setup {
        update: variables(deployment.environment(UPDATE)?),
        lifecycle: variables(deployment.environment(LIFECYCLE)?),
        ..Setup::default()
    })
    .await?;
    let place = stage.server.account();
    assert_eq!((&*place.id, &*place.region), ("123456789012", "us-east-1"));

    let mut pipeline = as_api(&deployment.properties("SamplePipelineOfBranches")?);
    pipeline["roleArn"] = json!("arn:aws:iam::123456789012:role/SampleRole");
    let source = &pipeline["stages"][0]["actions"][0]["configuration"];
    assert_eq!(
        source["PollForSourceChanges"], "false",
        "nothing starts it but update"
    );
    stage.pipelines("CreatePipeline", &json!({ "pipeline": pipeline }))?;

    stage.create_repository("demo").await?;
    let work = tempfile::tempdir()?;
    git::init(work.path())?;
    git::commit(work.path(), &[("a.txt", "one\n")], "First")?;
    stage.push(work.path(), "demo", &["main"]).await?;
    stage.wait_until_idle().await?;
    let started = || {
        let mut executions = stage.executions();
        executions.retain(|execution| execution.pipeline == "branchline-sample");
        executions
    };
    let [execution] = &started()[..] else {
        panic!("one push, one execution: {:?}", started());
    };
    assert_eq!(execution.sources[0].key, "demo/main.zip");
    assert!(execution.sources[0].version_id.is_some(), "it is pinned");

    // The schedules' own input finds nothing left to do.
    for (function, resource) in [("update", UPDATE), ("lifecycle", LIFECYCLE)] {
        let schedule = deployment.properties(resource)?;
        let input = schedule["Events"]["Schedule"]["Properties"]["Input"].as_str();
        let input: Value = serde_json::from_str(input.context("a schedule has its input")?)?;
        let event: Value = serde_json::from_str(include_str!("../../events/schedule.json"))?;
        assert_eq!(input, event, "the input is a documented event");
        let answer = stage.call(function, &input).await;
        let answer = answer.map_err(|error| anyhow::anyhow!("{function}: {error}"))?;
        match function {
            "update" => assert_eq!(answer["results"][0]["outcome"], "unchanged", "{answer}"),
            _ => assert_eq!(answer["repositories"][0]["kept"], 1, "{answer}"),
        }
    }
    assert_eq!(started().len(), 1, "nothing is started twice");
    Ok(())
}

/// The document about the parameters, as the template has them.
fn parameters_document(template: &Template) -> Result<String> {
    let mut text = String::from(
        "# Parameters\n\nGenerated from `template.yaml`; regenerate with `BRANCHLINE_WRITE_DOCS=1 cargo nextest \
         run -p branchline-tests parameters`.\nA parameter that is a setting has the \
         setting's name: `BRANCHES_INCLUDE` is `BranchesInclude`. An empty value counts as not \
         set.\n",
    );
    let interface = template.at(&["Metadata", "AWS::CloudFormation::Interface"]);
    for group in interface["ParameterGroups"].as_array().context("groups")? {
        let label = group["Label"]["default"].as_str().context("a label")?;
        writeln!(
            text,
            "\n## {label}\n\n| parameter | default | allowed | meaning |\n|---|---|---|---|"
        )?;
        for name in group["Parameters"].as_array().context("parameters")? {
            let name = name.as_str().context("a name")?;
            let parameter = template.at(&["Parameters", name]);
            let plain = |value: &Value| {
                let text = value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned);
                if text.is_empty() {
                    "empty".to_owned()
                } else {
                    format!("`{text}`")
                }
            };
            let allowed = if let Some(values) = parameter["AllowedValues"].as_array() {
                values.iter().map(plain).collect::<Vec<_>>().join(", ")
            } else if let Some(words) = parameter["ConstraintDescription"].as_str() {
                words.to_owned()
            } else if let Some(least) = parameter["MinValue"].as_i64() {
                format!("{least} to {}", parameter["MaxValue"])
            } else {
                format!("at most {} characters", parameter["MaxLength"])
            };
            let meaning = parameter["Description"].as_str().context("a description")?;
            let default = plain(&parameter["Default"]);
            writeln!(text, "| `{name}` | {default} | {allowed} | {meaning} |")?;
        }
    }
    Ok(text)
}

#[test]
fn the_document_about_parameters_is_the_templates() -> Result<()> {
    let wanted = parameters_document(&Template::load()?)?;
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/parameters.md");
    if std::env::var_os("BRANCHLINE_WRITE_DOCS").is_some() {
        std::fs::write(path, &wanted)?;
    }
    let there = std::fs::read_to_string(path)?;
    assert_eq!(
        there, wanted,
        "docs/parameters.md is written from the template"
    );
    Ok(())
}
