//! Variables of executions (`PIPELINE_VARIABLES`).

use branchline_core::testkit::{CommitText, Entry};

use crate::fixture::{UpdateFixture, moved, outcomes, repository};

fn passed(fixture: &UpdateFixture) -> Vec<(String, String)> {
    let executions = fixture.executions();
    let last = executions.last().expect("the pipeline was started");
    last.request.variables.clone()
}

#[tokio::test]
async fn an_execution_has_the_variables_that_the_setting_names() {
    let names = "COMMIT_MESSAGE, CHANGED_PATHS,COMMITTER_DATE,DESCRIBE,TAG_NAME,BRANCH_NAME";
    let fixture = UpdateFixture::new(&[("PIPELINE_VARIABLES", names)]);
    let commit = |message: &str, files: &[(&str, Entry)]| {
        let text = CommitText::new(message);
        fixture
            .codecommit
            .commit_as(&repository(), "main", files, &text)
    };
    let tip = commit("First\n", &[("a", Entry::file("1"))]);
    let results = fixture.results(moved("main", tip)).await;
    assert_eq!(outcomes(&results), [("main", "started")]);
    let find = |name: &str| {
        let all = passed(&fixture);
        all.into_iter()
            .find(|(found, _)| found == name)
            .map(|(_, value)| value)
    };
    assert_eq!(find("COMMIT_MESSAGE").as_deref(), Some("First"));
    assert_eq!(
        find("CHANGED_PATHS").as_deref(),
        Some("*"),
        "the first commit has no parent"
    );
    assert_eq!(find("BRANCH_NAME").as_deref(), Some("main"));
    // Without access by git there are no tags.
    assert_eq!(find("DESCRIBE"), Some(tip.to_string()[..7].to_owned()));
    assert_eq!(
        find("TAG_NAME"),
        None,
        "a variable without a value is left out"
    );
    let date = find("COMMITTER_DATE").expect("it is passed");
    assert!(date.len() >= 20 && date.contains('T'), "{date}");

    let files = [("a", Entry::file("2")), ("b/c", Entry::file("3"))];
    let tip = commit("Second\n\nwith a body\n", &files);
    fixture.results(moved("main", tip)).await;
    assert_eq!(
        find("COMMIT_MESSAGE").as_deref(),
        Some("Second with a body")
    );
    assert_eq!(find("CHANGED_PATHS").as_deref(), Some("a,b/c"));
}

#[test]
fn an_unknown_variable_names_the_known_ones() {
    let fixture = UpdateFixture::new(&[("PIPELINE_VARIABLES", "COMMIT_ID,TAG")]);
    let error = fixture.config().expect_err("it is not valid");
    assert!(
        error.report().contains("`TAG` is not `true`, `false`"),
        "{}",
        error.report()
    );
    assert!(error.report().contains("TAG_NAME"), "{}", error.report());
}
