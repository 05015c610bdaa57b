//! What a user does, step by step.

use serde_json::{Value, json};

use crate::{
    fake::State,
    reconcile::{DR, POLICIES, VS, foreign_rule, policy, service},
};

/// One thing that the user does.
pub struct Act {
    pub name: &'static str,
    pub act: fn(&mut State),
}

/// A world, and what the user does in it.
pub struct Scenario {
    pub name: &'static str,
    pub world: fn(&mut State),
    pub script: &'static [Act],
}

fn a_service(state: &mut State) {
    let mut web = service("web");
    web["spec"]["selector"] = json!({"app": "web"});
    state.put("services", web);
    let slice = json!({
        "metadata": {"name": "web", "namespace": "ns", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"]}],
    });
    state.put("endpointslices", slice);
}

/// As its owner keeps it.
fn their_rule() -> Value {
    let spec = json!({"host": "web", "trafficPolicy": {"tls": {"mode": "ISTIO_MUTUAL"}}});
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
        "metadata": {"name": "theirs", "namespace": "ns"}, "spec": spec,
    })
}

fn a_rule_of_theirs(state: &mut State) {
    a_service(state);
    state.apply_as(DR, their_rule(), "kubectl").unwrap();
}

fn limited(mut policy: Value, limit: u32) -> Value {
    policy["spec"]["limits"]["perClient"]["activeRequests"] = limit.into();
    policy
}

fn limit(state: &mut State, limit: u32) {
    state.patch(POLICIES, "web", &json!({"spec": {"limits": {"perClient": {"activeRequests": limit}}}}));
}

const CREATE: Act = Act { name: "create", act: |state| state.put(POLICIES, policy("web")) };
const TO_SEVEN: Act = Act { name: "limit 7", act: |state| limit(state, 7) };
const TO_FIVE: Act = Act { name: "limit 5", act: |state| limit(state, 5) };
const DELETE: Act = Act { name: "delete", act: |state| state.delete(POLICIES, "web") };
const CREATE_AGAIN: Act = Act { name: "create again", act: |state| state.put(POLICIES, limited(policy("web"), 9)) };
const RIVAL: Act = Act {
    name: "a rival",
    act: |state| {
        let mut rival = limited(policy("rival"), 6);
        rival["spec"]["targetRefs"][0]["name"] = "web".into();
        rival["metadata"]["creationTimestamp"] = "2026-01-01T00:00:09Z".into();
        state.put(POLICIES, rival);
    },
};
const SHARE: Act = Act {
    name: "create, to share",
    act: |state| {
        let mut policy = policy("web");
        policy["spec"]["coexistence"] = "Merge".into();
        state.put(POLICIES, policy);
    },
};
const SHARE_NO_MORE: Act = Act {
    name: "share no more",
    act: |state| state.patch(POLICIES, "web", &json!({"spec": {"coexistence": "Refuse"}})),
};
const SERVER: Act = Act {
    name: "limit the server",
    act: |state| {
        let server = json!({"mode": "Limited", "activeRequests": 400});
        state.patch(POLICIES, "web", &json!({"spec": {"limits": {"perServer": server}}}));
    },
};
const SERVER_NO_MORE: Act = Act {
    name: "limit the server no more",
    act: |state| state.patch(POLICIES, "web", &json!({"spec": {"limits": {"perServer": null}}})),
};
const LOSE_ROUTES: Act = Act { name: "delete the routes", act: |state| state.delete_by_hand(VS, "web") };
const EDIT_RULE: Act = Act {
    name: "edit the rule",
    act: |state| {
        let edit = json!({"spec": {"exportTo": ["."], "trafficPolicy": {"connectionPool": {"http": {"http2MaxRequests": 99}}}}});
        state.patch_by_hand(DR, "web", &edit);
    },
};
const REPLACE_RULE: Act = Act {
    name: "replace the rule",
    act: |state| {
        state.delete_by_hand(DR, "web");
        state.put(DR, foreign_rule("web", "elsewhere.example"));
    },
};

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "create, change and back", world: a_service, script: &[CREATE, TO_SEVEN, TO_FIVE] },
    Scenario { name: "create, delete, create again", world: a_service, script: &[CREATE, DELETE, CREATE_AGAIN] },
    Scenario { name: "drift", world: a_service, script: &[CREATE, LOSE_ROUTES, EDIT_RULE] },
    Scenario { name: "a rule that is replaced", world: a_service, script: &[CREATE, REPLACE_RULE, DELETE] },
    Scenario { name: "two for one host", world: a_service, script: &[CREATE, RIVAL, DELETE] },
    Scenario { name: "share and give back", world: a_rule_of_theirs, script: &[SHARE, TO_SEVEN, DELETE] },
    Scenario { name: "share no more", world: a_rule_of_theirs, script: &[SHARE, SHARE_NO_MORE] },
    Scenario { name: "the server's side", world: a_service, script: &[CREATE, SERVER, SERVER_NO_MORE, DELETE] },
];
