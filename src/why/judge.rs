//! From what was seen to what is told: every cause is looked for, then they are ranked.

use super::{
    Cause, Class, Evidence, Kind, Look, Seen, Why,
    calls::Calls,
    causes,
    counted::{Count, Signal},
};

/// What looking for a cause gave.
#[derive(Default)]
pub(super) struct Found {
    pub causes: Vec<Cause>,
    pub looked_at: Vec<Look>,
    pub not_seen: Vec<String>,
}

impl Found {
    pub fn cause(cause: Cause) -> Self {
        Self { causes: vec![cause], ..Self::default() }
    }

    pub fn nothing(what: &str, says: impl Into<String>) -> Self {
        Self { looked_at: vec![Look { what: what.to_owned(), says: says.into() }], ..Self::default() }
    }

    pub fn and(mut self, other: Self) -> Self {
        self.causes.extend(other.causes);
        self.looked_at.extend(other.looked_at);
        self.not_seen.extend(other.not_seen);
        self
    }
}

/// Evidence that some counters are, with the class that it makes and how many calls it speaks of.
#[derive(Default)]
pub(super) struct Counted {
    pub evidence: Vec<Evidence>,
    moved: u64,
    total: u64,
}

impl Counted {
    /// Facts, and no counter yet.
    pub fn facts(evidence: Vec<Evidence>) -> Self {
        Self { evidence, ..Self::default() }
    }

    /// Takes a counter, unless it never counted anything.
    pub fn take(&mut self, count: Option<Count>, evidence: impl FnOnce(&Count) -> Evidence) {
        let Some(count) = count.filter(|count| count.total > 0) else { return };
        self.moved += count.moved();
        self.total += count.total;
        self.evidence.push(evidence(&count));
    }

    /// `None`: nothing was ever counted.
    pub fn class(&self) -> Option<Class> {
        match (self.moved, self.total) {
            (0, 0) => None,
            (0, _) => Some(Class::SeenBefore),
            _ => Some(Class::SeenNow),
        }
    }

    /// The cause for which it is the evidence; where it was counted now, only what was counted now.
    pub fn cause(self, cause: Kind, summary: impl Into<String>, next: Vec<String>) -> Option<Cause> {
        let class = self.class()?;
        Some(self.of_class(class, cause, summary.into(), next))
    }

    fn of_class(mut self, class: Class, cause: Kind, summary: String, next: Vec<String>) -> Cause {
        if class == Class::SeenNow {
            self.evidence.retain(|one| one.added != Some(0));
        }
        // The largest first.
        self.evidence.sort_by_key(|one| std::cmp::Reverse((one.added, one.total)));
        let calls = (class == Class::SeenNow).then_some(self.moved);
        Cause { cause, class, summary, calls, evidence: self.evidence, next }
    }

    /// As [`Counted::cause`], of what is so whether anybody calls or not: where no counter moved, the facts alone are
    /// told, since a counter that rests proves nothing of now.
    pub fn certain(mut self, cause: Kind, summary: impl Into<String>, next: Vec<String>) -> Cause {
        let summary = summary.into();
        if self.class() != Some(Class::SeenNow) {
            self.evidence.retain(|one| one.counter.is_none());
            return Cause { cause, class: Class::MustFail, summary, calls: None, evidence: self.evidence, next };
        }
        self.of_class(Class::SeenNow, cause, summary, next)
    }
}

/// Tells why calls fail.
#[must_use]
pub fn judge(seen: &Seen) -> Why {
    let calls = Calls::of(seen);
    let found = causes::ALL.iter().map(|look| look(&calls)).fold(Found::default(), Found::and);
    let mut causes = found.causes;
    let is_load = load_fails(&causes);
    causes.sort_by_key(|cause| {
        let calls = std::cmp::Reverse(cause.calls.unwrap_or(0));
        (cause.class, place(cause, is_load), calls, cause.cause)
    });
    let failing = causes.iter().any(|cause| match cause.class {
        Class::SeenNow | Class::MustFail => true,
        // Who asks for what was counted since the beginning is told of that.
        Class::SeenBefore => !calls.has_now(),
        Class::Possible => false,
    });
    let sent = calls.made.iter().map(|call| {
        let sent = call.tally.count(Signal::Sent)?;
        Some(if calls.has_now() { sent.moved() } else { sent.total })
    });
    let sent: Option<u64> = if calls.made.is_empty() { None } else { sent.sum() };
    let mut not_seen = seen.not_seen.clone();
    not_seen.extend(found.not_seen);
    Why {
        at: seen.at,
        host: seen.target.host.clone(),
        looked_for_s: seen.looked.as_secs(),
        failing,
        headline: headline(&calls, &causes, failing, sent),
        sent,
        clients: seen.clients.len(),
        servers: seen.servers.len(),
        causes,
        looked_at: found.looked_at,
        not_seen,
        changes: seen.changes.clone(),
    }
}

/// Whether something is too full, or too slow.
fn load_fails(causes: &[Cause]) -> bool {
    let load = [Kind::ClientLimit, Kind::ServerLimit, Kind::Timeout];
    causes.iter().any(|cause| cause.class == Class::SeenNow && load.contains(&cause.cause))
}

/// Within its class. Retries are what fills, where something is full; where an answer is a failure of its own, they
/// only repeat it.
fn place(cause: &Cause, is_load: bool) -> u8 {
    match cause.cause {
        Kind::RetryStorm if is_load => 0,
        Kind::RetryStorm => 2,
        _ => 1,
    }
}

fn headline(calls: &Calls<'_>, causes: &[Cause], failing: bool, sent: Option<u64>) -> String {
    let name = calls.seen.target.whole();
    if let Some(first) = causes.first().filter(|_| failing) {
        return format!("calls of {name} fail: {}", first.summary);
    }
    if calls.made.is_empty() {
        return format!("no proxy that calls {name} was read: nothing is known of its calls");
    }
    let when = if calls.has_now() {
        format!("in {} s", calls.seen.looked.as_secs())
    } else {
        "since the proxies began".to_owned()
    };
    // What is not counted may have been.
    let all = [Signal::Overflow, Signal::NoHealthy, Signal::Timeout, Signal::ConnectFail, Signal::Errors];
    let is_known = all.into_iter().all(|signal| calls.is_counted(signal));
    let nobody = if is_known { "nobody was refused" } else { "nobody was seen to be refused" };
    match sent {
        None => format!("{nobody} {when}; how often {name} was called is not counted"),
        Some(0) => format!("nobody called {name} {when}: nothing could fail"),
        Some(sent) => format!("{nobody} {when}: {sent} calls of {name} went through"),
    }
}
