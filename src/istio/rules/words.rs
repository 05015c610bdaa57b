//! Hosts, durations and retry words as Istio reads them.

use std::net::IpAddr;

/// Longest host (istio `pkg/config/validation/agent`, `CheckDNS1123Preconditions`).
const HOST_LIMIT: usize = 255;
/// Words of `retryOn` (istio `pkg/config/validation/validation.go`, `supportedRetryOnPolicies`).
const RETRY_ON: [&str; 16] = [
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "retriable-4xx",
    "refused-stream",
    RETRIABLE_STATUS_CODES,
    "retriable-headers",
    "envoy-ratelimited",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];
/// The word that alone retries nothing (measured M20).
const RETRIABLE_STATUS_CODES: &str = "retriable-status-codes";
/// Status codes that Go's `net/http` has a name for: what `retryOn` takes (istio `validateHTTPRetry`, by
/// `http.StatusText`).
const STATUS_CODES: [u16; 62] = [
    100, 101, 102, 103, 200, 201, 202, 203, 204, 205, 206, 207, 208, 226, 300, 301, 302, 303, 304, 305, 307, 308, 400,
    401, 402, 403, 404, 405, 406, 407, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 418, 421, 422, 423, 424, 425,
    426, 428, 429, 431, 451, 500, 501, 502, 503, 504, 505, 506, 507, 508, 510, 511,
];

/// How Istio and we take a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// As it should be.
    Fine,
    /// Istio takes it, we do not.
    Odd,
    /// Istio refuses it.
    Refused,
}

/// A host or a wildcard of hosts (istio `agent.ValidateWildcardDomain`). Ours are whole names in lower
/// case.
pub(super) fn host(text: &str) -> Word {
    if text.is_empty() || text.len() > HOST_LIMIT {
        return Word::Refused;
    }
    let (first, rest) = text.split_once('.').map_or((text, None), |(first, rest)| (first, Some(rest)));
    if !(is_wildcard_label(first) && rest.is_none_or(are_labels)) {
        return Word::Refused;
    }
    let whole = rest.is_some() && !text.ends_with('.') && !first.starts_with('*');
    if whole && !text.bytes().any(|b| b.is_ascii_uppercase()) { Word::Fine } else { Word::Odd }
}

/// istio `agent.ValidateDNS1123Labels`: «top level domain cannot be all-numeric»; an empty last label is
/// the dot at the end.
fn are_labels(domain: &str) -> bool {
    let labels: Vec<&str> = domain.split('.').collect();
    let Some((top, others)) = labels.split_last() else { return false };
    // Go's Atoi, which a number out of its range is none for.
    top.parse::<i64>().is_err() && others.iter().all(|label| is_label(label)) && (top.is_empty() || is_label(top))
}

/// istio `labels.IsDNS1123Label`: upper case is allowed.
pub(super) fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let inner = bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-');
    let ends = bytes.first().zip(bytes.last()).is_some_and(|(first, last)| *first != b'-' && *last != b'-');
    bytes.len() <= 63 && inner && ends
}

/// istio `labels.IsWildcardDNS1123Label`: `*`, `*label`, `*-label` or a label.
fn is_wildcard_label(text: &str) -> bool {
    let rest = text.strip_prefix("*-").or_else(|| text.strip_prefix('*')).unwrap_or(text);
    text.len() <= 63 && (text == "*" || is_label(rest))
}

/// Whether Go's `net/netip` reads it as an address (istio `netutil.IsValidIPAddress`).
pub(super) fn is_address(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

/// Whether two hosts of one list overlap (istio `host.Name.Matches`).
pub(super) fn overlap(one: &str, other: &str) -> bool {
    match (one.strip_prefix('*'), other.strip_prefix('*')) {
        (Some(one), Some(other)) => one.ends_with(other) || other.ends_with(one),
        (Some(end), None) => other.ends_with(end),
        (None, Some(end)) => one.ends_with(end),
        (None, None) => one == other,
    }
}

/// One word of `retryOn`, which Istio splits without trimming (measured M21).
pub(super) fn retry_word(word: &str) -> Word {
    if word == RETRIABLE_STATUS_CODES {
        return Word::Odd;
    }
    if RETRY_ON.contains(&word) {
        return Word::Fine;
    }
    // Go's Atoi takes a sign and zeros in front.
    match word.parse::<i64>().ok().and_then(|code| u16::try_from(code).ok()) {
        Some(code) if STATUS_CODES.contains(&code) => {
            if code >= 200 && code.to_string() == word {
                Word::Fine
            } else {
                Word::Odd
            }
        }
        _ => Word::Refused,
    }
}

/// A duration in nanoseconds as Go's `time.ParseDuration` reads it, which both the CRD's CEL and the
/// webhook call.
pub(super) fn go_nanos(text: &str) -> Option<i64> {
    const LIMIT: u64 = 1 << 63;
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let whole_end = digits(rest);
        let mut nanos: u64 = 0;
        for digit in rest[..whole_end].bytes() {
            nanos = nanos.checked_mul(10)?.checked_add(u64::from(digit - b'0')).filter(|n| *n <= LIMIT)?;
        }
        let mut fraction = "";
        rest = &rest[whole_end..];
        if let Some(after) = rest.strip_prefix('.') {
            let end = digits(after);
            (fraction, rest) = after.split_at(end);
        }
        if whole_end == 0 && fraction.is_empty() {
            return None;
        }
        let unit_end = rest.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(rest.len());
        let unit: u64 = match &rest[..unit_end] {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        rest = &rest[unit_end..];
        nanos = nanos.checked_mul(unit).filter(|n| *n <= LIMIT)?.checked_add(part(fraction, unit))?;
        total = total.checked_add(nanos).filter(|n| nanos <= LIMIT && *n <= LIMIT)?;
    }
    if negative {
        return 0_i64.checked_sub_unsigned(total);
    }
    i64::try_from(total).ok()
}

fn digits(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_digit).count()
}

/// Go computes a fraction in floating point, and from the digits that fit an int64.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "as Go does, or a duration at the edge would be judged differently"
)]
fn part(fraction: &str, unit: u64) -> u64 {
    let (mut digits, mut scale) = (0_u64, 1.0_f64);
    for digit in fraction.bytes() {
        let Some(more) = digits
            .checked_mul(10)
            .and_then(|n| n.checked_add(u64::from(digit - b'0')))
            .filter(|n| digits <= (1 << 63) / 10 && *n <= 1 << 63)
        else {
            break;
        };
        (digits, scale) = (more, scale * 10.0);
    }
    (digits as f64 * (unit as f64 / scale)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        assert_eq!(go_nanos("1h1m1s1ms"), Some(3_661_001_000_000));
        assert_eq!(go_nanos("1.5s"), Some(1_500_000_000));
        assert_eq!(go_nanos("1.5ms"), Some(1_500_000));
        assert_eq!(go_nanos(".5s"), Some(500_000_000));
        assert_eq!(go_nanos("1.s"), Some(1_000_000_000));
        assert_eq!(go_nanos("-1s"), Some(-1_000_000_000));
        assert_eq!(go_nanos("+1µs"), Some(1_000));
        assert_eq!(go_nanos("0"), Some(0));
        assert_eq!(go_nanos("2562047h47m16.854775807s"), Some(i64::MAX));
        for text in ["", "10", "1d", "s", ".s", "-", "9999999h", "1 s", "1s ", "1..5s", "2562047h47m16.854775808s"] {
            assert_eq!(go_nanos(text), None, "{text:?}");
        }
    }

    #[test]
    fn hosts_are_read_as_istio_reads_them() {
        for text in ["x.y", "1.y", "a-b.default.svc.cluster.local", "x.99999999999999999999"] {
            assert_eq!(host(text), Word::Fine, "{text:?}");
        }
        for text in ["x", "1", "*", "*.y", "*x.y", "*-x.y", "x.y.", "X.y", "x."] {
            assert_eq!(host(text), Word::Odd, "{text:?}");
        }
        for text in ["", ".", "x..y", "-x.y", "x-.y", "x.*", "x.1", "**", "*-", "a b.y", "x_y.z", "1.2.3.4"] {
            assert_eq!(host(text), Word::Refused, "{text:?}");
        }
        assert_eq!(host(&format!("{}.y", "a".repeat(64))), Word::Refused);
    }

    #[test]
    fn hosts_overlap_by_their_wildcards() {
        assert!(overlap("*.com", "x.com") && overlap("x.com", "*.com") && overlap("*", "x") && overlap("*.a.b", "*.b"));
        assert!(!overlap("*.x.com", "x.com") && !overlap("a.b", "A.b"));
    }
}
