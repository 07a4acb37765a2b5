//! The runbook is held against the template's alarms, against what the functions print, and
//! against the list of metrics; so is the dashboard.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use branchline_core::ErrorKind;
use branchline_core::metrics::{Metric, NAMESPACE};
use branchline_tests::template::Template;
use serde_json::Value;

const RUNBOOK: &str = include_str!("../../docs/runbook.md");

const TEMPLATE: &str = include_str!("../../template.yaml");
const BACKUP_WATCH: &str = include_str!("../../statemachines/backup-watch.asl.json");

/// The logical ids of the template's alarms.
fn alarms() -> BTreeSet<&'static str> {
    let lines: Vec<&str> = TEMPLATE.lines().collect();
    let pairs = lines.windows(2);
    let found = pairs.filter(|pair| pair[1] == "    Type: AWS::CloudWatch::Alarm");
    found
        .map(|pair| pair[0].trim().trim_end_matches(':'))
        .collect()
}

/// The bodies of the runbook's code blocks in a language.
fn blocks(language: &str) -> Vec<&'static str> {
    let start = format!("```{language}\n");
    let rest = RUNBOOK.split(start.as_str()).skip(1);
    rest.map(|rest| rest.split_once("```").expect("the block ends").0)
        .collect()
}

#[test]
fn each_alarm_has_a_section_of_its_name_and_each_section_an_alarm() {
    let alarms = alarms();
    assert!(alarms.len() > 10, "they are found: {alarms:?}");
    let headings = RUNBOOK.lines().filter_map(|line| line.strip_prefix("## "));
    let sections: BTreeSet<&str> = headings
        .filter(|heading| *heading != "Where to look")
        .flat_map(|heading| heading.split(", "))
        .collect();
    assert_eq!(sections, alarms);
    for alarm in alarms {
        let named = format!("See {alarm} in docs/runbook.md.");
        assert!(TEMPLATE.contains(&named), "its description says where");
    }
}

#[test]
fn the_table_of_metrics_is_the_list_of_metrics() {
    let (_, below) = RUNBOOK.split_once("### The metrics").expect("it is there");
    let rows = below.lines().skip_while(|line| !line.starts_with("| `"));
    let rows = rows.take_while(|line| line.starts_with("| `"));
    let mut documented: Vec<(&str, &str)> = Vec::new();
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let names = cells[0].split(", ");
        documented.extend(names.map(|name| (name.trim_matches('`'), cells[1])));
    }
    let is: Vec<(&str, &str)> = Metric::all()
        .map(|metric| {
            let unit = match metric.unit().name() {
                "Milliseconds" => "ms",
                "Bytes" => "bytes",
                _ => "count",
            };
            (metric.name(), unit)
        })
        .collect();
    assert_eq!(documented, is);
}

#[test]
fn the_table_of_error_types_has_each_kind_once() {
    let (_, below) = RUNBOOK
        .split_once("| `errorType` ends in |")
        .expect("the runbook has a table of error types");
    let rows = below.lines().skip_while(|line| !line.starts_with("| `"));
    let rows = rows.take_while(|line| line.starts_with("| `"));
    let mut listed: Vec<&str> = rows
        .filter_map(|row| row.trim_matches('|').split(" | ").next())
        .flat_map(|cell| cell.split(", "))
        .map(|name| name.trim().trim_matches('`'))
        .collect();
    listed.sort_unstable();
    let mut kinds = ErrorKind::ALL.map(ErrorKind::name);
    kinds.sort_unstable();
    assert_eq!(listed, kinds, "the runbook says of each kind what to do");
}

/// The Rust files of a folder and its folders.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("it is readable").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn queries_ask_for_fields_that_functions_print() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    sources(&top.join("functions"), &mut files);
    sources(&top.join("shared/src"), &mut files);
    let code: String = files
        .iter()
        .map(|file| std::fs::read_to_string(file).expect("it is readable"))
        .collect();
    let metrics: BTreeSet<&str> = Metric::all().map(Metric::name).collect();
    let mut fields = BTreeSet::new();
    for query in blocks("text") {
        // What is quoted is a value; what ends in `.` and a name after `record` is Lambda's.
        let words = query.split('"').step_by(2).flat_map(|part| {
            part.split(|c: char| !(c.is_alphanumeric() || matches!(c, '.' | '_' | '@')))
        });
        let dotted = words.filter(|word| word.contains('.') && !word.starts_with("record."));
        fields.extend(dotted.map(str::to_owned));
        let (_, rest) = query.split_once("ispresent(").unwrap_or(("", "Duration)"));
        let metric = rest.split(')').next().unwrap_or_default();
        assert!(metrics.contains(metric), "{query}");
    }
    assert!(fields.contains("request.id") && fields.contains("error.kind"));
    for field in fields {
        assert!(
            code.contains(&format!("{field} = ")),
            "no function prints `{field}`"
        );
    }
}

/// The body of the dashboard of a stack with these parameters.
fn dashboard(parameters: &[(&str, &str)]) -> Value {
    let template = Template::load().expect("the template is readable");
    let deployment = template.resolve(parameters).expect("they are parameters");
    let dashboard = deployment.properties("Dashboard");
    let body = dashboard.expect("there is a dashboard")["DashboardBody"].clone();
    serde_json::from_str(body.as_str().expect("it is text")).expect("the dashboard is JSON")
}

#[test]
fn the_dashboard_shows_every_alarm_and_every_metric() {
    let dashboard = dashboard(&[("BackupSchedule", "rate(1 day)")]);
    let widgets = dashboard["widgets"].as_array().expect("there are widgets");
    let mut shown = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for widget in widgets {
        let (x, width) = (widget["x"].as_u64(), widget["width"].as_u64());
        assert!(x.zip(width).is_some_and(|(x, width)| x + width <= 24));
        let properties = &widget["properties"];
        for arn in properties["alarms"].as_array().into_iter().flatten() {
            let arn = arn.as_str().expect("an ARN is text");
            shown.insert(arn.rsplit(':').next().expect("an ARN has parts"));
        }
        for row in properties["metrics"].as_array().into_iter().flatten() {
            if row[0] == NAMESPACE {
                assert_eq!(row[2], "FunctionName");
                seen.insert(row[1].as_str().expect("a name is text"));
            }
        }
    }
    assert_eq!(shown, alarms());
    let declared: BTreeSet<&str> = Metric::all().map(Metric::name).collect();
    assert!(seen.is_subset(&declared), "{seen:?}");
    let failures = dashboard.to_string().contains("Failures FunctionName=");
    let missing: Vec<&&str> = declared
        .difference(&seen)
        .filter(|name| !(failures && name.starts_with("Failures")))
        .collect();
    // Lambda measures the same, and is there even where no line was printed.
    assert_eq!(missing, [&"Duration"]);
}

#[test]
fn a_stack_without_alarms_has_a_dashboard_without_them() {
    let dashboard = dashboard(&[("CreateAlarms", "false")]);
    let widgets = dashboard["widgets"].as_array().expect("there are widgets");
    assert!(widgets.iter().all(|widget| widget["type"] != "alarm"));
    assert!(widgets.len() > 10);
}

#[test]
fn alarms_watch_metrics_that_there_are() {
    let declared: BTreeSet<&str> = Metric::all().map(Metric::name).collect();
    let mut own = 0;
    let mut rest = TEMPLATE;
    while let Some((_, below)) = rest.split_once("Namespace: branchline\n") {
        let line = below.lines().next().expect("a line follows");
        let name = line.trim().strip_prefix("MetricName: ");
        let is_sent = |name: &str| {
            let by_state_machine = format!("\"MetricName\": \"{name}\"");
            declared.contains(name) || BACKUP_WATCH.contains(&by_state_machine)
        };
        assert!(name.is_some_and(is_sent), "{line}");
        own += 1;
        rest = below;
    }
    assert!(own >= 3, "failures by kind and mirrors are watched");
}
