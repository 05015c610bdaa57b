//! The older text format, for who does not ask for `OpenMetrics`: there the head of a metric has the full name,
//! and there is no type `info` (<https://prometheus.io/docs/instrumenting/exposition_formats/>).

use std::{collections::BTreeMap, fmt::Write as _};

/// A type of `OpenMetrics` as the older format shows it, and what it puts behind the name of each sample.
pub(super) fn shown(kind: &str) -> (&'static str, &'static str) {
    match kind {
        "counter" => ("counter", "_total"),
        "info" => ("gauge", "_info"),
        "gauge" => ("gauge", ""),
        "histogram" => ("histogram", ""),
        _ => ("untyped", ""),
    }
}

/// `OpenMetrics` in the older format. Samples are the same in both.
#[must_use]
pub fn classic(text: &str) -> String {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let types: BTreeMap<&str, &str> = types.collect();
    let mut classic = String::with_capacity(text.len());
    for line in text.lines() {
        let head = line.strip_prefix("# ").and_then(|head| head.split_once(' '));
        let written = match head.and_then(|(word, rest)| Some((word, rest.split_once(' ')?))) {
            Some((word @ ("HELP" | "TYPE"), (name, rest))) => {
                let (kind, suffix) = shown(types.get(name).copied().unwrap_or_default());
                writeln!(classic, "# {word} {name}{suffix} {}", if word == "TYPE" { kind } else { rest })
            }
            // Units stand in the names; the end needs no mark.
            _ if line.starts_with('#') => Ok(()),
            _ => writeln!(classic, "{line}"),
        };
        debug_assert!(written.is_ok(), "a String can be written to");
    }
    classic
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_gets_the_name_that_its_samples_have() {
        let text = "# HELP a Some.\n# TYPE a counter\n# UNIT a seconds\na_total{b=\"c\"} 1\n# HELP d More.\n\
                    # TYPE d info\nd_info{v=\"1\"} 1\n# HELP g Now.\n# TYPE g gauge\ng 2\n# EOF\n";
        let wanted = "# HELP a_total Some.\n# TYPE a_total counter\na_total{b=\"c\"} 1\n# HELP d_info More.\n\
                      # TYPE d_info gauge\nd_info{v=\"1\"} 1\n# HELP g Now.\n# TYPE g gauge\ng 2\n";
        assert_eq!(classic(text), wanted);
    }
}
