//! The traps of Istio (semantics 11), each with what keeps us out of it, by name.

use resilience_operator::api::warnings::Code;

use crate::support::{read, root};

/// What answers a trap.
enum Answer {
    /// A pair of `tests/translate`.
    Golden(&'static str),
    /// A file of `tests/reject`.
    Refused(&'static str),
    /// A warning, with its page.
    Warns(&'static str),
    /// A scenario of the lab.
    Lab(&'static str),
    /// A test of this tree, as `file: function`.
    Test(&'static str, &'static str),
    /// Not answered yet, and why.
    Open(&'static str),
}
use Answer::{Golden, Lab, Open, Refused, Test, Warns};

const HERE: &str = "tests/coverage/traps.rs";

const TRAPS: [(u8, &str, &[Answer]); 20] = [
    (1, "maxConnections on HTTP queues", &[Warns("RES012"), Golden("limits-connections-alone")]),
    (
        2,
        "limits are per proxy and cluster, with a free connection per host and worker",
        &[Warns("RES010"), Warns("RES012"), Golden("limits-connections-with-pending")],
    ),
    (
        3,
        "the server's inbound cluster is limited too",
        &[Warns("RES010"), Warns("RES011"), Golden("server-unlimited-with-ejection"), Warns("RES083")],
    ),
    (
        4,
        "10 % ejects none below 10 endpoints",
        &[Warns("RES014"), Golden("ejection-defaults"), Golden("ejection-percent-unset-04-endpoints")],
    ),
    (5, "ejection pins calls to the zone", &[Warns("RES018"), Golden("locality-failover-disabled")]),
    (
        6,
        "a second rule is ignored in silence",
        &[
            Golden("rule-of-another"),
            Golden("rule-younger-than-ours"),
            Golden("rule-younger-with-other-export"),
            Warns("RES031"),
        ],
    ),
    (
        7,
        "a rule in the client's namespace hides ours",
        &[Open("the operator sees the policy's namespace only; `InEffect` is to say what proxies hold")],
    ),
    (
        8,
        "an entry for a port takes nothing from above",
        &[
            Golden("ports-inherit-field-by-field"),
            Golden("port-with-failover-inherited"),
            Refused("retries-budget-beside-ports"),
            Refused("ports-with-a-budget"),
        ],
    ),
    (
        9,
        "zero is unset",
        &[
            Refused("limits-connections-zero"),
            Refused("ejection-max-percent-zero"),
            Refused("retries-budget-min-concurrency-zero"),
        ],
    ),
    (
        10,
        "consecutiveGatewayErrors alone leaves 5 x 5xx; an empty block is active",
        &[Golden("ejection-gateway-alone"), Golden("ejection-local-origin-alone"), Refused("ejection-empty")],
    ),
    (
        11,
        "one VirtualService per host in sidecars",
        &[Warns("RES030"), Golden("routes-of-another"), Golden("routes-of-another-nothing-else")],
    ),
    (
        12,
        "`retries: {}` switches off; the default has no 503; retries multiply",
        &[Refused("retries-empty"), Golden("retries-off"), Golden("retries-status-codes-only"), Warns("RES021")],
    ),
    (
        13,
        "a fault without a percentage is none",
        &[Test(HERE, "what_istio_ignores_or_we_must_not_say_is_never_written")],
    ),
    (
        14,
        "fields that Istio ignores",
        &[
            Test(HERE, "what_istio_ignores_or_we_must_not_say_is_never_written"),
            Refused("retries-budget-interval"),
            Warns("RES013"),
        ],
    ),
    (15, "a dotted short name matches nothing", &[Golden("rule-dotted-short-host"), Golden("names-longest")]),
    (16, "a mesh VirtualService does not touch ingress", &[Warns("RES032"), Golden("gateway-of-a-host-of-its-own")]),
    (
        17,
        "metadata with istio.io pushes the mesh",
        &[Test(HERE, "nothing_of_ours_in_metadata_speaks_of_istio"), Lab("at_rest_nothing_is_written")],
    ),
    (18, "a refusal of the server is tried again", &[Warns("RES021"), Golden("retries-amplify-within-a-budget")]),
    (
        19,
        "routes to a subset before its rule",
        &[
            Test(HERE, "what_istio_ignores_or_we_must_not_say_is_never_written"),
            Test("tests/reconcile.rs", "a_new_policy_costs_three_writes_rule_before_routes_before_status"),
        ],
    ),
    (
        20,
        "age in whole seconds, ties by name",
        &[Golden("rivals-of-one-second"), Test("tests/reconcile.rs", "what_is_ours_is_restored_with_one_write")],
    ),
];

#[test]
fn every_trap_has_an_answer_that_is_there() {
    for (index, (number, trap, answers)) in TRAPS.iter().enumerate() {
        assert_eq!(usize::from(*number), index + 1, "{trap}: traps are numbered from 1");
        assert!(!answers.is_empty(), "trap {number}, {trap}: no answer");
        for answer in *answers {
            let there = match answer {
                Golden(name) => root().join(format!("tests/translate/{name}.in.yaml")).exists(),
                Refused(name) => root().join(format!("tests/reject/{name}.yaml")).exists(),
                Warns(code) => {
                    Code::ALL.iter().any(|known| known.as_str() == *code)
                        && root().join(format!("docs/warnings/{code}.md")).exists()
                }
                Lab(name) => read("e2e/src/scenarios.rs").contains(&format!("name: \"{name}\"")),
                Test(file, name) => read(file).contains(&format!("fn {name}(")),
                Open(why) => why.len() > 20,
            };
            let (Golden(name) | Refused(name) | Warns(name) | Lab(name) | Test(_, name) | Open(name)) = answer;
            assert!(there, "trap {number}, {trap}: {name} is gone");
        }
    }
}

/// Faults (trap 13), what Istio 1.31 ignores (14), subsets (19), and blocks that are not ours to say (8).
#[test]
fn what_istio_ignores_or_we_must_not_say_is_never_written() {
    const NEVER: [&str; 15] = [
        "egress",
        "ingress",
        "outboundTrafficPolicy",
        "budgetInterval",
        "consecutiveErrors",
        "exportTo",
        "fault",
        "http2KeepAlive",
        "maxConcurrentStreams",
        "outlierDetectionHttpErrorCodes",
        "subset",
        "subsets",
        "tcpKeepalive",
        "tls",
        "workloadSelector",
    ];
    let mut objects = 0;
    for path in crate::support::files("tests/translate", ".out.yaml") {
        for document in std::fs::read_to_string(&path).expect("it can be read").split("---\n") {
            if document.contains("apiVersion: networking.istio.io/v1") {
                objects += 1;
                let keys = document.lines().filter_map(|line| line.trim_start_matches([' ', '-']).split_once(':'));
                // Of a Sidecar, one for a whole namespace is what must not be said.
                let of_pods = document.contains("\nkind: Sidecar\n");
                assert!(!of_pods || document.contains("\n  workloadSelector:\n    labels:\n"), "{}", path.display());
                // Routes count wherever their host is called; rules do not.
                let of_routes = document.contains("\nkind: VirtualService\n");
                let said = |key: &str| of_pods && key == "workloadSelector" || of_routes && key == "exportTo";
                for (key, _) in keys.filter(|(key, _)| !said(key)) {
                    assert!(!NEVER.contains(&key), "{}: {key}", path.display());
                }
            }
        }
    }
    assert!(objects > 100, "only {objects} generated objects: are they still read?");
}

/// Istio pushes the whole mesh when such metadata changes (trap 17).
#[test]
fn nothing_of_ours_in_metadata_speaks_of_istio() {
    let mut objects = 0;
    for path in crate::support::files("tests/translate", ".out.yaml") {
        for document in std::fs::read_to_string(&path).expect("it can be read").split("---\n") {
            let Some((_, metadata)) = document.split_once("\nmetadata:\n") else { continue };
            let metadata = metadata.split("\nspec:\n").next().unwrap_or_default();
            if document.contains("apiVersion: networking.istio.io/v1") {
                objects += 1;
                assert!(!metadata.contains("istio.io"), "{}: {metadata}", path.display());
            }
        }
    }
    assert!(objects > 100, "only {objects} generated objects: are they still read?");
}
