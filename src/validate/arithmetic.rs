//! Ejection in numbers of endpoints.

/// How many of `endpoints` may be ejected at a time: rounded down, as Envoy does (measured M5).
#[must_use]
pub fn ejectable(endpoints: u32, max_percent: u32) -> u32 {
    u32::try_from(u64::from(endpoints) * u64::from(max_percent) / 100).unwrap_or(u32::MAX)
}

/// The share to write when none is declared: at least one can go, but never the only one, and
/// never all. Few steps, so that scaling rarely rewrites the rule: each rewrite makes the proxies
/// forget their ejections and reopen their connections (measured M67, M74).
#[must_use]
pub const fn default_max_percent(endpoints: u32) -> u32 {
    match endpoints {
        0..=3 => 50,
        4..=9 => 25,
        _ => 10,
    }
}

#[cfg(test)]
mod tests {
    use super::{default_max_percent, ejectable};

    #[test]
    fn the_arithmetic_is_what_was_measured() {
        // (endpoints, percent, ejected): measured M5, row by row.
        let rows = [
            (1, 10, 0),
            (1, 99, 0),
            (1, 100, 1),
            (2, 34, 0),
            (2, 50, 1),
            (2, 99, 1),
            (2, 100, 2),
            (3, 10, 0),
            (3, 34, 1),
            (3, 50, 1),
            (3, 67, 2),
            (3, 99, 2),
            (3, 100, 3),
            (10, 10, 1),
            (10, 34, 3),
            (10, 50, 5),
            (10, 67, 6),
            (10, 99, 9),
            (10, 100, 10),
        ];
        for (endpoints, percent, ejected) in rows {
            assert_eq!(ejectable(endpoints, percent), ejected, "{percent} % of {endpoints}");
        }
    }

    #[test]
    fn unset_ejects_at_least_one_but_never_the_only_one_and_never_all() {
        assert_eq!(ejectable(1, default_max_percent(1)), 0);
        for endpoints in 2..=1000 {
            let out = ejectable(endpoints, default_max_percent(endpoints));
            assert!(out >= 1 && out < endpoints, "{out} of {endpoints}");
        }
    }
}
