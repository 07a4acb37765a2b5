//! The text of the comment with a pipeline's result, in Markdown.

use std::fmt::Write as _;

use branchline_core::arn::Origin;
use branchline_core::codecommit::MAX_COMMENT_CHARS;
use branchline_core::name::{CommitId, PipelineName};
use branchline_core::pipeline::{ExecutionState, FailedAction, PipelineExecution};

/// Maximum number of characters of a message of another service.
const MAX_MESSAGE_CHARS: usize = 2_000;

/// Number of hexadecimal digits of a commit id.
const ABBREVIATED_DIGITS: usize = 10;

/// Content of a comment.
pub(super) struct Content<'a> {
    pub(super) pipeline: &'a PipelineName,
    pub(super) execution_id: &'a str,
    pub(super) execution: &'a PipelineExecution,
    pub(super) commit: CommitId,
    pub(super) failed: Option<&'a FailedAction>,
    /// Account and region of the pipeline; no link without it.
    pub(super) origin: Option<&'a Origin>,
}

/// Writes the comment, which depends on nothing but `content`.
pub(super) fn text(content: &Content<'_>) -> String {
    let Content {
        pipeline,
        execution_id,
        execution,
        commit,
        failed,
        origin,
    } = content;
    let end = match execution.state {
        ExecutionState::Succeeded => "succeeded",
        ExecutionState::Stopped => "was stopped",
        _ => "failed",
    };
    let commit = &commit.to_string()[..ABBREVIATED_DIGITS];
    let mut text = format!("**Pipeline `{pipeline}` {end}** for `{commit}`.\n");
    let mut message = execution.summary.as_deref();
    if let Some(failed) = failed {
        let stage = plain(&failed.stage);
        let action = plain(&failed.action);
        let _ = write!(text, "\nThe failed action is `{action}` of stage `{stage}`");
        // Writing to a text cannot fail.
        let _ = match failed.url.as_deref().filter(|url| is_link(url)) {
            Some(url) => writeln!(text, " ([its run]({url}))."),
            None => writeln!(text, "."),
        };
        message = failed.message.as_deref().or(message);
    }
    if let Some(message) = message.filter(|_| execution.state != ExecutionState::Succeeded) {
        text.push_str(&quoted(message));
    }
    match origin {
        Some(origin) => {
            let url = console_url(origin, pipeline, execution_id);
            let _ = writeln!(text, "\n[Execution {execution_id}]({url})");
        }
        None => {
            let _ = writeln!(text, "\nExecution `{execution_id}`");
        }
    }
    debug_assert!(text.chars().count() <= MAX_COMMENT_CHARS);
    text
}

/// Returns the page of an execution in the console.
fn console_url(origin: &Origin, pipeline: &PipelineName, execution_id: &str) -> String {
    let region = &origin.region;
    let host = if region.starts_with("cn-") {
        "console.amazonaws.cn".to_owned()
    } else if region.starts_with("us-gov-") {
        "console.amazonaws-us-gov.com".to_owned()
    } else {
        format!("{region}.console.aws.amazon.com")
    };
    format!(
        "https://{host}/codesuite/codepipeline/pipelines/{pipeline}/executions/{execution_id}\
         /timeline?region={region}"
    )
}

/// Returns a name without characters that end code in Markdown, at most 100 of them.
fn plain(name: &str) -> String {
    let kept = name.chars().filter(|c| !c.is_control() && *c != '`');
    kept.take(100).collect()
}

/// Returns whether a URL can stand in a link.
fn is_link(url: &str) -> bool {
    let breaks =
        |c: char| c.is_whitespace() || c.is_control() || matches!(c, '(' | ')' | '<' | '>');
    url.starts_with("https://") && url.len() <= 2_000 && !url.chars().any(breaks)
}

/// Returns foreign text as a block of code, whose fence is longer than any in the text.
fn quoted(message: &str) -> String {
    let mut shown: String = message.chars().take(MAX_MESSAGE_CHARS).collect();
    if shown.len() < message.len() {
        shown.push_str(" ..");
    }
    let shown: String = shown
        .chars()
        .map(|c| if c.is_control() && c != '\n' { ' ' } else { c })
        .collect();
    let runs = shown.split(|c| c != '`').map(str::len);
    let fence = "`".repeat(runs.max().unwrap_or_default().max(2) + 1);
    format!("\n{fence}\n{}\n{fence}\n", shown.trim_end())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn execution(state: ExecutionState) -> PipelineExecution {
        PipelineExecution {
            state,
            variables: BTreeMap::new(),
            revisions: Vec::new(),
            summary: None,
        }
    }

    fn written(execution: &PipelineExecution, failed: Option<&FailedAction>) -> String {
        text(&Content {
            pipeline: &PipelineName::new("deploy").expect("it is valid"),
            execution_id: "e1",
            execution,
            commit: CommitId::new(&"ab".repeat(20)).expect("it is valid"),
            failed,
            origin: Origin::of_arn("arn:aws:lambda:eu-west-1:111122223333:function:update")
                .as_ref(),
        })
    }

    #[test]
    fn a_comment_names_the_pipeline_the_commit_and_the_failed_action() {
        insta::assert_snapshot!(written(&execution(ExecutionState::Succeeded), None), @r"
        **Pipeline `deploy` succeeded** for `ababababab`.

        [Execution e1](https://eu-west-1.console.aws.amazon.com/codesuite/codepipeline/pipelines/deploy/executions/e1/timeline?region=eu-west-1)
        ");
        let failed = FailedAction {
            stage: "Build".into(),
            action: "Compile".into(),
            message: Some("Build terminated with state: FAILED".into()),
            url: Some("https://example.com/build/1".into()),
        };
        insta::assert_snapshot!(written(&execution(ExecutionState::Failed), Some(&failed)), @r"
        **Pipeline `deploy` failed** for `ababababab`.

        The failed action is `Compile` of stage `Build` ([its run](https://example.com/build/1)).

        ```
        Build terminated with state: FAILED
        ```

        [Execution e1](https://eu-west-1.console.aws.amazon.com/codesuite/codepipeline/pipelines/deploy/executions/e1/timeline?region=eu-west-1)
        ");
    }

    #[test]
    fn foreign_text_cannot_leave_its_block_or_exceed_a_comment() {
        let failed = FailedAction {
            stage: "a`b\n".into(),
            action: "`".repeat(500),
            message: Some(format!(
                "````\n[x](https://evil)\n{}",
                "\u{1f600}`".repeat(9_000)
            )),
            url: Some("https://x/) [y](https://evil".into()),
        };
        let text = written(&execution(ExecutionState::Failed), Some(&failed));
        assert!(text.chars().count() <= MAX_COMMENT_CHARS, "{}", text.len());
        assert!(text.contains("\n`````\n````\n"), "{text}");
        assert!(!text.contains("its run"), "the URL could end the link");
    }
}
