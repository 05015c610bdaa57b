//! One look at one policy.

use std::sync::Arc;

use jiff::Timestamp;
use kube::ResourceExt as _;
use serde_json::{Value, json};

use super::{
    apply::{For, Hands, apply},
    calls::CallError,
    cleanup,
    events::Events,
    observe::observe,
    world,
};
use crate::{
    api::{Resilience, ResilienceSpec, ResilienceStatus, schema::Violation},
    decide::{Step, decide},
    in_effect::Proof,
    proof::Board,
    status::{self, Outcome, status},
    validate::Settings,
};

/// What every reconcile needs.
pub struct Context {
    /// What was watched, and how it is changed.
    pub hands: Hands,
    /// Events.
    pub events: Events,
    /// What decisions depend on.
    pub settings: Settings,
    /// What is known of proxies.
    pub board: Arc<Board>,
}

/// From what is observed to what is written. A spec that is refused and a target that is missing are
/// outcomes; only a call that failed outside of the policy's own objects is an error.
pub async fn reconcile(context: &Context, resilience: &Resilience) -> Result<Outcome, CallError> {
    let Context { hands, events, settings, board } = context;

    let observed = observe(resilience, &hands.world); // reads

    let outcome = match decide(resilience, &observed, settings) {
        // pure
        Step::Apply(plan) => apply(hands, plan.valid, &plan.desired, &plan.diff).await, // writes
        Step::Release(outcome) => {
            let uid = resilience.uid().unwrap_or_default();
            cleanup::release(hands, For { namespace: &namespace(resilience), policy: &resilience.name_any() }, &uid)
                .await?; // writes
            outcome
        }
        Step::Leave(outcome) => outcome,
    };

    let (expectation, wrote) = (status::expectation(&outcome), status::wrote(&outcome));
    let proof = board.look(&namespace(resilience), &resilience.name_any(), expectation, wrote);
    if let Some(status) = status(resilience, &outcome, &proof, Timestamp::now()) {
        // pure
        write_status(hands, resilience, status).await?; // writes
        board.stir();
    }
    events.tell(resilience, &outcome);
    Ok(outcome)
}

fn namespace(resilience: &Resilience) -> String {
    resilience.namespace().unwrap_or_default()
}

/// Ours alone: what others report is left out of the apply, so it stays theirs.
async fn write_status(hands: &Hands, resilience: &Resilience, status: ResilienceStatus) -> Result<(), CallError> {
    let status = serde_json::to_value(status::ours(status)).unwrap_or_default();
    let answer = hands.calls.status(&resilience.metadata, &status).await?;
    if let Some(answer) = answer {
        // The next reconcile compares with this one, even before the watch has it.
        hands.world.policies.put(world::policy(answer)).news().iter().for_each(|delta| (hands.edited)(delta));
    }
    Ok(())
}

/// A policy that is not of our types, because another version of the CRD let it in: says so in its
/// status, as far as the API server takes it, and in an event.
pub async fn report_unreadable(
    context: &Context,
    namespace: &str,
    name: &str,
    error: &str,
) -> Result<Option<Outcome>, CallError> {
    let Some(raw) = context.hands.calls.raw_policy(namespace, name).await? else { return Ok(None) };
    let stand_in = Resilience {
        metadata: raw.metadata,
        spec: ResilienceSpec::unread(),
        status: raw.data.get("status").and_then(|status| serde_json::from_value(status.clone()).ok()),
    };
    let fault = format!(
        "this version of the operator cannot read the object ({error}): apply the CRD that belongs to it and correct the object, or update the operator"
    );
    let outcome = Outcome::Rejected(vec![Violation::new("", fault)]);
    if let Some(mut status) = status(&stand_in, &outcome, &Proof::NotYet, Timestamp::now()) {
        status.verification = None;
        let mut status = serde_json::to_value(status).unwrap_or_default();
        if let Value::Object(status) = &mut status {
            // A merge leaves alone what it does not name.
            status.entry("warnings").or_insert_with(|| json!(null));
        }
        if let Err(error) = context.hands.calls.raw_status(&stand_in.metadata, &status).await {
            tracing::warn!(namespace, name, %error, "the fault of an unreadable object is told by event only");
        }
    }
    context.events.tell(&stand_in, &outcome);
    Ok(Some(outcome))
}
