//! Lists of a running server as tables for people.

use serde_json::Value;

/// Requests by principal and action.
pub(super) fn requests(list: &Value) -> String {
    let heads = ["service", "action", "requests", "failed", "principal"];
    let row = |line: &Value| {
        let principal = text(&line["principal"]);
        // Only the last part of the ARN distinguishes principals.
        let principal = principal.rsplit(':').next().unwrap_or_default().to_owned();
        vec![
            text(&line["service"]),
            text(&line["action"]),
            text(&line["count"]),
            text(&line["failed"]),
            principal,
        ]
    };
    table(&heads, rows(&list["requests"], row), "no requests yet")
}

/// Executions of all pipelines.
pub(super) fn executions(list: &Value) -> String {
    let heads = ["pipeline", "status", "object", "version", "execution"];
    let row = |execution: &Value| {
        let source = &execution["sources"][0];
        let commit = &execution["commits"][0];
        let object = match (source["key"].as_str(), commit["commit_id"].as_str()) {
            (Some(key), _) => format!("s3://{}/{key}", text(&source["bucket"])),
            (None, Some(id)) => format!("{} {id}", text(&commit["repository"])),
            (None, None) => text(&execution["status_summary"]),
        };
        vec![
            text(&execution["pipeline"]),
            text(&execution["status"]),
            object,
            text(&source["version_id"]),
            text(&execution["id"]),
        ]
    };
    table(&heads, rows(&list["executions"], row), "no executions yet")
}

/// Events of all buses.
pub(super) fn events(list: &Value) -> String {
    let heads = ["bus", "time", "source", "detail type", "about"];
    let row = |line: &Value| {
        let (event, detail) = (&line["event"], &line["event"]["detail"]);
        let about = [&detail["event"], &detail["state"], &event["resources"][0]];
        let about: Vec<String> = about
            .into_iter()
            .filter(|value| !value.is_null())
            .map(text)
            .collect();
        vec![
            text(&line["bus"]),
            text(&event["time"]),
            text(&event["source"]),
            text(&event["detail-type"]),
            about.join(" "),
        ]
    };
    table(&heads, rows(&list["events"], row), "no events yet")
}

/// Events that failed for good.
pub(super) fn dead_letters(list: &Value) -> String {
    let heads = ["function", "attempts", "error", "message"];
    let row = |letter: &Value| {
        vec![
            text(&letter["function"]),
            text(&letter["attempts"]),
            text(&letter["error_type"]),
            text(&letter["error_message"]),
        ]
    };
    table(&heads, rows(&list["deadLetters"], row), "no dead letters")
}

fn rows(list: &Value, row: impl Fn(&Value) -> Vec<String>) -> Vec<Vec<String>> {
    list.as_array().into_iter().flatten().map(row).collect()
}

/// Returns a value as one line of printable characters; a missing one as `-`.
fn text(value: &Value) -> String {
    let text = match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// Aligns the columns, but for the last one.
fn table(heads: &[&str], rows: Vec<Vec<String>>, none: &str) -> String {
    if rows.is_empty() {
        return format!("{none}\n");
    }
    let heads = heads.iter().map(|head| (*head).to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(heads).chain(rows).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let mut out = String::new();
    for row in &rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            line.push_str(cell);
            let padding = width(column) - cell.chars().count() + 2;
            line.extend(std::iter::repeat_n(' ', padding));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_are_aligned_and_control_characters_are_left_out() {
        let list = json!({ "deadLetters": [
            { "function": "update", "attempts": 3, "error_type": "branchline.NotFound",
              "error_message": "the branch\nis gone" },
            { "function": "f", "attempts": 12, "error_type": "Runtime.Unknown" },
        ]});
        assert_eq!(
            dead_letters(&list),
            "function  attempts  error                message\n\
             update    3         branchline.NotFound  the branch is gone\n\
             f         12        Runtime.Unknown      -\n"
        );
        assert_eq!(dead_letters(&json!({})), "no dead letters\n");
    }
}
