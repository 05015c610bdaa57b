//! Looks that nobody asked for: at each policy once in a resync, should an event ever be lost; and at all of them when
//! something has changed that concerns them all.
//!
//! kube's controller can be told after each look when to look again. That is a timer and two copies of the name for each
//! policy at rest, and all of them in its queue at once when it starts. One that goes round takes its place in the
//! order of names, and lets whatever has changed go first.

use std::time::Duration;

use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};

use super::{cache::Cache, keys::Keys, world::Policy};

/// Of a resync, what a round takes: whoever waits for a whole one has been looked at.
const PART: f64 = 0.9;
/// How long may pass until it is noticed that there are many more policies, and less time for each.
const NOTICE: Duration = Duration::from_mins(1);

/// Goes round.
#[derive(Debug)]
pub struct Rounds {
    resync: Duration,
    hurry: Notify,
}

impl Rounds {
    /// One round takes a little less than `resync`.
    pub fn new(resync: Duration) -> Self {
        Self { resync, hurry: Notify::new() }
    }

    /// Asks for a round without pauses.
    pub fn hurry(&self) {
        self.hurry.notify_one();
    }

    /// Goes round for ever, from when names are taken.
    pub async fn go(&self, keys: &Keys, policies: &Cache<Policy>) {
        let (mut at, mut since) = (None, Instant::now());
        loop {
            let policies_now = u32::try_from(policies.len()).unwrap_or(u32::MAX).max(1);
            let due = since + self.resync.mul_f64(PART) / policies_now;
            tokio::select! {
                biased;
                () = self.hurry.notified() => {
                    at = None;
                    // One that comes meanwhile is looked at for that.
                    while look_at_next(&mut at, keys, policies).await {}
                    since = Instant::now();
                }
                () = sleep(due.saturating_duration_since(Instant::now()).min(NOTICE)) => {
                    let now = Instant::now();
                    if now >= due {
                        if !look_at_next(&mut at, keys, policies).await {
                            look_at_next(&mut at, keys, policies).await;
                        }
                        since = due.max(now - NOTICE);
                    }
                }
            }
        }
    }
}

/// Looks at the policy behind `at`, if there is one. If there is none, the next one is the first.
async fn look_at_next(at: &mut Option<(String, String)>, keys: &Keys, policies: &Cache<Policy>) -> bool {
    keys.room().await;
    let place = at.as_ref().map(|(namespace, name)| (namespace.as_str(), name.as_str()));
    let Some((namespace, name, uid)) = policies.next(place) else {
        *at = None;
        return false;
    };
    keys.look_at(&namespace, &name, Some(&uid));
    *at = Some((namespace, name));
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{Resilience, ResilienceSpec},
        controller::{cache::Entry, world},
    };
    use kube::core::DeserializeGuard;

    const RESYNC: Duration = Duration::from_hours(1);

    fn put(policies: &Cache<Policy>, name: &str) {
        let mut policy = Resilience::new(name, ResilienceSpec::unread());
        policy.metadata.namespace = Some("ns".to_owned());
        let entry: Entry<Policy> = world::policy(DeserializeGuard(Ok(policy)));
        policies.put(entry);
    }

    /// Who is asked for while time passes; each has its turn at once.
    async fn asked_for(
        rounds: &Rounds,
        policies: &Cache<Policy>,
        time: Duration,
        mut during: impl FnMut(),
    ) -> Vec<String> {
        let (keys, mut requests) = Keys::new();
        keys.open();
        let mut names = Vec::new();
        let end = sleep(time);
        let going = rounds.go(&keys, policies);
        tokio::pin!(end, going);
        loop {
            tokio::select! {
                biased;
                Ok(request) = requests.recv() => {
                    keys.begin("ns", &request.name);
                    names.push(request.name);
                    during();
                }
                () = &mut going => {}
                () = &mut end => return names,
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_policy_is_looked_at_once_in_a_resync_and_again_in_the_next() {
        let policies = Cache::default();
        for name in ["b", "c", "a"] {
            put(&policies, name);
        }
        let names = asked_for(&Rounds::new(RESYNC), &policies, RESYNC * 2, || {}).await;
        assert_eq!(names, ["a", "b", "c", "a", "b", "c"]);
    }

    #[tokio::test(start_paused = true)]
    async fn in_a_hurry_all_are_looked_at_at_once() {
        let policies = Cache::default();
        for number in 0..600 {
            put(&policies, &format!("{number:03}"));
        }
        let rounds = Rounds::new(RESYNC);
        rounds.hurry();
        let names = asked_for(&rounds, &policies, Duration::from_millis(1), || {}).await;
        assert_eq!(names.len(), 600);
    }

    #[tokio::test(start_paused = true)]
    async fn policies_that_have_come_meanwhile_are_not_waited_for_a_resync_more() {
        let policies = Cache::default();
        put(&policies, "0");
        let added = || (1..100).for_each(|number| put(&policies, &number.to_string()));
        let names = asked_for(&Rounds::new(RESYNC), &policies, RESYNC * 2, added).await;
        assert!(names.len() > 100, "{} looks", names.len());
    }
}
