//! Events on a policy: one place, from its outcome, and only when something changed; published beside the work.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Resource as _,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::sync::mpsc;

use crate::{
    api::{
        Resilience, ResilienceStatus, Warning,
        conditions::{ACCEPTED, PROGRAMMED},
    },
    names,
    runtime::{metrics::Metrics, writer::Writer},
    status::Outcome,
};

/// How long one may take.
const DEADLINE: Duration = Duration::from_secs(3);

/// So many wait at most, and what comes on top is dropped. `client-go` has room for a thousand
/// (`tools/record/event.go`, `maxQueuedEvents`), and publishes likewise: beside the work, one after the other.
const ROOM: usize = 4_096;

/// Longest note that the API takes.
const NOTE_LIMIT: usize = 1_024;

/// What is to be told. Never worth holding up a reconcile: whoever has something to tell goes on at once.
pub struct Events {
    queue: mpsc::Sender<Told>,
    metrics: Arc<Metrics>,
}

/// An event, and what it is about.
type Told = (Event, ObjectReference);

/// Publishes what is told: writes as others, and so only while the term lasts. One at a time, so that in a storm of
/// policies their events take a small part of the API server, and policies the rest.
pub struct Publisher {
    queue: mpsc::Receiver<Told>,
    recorder: Recorder,
    writer: Writer,
}

/// Events of this operator, and what publishes them.
pub fn events(writer: Writer, metrics: Arc<Metrics>) -> (Events, Publisher) {
    let (told, queue) = mpsc::channel(ROOM);
    let recorder = Recorder::new(writer.client().clone(), Reporter::from(names::OPERATOR));
    (Events { queue: told, metrics }, Publisher { queue, recorder, writer })
}

impl Events {
    /// Tells it, if there is something new to say. Failure is only logged: status has it as well.
    pub fn tell(&self, resilience: &Resilience, outcome: &Outcome) {
        let before = resilience.status.as_ref();
        for event in event(before, outcome).into_iter().chain(warnings(before, outcome)) {
            if let Err(error) = self.queue.try_send((event, resilience.object_ref(&()))) {
                self.metrics.dropped_event();
                tracing::debug!(%error, "an event was dropped");
            }
        }
    }
}

impl Publisher {
    /// Publishes, for as long as anybody may tell something.
    pub async fn run(mut self) {
        while let Some((event, about)) = self.queue.recv().await {
            self.send(&event, &about).await;
        }
    }

    async fn send(&self, event: &Event, about: &ObjectReference) {
        let failure = match self.writer.allow(DEADLINE) {
            Err(held) => held.to_string(),
            Ok(allowed) => match allowed.make(self.recorder.publish(event, about)).await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no answer within {} s", allowed.left.as_secs_f32()),
            },
        };
        tracing::warn!(reason = event.reason, failure, "an event was not published");
    }
}

/// What `outcome` adds to what the status said before.
fn event(before: Option<&ResilienceStatus>, outcome: &Outcome) -> Option<Event> {
    let (type_, condition, writes) = match outcome {
        Outcome::Rejected(_) | Outcome::Unsupported(_) | Outcome::Conflicted(_) | Outcome::Superseded(_) => {
            (EventType::Warning, ACCEPTED, &[][..])
        }
        Outcome::Waiting(_) => (EventType::Normal, ACCEPTED, &[][..]),
        Outcome::Observing(..) | Outcome::Suspended(..) => (EventType::Normal, PROGRAMMED, &[][..]),
        Outcome::Programmed(_, applied) => (EventType::Normal, PROGRAMMED, applied.writes.as_slice()),
        Outcome::ForeignFields(_, applied, _) => (EventType::Warning, PROGRAMMED, applied.writes.as_slice()),
        Outcome::Refused(..) | Outcome::Failed(..) | Outcome::FieldConflict(..) => {
            (EventType::Warning, PROGRAMMED, &[][..])
        }
    };
    let message = outcome.message();
    let said = before.is_some_and(|status| {
        let mut conditions = status.conditions.iter();
        conditions.any(|c| c.type_ == condition && c.reason == outcome.reason().as_str() && c.message == message)
    });
    if said && writes.is_empty() {
        return None;
    }
    let note = if writes.is_empty() { message } else { writes.join("; ") };
    Some(Event {
        type_,
        reason: outcome.reason().as_str().to_owned(),
        note: Some(cut(note)),
        action: "Reconcile".to_owned(),
        secondary: None,
    })
}

/// One for each warning whose code was not there before: numbers in its message may change often.
fn warnings(before: Option<&ResilienceStatus>, outcome: &Outcome) -> Vec<Event> {
    let known = |warning: &Warning| {
        before.is_some_and(|status| status.warnings.iter().any(|before| before.code == warning.code))
    };
    let new = outcome.valid().into_iter().flat_map(|valid| &valid.warnings).filter(|warning| !known(warning));
    new.map(|warning| Event {
        type_: EventType::Warning,
        reason: warning.code.as_str().to_owned(),
        note: Some(cut(warning.message.clone())),
        action: "Reconcile".to_owned(),
        secondary: None,
    })
    .collect()
}

/// Cuts on a character.
fn cut(mut note: String) -> String {
    if note.len() > NOTE_LIMIT {
        let end = (0..=NOTE_LIMIT - '…'.len_utf8()).rev().find(|end| note.is_char_boundary(*end)).unwrap_or(0);
        note.truncate(end);
        note.push('…');
    }
    note
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::{api::ResilienceSpec, in_effect::Proof, status};

    fn policy() -> Resilience {
        Resilience::new("a", ResilienceSpec::unread())
    }

    #[test]
    fn the_same_outcome_is_said_once() {
        let mut policy = policy();
        let outcome = Outcome::Waiting("Service a does not exist".into());
        assert!(event(policy.status.as_ref(), &outcome).is_some());
        policy.status = status::status(&policy, &outcome, &Proof::NotSetUp, Timestamp::UNIX_EPOCH);
        assert!(event(policy.status.as_ref(), &outcome).is_none());
        let another = Outcome::Waiting("Service b does not exist".into());
        assert!(event(policy.status.as_ref(), &another).is_some());
    }

    #[test]
    fn a_long_note_is_cut_on_a_character() {
        let note = cut("ä".repeat(NOTE_LIMIT));
        assert!(note.len() <= NOTE_LIMIT && note.ends_with('…'), "{}", note.len());
        assert_eq!(cut("short".into()), "short");
    }
}
