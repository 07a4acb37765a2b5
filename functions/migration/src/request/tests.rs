use branchline_core::ErrorKind;
use branchline_core::mirror::{LfsPolicy, MirrorTask};
use branchline_core::remote::open::S3Layout;
use branchline_core::remote::url::RemoteUrl;
use branchline_core::role::RoleArn;

use super::*;

fn event(name: &str) -> Value {
    let path = format!("{}/../../events/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_str(&text).unwrap()
}

fn request(name: &str) -> Request {
    parse(&event(name)).unwrap().unwrap()
}

fn task(mapping: &Mapping) -> &MirrorTask {
    mapping.task.as_ref().unwrap()
}

#[test]
fn every_example_event_of_the_function_is_read() {
    let backup = request("migration-backup");
    let mapping = task(&backup.mappings[0]);
    assert_eq!(mapping.target.layout, Some(S3Layout::Dumb));
    assert!(mapping.prune && !mapping.clean);
    assert_eq!(mapping.lfs, LfsPolicy::Copy);
    assert!(mapping.refs.selects("refs/notes/commits".into()));
    assert!(!mapping.refs.selects("refs/pull/1/head".into()));
    assert_eq!(backup.batch, BatchLimits::default());

    let publish = request("migration-publish");
    assert_eq!(
        task(&publish.mappings[0]).target.layout,
        Some(S3Layout::Dumb)
    );

    let import = request("migration-import");
    let first = task(&import.mappings[0]);
    assert!(first.target.create && first.source.credentials.is_some());
    assert_eq!(task(&import.mappings[1]).lfs, LfsPolicy::Skip);
    assert_eq!(
        import.batch,
        BatchLimits {
            commits: 1000,
            bytes: Some(268_435_456),
        }
    );

    let zip = request("migration-zip");
    let mapping = task(&zip.mappings[0]);
    let RemoteUrl::S3(target) = &mapping.target.url else {
        panic!("the target is in S3");
    };
    assert!(target.zip && mapping.target.layout.is_none());
    assert_eq!(
        zip.mappings[0].target,
        "s3+zip://my-pipeline-bucket/MyDemoRepo"
    );

    assert!(task(&request("migration-clean").mappings[0]).clean);

    let accounts = request("migration-accounts");
    let mapping = task(&accounts.mappings[0]);
    assert!(mapping.source.role_arn.is_some() && mapping.target.role_arn.is_none());
}

#[test]
fn a_request_wrapped_by_sns_and_sqs_is_read() {
    let plain = event("migration-backup");
    let notification = serde_json::json!({"Type": "Notification", "Message": plain.to_string()});
    let wrapped = [
        serde_json::json!({"Records": [{"eventSource": "aws:sqs", "body": plain.to_string()}]}),
        serde_json::json!({"Records": [{"EventSource": "aws:sns", "Sns": notification}]}),
        serde_json::json!({
            "Records": [{"eventSource": "aws:sqs", "body": notification.to_string()}]
        }),
    ];
    let expected = parse(&plain).unwrap().unwrap();
    for event in wrapped {
        let request = parse(&event).unwrap().unwrap();
        let mapping = |request: &Request| {
            let mapping = &request.mappings[0];
            (mapping.source.clone(), mapping.target.clone())
        };
        assert_eq!(mapping(&request), mapping(&expected), "{event}");
    }
}

#[test]
fn pruning_force_and_plan_have_safe_defaults() {
    let parsed = |fields: &str, plan: &str| {
        let text = format!(
            "{{\"mappings\":[{{\"source\":\"codecommit://r\",\"target\":\"s3://bucket/x\"{fields}}}]{plan}}}"
        );
        parse(&serde_json::from_str(&text).unwrap())
            .unwrap()
            .unwrap()
    };
    for (fields, expected) in [
        ("", (false, false, true)),
        (",\"prune\":false", (false, false, true)),
        (",\"prune\":true", (true, false, true)),
        (",\"prune\":\"all\",\"force\":false", (true, true, false)),
    ] {
        let request = parsed(fields, "");
        let MirrorTask {
            prune,
            prune_all,
            force,
            ..
        } = task(&request.mappings[0]);
        assert_eq!((*prune, *prune_all, *force), expected, "{fields}");
        assert!(!task(&request.mappings[0]).plan);
    }
    assert!(task(&parsed("", ",\"plan\":true").mappings[0]).plan);
}

#[test]
fn the_custom_data_of_a_trigger_carries_a_request() {
    let request = request("trigger-mirror");
    assert_eq!(request.mappings[0].source, "codecommit://MyDemoRepo");
    assert_eq!(parse(&event("trigger-test")).unwrap(), None);
    let error = parse(&event("trigger-branch-updated")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidEvent);
    assert!(error.to_string().contains("customData"), "{error}");
}

#[test]
fn an_unknown_shape_is_refused_with_the_field() {
    for (event, named) in [
        ("[]", "must be a JSON object"),
        ("{}", "`mappings` is missing"),
        (r#"{"mappings":[]}"#, "`mappings`"),
        (r#"{"mappings":{}}"#, "`mappings`"),
        (r#"{"mappings":[{}],"x\u0000y":1}"#, "`x\\0y`"),
        (r#"{"mappings":[{}],"batch":7}"#, "`batch`"),
        (
            r#"{"mappings":[{}],"batch":{"commits":0}}"#,
            "`batch.commits`",
        ),
        (r#"{"mappings":[{}],"batch":{"bytes":-1}}"#, "`batch.bytes`"),
        (r#"{"mappings":[{}],"batch":{"files":1}}"#, "`batch.files`"),
        (r#"{"Records":[]}"#, "`Records` is empty"),
        (r#"{"Records":7}"#, "`Records` must be a list"),
        (r#"{"Records":[{"customData":"7"}]}"#, "`customData`"),
        (r#"{"schedule":true}"#, "`schedule`"),
    ] {
        let error = parse(&serde_json::from_str(event).unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidEvent, "{event}");
        assert!(error.to_string().contains(named), "{event}: {error}");
        assert!(error.hint().is_some() || named.starts_with('`'), "{event}");
    }
    let many = serde_json::json!({"mappings": vec![serde_json::json!({}); 1001]});
    assert!(
        parse(&many)
            .unwrap_err()
            .to_string()
            .contains("1000 are allowed")
    );
}

#[test]
fn an_invalid_mapping_is_named_and_does_not_hide_the_others() {
    let good = r#""source":"codecommit://r","target":"s3://bucket/x""#;
    let https = r#""source":"https://h/r","target":"https://i/r""#;
    for (mapping, named) in [
        ("7".to_owned(), "`mappings[1]` of"),
        (
            r#"{"target":"s3://bucket/x"}"#.to_owned(),
            "`mappings[1].source`",
        ),
        (
            r#"{"source":7,"target":"s3://bucket/x"}"#.to_owned(),
            "`mappings[1].source`",
        ),
        (
            r#"{"source":"ftp://x/y","target":"s3://bucket/x"}"#.to_owned(),
            "`mappings[1].source`",
        ),
        (
            r#"{"source":"/srv/x","target":"s3://bucket/x"}"#.to_owned(),
            "no repositories of its own",
        ),
        (
            r#"{"source":"https://u:hunter2@h/r","target":"s3://bucket/x"}"#.to_owned(),
            "a user and password in a URL are not used",
        ),
        (
            r#"{"source":"codecommit://r","target":"https://token@h/r"}"#.to_owned(),
            "`mappings[1].target` of the event: a user and password",
        ),
        (
            r#"{"source":"codecommit://me@r","target":"s3://bucket/x"}"#.to_owned(),
            "no profiles",
        ),
        (
            r#"{"source":"codecommit://r","target":"s3://me@bucket/x"}"#.to_owned(),
            "`mappings[1].target`",
        ),
        (
            format!("{{{good},\"layout\":\"zip\"}}"),
            "`mappings[1].layout`",
        ),
        (format!("{{{https},\"layout\":\"dumb\"}}"), "is in S3"),
        (
            format!("{{{good},\"prune\":\"yes\"}}"),
            "`mappings[1].prune` of the event: it must be `true`, `false` or `all`",
        ),
        (
            format!("{{{good},\"force\":\"no\"}}"),
            "`mappings[1].force`",
        ),
        (
            format!("{{{good},\"refs\":\"refs/heads/*\"}}"),
            "`mappings[1].refs`",
        ),
        (
            format!("{{{good},\"refs\":[\"heads\"]}}"),
            "`mappings[1].refs`",
        ),
        (
            format!("{{{good},\"create\":true}}"),
            "`mappings[1].create`",
        ),
        (
            format!("{{{good},\"credentials\":\"arn:x\"}}"),
            "`mappings[1].credentials`",
        ),
        (
            format!(
                "{{{good},\"credentials\":\"arn:aws:ssm:eu-west-1:111122223333:parameter/x\"}}"
            ),
            "`https://`",
        ),
        (format!("{{{good},\"depth\":1}}"), "`mappings[1].depth`"),
        (
            r#"{"source":"codecommit://r","target":"s3+zip://bucket/x","layout":"dumb"}"#
                .to_owned(),
            "`mappings[1].layout` of the event: `s3+zip://bucket/x` can only have the layout `bundle`",
        ),
        (
            r#"{"source":"s3+zip://bucket/x","target":"codecommit://r","layout":"loose"}"#
                .to_owned(),
            "`mappings[1].layout`",
        ),
    ] {
        let text = format!("{{\"mappings\":[{{{good}}},{mapping}]}}");
        let request = parse(&serde_json::from_str(&text).unwrap())
            .unwrap()
            .unwrap();
        assert!(
            request.mappings[0].task.is_ok(),
            "a bad mapping must not hide a good one: {text}"
        );
        let invalid = request.mappings[1].task.as_ref().unwrap_err();
        assert!(
            invalid.message.contains(named),
            "{text}: {}",
            invalid.message
        );
        assert_eq!(invalid.error().kind(), ErrorKind::InvalidEvent);
    }
}

#[test]
fn a_remote_with_archives_has_the_bundle_layout() {
    let mappings = [
        r#""source":"codecommit://r","target":"s3+zip://bucket/x""#,
        r#""source":"codecommit://r","target":"s3+zip://bucket/x","layout":"bundle""#,
        // The layout is the target's; the source's is read from the bucket.
        r#""source":"s3+zip://bucket/x","target":"s3://bucket/y","layout":"dumb""#,
        r#""source":"s3://bucket/y","target":"s3+zip://bucket/x""#,
    ];
    for fields in mappings {
        let text = format!("{{\"mappings\":[{{{fields}}}]}}");
        let request = parse(&serde_json::from_str(&text).unwrap());
        let request = request.unwrap().unwrap();
        assert_eq!(request.mappings[0].task.as_ref().err(), None, "{fields}");
    }
}

#[test]
fn no_answer_or_error_repeats_a_password() {
    for source in [
        "https://user:hunter2@git.example.com/r.git",
        "https://user:hunter2@/r.git",
        "ssh://user:hunter2@git.example.com/r.git",
        "https://user:hunter2@git.example.com/r.git?x",
    ] {
        let event = serde_json::json!({
            "mappings": [{"source": source, "target": "s3://bucket/x", "layout": "dumb"}]
        });
        let request = parse(&event).unwrap().unwrap();
        let shown = format!("{request:?} {}", request.mappings[0].source);
        assert!(!shown.contains("hunter2"), "{shown}");
        for event in [
            serde_json::json!({ "mappings": source }),
            serde_json::json!({ "mappings": [source] }),
            serde_json::json!({ "mappings": [{"source": "s3://bucket/x", "prune": source}] }),
            serde_json::json!({ "mappings": [], "batch": source }),
            serde_json::json!({ "mappings": [], "batch": {"bytes": source} }),
        ] {
            let shown = match parse(&event) {
                Ok(request) => format!("{request:?}"),
                Err(error) => error.report(),
            };
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }
}

#[test]
fn every_request_in_the_documents_is_read() {
    let mut seen = 0;
    for file in ["docs/reference.md", "docs/moving.md"] {
        let path = format!("{}/../../{file}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).unwrap();
        for block in text.split("```json\n").skip(1) {
            let block = block.split("```").next().unwrap();
            let event: Value = serde_json::from_str(block).unwrap_or_else(|error| {
                panic!("{file} shows invalid JSON: {error}: {block}");
            });
            // Answers have a status.
            if event.get("mappings").is_none() || event.get("status").is_some() {
                continue;
            }
            for mapping in parse(&event).unwrap().unwrap().mappings {
                assert_eq!(mapping.task.err(), None, "{file}: {block}");
                seen += 1;
            }
        }
    }
    assert!(seen >= 4, "{seen} mappings are shown");
}

#[test]
fn lfs_objects_are_copied_left_out_required_or_verified() {
    let read = |lfs: Value| {
        let mapping = serde_json::json!({
            "source": "codecommit://a", "target": "s3://bucket/c", "layout": "dumb", "lfs": lfs,
        });
        Mapping::read(RequestOrigin::Event, "mappings[0]", &mapping, false)
    };
    for (lfs, policy) in [
        (true.into(), LfsPolicy::Copy),
        (false.into(), LfsPolicy::Skip),
        ("required".into(), LfsPolicy::Required),
        ("verify".into(), LfsPolicy::Verify),
    ] {
        assert_eq!(task(&read(lfs)).lfs, policy);
    }
    for lfs in ["all".into(), 1.into(), Value::Array(Vec::new())] {
        let error = read(lfs).task.unwrap_err();
        assert!(
            error.message.contains("mappings[0].lfs"),
            "{}",
            error.message
        );
        assert!(error.message.contains("required"), "{}", error.message);
    }
}

#[test]
fn a_remote_with_and_without_archives_is_one_place() {
    let place = |target: &str| {
        let mapping = serde_json::json!({"source": "codecommit://r", "target": target});
        Mapping::read(RequestOrigin::Event, "mappings[0]", &mapping, false).target_location()
    };
    assert_eq!(place("s3://bucket/x"), place("s3+zip://bucket/x"));
    assert_ne!(place("s3://bucket/x"), place("s3://bucket/y"));
}

#[test]
fn a_role_is_that_of_the_sides_in_aws_or_of_the_side_that_names_it() {
    const ROLE: &str = "arn:aws:iam::444455556666:role/reader";
    const OTHER: &str = "arn:aws:iam::444455556666:role/writer";
    let read = |source: &str, target: &str, role: &Value| {
        let mapping = serde_json::json!({"source": source, "target": target, "roleArn": role});
        Mapping::read(RequestOrigin::Event, "mappings[0]", &mapping, false)
    };
    let (aws, s3, https) = ("codecommit://r", "s3://bucket/x", "https://h/r");
    for (source, target, role, wanted) in [
        (aws, s3, serde_json::json!(ROLE), [Some(ROLE), Some(ROLE)]),
        (https, aws, serde_json::json!(ROLE), [None, Some(ROLE)]),
        (s3, https, serde_json::json!(ROLE), [Some(ROLE), None]),
        (
            aws,
            s3,
            serde_json::json!({"source": ROLE}),
            [Some(ROLE), None],
        ),
        (
            aws,
            s3,
            serde_json::json!({"source": ROLE, "target": OTHER}),
            [Some(ROLE), Some(OTHER)],
        ),
        (aws, s3, serde_json::json!({}), [None, None]),
    ] {
        let mapping = read(source, target, &role);
        let task = task(&mapping);
        let roles = [&task.source, &task.target].map(|spec| spec.role_arn.as_ref());
        let roles = roles.map(|role| role.map(RoleArn::as_str));
        assert_eq!(roles, wanted, "{source} to {target}: {role}");
        assert_eq!(task.roles().count(), wanted.iter().flatten().count());
    }
    for (source, target, role, named) in [
        (
            aws,
            s3,
            serde_json::json!("reader"),
            "`mappings[0].roleArn`",
        ),
        (https, https, serde_json::json!(ROLE), "neither the source"),
        (
            https,
            s3,
            serde_json::json!({"source": ROLE}),
            "`mappings[0].roleArn.source`",
        ),
        (
            aws,
            s3,
            serde_json::json!({"target": "writer"}),
            "`mappings[0].roleArn.target`",
        ),
        (aws, s3, serde_json::json!({"to": ROLE}), "roleArn"),
        (aws, s3, serde_json::json!(7), "it must be an ARN, or an"),
    ] {
        let mapping = read(source, target, &role);
        let invalid = mapping.task.expect_err("the role is not valid");
        assert!(invalid.message.contains(named), "{role}: {invalid:?}");
    }
}
