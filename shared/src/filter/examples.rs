//! The examples of CodePipeline's user guide, and what it refuses.

use super::*;
use crate::error::ErrorKind;
use crate::name::RepositoryName;

fn repository() -> RepositoryName {
    RepositoryName::new("demo").expect("it is valid")
}

fn trigger(git_configuration: &str) -> PipelineTrigger {
    let json = format!(r#"[{{"pipeline": "p", "gitConfiguration": {git_configuration}}}]"#);
    let mut triggers = parse_triggers(&json).unwrap_or_else(|error| panic!("{json}: {error}"));
    triggers.remove(0)
}

fn push(filters: &str) -> PipelineTrigger {
    trigger(&format!(
        r#"{{"sourceActionName": "Source", "push": {filters}}}"#
    ))
}

/// The table of "Working with glob patterns in syntax", and its rules one by one.
#[test]
fn globs_match_as_the_user_guide_says() {
    for (glob, text, expected) in [
        ("*.java", "a.java", true),
        ("*.java", "a/b.java", false),
        ("*.java", "a.javac", false),
        ("*.*", "a.b", true),
        ("*.*", "ab", false),
        ("*.{java,class}", "a.java", true),
        ("*.{java,class}", "a.class", true),
        ("*.{java,class}", "a.py", false),
        ("foo.?", "foo.a", true),
        ("foo.?", "foo.ab", false),
        ("foo.?", "foo./", false),
        ("my-file.jar", "my-file.jar", true),
        ("my-file.jar", "a/my-file.jar", false),
        ("directory/my-file.jar", "directory/my-file.jar", true),
        ("**", "a", true),
        ("**", "a/b/c", true),
        ("directory/**", "directory/a", true),
        ("directory/**", "directory/a/b", true),
        ("directory/**", "directory", false),
        ("directory/**", "directory2/a", false),
        ("directory/*", "directory/a", true),
        ("directory/*", "directory/a/b", false),
        ("\\*", "*", true),
        ("\\*", "a", false),
        ("\\{a\\}", "{a}", true),
        ("[abc]x", "bx", true),
        ("[abc]x", "dx", false),
        ("[a-c]", "b", true),
        ("[!a-c]", "b", false),
        ("[!a-c]", "d", true),
        ("[!a]", "/", false),
        ("[*?\\]", "*", true),
        ("[*?\\]", "\\", true),
        ("[*?\\]", "a", false),
        ("[-a]", "-", true),
        ("[!-a]", "-", false),
        ("[!-a]", "b", true),
        ("{a,b/*}/c", "a/c", true),
        ("{a,b/*}/c", "b/x/c", true),
        ("{a,b/*}/c", "b/c", false),
        ("{a,}x", "x", true),
        ("a,b", "a,b", true),
        ("a}", "a}", true),
        // Any number of folders, zero included.
        ("**/README.md", "a/b/README.md", true),
        ("**/README.md", "README.md", true),
        ("**/README.md", "aREADME.md", false),
        ("common/**/*.js", "common/a.js", true),
        ("common/**/*.js", "common/a/b/c.js", true),
        ("common/**/*.js", "common/a/b/c.ts", false),
        ("{web/**/,}*.md", "web/a/b.md", true),
        ("{**/a,b}", "a", true),
        ("feature**", "feature/a/b", true),
        ("a/**b", "a/x/yb", true),
        ("日*", "日本", true),
        ("?", "日", true),
    ] {
        let glob = Glob::new(glob).expect(glob);
        assert_eq!(glob.matches(text), expected, "{} {text}", glob.as_str());
    }
}

/// The example of "Trigger filtering in the pipeline JSON (CLI)", whose tags are a filter of
/// their own.
#[test]
fn the_example_of_the_command_line_starts_what_it_says() {
    let example = trigger(
        r#"{
        "sourceActionName": "ApplicationSource",
        "push": [
          {"filePaths": {"includes": ["projectA/**", "common/**/*.js"],
                         "excludes": ["**/README.md", "**/LICENSE", "**/CONTRIBUTING.md"]},
           "branches": {"includes": ["feature/**", "release/**"], "excludes": ["mainline"]}},
          {"tags": {"includes": ["release-v0", "release-v1"], "excludes": ["release-v2"]}}],
        "pullRequest": [
          {"events": ["CLOSED"],
           "branches": {"includes": ["feature/**", "release/**"], "excludes": ["mainline"]},
           "filePaths": {"includes": ["projectA/**", "common/**/*.js"],
                         "excludes": ["**/README.md", "**/LICENSE", "**/CONTRIBUTING.md"]}}]}"#,
    );
    assert_eq!(example.source_action, "ApplicationSource");
    let paths = |branch: &str, path: &str| {
        let decision = example.match_branch(&repository(), branch);
        decision.accepts(path)
    };
    assert!(paths("feature/a/b", "projectA/x/y.c"));
    assert!(paths("release/1", "common/lib/x.js"));
    assert!(!paths("release/1", "common/lib/x.ts"));
    assert!(!paths("feature/a", "projectA/README.md"), "it is excluded");
    assert!(!paths("mainline", "projectA/x"));
    assert!(!paths("main", "projectA/x"), "it is not included");
    assert!(example.matches_tag(&repository(), "release-v1"));
    assert!(!example.matches_tag(&repository(), "release-v2"));
    let pull =
        |destination: &str, event| example.match_pull_request(&repository(), destination, event);
    let closed = Some(PullRequestEvent::Closed);
    assert!(pull("release/1", closed).accepts("projectA/x"));
    assert!(pull("release/1", None).accepts("projectA/x"));
    assert_eq!(pull("main", closed), PathMatch::Never);
    assert_eq!(
        pull("release/1", Some(PullRequestEvent::Open)),
        PathMatch::Never
    );
}

#[test]
fn one_filter_of_several_suffices_and_all_parts_of_it_are_needed() {
    let either = push(
        r#"[{"branches": {"includes": ["main"]}, "filePaths": {"includes": ["a/**"]}},
            {"branches": {"includes": ["main", "dev"]}, "filePaths": {"excludes": ["docs/**"]}}]"#,
    );
    let main = either.match_branch(&repository(), "main");
    assert!(main.accepts("a/x") && main.accepts("b/x") && !main.accepts("docs/x"));
    let dev = either.match_branch(&repository(), "dev");
    assert!(dev.accepts("a/x") && !dev.accepts("docs/x"));
    assert_eq!(either.match_branch(&repository(), "x"), PathMatch::Never);
    let without_paths = push(
        r#"[{"branches": {"includes": ["**"]}, "filePaths": {"includes": ["a/**"]}},
            {"branches": {"includes": ["main"]}}]"#,
    );
    assert_eq!(
        without_paths.match_branch(&repository(), "main"),
        PathMatch::Always
    );
}

#[test]
fn excludes_alone_include_everything_else() {
    let but_main = push(r#"[{"branches": {"excludes": ["main", "wip/**"]}}]"#);
    let matches = |branch: &str| but_main.match_branch(&repository(), branch) == PathMatch::Always;
    assert!(matches("dev") && !matches("main") && !matches("wip/a/b"));
    assert!(
        !but_main.matches_tag(&repository(), "v1"),
        "a filter of branches starts nothing for a tag"
    );
    let tags = push(r#"[{"tags": {"includes": ["v*"], "excludes": ["v*-rc*"]}}]"#);
    assert!(tags.matches_tag(&repository(), "v1"));
    assert!(!tags.matches_tag(&repository(), "v1-rc1"));
    assert_eq!(tags.match_branch(&repository(), "v1"), PathMatch::Never);
}

#[test]
fn a_pipeline_serves_the_repositories_that_it_names() {
    let json = r#"[{"pipeline": "p", "repositories": ["team-*", "demo"], "gitConfiguration":
        {"sourceActionName": "S", "push": [{"branches": {"includes": ["**"]}}]}}]"#;
    let triggers = parse_triggers(json).expect("it is valid");
    for (name, expected) in [("team-a", true), ("demo", true), ("other", false)] {
        let repository = RepositoryName::new(name).expect("it is valid");
        let decision = triggers[0].match_branch(&repository, "main");
        assert_eq!(decision == PathMatch::Always, expected, "{name}");
    }
}

/// Each message names the field and the limit.
#[test]
#[expect(clippy::too_many_lines, reason = "a table of refusals, one line each")]
fn what_codepipeline_refuses_is_refused_with_the_field() {
    let git = |push: &str| {
        format!(
            r#"[{{"pipeline": "p", "gitConfiguration": {{"sourceActionName": "S", "push": {push}}}}}]"#
        )
    };
    let branches =
        |includes: &str| git(&format!(r#"[{{"branches": {{"includes": {includes}}}}}]"#));
    let many = format!("[{}]", ["\"x\""; 9].join(","));
    let long = format!("[\"{}\"]", "x".repeat(256));
    let main = r#"{"branches": {"includes": ["main"]}}"#;
    for (json, expected) in [
        (
            "{}".to_owned(),
            "the list of pipelines: invalid type: map, expected a sequence",
        ),
        (
            "[]".to_owned(),
            "the list of pipelines: it has 0 pipelines, and must have 1 to 100",
        ),
        ("[".to_owned(), "EOF while parsing"),
        ("[] x".to_owned(), "trailing characters"),
        (
            r#"[{"pipeline": "p"}]"#.to_owned(),
            "`[0]`: missing field `gitConfiguration`",
        ),
        (
            r#"[{"pipeline": "p", "gitConfiguration": {"push": []}}]"#.to_owned(),
            "`[0].gitConfiguration`: missing field `sourceActionName`",
        ),
        (
            r#"[{"pipeline": "p", "gitConfiguration": {"sourceActionName": "S"}}]"#.to_owned(),
            "`[0].gitConfiguration`: it has neither `push` nor `pullRequest`",
        ),
        (
            r#"[{"pipeline": "p", "gitConfiguration": {"sourceActionName": "a b", "push": []}}]"#
                .to_owned(),
            "`[0].gitConfiguration.sourceActionName`: it must be the name of an action",
        ),
        (
            git("[]"),
            "`[0].gitConfiguration.push`: it has 0 filters, and must have 1 to 3",
        ),
        (
            git(&format!("[{}]", [main; 4].join(","))),
            "`[0].gitConfiguration.push`: it has 4 filters, and must have 1 to 3",
        ),
        (
            git(r#"[{"branch": {"includes": ["main"]}}]"#),
            "`[0].gitConfiguration.push[0].branch`: unknown field `branch`",
        ),
        (
            git("[{}]"),
            "`[0].gitConfiguration.push[0]`: it has neither `branches` nor `tags`",
        ),
        (
            git(r#"[{"filePaths": {"includes": ["a"]}}]"#),
            "`[0].gitConfiguration.push[0]`: `filePaths` needs `branches` beside it",
        ),
        (
            git(r#"[{"tags": {"includes": ["a"]}, "branches": {"includes": ["a"]}}]"#),
            "`tags` cannot be beside `branches` or `filePaths`",
        ),
        (
            git(r#"[{"branches": {}}]"#),
            "`[0].gitConfiguration.push[0].branches`: it has neither `includes` nor `excludes`",
        ),
        (
            branches(&many),
            "`[0].gitConfiguration.push[0].branches.includes`: it has 9 patterns, and must have 1 to 8",
        ),
        (branches("[]"), "it has 0 patterns, and must have 1 to 8"),
        (
            branches(&long),
            "`[0].gitConfiguration.push[0].branches.includes[0]`: `xxxx",
        ),
        (branches(&long), "a pattern has 1 to 255 characters"),
        (branches(r#"[""]"#), "a pattern has 1 to 255 characters"),
        (
            branches(r#"["a{b{c}}"]"#),
            "groups in `{ }` cannot be nested",
        ),
        (branches(r#"["a{b"]"#), "a `{` has no `}`"),
        (branches(r#"["a[b"]"#), "a `[` has no `]`"),
        (branches(r#"["a[]b"]"#), "a `[ ]` names no character"),
        (branches(r#"["a[/]b"]"#), "a `[ ]` cannot contain `/`"),
        (branches(r#"["a[z-a]b"]"#), "ends before it begins"),
        (branches(r#"["a\\"]"#), "the last `\\` escapes no character"),
        (
            branches("[1]"),
            "`[0].gitConfiguration.push[0].branches.includes[0]`: invalid type",
        ),
        (
            r#"[{"pipeline": "p", "repositories": ["a,b"], "gitConfiguration":
                {"sourceActionName": "S", "push": [{"tags": {"includes": ["a"]}}]}}]"#
                .to_owned(),
            "`[0].repositories[0]`: it must be one name or glob of repositories",
        ),
        (
            r#"[{"pipeline": "p", "gitConfiguration": {"sourceActionName": "S",
                "pullRequest": [{"events": ["MERGED"]}]}}]"#
                .to_owned(),
            "`[0].gitConfiguration.pullRequest[0].events[0]`: unknown variant `MERGED`",
        ),
        (
            r#"[{"pipeline": "p", "gitConfiguration": {"sourceActionName": "S",
                "pullRequest": [{"events": []}]}}]"#
                .to_owned(),
            "`[0].gitConfiguration.pullRequest[0].events`: it has 0 events",
        ),
    ] {
        let error = parse_triggers(&json).expect_err(&json);
        assert_eq!(error.kind(), ErrorKind::Config, "{json}");
        assert!(
            error.to_string().contains(expected),
            "{json}\n  {error}\n  {expected}"
        );
    }
}
