//! The report as an aligned table. Pure: whether to colour is told.

use std::fmt::Write as _;

use super::outcome::ConnectionError;
use super::plan::{Connections, Pacing, Protocol};
use super::report::{Bar, EndedBy, Group, Latency, Report};

const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const BOLD: &str = "1";

/// The report for people: what was done, a row per outcome, and what to mind. Ends with a newline.
#[must_use]
pub fn table(report: &Report, colour: bool) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{}", heading(report));
    let _ = writeln!(out, "{}\n", summary(report));
    for row in rows(report) {
        let _ = writeln!(out, "{}", row.paint(colour));
    }
    if !report.histogram.is_empty() {
        let _ = writeln!(out, "\n{}", painted("latency of all", BOLD, colour));
    }
    for bar in &report.histogram {
        let _ = writeln!(out, "{}", bar_of(bar, report));
    }
    let notes = notes(report);
    if !notes.is_empty() {
        out.push('\n');
    }
    for note in notes {
        let _ = writeln!(out, "{}", painted(&note, YELLOW, colour));
    }
    out
}

fn heading(report: &Report) -> String {
    let protocol = match report.protocol {
        Protocol::Http1 => "HTTP/1.1",
        Protocol::Http2 => "HTTP/2",
    };
    let pacing = match report.pacing {
        Pacing::Closed { concurrency } => format!("closed loop, concurrency {concurrency}"),
        Pacing::Open { rate_per_s, max_in_flight } => {
            format!("open loop, {rate_per_s}/s, at most {max_in_flight} in flight")
        }
    };
    let connections = match report.connections {
        Connections::Own => "one each",
        Connections::Shared => "shared",
        Connections::Fresh => "one per request",
    };
    let over = report.http2_connections.map(|number| format!(" {number}")).unwrap_or_default();
    format!(
        "{} {}: {protocol}, {pacing}, connections:{over} {connections}, {} opened",
        report.method, report.url, report.connections_opened
    )
}

fn summary(report: &Report) -> String {
    let ended_by = match report.ended_by {
        EndedBy::Requests => "all requests done",
        EndedBy::Duration => "time is up",
        EndedBy::Signal => "stopped early",
        EndedBy::Guard => "stopped by the guard",
    };
    let warm_up = if report.warm_up_s > 0.0 {
        format!("; before, {} to warm up in {:.3} s", report.warm_up_requests, report.warm_up_s)
    } else {
        String::new()
    };
    format!(
        "{} requests in {:.3} s ({:.1}/s), {} bytes received; {ended_by}{warm_up}",
        report.requests, report.elapsed_s, report.achieved_rate_per_s, report.received_bytes
    )
}

fn notes(report: &Report) -> Vec<String> {
    let mut notes = Vec::new();
    if report.guard_tripped {
        notes.push(format!("guard: {:.1} % errors is too many", report.error_percent));
    }
    if report.unsent > 0 {
        notes.push(format!(
            "{} unsent: too many in flight when they were due, so the load was gentler than asked for",
            report.unsent
        ));
    }
    if report.unfinished > 0 {
        notes.push(format!("{} unfinished: given up when told to stop", report.unfinished));
    }
    if report.connection_errors.by_kind.get(&ConnectionError::LocalResources) > Some(&0) {
        notes.push("this machine ran out of ports or files: see `ulimit -n`".to_owned());
    }
    notes
}

/// A line of the histogram: the edge, the count, and a bar that is as long as its share of the longest.
fn bar_of(bar: &Bar, report: &Report) -> String {
    const LONGEST: u64 = 50;
    let most = report.histogram.iter().map(|bar| bar.count).max().unwrap_or(0).max(1);
    // Rounded up: what is there is seen.
    let long = usize::try_from((bar.count * LONGEST).div_ceil(most)).unwrap_or(0);
    format!("{:>16} ms {:>16} {}", format!("<= {}", bar.up_to_ms), bar.count, "#".repeat(long)).trim_end().to_owned()
}

struct Row {
    label: String,
    cells: Vec<String>,
    colour: Option<&'static str>,
}

impl Row {
    fn new(label: &str, group: &Group, colour: Option<&'static str>) -> Self {
        let mut cells = vec![group.count.to_string(), format!("{:.1}", group.percent)];
        cells.extend(latency_cells(group.latency));
        Self { label: label.to_owned(), cells, colour }
    }

    fn paint(&self, colour: bool) -> String {
        let mut line = format!("{:<25}", self.label);
        for cell in &self.cells {
            let _ = write!(line, " {cell:>10}");
        }
        let line = line.trim_end();
        // Only ever whole lines, so that escapes never shift a column.
        self.colour.map_or_else(|| line.to_owned(), |code| painted(line, code, colour))
    }
}

fn rows(report: &Report) -> Vec<Row> {
    let titles = ["count", "%", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms"];
    let mut rows =
        vec![Row { label: "outcome".to_owned(), cells: titles.map(str::to_owned).to_vec(), colour: Some(BOLD) }];
    for (status, group) in &report.statuses {
        let colour = match status {
            ..400 => GREEN,
            503 => YELLOW,
            _ => RED,
        };
        rows.push(Row::new(&status.to_string(), group, Some(colour)));
        if *status == 503 {
            let causes = &report.unavailable_503;
            for (label, group) in [
                ("  x-envoy-overloaded", &causes.overloaded),
                ("    behind the first", &causes.overloaded_behind),
                ("  no healthy upstream", &causes.no_healthy_upstream),
                ("  other", &causes.other),
            ] {
                rows.push(Row::new(label, group, None));
            }
        }
    }
    if report.timeouts.count > 0 {
        rows.push(Row::new("timeout", &report.timeouts, Some(RED)));
    }
    if report.connection_errors.all.count > 0 {
        rows.push(Row::new("connection errors", &report.connection_errors.all, Some(RED)));
        for (kind, count) in report.connection_errors.by_kind.iter().filter(|(_, count)| **count > 0) {
            rows.push(Row { label: format!("  {}", kind.words()), cells: vec![count.to_string()], colour: None });
        }
    }
    for (server, count) in &report.servers {
        // Whoever answers chooses this text: no escapes from it reach a terminal.
        let server: String = server.chars().filter(|c| !c.is_control()).take(16).collect();
        rows.push(Row { label: format!("server: {server}"), cells: vec![count.to_string()], colour: None });
    }
    let percent = if report.requests > 0 { 100.0 } else { 0.0 };
    let all = Group { count: report.requests, percent, latency: report.latency };
    rows.push(Row::new("all", &all, Some(BOLD)));
    if let Some(lag) = report.start_lag {
        let mut cells = vec![String::new(), String::new()];
        cells.extend(latency_cells(Some(lag)));
        rows.push(Row { label: "of it: left late by".to_owned(), cells, colour: None });
    }
    rows
}

fn latency_cells(latency: Option<Latency>) -> Vec<String> {
    match latency {
        Some(l) => [l.p50_ms, l.p90_ms, l.p99_ms, l.p999_ms, l.max_ms].map(|ms| format!("{ms:.3}")).to_vec(),
        None => vec!["-".to_owned(); 5],
    }
}

fn painted(text: &str, code: &str, colour: bool) -> String {
    if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::plan::tests::plan;
    use crate::load::report::RunFacts;
    use crate::load::report::tests::{facts, recorder};

    #[test]
    fn the_table_is_aligned_and_says_everything() {
        let report = Report::new(&plan(), &recorder(), facts());
        // 3.001 and 6.003: a percentile is the upper end of its bucket, 0.1 % wide.
        let expected = "\
GET http://127.0.0.1:8000/get: HTTP/1.1, closed loop, concurrency 3, connections: one each, 3 opened
10 requests in 4.000 s (2.5/s), 681 bytes received; all requests done

outcome                        count          %     p50 ms     p90 ms     p99 ms   p99.9 ms     max ms
200                                6       60.0      3.001      6.000      6.000      6.000      6.000
503                                2       20.0      1.000      3.000      3.000      3.000      3.000
  x-envoy-overloaded               1       10.0      1.000      1.000      1.000      1.000      1.000
    behind the first               0        0.0          -          -          -          -          -
  no healthy upstream              0        0.0          -          -          -          -          -
  other                            1       10.0      3.000      3.000      3.000      3.000      3.000
timeout                            1       10.0  10000.000  10000.000  10000.000  10000.000  10000.000
connection errors                  1       10.0      2.000      2.000      2.000      2.000      2.000
  connection refused               1
server: envoy                      8
all                               10      100.0      3.001      6.003  10000.000  10000.000  10000.000

latency of all
            <= 1 ms                2 #########################
            <= 2 ms                2 #########################
            <= 5 ms                4 ##################################################
           <= 10 ms                1 #############
           <= 20 ms                0
           <= 50 ms                0
          <= 100 ms                0
          <= 200 ms                0
          <= 500 ms                0
         <= 1000 ms                0
         <= 2000 ms                0
         <= 5000 ms                0
        <= 10000 ms                1 #############
";
        assert_eq!(table(&report, false), expected);
    }

    #[test]
    fn colours_change_nothing_but_the_colours() {
        let report = Report::new(&plan(), &recorder(), facts());
        let coloured = table(&report, true);
        assert!(coloured.contains("\x1b[32m200 "));
        let mut plain = coloured;
        for code in [RED, GREEN, YELLOW, BOLD, "0"] {
            plain = plain.replace(&format!("\x1b[{code}m"), "");
        }
        assert_eq!(plain, table(&report, false));
    }

    #[test]
    fn what_was_not_sent_or_not_finished_is_said() {
        let facts = RunFacts { unsent: 7, unfinished: 2, ..facts() };
        let text = table(&Report::new(&plan(), &recorder(), facts), false);
        assert!(text.contains("\n7 unsent: "), "{text}");
        assert!(text.contains("\n2 unfinished: "), "{text}");
    }
}
