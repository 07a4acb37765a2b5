//! Tables and plots of results.

use std::fmt::Write as _;
use std::time::Duration;

use crate::results::{Row, Section};

/// Width of a plot, and of the names at its left, in pixels.
const PLOT_WIDTH: f64 = 760.0;
const NAMES_WIDTH: f64 = 300.0;
/// Width that a bar's figure needs at its end, in pixels.
const FIGURE_WIDTH: f64 = 150.0;
/// Height of a bar with its gap, in pixels.
const BAR_HEIGHT: usize = 24;

/// Returns a section as Markdown. The plot is linked as `plot`.
pub fn table(section: &Section, plot: &str) -> String {
    let mut text = format!("### {}\n\n", section.title);
    let reference = section.reference_row();
    let name = reference.map_or("", |row| row.name.as_str());
    let has = |value: fn(&Row) -> Option<u64>| section.rows.iter().any(|row| value(row).is_some());
    let (requests, peaks, bytes) = (
        has(|row| row.requests),
        has(|row| row.peak_bytes),
        has(|row| row.bytes),
    );
    let mut heads = vec![String::new(), format!("time / {name}"), "time".to_owned()];
    heads.extend(requests.then(|| "requests".to_owned()));
    heads.extend(peaks.then(|| "peak memory".to_owned()));
    heads.extend(bytes.then(|| "bytes".to_owned()));
    line(&mut text, &heads);
    let rules: Vec<String> = (0..heads.len())
        .map(|at| if at == 0 { "---" } else { "---:" }.to_owned())
        .collect();
    line(&mut text, &rules);
    for row in &section.rows {
        let ratio = ratio(row, reference);
        let mut cells = vec![row.name.clone(), ratio, time(row.wall)];
        cells.extend(requests.then(|| row.requests.map_or_else(dash, |count| count.to_string())));
        cells.extend(peaks.then(|| row.peak_bytes.map_or_else(dash, mebibytes)));
        cells.extend(bytes.then(|| row.bytes.map_or_else(dash, mebibytes)));
        line(&mut text, &cells);
    }
    let _ = writeln!(text, "\n![{}]({plot})\n", section.title);
    text
}

/// Returns the durations of a section as an SVG of horizontal bars.
pub fn plot(section: &Section) -> String {
    let longest = section.rows.iter().map(|row| row.wall).max();
    let longest = longest.unwrap_or_default().as_secs_f64().max(1e-9);
    let room = PLOT_WIDTH - NAMES_WIDTH - FIGURE_WIDTH;
    let height = section.rows.len() * BAR_HEIGHT + 40;
    let reference = section.reference_row();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{PLOT_WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"8\" y=\"20\" font-weight=\"bold\">{}</text>\n",
        escaped(&section.title)
    );
    for (number, row) in section.rows.iter().enumerate() {
        let top = 32 + number * BAR_HEIGHT;
        let width = (row.wall.as_secs_f64() / longest * room).max(1.0);
        let is_reference = reference == Some(row);
        let colour = if is_reference { "#9a9a9a" } else { "#3b6ea5" };
        let end = NAMES_WIDTH + width + 6.0;
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\n\
             <rect x=\"{NAMES_WIDTH}\" y=\"{top}\" width=\"{width:.1}\" height=\"18\" \
             fill=\"{colour}\"/>\n\
             <text x=\"{end:.1}\" y=\"{}\">{} ({})</text>",
            NAMES_WIDTH - 8.0,
            top + 14,
            escaped(&row.name),
            top + 14,
            time(row.wall),
            ratio(row, reference),
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn line(text: &mut String, cells: &[String]) {
    let _ = writeln!(text, "| {} |", cells.join(" | "));
}

fn dash() -> String {
    "-".to_owned()
}

fn ratio(row: &Row, reference: Option<&Row>) -> String {
    let reference = reference.map_or(0.0, |row| row.wall.as_secs_f64());
    if reference <= 0.0 {
        return dash();
    }
    format!("{:.2} x", row.wall.as_secs_f64() / reference)
}

fn time(wall: Duration) -> String {
    let seconds = wall.as_secs_f64();
    if seconds < 0.01 {
        format!("{:.1} ms", seconds * 1000.0)
    } else if seconds < 10.0 {
        format!("{:.0} ms", seconds * 1000.0)
    } else {
        format!("{seconds:.1} s")
    }
}

fn mebibytes(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let mebibytes = bytes as f64 / f64::from(1024 * 1024);
    format!("{mebibytes:.1} MiB")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section() -> Section {
        let row = |name: &str, milliseconds, requests| Row {
            name: name.into(),
            wall: Duration::from_millis(milliseconds),
            requests,
            ..Row::default()
        };
        Section {
            title: "Archive of <500> files".into(),
            reference: "the limit".into(),
            rows: vec![row("update", 300, Some(603)), row("the limit", 200, None)],
        }
    }

    #[test]
    fn a_table_begins_with_the_ratios() {
        let text = table(&section(), "benchmarks/archive-1.svg");
        let expected = "### Archive of <500> files\n\n\
            |  | time / the limit | time | requests |\n\
            | --- | ---: | ---: | ---: |\n\
            | update | 1.50 x | 300 ms | 603 |\n\
            | the limit | 1.00 x | 200 ms | - |\n\n\
            ![Archive of <500> files](benchmarks/archive-1.svg)\n\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_plot_has_a_bar_for_each_run_and_no_markup_of_names() {
        let svg = plot(&section());
        assert_eq!(svg.matches("<rect x=").count(), 2);
        assert!(svg.contains("Archive of &lt;500> files"), "{svg}");
        assert!(svg.contains("300 ms (1.50 x)"), "{svg}");
    }
}
