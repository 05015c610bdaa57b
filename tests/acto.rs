//! Acto's property: whatever specs a policy goes through, legal and illegal, it ends where the last legal
//! one alone would, and says of each illegal one that it is.
//!
//! Against the whole controller and the API server in the process, on a clock that jumps to whatever comes
//! next. The API server's admission is our schema, as in a cluster; some illegal specs come in past it, as
//! where the CRD is another version's.

use std::time::Duration;

use proptest::{prelude::*, sample, test_runner::TestCaseError};
use resilience_operator::{
    api::{Coexistence, Mode, ResilienceSpec, TargetRef, schema},
    controller::Options,
    names,
};
use serde_json::{Value, json};
use tokio::{runtime::Builder, time::sleep};

use crate::{
    fake::Fake,
    legal::{PORTS, legal_spec, without_server_side},
    reconcile::{DR, Operator, POLICIES, VS, condition},
};

/// Of a clock that jumps: by then, all that follows has happened.
const REST: Duration = Duration::from_secs(2);

const RESYNC: Duration = Duration::from_mins(1);

/// What somebody declares.
#[derive(Clone, Debug)]
enum Declared {
    Legal(Value),
    /// The schema refuses it, so that it never gets in.
    RefusedByTheSchema(Value),
    /// The schema takes it, and what is there does not: the condition that says so.
    RefusedByTheWorld(Value),
    /// It came in by another schema.
    OfAnotherVersion(Value),
}

fn legal() -> impl Strategy<Value = Value> {
    legal_spec().prop_map(|mut spec: ResilienceSpec| {
        spec.target_refs = vec![TargetRef::new(resilience_operator::api::TargetKind::Service, "web")];
        (spec.mode, spec.coexistence) = (Mode::Enforce, Coexistence::Refuse);
        // Endpoints and proxies are not what this is about.
        without_server_side(&mut spec);
        serde_json::to_value(spec).unwrap()
    })
}

fn declared() -> impl Strategy<Value = Declared> {
    let faults: Vec<(&str, Value)> = vec![
        ("mode", json!("Perhaps")),
        ("targetRefs", json!([])),
        ("timeouts", json!({"request": "soon"})),
        ("limits", json!({"perClient": {"activeRequests": 0}})),
        ("retries", json!({"attempts": 11})),
        ("ejection", json!({"maxPercent": 101, "consecutive5xx": 5})),
    ];
    let put = |mut spec: Value, at: &str, fault: Value| {
        spec[at] = fault;
        spec
    };
    let refused = (legal(), sample::select(faults)).prop_map(move |(spec, (at, fault))| {
        let spec = put(spec, at, fault);
        Declared::RefusedByTheSchema(spec)
    });
    let elsewhere = legal().prop_map(|mut spec| {
        // No such port.
        spec["ports"] = json!([{"port": 7, "timeouts": {"connect": "1s"}}]);
        spec["retries"] = Value::Null;
        spec["timeouts"] = json!({"connect": "2s"});
        Declared::RefusedByTheWorld(spec)
    });
    let tomorrow = legal().prop_map(|mut spec| {
        spec["fieldOfTomorrow"] = json!(1);
        Declared::OfAnotherVersion(spec)
    });
    prop_oneof![4 => legal().prop_map(Declared::Legal), 1 => refused, 1 => elsewhere, 1 => tomorrow]
}

fn policy(spec: &Value) -> Value {
    json!({
        "apiVersion": names::API_VERSION, "kind": names::KIND,
        "metadata": {"name": "web", "namespace": "ns", "generation": 1}, "spec": without_nulls(spec),
    })
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(key, value)| (key.clone(), without_nulls(value))).collect())
        }
        Value::Array(items) => items.iter().map(without_nulls).collect(),
        value => value.clone(),
    }
}

fn world() -> Fake {
    let fake = Fake::default();
    let port = |number: &u16| json!({"name": format!("http-{number}"), "port": number});
    fake.put(
        "services",
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "ns"},
            "spec": {"selector": {"app": "web"}, "ports": PORTS.iter().map(port).collect::<Vec<_>>()},
        }),
    );
    fake
}

/// Everything that was generated, without identities and versions.
fn generated(fake: &Fake) -> String {
    let of = |plural: &str| {
        let state = fake.state();
        let tidy = |object: &&Value| json!({"name": object["metadata"]["name"], "spec": object["spec"]}).to_string();
        state.all(plural).iter().map(tidy).collect::<Vec<_>>().join("\n")
    };
    ["sidecars", DR, VS].map(of).join("\n")
}

fn start(fake: &Fake) -> Operator {
    let options = Options {
        istiod_address: String::new(),
        istio_recheck: Duration::from_hours(1),
        resync: RESYNC,
        ..Options::default()
    };
    Operator::start_with(fake, options)
}

/// What the condition `Accepted` says, if it is of what is declared now.
fn accepted(fake: &Fake) -> String {
    let policy = fake.get(POLICIES, "web").unwrap();
    let observed = policy["status"]["observedGeneration"].clone();
    if observed == policy["metadata"]["generation"] { condition(fake, "web", "Accepted") } else { String::new() }
}

/// What is there after one spec alone.
async fn alone(spec: &Value) -> String {
    let fake = world();
    fake.put(POLICIES, policy(spec));
    let _operator = start(&fake);
    sleep(REST).await;
    generated(&fake)
}

async fn goes_through(steps: Vec<Declared>) -> Result<(), TestCaseError> {
    let fake = world();
    let _operator = start(&fake);
    let (mut last, mut there) = (None, false);
    for step in &steps {
        let (spec, says) = match step {
            Declared::Legal(spec) => (spec, "True/Accepted"),
            Declared::RefusedByTheSchema(spec) => {
                prop_assert!(!schema::faults(&policy(spec)).is_empty(), "the schema takes it: {spec}");
                continue;
            }
            Declared::RefusedByTheWorld(spec) | Declared::OfAnotherVersion(spec) => (spec, "False/"),
        };
        if !matches!(step, Declared::OfAnotherVersion(_)) {
            prop_assert_eq!(schema::faults(&policy(spec)), Vec::new(), "the schema refuses {}", spec);
        }
        if there {
            fake.state().replace_spec(POLICIES, "web", without_nulls(spec));
        } else {
            fake.put(POLICIES, policy(spec));
        }
        there = true;
        sleep(REST).await;
        let said = accepted(&fake);
        prop_assert!(said.starts_with(says), "of {step:?} it is said {said:?}");
        if let Declared::Legal(spec) = step {
            last = Some(spec.clone());
        }
    }
    let ended = generated(&fake);
    let expected = match last {
        Some(spec) => alone(&spec).await,
        None => ["", "", ""].join("\n"),
    };
    prop_assert_eq!(ended, expected);
    let before = fake.writes().len();
    sleep(RESYNC * 2).await;
    prop_assert_eq!(&fake.writes()[before..], &[] as &[String], "what was reached is not kept");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]
    #[test]
    fn a_policy_ends_where_its_last_legal_spec_alone_would(steps in prop::collection::vec(declared(), 1..6)) {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(goes_through(steps))?;
    }
}

/// `PROPTEST_CASES` draws another number; a failure's seed is kept, and drawn first.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").map_or(64, |cases| cases.parse().expect("PROPTEST_CASES is a number"))
}
