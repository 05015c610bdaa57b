//! Leadership: of several replicas one writes, and the others are ready to.
//!
//! ```text
//! Lease (API server) <── calls ──> Election (here) <──> Elector (pure: who leads)
//!                                      │
//!                                      └──> Term (until when) <── asked by every write
//! ```
//!
//! By hand, since no crate for this kube is safe: see docs/adr/0013.

pub mod elector;
pub mod term;
pub mod timing;

use std::{
    fs,
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{
    Api, Client, Resource as _,
    api::PostParams,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::time::{Instant, sleep, timeout};

use super::{admin::Health, metrics::Metrics};
use elector::{Answer, Call, Elector, Lost, Moment, Next, Record, Seen};
use term::Term;
use timing::Timing;

/// What readiness is held by until the lease could be asked for once: a missing right must show when a
/// new version is rolled out, not when the last leader has gone.
pub const GATE: &str = "lease";

/// An event is never worth a late renewal.
const EVENT_DEADLINE: Duration = Duration::from_secs(3);

/// The reason of events about leadership, as client-go has it.
const REASON: &str = "LeaderElection";

/// One candidate, and the lease that it is a candidate for.
pub struct Election {
    leases: Api<Lease>,
    name: String,
    timing: Timing,
    elector: Elector,
    term: Term,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    recorder: Recorder,
    start: Instant,
    /// As it was read or written last: what a replacement is made from.
    lease: Option<Lease>,
    said: String,
}

impl Election {
    /// A candidate for the lease `name` in the client's own namespace. `client` is for this alone: no
    /// write of the controller may stand before a renewal.
    #[must_use]
    pub fn new(
        client: Client,
        name: &str,
        timing: Timing,
        term: Term,
        health: Arc<Health>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let identity = identity();
        health.block(GATE, "the lease has not been asked for yet");
        metrics.leads(false);
        Self {
            leases: Api::default_namespaced(client.clone()),
            name: name.to_owned(),
            timing,
            elector: Elector::new(identity.clone(), timing),
            term,
            health,
            metrics,
            recorder: Recorder::new(
                client,
                Reporter { controller: crate::names::OPERATOR.to_owned(), instance: Some(identity) },
            ),
            start: Instant::now(),
            lease: None,
            said: String::new(),
        }
    }

    /// Waits until this process stands, then gets the lease and keeps it, until the term is resigned;
    /// gives it back then.
    ///
    /// # Errors
    /// If it was the leader and is not any more. Whoever called must end the process: what is under way
    /// was begun by a leader.
    pub async fn run(mut self) -> Result<(), Lost> {
        let term = self.term.clone();
        tokio::select! {
            () = term.standing() => {}
            () = term.resigned() => return Ok(()),
        }
        let lost = tokio::select! {
            lost = self.hold() => lost,
            () = term.resigned() => return { self.give_back().await; Ok(()) },
        };
        self.term.end();
        self.metrics.leads(false);
        Err(lost)
    }

    async fn hold(&mut self) -> Lost {
        loop {
            let mut next = self.elector.begin(self.now(), today(), fastrand::f64());
            let pause = loop {
                match next {
                    Next::Call(call) => next = self.make(call).await,
                    Next::Wait(pause) => break pause,
                    Next::Lost(lost) => return lost,
                    // Only after a release.
                    Next::Released(_) => break self.timing.retry_period,
                }
            };
            self.told();
            sleep(pause).await;
        }
    }

    async fn give_back(&mut self) {
        let led = self.elector.tenure().is_some();
        self.metrics.leads(false);
        let mut next = self.elector.release();
        while let Next::Call(call) = next {
            next = self.make(call).await;
        }
        if led {
            let given = matches!(next, Next::Released(true));
            tracing::info!(lease = self.name, given, "not the leader any more");
            let (event, about) = (self.event_of("Release", "stopped leading"), self.about());
            if !matches!(timeout(EVENT_DEADLINE, self.recorder.publish(&event, &about)).await, Ok(Ok(()))) {
                tracing::warn!("an event on the lease was not published");
            }
        }
    }

    /// Makes a call, and takes what became of it.
    async fn make(&mut self, call: Call) -> Next {
        let (sent, writes) = (self.now(), call != Call::Read);
        let answer = match timeout(self.elector.patience(sent), self.ask(call)).await {
            Ok(answer) => answer,
            Err(_) => self.failed("the API server did not answer in time"),
        };
        let now = self.now();
        match &answer {
            Answer::There(_) | Answer::Missing => {
                self.health.open(GATE);
                if writes && matches!(answer, Answer::There(_)) {
                    self.metrics.lease_renewed(now.saturating_sub(sent));
                }
            }
            Answer::Conflict | Answer::Unknown => {}
        }
        let led = self.elector.tenure().is_some();
        let next = self.elector.answered(sent, now, today(), answer);
        if let Some(tenure) = self.elector.tenure()
            && !matches!(next, Next::Lost(_))
        {
            self.term.renew(self.start + tenure.begin, self.start + tenure.end);
            if !led {
                self.elected();
            }
        }
        next
    }

    async fn ask(&mut self, call: Call) -> Answer {
        let how = PostParams { field_manager: Some(crate::names::FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let answer = match call {
            Call::Read => self.leases.get_opt(&self.name).await,
            Call::Create(record) => {
                let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
                self.leases.create(&how, &Lease { metadata, spec: Some(spec(&record)) }).await.map(Some)
            }
            Call::Replace(version, record) => {
                let mut lease = self.lease.clone().unwrap_or_default();
                lease.metadata.resource_version = Some(version);
                lease.spec = Some(spec(&record));
                self.leases.replace(&self.name, &how, &lease).await.map(Some)
            }
        };
        match answer {
            Ok(Some(lease)) => {
                let seen = seen(&lease, self.timing.lease_duration);
                self.lease = Some(lease);
                Answer::There(seen)
            }
            Ok(None) => Answer::Missing,
            Err(kube::Error::Api(status)) if status.code == 404 => Answer::Missing,
            Err(kube::Error::Api(status)) if status.code == 409 => Answer::Conflict,
            Err(kube::Error::Api(status)) => self.failed(&format!("the API server says: {}", status.message)),
            Err(error) => self.failed(&format!("the API server could not be asked: {error}")),
        }
    }

    fn failed(&self, why: &str) -> Answer {
        self.metrics.lease_failed();
        self.health.explain(GATE, why);
        tracing::warn!(lease = self.name, why, "a call about the lease failed");
        Answer::Unknown
    }

    fn elected(&self) {
        self.metrics.leads(true);
        tracing::info!(lease = self.name, identity = self.elector.identity(), "leading");
        let (recorder, event, about) = (self.recorder.clone(), self.event_of("Acquire", "became leader"), self.about());
        tokio::spawn(async move { timeout(EVENT_DEADLINE, recorder.publish(&event, &about)).await });
    }

    /// `action` tells the two apart: the recorder makes a series of events that differ in their note only.
    fn event_of(&self, action: &str, what: &str) -> Event {
        Event {
            type_: EventType::Normal,
            reason: REASON.to_owned(),
            note: Some(format!("{} {what}", self.elector.identity())),
            action: action.to_owned(),
            secondary: None,
        }
    }

    fn about(&self) -> k8s_openapi::api::core::v1::ObjectReference {
        self.lease.clone().unwrap_or_default().object_ref(&())
    }

    /// Says who leads, once per change.
    fn told(&mut self) {
        let holder = self.elector.holder();
        if holder != self.said {
            self.said = holder.to_owned();
            if !holder.is_empty() && holder != self.elector.identity() {
                tracing::info!(lease = self.name, leader = holder, "standing by");
            }
        }
    }

    fn now(&self) -> Moment {
        self.start.elapsed()
    }
}

/// Of this process and of no other: a container that was restarted has the name of the one before it.
fn identity() -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = match host.trim() {
        "" => crate::names::OPERATOR,
        host => host,
    };
    format!("{host}_{:016x}", RandomState::new().hash_one((std::process::id(), std::time::SystemTime::now())))
}

/// In the API's precision: what comes back must be what was sent.
fn today() -> Timestamp {
    Timestamp::from_microsecond(Timestamp::now().as_microsecond()).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn spec(record: &Record) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(record.holder.clone()),
        lease_duration_seconds: i32::try_from(record.duration.as_secs()).ok(),
        acquire_time: Some(MicroTime(record.acquired)),
        renew_time: Some(MicroTime(record.renewed)),
        lease_transitions: Some(record.transitions),
        ..LeaseSpec::default()
    }
}

/// What a lease says, whoever wrote it. Without a duration, it is given ours.
fn seen(lease: &Lease, duration: Duration) -> Seen {
    let spec = lease.spec.clone().unwrap_or_default();
    let stated = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok()).filter(|s| *s > 0);
    let time = |time: Option<MicroTime>| time.map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    Seen {
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
        record: Record {
            holder: spec.holder_identity.unwrap_or_default(),
            duration: stated.map_or(duration, Duration::from_secs),
            acquired: time(spec.acquire_time),
            renewed: time(spec.renew_time),
            transitions: spec.lease_transitions.unwrap_or(0),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_read() {
        let record = Record {
            holder: "a".into(),
            duration: Duration::from_secs(15),
            acquired: today(),
            renewed: today(),
            transitions: 3,
        };
        let lease = Lease { spec: Some(spec(&record)), ..Lease::default() };
        let text = serde_json::to_string(&lease).unwrap();
        assert_eq!(seen(&serde_json::from_str(&text).unwrap(), Duration::ZERO).record, record);
    }

    #[test]
    fn an_empty_lease_was_never_renewed_and_has_our_duration() {
        let Seen { record, .. } = seen(&Lease::default(), Duration::from_secs(15));
        assert_eq!((record.renewed, record.duration), (Timestamp::UNIX_EPOCH, Duration::from_secs(15)));
    }

    #[test]
    fn no_two_processes_have_the_same_identity() {
        assert_ne!(identity(), identity());
    }
}
