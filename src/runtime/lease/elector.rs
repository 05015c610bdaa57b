//! Who leads, as a machine without clock and network: what was answered goes in, what to ask next
//! comes out.
//!
//! Compare-and-swap on one record, by client-go's rules (`tools/leaderelection`): nobody trusts
//! another machine's clock, a record counts from the moment at which it was *seen* to change, and a
//! leader counts from the moment at which it *sent* what was taken. Stricter than client-go where its
//! rules leave a gap: see `Elector::observe` and `Elector::renewal`.

#![deny(clippy::disallowed_types, clippy::disallowed_methods)]

use std::{collections::VecDeque, time::Duration};

use jiff::{SignedDuration, Timestamp};

use super::timing::Timing;

/// A moment of one process, since a moment of its own. Never a time of day.
pub type Moment = Duration;

/// What a released lease holds for: client-go's mark.
const RELEASED: Duration = Duration::from_secs(1);

/// How often a release tries again when it was overtaken by a late renewal of ours.
const RELEASES: u8 = 3;

/// How many tries to take the lease are remembered: so many may still be on their way.
const CLAIMS: usize = 8;

/// What a lease says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Who has it; empty: nobody.
    pub holder: String,
    /// How long it holds from its last renewal.
    pub duration: Duration,
    /// Since when this holder has it, by its own clock. For people.
    pub acquired: Timestamp,
    /// When it was renewed last, likewise; [`Timestamp::UNIX_EPOCH`]: never. The others only look
    /// whether it changes.
    pub renewed: Timestamp,
    /// How often it changed hands.
    pub transitions: i32,
}

/// A lease as the API server holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its resource version.
    pub version: String,
    /// What it says.
    pub record: Record,
}

/// A call to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Read the lease.
    Read,
    /// Create it, if there is none.
    Create(Record),
    /// Replace it, if it still has that version.
    Replace(String, Record),
}

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The lease as it is, or as it was written.
    There(Seen),
    /// There is none.
    Missing,
    /// Another one was faster.
    Conflict,
    /// It may have had its effect, or may still have it.
    Unknown,
}

/// Why a leader is none any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// The API server took no renewal in time.
    #[error("the lease could not be renewed within {}", humantime::format_duration(*.0))]
    Late(Duration),
    /// Another one has it.
    #[error("the lease is held by {0:?} now")]
    Taken(String),
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Make a call, and tell what became of it.
    Call(Call),
    /// Begin again after that long.
    Wait(Duration),
    /// It is over. Nothing may be written from now on.
    Lost(Lost),
    /// The release was tried: nothing more to do. Whether it was taken.
    Released(bool),
}

/// How long a leader may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tenure {
    /// No write begins from here on.
    pub begin: Moment,
    /// No write lasts until here.
    pub end: Moment,
}

/// The call that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    Reading,
    Writing,
    /// Without having read first, from what was known.
    Renewing,
    Releasing,
}

/// One candidate.
#[derive(Clone, Debug)]
pub struct Elector {
    identity: String,
    timing: Timing,
    doing: Doing,
    seen: Option<Seen>,
    /// Until when whoever was seen to hold the lease may believe that it does.
    held: Moment,
    /// The times at which we tried to take it, latest last: a record with our name and another one is
    /// somebody's forgery.
    claims: VecDeque<Timestamp>,
    /// When what was taken last had been sent.
    renewed: Option<Moment>,
    chance: f64,
    releases: Option<u8>,
}

impl Elector {
    /// A candidate of this name, which no other process may have, not even an earlier one.
    #[must_use]
    pub fn new(identity: String, timing: Timing) -> Self {
        Self {
            identity,
            timing,
            doing: Doing::Reading,
            seen: None,
            held: Moment::ZERO,
            claims: VecDeque::new(),
            renewed: None,
            chance: 0.0,
            releases: None,
        }
    }

    /// Who this is.
    #[must_use]
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// How long writes may begin and last; `None`: we do not lead.
    #[must_use]
    pub fn tenure(&self) -> Option<Tenure> {
        let Timing { renew_deadline, .. } = self.timing;
        self.renewed.map(|sent| Tenure { begin: sent + renew_deadline, end: sent + self.timing.end() })
    }

    /// Who was seen to hold the lease last; empty: nobody.
    #[must_use]
    pub fn holder(&self) -> &str {
        self.seen.as_ref().map_or("", |seen| &seen.record.holder)
    }

    /// How long the call that is to be made now may take.
    #[must_use]
    pub fn patience(&self, now: Moment) -> Duration {
        let left = self.tenure().map(|tenure| tenure.begin.saturating_sub(now));
        left.map_or(self.timing.call(), |left| left.min(self.timing.call()))
    }

    /// Begins a try to get or to keep the lease. `today`: the time of day, for the record. `chance`:
    /// between 0 and 1, so that candidates do not go in step.
    pub fn begin(&mut self, now: Moment, today: Timestamp, chance: f64) -> Next {
        self.chance = chance.clamp(0.0, 1.0);
        if let Some(lost) = self.late(now) {
            return Next::Lost(lost);
        }
        match &self.seen {
            Some(seen) if self.renewed.is_some() => {
                let call = Call::Replace(seen.version.clone(), self.renewal(&seen.record, today));
                self.call(Doing::Renewing, call)
            }
            _ => self.call(Doing::Reading, Call::Read),
        }
    }

    /// Takes what became of the call that was sent at `sent`.
    pub fn answered(&mut self, sent: Moment, now: Moment, today: Timestamp, answer: Answer) -> Next {
        if self.releases.is_some() {
            return self.releasing(today, answer);
        }
        if let Some(lost) = self.late(now) {
            return Next::Lost(lost);
        }
        match (self.doing, answer) {
            (Doing::Reading, Answer::There(seen)) => self.read(seen, now, today),
            (Doing::Reading, Answer::Missing) if self.renewed.is_some() || now >= self.held => {
                let call = Call::Create(self.claim(None, today));
                self.call(Doing::Writing, call)
            }
            // An answer that comes too late to act on is none: whether it still holds has to be asked.
            (Doing::Writing | Doing::Renewing, Answer::There(seen)) if now < sent + self.timing.renew_deadline => {
                self.seen = Some(seen);
                self.renewed = Some(sent);
                self.wait(now, (sent + self.timing.retry_period).saturating_sub(now))
            }
            (Doing::Renewing, _) => self.call(Doing::Reading, Call::Read),
            _ => self.pause(now),
        }
    }

    /// Gives the lease back, if it is ours. From here on there is no tenure: whoever calls this has
    /// seen the last write end.
    pub fn release(&mut self) -> Next {
        self.renewed = None;
        self.releases = Some(RELEASES);
        self.call(Doing::Reading, Call::Read)
    }

    fn releasing(&mut self, today: Timestamp, answer: Answer) -> Next {
        let left = self.releases.unwrap_or(0);
        match (self.doing, answer) {
            (Doing::Reading, Answer::There(seen)) if self.is_ours(&seen.record) => {
                let record = Record {
                    holder: String::new(),
                    duration: RELEASED,
                    acquired: today,
                    renewed: today,
                    transitions: seen.record.transitions,
                };
                self.call(Doing::Releasing, Call::Replace(seen.version, record))
            }
            (Doing::Releasing, Answer::There(seen)) => {
                self.seen = Some(seen);
                Next::Released(true)
            }
            // A renewal of ours was still on its way, and came in between.
            (Doing::Releasing, Answer::Conflict) if left > 1 => {
                self.releases = Some(left - 1);
                self.call(Doing::Reading, Call::Read)
            }
            _ => Next::Released(false),
        }
    }

    fn read(&mut self, seen: Seen, now: Moment, today: Timestamp) -> Next {
        let ours = self.is_ours(&seen.record);
        if self.renewed.is_some() && !ours {
            return Next::Lost(Lost::Taken(seen.record.holder));
        }
        self.observe(&seen, now, ours);
        let version = seen.version.clone();
        let before = seen.record.clone();
        self.seen = Some(seen);
        if now < self.held {
            return self.pause(now);
        }
        let record = if ours { self.renewal(&before, today) } else { self.claim(Some(&before), today) };
        self.call(Doing::Writing, Call::Replace(version, record))
    }

    /// Notes until when another may believe that it leads. A record that changed holds from now on,
    /// unless it is a release, or nobody ever renewed it. So does one that was emptied by hand: that
    /// says nothing of what its holder believes, and client-go takes it at once, while the holder still
    /// writes. Likewise a lease that is deleted runs on: then there is nothing to observe.
    fn observe(&mut self, seen: &Seen, now: Moment, ours: bool) {
        let record = &seen.record;
        if ours || self.seen.as_ref().is_some_and(|known| known.record == *record) {
            return;
        }
        let released = record.holder.is_empty() && record.duration <= RELEASED;
        let fresh = record.renewed == Timestamp::UNIX_EPOCH;
        self.held = if released || fresh { now } else { self.held.max(now + record.duration) };
    }

    fn claim(&mut self, before: Option<&Record>, today: Timestamp) -> Record {
        if self.claims.len() == CLAIMS {
            self.claims.pop_front();
        }
        self.claims.push_back(today);
        Record {
            holder: self.identity.clone(),
            duration: self.timing.lease_duration,
            acquired: today,
            renewed: today,
            transitions: before.map_or(0, |record| record.transitions.saturating_add(1)),
        }
    }

    /// Always another record than before, even if the clock stands still: the API server would take one
    /// that is the same, and change nothing, so that the others would see no renewal.
    fn renewal(&self, before: &Record, today: Timestamp) -> Record {
        let renewed = if today == before.renewed {
            today.checked_add(SignedDuration::from_micros(1)).unwrap_or(Timestamp::UNIX_EPOCH)
        } else {
            today
        };
        Record { duration: self.timing.lease_duration, renewed, ..before.clone() }
    }

    fn is_ours(&self, record: &Record) -> bool {
        record.holder == self.identity && self.claims.contains(&record.acquired)
    }

    fn late(&self, now: Moment) -> Option<Lost> {
        self.tenure().filter(|tenure| now >= tenure.begin).map(|_| Lost::Late(self.timing.renew_deadline))
    }

    fn call(&mut self, doing: Doing, call: Call) -> Next {
        self.doing = doing;
        Next::Call(call)
    }

    /// Until the next try, or until the lease that others hold is over, if that is sooner.
    fn pause(&self, now: Moment) -> Next {
        let pause = self.timing.retry_period.mul_f64(1.0 - 0.2 * self.chance);
        let over = self.held.saturating_sub(now);
        self.wait(now, if over.is_zero() { pause } else { pause.min(over) })
    }

    /// A leader does not sleep past the end of its time.
    fn wait(&self, now: Moment, pause: Duration) -> Next {
        let left = self.tenure().map(|tenure| tenure.begin.saturating_sub(now));
        Next::Wait(left.map_or(pause, |left| left.min(pause)))
    }
}

#[cfg(test)]
mod tests;
