//! Each warning: a golden file that has it, and one next to it that just does not.

use resilience_operator::api::warnings::Code;

use super::{sentences, sources, texts};
use crate::support::read;

/// The code, a golden file that has it, and one that is as close and does not.
const BOUNDARIES: [(&str, &str, &str); 55] = [
    ("RES010", "limits-smallest", "limits-that-refuse-nothing"),
    ("RES010", "entry-with-a-selector", "entry-static"),
    ("RES011", "limits-with-ejection", "limits-that-only-queue-beside-ejection"),
    ("RES010", "limits-with-ejection", "server-unlimited-with-ejection"),
    ("RES011", "limits-with-ejection", "server-unlimited-with-ejection"),
    ("RES011", "limits-with-ejection", "limits-ejecting-by-connections"),
    ("RES011", "limits-with-ejection", "headless-that-could-lose-all"),
    ("RES012", "limits-connections-alone", "limits-connections-with-pending"),
    ("RES012", "server-limits-connections-with-ejection", "server-limits-connections-and-pending"),
    ("RES013", "server-limits-requests-beside-a-tcp-port", "server-limits-connections-beside-a-tcp-port"),
    ("RES013", "limits-of-requests-alone-beside-a-tcp-port", "limits-of-requests-kept-from-a-tcp-port"),
    ("RES013", "limits-of-connections-on-http2", "limits-of-requests-on-http2"),
    ("RES014", "ejection-33-of-three", "ejection-34-of-three"),
    ("RES015", "ejection-100-of-three", "ejection-99-of-three"),
    ("RES016", "retries-poison-call-ejects", "retries-poison-call-one-try-short"),
    ("RES016", "retries-poison-call-with-a-detector-of-one", "retries-detector-of-one-takes-one"),
    ("RES016", "retries-poison-call-by-timed-out-tries", "retries-of-what-no-detector-counts"),
    ("RES017", "ejection-gateway-at-5xx", "ejection-gateway-one-below-5xx"),
    ("RES018", "locality-failover-not-said", "locality-failover-one-zone"),
    ("RES018", "locality-failover-not-said", "locality-failover-inherit"),
    ("RES018", "locality-failover-not-said", "locality-failover-of-a-near-service"),
    ("RES019", "ejection-of-ready-endpoints-of-a-near-service", "ejection-of-ready-endpoints"),
    ("RES020", "retries-per-try-timeout-not-retried", "retries-per-try-timeout-with-reset"),
    ("RES021", "retries-amplify", "retries-amplify-within-a-budget"),
    ("RES021", "retries-of-grpc-statuses", "retries-of-grpc-statuses-on-http"),
    ("RES021", "server-limited-and-503-retried", "server-unlimited-and-503-retried"),
    ("RES022", "retries-outlast-request-by-a-millisecond", "retries-just-fit-request"),
    ("RES023", "retries-of-unsafe-methods", "retries-of-safe-methods"),
    ("RES024", "timeout-on-grpc", "timeout-on-http2"),
    ("RES030", "routes-of-another", "routes-of-another-not-asked-for"),
    ("RES031", "rule-younger-than-ours", "rule-for-some-clients"),
    ("RES032", "gateway-of-a-host-of-its-own", "gateway-to-another-service"),
    ("RES030", "routes-elsewhere-older", "routes-elsewhere-younger"),
    ("RES030", "route-of-the-gateway-api", "route-of-the-gateway-api-of-a-client"),
    ("RES033", "routes-elsewhere-private", "routes-elsewhere-younger"),
    ("RES033", "route-of-the-gateway-api-of-a-client", "route-of-the-gateway-api"),
    ("RES034", "routes-elsewhere-younger", "routes-elsewhere-older-than-ours"),
    ("RES035", "routes-for-a-wildcard", "routes-for-another-wildcard"),
    ("RES035", "routes-for-a-wildcard-that-are-younger", "routes-elsewhere-younger"),
    ("RES036", "entry-of-a-host-of-two-namespaces", "entry-dns"),
    ("RES040", "entry-none", "entry-dns"),
    ("RES041", "tls-port-with-ejection", "tls-port-with-connections"),
    ("RES050", "namespace-without-sidecars", "namespace-with-sidecars"),
    ("RES060", "istio-without-backoff-default", "istio-with-backoff-default"),
    ("RES061", "merge-into-a-rule-with-subsets", "merge-into-a-rule"),
    ("RES062", "routes-of-another-to-other-hosts", "routes-of-another-that-are-elsewhere"),
    ("RES070", "clients-rule", "clients-rule-for-other-namespaces"),
    ("RES070", "clients-rule-for-a-wildcard", "clients-rule-beside-routes-alone"),
    ("RES071", "clients-rule-for-some-pods", "clients-rule"),
    ("RES072", "root-rule-is-hidden", "root-rule-of-the-root-alone"),
    ("RES080", "server-without-proxies", "server-with-proxies"),
    ("RES081", "server-beside-times-of-a-port", "server-beside-a-port-with-the-same-times"),
    ("RES082", "server-below-one-client", "server-as-one-client"),
    ("RES083", "server-limited-with-ejection", "server-unlimited-with-ejection"),
    ("RES083", "server-limited-with-ejection", "server-limited-and-ejects-by-connections"),
];
/// What no file can say: that something may not be read. Held by `tests/neighbours.rs`.
const BEYOND_FILES: [&str; 1] = ["RES073"];
/// As [`BOUNDARIES`]: two labels decide.
const WAYPOINTS: [(&str, &str, &str); 2] = [
    ("RES051", "ambient-without-waypoint", "ambient-with-waypoint"),
    ("RES051", "ambient-service-opts-out", "ambient-service-with-waypoint"),
];

/// Golden files that have a warning, each once.
pub fn warned() -> std::collections::BTreeSet<&'static str> {
    BOUNDARIES.iter().chain(&WAYPOINTS).map(|(_, with, _)| *with).collect()
}

fn has(golden: &str, code: &str) -> bool {
    read(format!("tests/translate/{golden}.out.yaml")).contains(&format!("code: {code}\n"))
}

#[test]
fn every_warning_has_a_golden_file_and_one_that_just_does_not() {
    let rows: Vec<_> = BOUNDARIES.iter().chain(&WAYPOINTS).collect();
    for (code, with, without) in &rows {
        assert!(has(with, code), "{with} has no {code}");
        assert!(!has(without, code), "{without} has {code}");
        let accepted = read(format!("tests/translate/{without}.out.yaml")).contains("reason: Accepted");
        assert!(accepted, "{without} has no {code} because it is refused: it shows nothing");
    }
    for code in Code::ALL.iter().filter(|code| !BEYOND_FILES.contains(&code.as_str())) {
        assert!(rows.iter().any(|(known, ..)| *known == code.as_str()), "{code}: no row");
    }
    for (code, ..) in &rows {
        assert!(Code::ALL.iter().any(|known| known.as_str() == *code), "{code}: no such code any more");
    }
}

#[test]
fn every_sentence_of_a_warning_stands_in_a_golden_file() {
    let golden = texts("tests/translate", ".out.yaml") + &read("tests/neighbours.rs");
    let folder = "src/validate/warnings";
    let mut missing = Vec::new();
    for file in ["ejection", "limits", "mesh", "neighbours", "retries", "server", "sharing"] {
        let (path, source) = sources(&[&format!("{folder}/{file}.rs")]).remove(0);
        missing.extend(
            sentences(&source).into_iter().filter(|text| !golden.contains(text)).map(|text| format!("{path}: {text}")),
        );
    }
    let files = crate::support::files(folder, ".rs");
    assert_eq!(files.len(), 7, "a file of warnings that is not looked at");
    assert!(missing.is_empty(), "in no golden file:\n{}", missing.join("\n"));
}
