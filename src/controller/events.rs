//! Events on a policy: one place, from its outcome, and only when something changed; published beside the work.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Resource as _,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::{sync::mpsc, time::sleep};

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

/// So many wait at most, and what comes on top is dropped: enough for ten thousand policies that come at once.
/// `client-go` has room for a thousand (`tools/record/event.go`, `maxQueuedEvents`), and publishes likewise: beside the
/// work, one after the other.
const ROOM: usize = 32_768;

/// Between two while policies wait for their turn. An event costs the API server as much as a rule: published as fast as
/// they come, those of a storm took a sixth of it from the policies, and ten a second still a thirtieth.
const PAUSE: Duration = Duration::from_secs(1);
/// Between two looks whether they still do.
const LOOK: Duration = Duration::from_millis(100);

/// A recorder publishes so many. kube's keeps each of them for six minutes, and looks through all for each new one; a
/// new recorder only cannot tell that an event is one more of a series.
const OF_A_RECORDER: u32 = 256;

/// Longest note that the API takes.
const NOTE_LIMIT: usize = 1_024;

/// What is to be told. Never worth holding up a reconcile: whoever has something to tell goes on at once.
pub struct Events {
    queue: mpsc::Sender<Told>,
    metrics: Arc<Metrics>,
}

/// An event, and what it is about.
type Told = (Event, ObjectReference);

/// Publishes what is told: writes as others, and so only while the term lasts. One at a time, and few while there is
/// work, so that in a storm of policies they get the API server, and their events what is left.
pub struct Publisher {
    queue: mpsc::Receiver<Told>,
    writer: Writer,
    busy: Box<dyn Fn() -> bool + Send + Sync>,
}

/// Events of this operator, and what publishes them. `busy`: whether policies wait for their turn.
pub fn events(
    writer: Writer,
    metrics: Arc<Metrics>,
    busy: impl Fn() -> bool + Send + Sync + 'static,
) -> (Events, Publisher) {
    let (told, queue) = mpsc::channel(ROOM);
    (Events { queue: told, metrics }, Publisher { queue, writer, busy: Box::new(busy) })
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
        loop {
            let recorder = Recorder::new(self.writer.client().clone(), Reporter::from(names::OPERATOR));
            for _ in 0..OF_A_RECORDER {
                let Some((event, about)) = self.queue.recv().await else { return };
                self.give_way().await;
                self.send(&recorder, &event, &about).await;
            }
        }
    }

    /// Returns when no policy waits, and in the end all the same.
    async fn give_way(&self) {
        let mut waited = Duration::ZERO;
        while waited < PAUSE && (self.busy)() {
            sleep(LOOK).await;
            waited += LOOK;
        }
    }

    async fn send(&self, recorder: &Recorder, event: &Event, about: &ObjectReference) {
        let failure = match self.writer.allow(DEADLINE) {
            Err(held) => held.to_string(),
            Ok(allowed) => match allowed.make(recorder.publish(event, about)).await {
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
    use http_body_util::BodyExt as _;
    use jiff::Timestamp;

    use super::*;
    use crate::{api::ResilienceSpec, in_effect::Proof, runtime::lease::term::Term, status};

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

    /// How long five take to be published, on a clock that jumps.
    async fn five_take(busy: bool) -> Duration {
        let taking = tower::service_fn(|request: http::Request<kube::client::Body>| async {
            let body = request.into_body().collect().await?.to_bytes();
            Ok::<_, kube::Error>(http::Response::new(kube::client::Body::from(body)))
        });
        let writer = Writer::through(kube::Client::new(taking, "ns"), Term::always());
        let (events, publisher) = events(writer, Arc::default(), move || busy);
        for name in ["a", "b", "c", "d", "e"] {
            events.tell(&policy(), &Outcome::Waiting(format!("Service {name} does not exist")));
        }
        drop(events);
        let begun = tokio::time::Instant::now();
        publisher.run().await;
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn while_policies_wait_their_events_are_few() {
        assert_eq!(five_take(false).await, Duration::ZERO);
        assert_eq!(five_take(true).await, PAUSE * 5);
    }

    #[test]
    fn a_long_note_is_cut_on_a_character() {
        let note = cut("ä".repeat(NOTE_LIMIT));
        assert!(note.len() <= NOTE_LIMIT && note.ends_with('…'), "{}", note.len());
        assert_eq!(cut("short".into()), "short");
    }
}
