//! Rows for people, as text: the same words on paper and on the screen.

use std::fmt::Write as _;

use super::super::output::columns;
use crate::top::{Cause, Ejected, Row, State, Top, Used};

/// What stands above the columns.
pub const HEAD: [&str; 9] =
    ["TARGET", "CLIENT", "STATE", "REQ/S", "ACTIVE", "PENDING", "CONNECTIONS", "REFUSED/S", "EJECTED"];

/// For what is not known.
const UNKNOWN: &str = "?";

/// All rows, and how many proxies are idle.
#[must_use]
pub fn table(top: &Top, namespace: &str, domain: &str) -> String {
    let mut rows = vec![HEAD.map(str::to_owned).to_vec()];
    rows.extend(top.rows.iter().map(|row| cells(row, namespace, domain).to_vec()));
    let mut text =
        if top.rows.is_empty() { "no client has called anything yet\n".to_owned() } else { columns(0, &rows) };
    let causes = top.rows.iter().flat_map(|row| causes(row).into_iter().map(move |line| (&row.client.pod, line)));
    for (pod, line) in causes {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {pod}: {line}");
    }
    if let Some(line) = idle(top) {
        let _ = writeln!(text, "{line}");
    }
    text
}

/// Who is no row.
pub(super) fn idle(top: &Top) -> Option<String> {
    match top.idle {
        0 => None,
        1 => Some("1 other proxy has called nothing of it".to_owned()),
        idle => Some(format!("{idle} other proxies have called nothing of it")),
    }
}

/// One row. Hosts of `namespace` go by their names.
#[must_use]
pub fn cells(row: &Row, namespace: &str, domain: &str) -> [String; 9] {
    [
        target(row, namespace, domain),
        client(row, namespace),
        row.states.iter().map(|state| state.word()).collect::<Vec<_>>().join(", "),
        rate(row.requests_per_s),
        used(row.active_requests),
        used(row.pending_requests),
        used(row.connections),
        refused(row),
        ejected(row),
    ]
}

/// Host, port and subset.
fn target(row: &Row, namespace: &str, domain: &str) -> String {
    let host = row.host.strip_suffix(&format!(".{namespace}.svc.{domain}")).unwrap_or(&row.host);
    let subset = row.subset.as_ref().map(|subset| format!("/{subset}")).unwrap_or_default();
    format!("{host}:{}{subset}", row.port)
}

fn client(row: &Row, namespace: &str) -> String {
    if row.client.namespace == namespace {
        row.client.pod.clone()
    } else {
        format!("{}/{}", row.client.namespace, row.client.pod)
    }
}

/// With one digit behind the point where it is small.
pub(super) fn rate(rate: Option<f64>) -> String {
    match rate {
        None => UNKNOWN.to_owned(),
        Some(rate) if rate >= 100.0 || rate == 0.0 => format!("{rate:.0}"),
        // It is not nothing.
        Some(rate) if rate < 0.1 => "<0.1".to_owned(),
        Some(rate) => format!("{rate:.1}"),
    }
}

fn used(used: Used) -> String {
    let now = used.used.map_or_else(|| UNKNOWN.to_owned(), |used| used.to_string());
    used.allowed.map_or_else(|| now.clone(), |allowed| format!("{now} of {allowed}"))
}

fn refused(row: &Row) -> String {
    let share = row.refused.percent.filter(|percent| *percent > 0.0);
    let share = share.map(|percent| if percent < 1.0 { " (<1 %)".to_owned() } else { format!(" ({percent:.0} %)") });
    rate(row.refused.per_s) + &share.unwrap_or_default()
}

fn ejected(row: &Row) -> String {
    if row.ejected.is_empty() {
        return "0".to_owned();
    }
    // The last one is back then; one that is not known makes that unknown.
    let latest: Option<Vec<u64>> = row.ejected.iter().map(|ejected| ejected.returns_within_s).collect();
    let back = latest.and_then(|all| all.into_iter().max()).map(|latest| format!(", back in ≤ {latest} s"));
    format!("{} of {}{}", row.ejected.len(), row.endpoints, back.unwrap_or_default())
}

/// What was refused since the reading before, and which endpoints are out; a line each.
#[must_use]
pub fn causes(row: &Row) -> Vec<String> {
    let refused = row.refused.by_cause.iter().filter(|line| line.per_s.is_some_and(|rate| rate > 0.0)).map(|line| {
        let what = if line.cause == Cause::ConcurrentRetries { "retries not made" } else { "refused" };
        format!("{}/s {what}: {} ({} in all)", rate(line.per_s), line.cause.word(), line.total)
    });
    let out = row.ejected.iter().map(|Ejected { endpoint, returns_within_s }| match returns_within_s {
        Some(within) => format!("{endpoint} is ejected, back in ≤ {within} s"),
        None => format!("{endpoint} is ejected, for how long is not known"),
    });
    refused.chain(out).collect()
}

/// Numbers as a line of bars, the newest at the end; a gap where one is not known.
#[must_use]
pub fn trend(numbers: &[Option<f64>], width: usize) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let shown = &numbers[numbers.len().saturating_sub(width)..];
    let most = shown.iter().copied().flatten().fold(0.0, f64::max);
    let bar = |number: &Option<f64>| match number {
        None => ' ',
        Some(number) if *number <= 0.0 => BARS[0],
        Some(number) => bar_of(*number / most, &BARS),
    };
    let bars: String = shown.iter().map(bar).collect();
    format!("{bars:>width$}")
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of 1, times 7")]
fn bar_of(share: f64, bars: &[char; 8]) -> char {
    bars[((share * 7.0).ceil() as usize).min(7)]
}

/// How bad it is.
pub(super) fn is_bad(row: &Row) -> bool {
    row.states.iter().any(|state| matches!(state, State::Limiting | State::Ejecting | State::Panic))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_grow_with_numbers_and_a_gap_stays_one() {
        assert_eq!(trend(&[None, Some(0.0), Some(1.0), Some(7.0)], 6), "   ▁▂█");
        assert_eq!(trend(&[Some(3.0), Some(0.0), Some(0.0)], 2), "▁▁");
    }

    #[test]
    fn a_small_rate_is_not_nothing_and_an_unknown_one_is_no_number() {
        assert_eq!([None, Some(0.0), Some(0.01), Some(1.25), Some(250.4)].map(rate), ["?", "0", "<0.1", "1.2", "250"]);
    }
}
