//! Who led when, and who wrote when: no write by a replica that did not lead, and no two replicas at a time. Pure:
//! in comes what the API server's audit log says.

use jiff::{SignedDuration, Timestamp};

use crate::audit::Request;
use crate::replicas;

/// A replica finds out that somebody took its lease by hand when it renews next: a retry, and the time of the
/// calls.
const FINDS_OUT: SignedDuration = SignedDuration::from_secs(5);

/// A time in which the API server or etcd itself stood still: what it had received before, it stores after.
pub type Stall = (Timestamp, Timestamp);

/// For how long one replica led.
#[derive(Debug)]
struct Term<'a> {
    pod: &'a str,
    from: Timestamp,
    /// When the next one began, or the lease was given back.
    to: Timestamp,
    /// Not by a replica but by somebody's hand.
    by_hand: bool,
}

/// What is wrong, and how many writes fell into a stall, of which the log cannot tell when they were sent.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Sentences.
    pub broken: Vec<String>,
    /// Writes that were not judged.
    pub in_a_stall: usize,
}

/// Judges the writes since then; the log begins before the first replica led.
#[must_use]
pub fn judge(writes: &[Request], since: Timestamp, stalls: &[Stall]) -> Verdict {
    let terms = terms(writes);
    let mut verdict = Verdict::default();
    let mut last: Option<&Request> = None;
    let is_judged = |write: &&Request| {
        write.from >= since && write.pod.is_some() && !write.is_about_leading() && write.took_effect()
    };
    let mut judged: Vec<&Request> = writes.iter().filter(is_judged).collect();
    judged.sort_by_key(|write| write.from);
    for write in judged {
        if stalls.iter().any(|(from, to)| write.from <= *to && write.to >= *from) {
            verdict.in_a_stall += 1;
            continue;
        }
        let pod = write.pod.as_deref().unwrap_or_default();
        let within = |term: &&Term<'_>| {
            let end = if term.by_hand { term.to.checked_add(FINDS_OUT).unwrap_or(Timestamp::MAX) } else { term.to };
            term.pod == pod && term.from <= write.from && write.to <= end
        };
        if !terms.iter().any(|term| within(&term)) {
            verdict.broken.push(format!("a write by a replica that did not lead: {write}"));
        }
        if let Some(other) = last.filter(|last| last.pod != write.pod && last.to > write.from) {
            verdict.broken.push(format!("two replicas wrote at a time: {other} and {write}"));
        }
        if last.is_none_or(|last| last.to <= write.to) {
            last = Some(write);
        }
    }
    verdict
}

fn terms(writes: &[Request]) -> Vec<Term<'_>> {
    let mut changes: Vec<&Request> =
        writes.iter().filter(|write| write.is_of_the_lease() && write.took_effect()).collect();
    changes.sort_by_key(|write| write.to);
    let mut terms: Vec<Term<'_>> = Vec::new();
    for write in changes {
        let holder = write.holder.as_deref().unwrap_or_default();
        let pod = write.pod.as_deref();
        let leads = pod.filter(|pod| replicas::pod_of(holder) == Some(pod));
        let open = terms.last_mut().filter(|term| term.to == Timestamp::MAX);
        if leads.is_some() && open.as_ref().map(|term| term.pod) == leads {
            continue;
        }
        if let Some(open) = open {
            open.to = write.from;
            open.by_hand = pod.is_none();
        }
        if let Some(pod) = leads {
            terms.push(Term { pod, from: write.from, to: Timestamp::MAX, by_hand: false });
        }
    }
    terms
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::write;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(ms).unwrap()
    }

    fn lease(by: &str, holder: &str, ms: i64) -> Request {
        Request {
            pod: Some(by.to_owned()).filter(|by| !by.is_empty()),
            verb: "update".to_owned(),
            what: "coordination.k8s.io/leases".to_owned(),
            namespace: Some("resilience-system".to_owned()),
            uri: "/apis/coordination.k8s.io/v1/namespaces/resilience-system/leases/resilience-operator".to_owned(),
            holder: Some(holder.to_owned()),
            ..write(by, ms, ms + 2)
        }
    }

    fn history() -> Vec<Request> {
        vec![lease("a", "a_1", 0), lease("a", "a_1", 2_000), lease("b", "b_1", 20_000)]
    }

    fn broken(more: &[Request]) -> Vec<String> {
        judge(&[history(), more.to_vec()].concat(), at(0), &[]).broken
    }

    #[test]
    fn writes_of_who_leads_are_right() {
        assert_eq!(broken(&[write("a", 10, 20), write("a", 5_000, 5_010), write("b", 20_010, 20_020)]), [""; 0]);
    }

    #[test]
    fn writes_before_after_and_across_a_term_are_seen() {
        for wrong in [write("b", 10, 20), write("a", 20_010, 20_020), write("a", 19_990, 20_500), write("c", 10, 20)] {
            assert!(broken(&[wrong])[0].contains("did not lead"));
        }
        // A refused one changed nothing.
        assert_eq!(broken(&[Request { code: 409, ..write("c", 10, 20) }]), [""; 0]);
    }

    #[test]
    fn two_at_a_time_are_seen() {
        let said = broken(&[write("a", 19_000, 20_500), write("b", 20_400, 20_410)]);
        assert!(said.iter().any(|words| words.contains("two replicas wrote at a time")), "{said:?}");
    }

    #[test]
    fn who_has_given_the_lease_back_leads_no_more() {
        let released = [lease("a", "a_1", 0), lease("a", "", 1_000), write("a", 1_500, 1_510)];
        assert!(judge(&released, at(0), &[]).broken[0].contains("did not lead"));
    }

    #[test]
    fn a_lease_that_was_taken_by_hand_is_missed_at_the_next_renewal_and_not_later() {
        let taken = |ms| [lease("a", "a_1", 0), lease("", "somebody", 1_000), write("a", ms, ms + 1)];
        assert_eq!(judge(&taken(2_500), at(0), &[]).broken, [""; 0]);
        assert!(judge(&taken(7_000), at(0), &[]).broken[0].contains("did not lead"));
    }

    #[test]
    fn what_fell_into_a_stall_of_the_api_server_is_counted_and_not_judged() {
        let late = [history(), vec![write("a", 20_010, 20_020)]].concat();
        let verdict = judge(&late, at(0), &[(at(19_000), at(21_000))]);
        assert_eq!(verdict, Verdict { broken: vec![], in_a_stall: 1 });
    }
}
