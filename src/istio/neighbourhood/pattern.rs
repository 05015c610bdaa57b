//! Hosts and wildcards, as Istio compares them (istio `pkg/config/host/name.go`).

/// Whether it begins with `*`.
pub(super) fn is_wildcard(host: &str) -> bool {
    host.starts_with('*')
}

/// What stands behind the `*`.
fn suffix(wildcard: &str) -> &str {
    &wildcard[1..]
}

/// Whether `pattern` is `host`, or a wildcard that it falls under.
pub(super) fn covers(pattern: &str, host: &str) -> bool {
    match (is_wildcard(pattern), is_wildcard(host)) {
        (true, true) => pattern.len() <= host.len() && suffix(host).ends_with(suffix(pattern)),
        (true, false) => host.ends_with(suffix(pattern)),
        (false, true) => false,
        (false, false) => pattern == host,
    }
}

/// Whether either falls under the other.
pub(super) fn overlap(one: &str, other: &str) -> bool {
    covers(one, other) || covers(other, one)
}

/// Of the patterns that cover `host`, the one that counts: itself, else the longest wildcard.
pub(super) fn most_specific<'a>(host: &str, patterns: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    patterns.into_iter().filter(|pattern| covers(pattern, host)).max_by_key(|pattern| (*pattern == host, pattern.len()))
}

#[cfg(test)]
mod tests {
    use super::{covers, most_specific, overlap};

    #[test]
    fn a_wildcard_covers_what_ends_like_it() {
        assert!(covers("*.server.svc.cluster.local", "httpbin.server.svc.cluster.local"));
        assert!(covers("*", "httpbin.server.svc.cluster.local") && covers("*bin.org", "httpbin.org"));
        assert!(!covers("*.httpbin.org", "httpbin.org") && !covers("httpbin.org", "*.org"));
        assert!(covers("*.org", "*.httpbin.org") && !covers("*.httpbin.org", "*.org"));
        assert!(overlap("*.httpbin.org", "*.org") && !overlap("a.org", "b.org"));
    }

    #[test]
    fn the_host_itself_comes_before_any_wildcard_and_a_longer_one_before_a_shorter() {
        let host = "httpbin.server.svc.cluster.local";
        let all = ["*", "*.svc.cluster.local", "*.server.svc.cluster.local", "other", host];
        assert_eq!(most_specific(host, all), Some(host));
        assert_eq!(most_specific(host, all[..4].iter().copied()), Some("*.server.svc.cluster.local"));
        assert_eq!(most_specific(host, ["other"]), None);
    }
}
