//! Judged by others: Istio's own validators and resolution (the oracle of `e2e/oracle`), and a real API
//! server with our CRD.
//!
//! Left out of `cargo test`, which has neither. `cargo lab scenario` lists these sentences and runs them
//! with both; by hand set `JUDGED_ORACLE` to the oracle's program, `JUDGED_ISTIO` to Istio's sources and KUBECONFIG to an
//! API server.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests may fail loudly, also in their helpers"
)]

mod documents;
mod draw;
mod envoy;
mod fitting;
mod imports;
#[path = "../legal.rs"]
mod legal;
#[path = "../../e2e/src/oracle/lines.rs"]
mod lines;
mod mutate;
mod neighbourhoods;
mod objects;
mod policies;
mod resolve;
mod worlds;

use std::path::PathBuf;

use lines::Oracle;
use serde_json::{Value, json};

/// The oracle. There is no verdict without it, so its absence is a failure and no reason to skip.
fn oracle() -> Oracle {
    let program = std::env::var_os("JUDGED_ORACLE").map(PathBuf::from);
    let program = program.expect("JUDGED_ORACLE names no oracle: run `cargo lab scenario`, which builds one");
    Oracle::start(&program).expect("the oracle starts")
}

/// What Istio has against an object: the CRD's faults and the webhook's, apart.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Verdict {
    crd: Vec<String>,
    webhook: Vec<String>,
    warnings: Vec<String>,
}

impl Verdict {
    fn accepts(&self) -> bool {
        self.crd.is_empty() && self.webhook.is_empty()
    }
}

fn validate(oracle: &mut Oracle, objects: &[Value]) -> Vec<Verdict> {
    let questions: Vec<Value> = objects.iter().map(|object| json!({"op": "validate", "object": object})).collect();
    let answers = oracle.ask(&questions).expect("the oracle answers");
    let texts = |answer: &Value, key: &str| -> Vec<String> {
        let list = answer.get(key).and_then(Value::as_array).into_iter().flatten();
        list.map(|text| text.as_str().expect("a text").to_owned()).collect()
    };
    let read = |answer: &Value| {
        let verdict = Verdict {
            crd: texts(answer, "crd"),
            webhook: texts(answer, "webhook"),
            warnings: texts(answer, "warnings"),
        };
        assert_eq!(answer["ok"], json!(verdict.accepts()), "{answer}");
        verdict
    };
    answers.iter().map(read).collect()
}
