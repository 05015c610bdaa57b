//! Electors over a simulated API server: calls are lost, answers are lost, both come late, processes
//! are frozen and wake up, clocks start anywhere, differ in pace, and times of day jump. Whatever
//! happens, no two may believe at the same moment that they may write.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use proptest::prelude::*;

use super::*;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// What happens to one call, and to who makes it.
#[derive(Clone, Copy, Debug)]
struct Fate {
    /// On the way there; `None`: it never arrives.
    there: Option<Duration>,
    /// On the way back; `None`: the answer never arrives.
    back: Option<Duration>,
    /// For so long from the sending on, the caller stands still while its clock goes on.
    frozen: Duration,
    /// How far the caller's time of day jumps, in seconds.
    jump: i64,
}

const PROMPT: Fate = Fate { there: Some(ms(5)), back: Some(ms(5)), frozen: Duration::ZERO, jump: 0 };

/// What people do to a lease.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Delete,
    Empty,
    GiveTo(&'static str),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Begin,
    Arrive(u64),
    Answer(u64),
    /// The deadline of a call.
    Enough(u64),
}

struct Node {
    elector: Elector,
    starts_at: Duration,
    pace: f64,
    today: i64,
    frozen_until: Duration,
    /// Number of the call under way, and when it was sent by the own clock.
    calling: Option<(u64, Moment)>,
    believes: Vec<(Duration, Duration)>,
    over: bool,
}

impl Node {
    fn moment(&self, time: Duration) -> Moment {
        self.starts_at + time.mul_f64(self.pace)
    }

    fn time(&self, moment: Moment) -> Duration {
        moment.saturating_sub(self.starts_at).div_f64(self.pace)
    }
}

struct World {
    nodes: Vec<Node>,
    lease: Option<(u64, Record)>,
    version: u64,
    queue: BinaryHeap<Reverse<(Duration, u64, usize, Event)>>,
    order: u64,
    calls: BTreeMap<u64, (Call, Fate, Option<Answer>)>,
    fates: Box<dyn FnMut(u64) -> Fate>,
    timing: Timing,
}

impl World {
    fn new(timing: Timing, paces: &[f64], fates: impl FnMut(u64) -> Fate + 'static) -> Self {
        let mut world = Self {
            nodes: Vec::new(),
            lease: None,
            version: 0,
            queue: BinaryHeap::new(),
            order: 0,
            calls: BTreeMap::new(),
            fates: Box::new(fates),
            timing,
        };
        for (at, pace) in (0..).zip(paces) {
            world.start(*pace, ms(at * 100));
        }
        world
    }

    fn start(&mut self, pace: f64, at: Duration) -> usize {
        let number = self.nodes.len();
        self.nodes.push(Node {
            elector: Elector::new(format!("pod-{number}"), self.timing),
            // Every process counts from a moment of its own.
            starts_at: ms(number as u64 * 7_777),
            pace,
            today: 1_800_000_000 + number as i64 * 3_600,
            frozen_until: Duration::ZERO,
            calling: None,
            believes: Vec::new(),
            over: false,
        });
        self.push(at, number, Event::Begin);
        number
    }

    fn push(&mut self, at: Duration, node: usize, event: Event) {
        self.order += 1;
        self.queue.push(Reverse((at, self.order, node, event)));
    }

    fn run(&mut self, until: Duration) {
        while let Some(Reverse((time, _, number, event))) = self.queue.pop() {
            if time > until {
                self.push(time, number, event);
                return;
            }
            if let Event::Arrive(call) = event {
                // The network and the API server do not care whether the caller still is.
                self.arrive(time, number, call);
                continue;
            }
            let node = &self.nodes[number];
            if node.over {
                continue;
            }
            if node.frozen_until > time {
                self.push(node.frozen_until, number, event);
                continue;
            }
            self.act(time, number, &event);
        }
    }

    fn arrive(&mut self, time: Duration, number: usize, call: u64) {
        let (what, fate, _) = self.calls[&call].clone();
        let answer = self.serve(what);
        if let Some(back) = fate.back {
            self.calls.get_mut(&call).unwrap().2 = Some(answer);
            self.push(time + back, number, Event::Answer(call));
        }
    }

    fn serve(&mut self, call: Call) -> Answer {
        let current = self.lease.clone();
        let record = match (call, current) {
            (Call::Read, None) | (Call::Replace(..), None) => return Answer::Missing,
            (Call::Read, Some((version, record))) => {
                return Answer::There(Seen { version: version.to_string(), record });
            }
            (Call::Create(_), Some(_)) => return Answer::Conflict,
            (Call::Replace(known, _), Some((version, _))) if known != version.to_string() => return Answer::Conflict,
            (Call::Create(record), None) | (Call::Replace(_, record), Some(_)) => record,
        };
        self.put(Some(record.clone()));
        Answer::There(Seen { version: self.version.to_string(), record })
    }

    fn put(&mut self, record: Option<Record>) {
        // What is the same is no change: no new version.
        if self.lease.as_ref().map(|(_, known)| known) != record.as_ref() {
            self.version += 1;
            self.lease = record.map(|record| (self.version, record));
        }
    }

    fn act(&mut self, time: Duration, number: usize, event: &Event) {
        let node = &mut self.nodes[number];
        let (now, today) = (node.moment(time), node.today(time));
        let next = match event {
            Event::Begin => node.elector.begin(now, today, 0.5),
            Event::Answer(call) | Event::Enough(call) => {
                let Some((_, sent)) = node.calling.filter(|(under_way, _)| under_way == call) else { return };
                let answer = match event {
                    Event::Answer(_) => self.calls[call].2.clone().unwrap(),
                    _ => Answer::Unknown,
                };
                node.calling = None;
                node.elector.answered(sent, now, today, answer)
            }
            Event::Arrive(_) => return,
        };
        self.go_on(time, number, next);
    }

    fn go_on(&mut self, time: Duration, number: usize, next: Next) {
        let node = &mut self.nodes[number];
        let now = node.moment(time);
        if let Some(tenure) = node.elector.tenure()
            && now < tenure.begin
        {
            let end = node.time(tenure.end);
            match node.believes.last_mut() {
                Some(last) if last.1 >= time => last.1 = last.1.max(end),
                _ => node.believes.push((time, end)),
            }
        }
        match next {
            Next::Wait(pause) => {
                let at = node.time(now + pause);
                // Rounding must not make it stand still.
                self.push(at.max(time + Duration::from_micros(1)), number, Event::Begin);
            }
            Next::Call(call) => {
                let number_of_call = self.calls.len() as u64;
                let fate = (self.fates)(number_of_call);
                node.calling = Some((number_of_call, now));
                node.frozen_until = time + fate.frozen;
                node.today += fate.jump;
                let enough = node.time(now + node.elector.patience(now));
                self.calls.insert(number_of_call, (call, fate, None));
                if let Some(there) = fate.there {
                    self.push(time + there, number, Event::Arrive(number_of_call));
                }
                self.push(enough, number, Event::Enough(number_of_call));
            }
            Next::Lost(lost) => {
                node.over = true;
                if let (Lost::Taken(_), Some(last)) = (lost, node.believes.last_mut()) {
                    // It was told before its time, and ends with all that it had begun.
                    last.1 = last.1.min(time);
                }
                let pace = node.pace;
                self.start(pace, time + ms(300));
            }
            Next::Released(_) => node.over = true,
        }
    }

    /// As the process does it: what it wrote has ended, then the lease is given back.
    fn release(&mut self, time: Duration, number: usize) {
        let node = &mut self.nodes[number];
        if let Some(last) = node.believes.last_mut() {
            last.1 = last.1.min(time);
        }
        node.calling = None;
        let next = node.elector.release();
        self.go_on(time, number, next);
    }

    fn meddle(&mut self, deed: Deed) {
        let Some((_, record)) = self.lease.clone() else { return };
        self.put(match deed {
            Deed::Delete => None,
            Deed::Empty => Some(Record { holder: String::new(), ..record }),
            Deed::GiveTo(name) => Some(Record { holder: name.to_owned(), ..record }),
        });
    }

    fn leader(&self, time: Duration) -> Option<usize> {
        self.nodes.iter().position(|node| node.believes.iter().any(|(from, to)| *from <= time && time < *to))
    }

    /// Two that may write at the same moment.
    fn overlap(&self) -> Option<String> {
        let all: Vec<_> =
            self.nodes.iter().enumerate().flat_map(|(at, node)| node.believes.iter().map(move |b| (at, *b))).collect();
        for (one, (from, to)) in &all {
            for (other, (start, end)) in &all {
                if one < other && from < end && start < to {
                    return Some(format!("{one} from {from:?} to {to:?}, {other} from {start:?} to {end:?}"));
                }
            }
        }
        None
    }
}

impl Node {
    fn today(&self, time: Duration) -> Timestamp {
        Timestamp::from_second(self.today + time.as_secs() as i64).unwrap()
    }
}

#[test]
fn without_faults_one_leads_and_keeps_it() {
    let mut world = World::new(Timing::default(), &[1.0, 1.0, 1.0], |_| PROMPT);
    world.run(ms(120_000));
    assert_eq!(world.leader(ms(1_000)), Some(0));
    assert_eq!(world.leader(ms(119_000)), Some(0));
    assert!(world.nodes[1].believes.is_empty() && world.nodes[2].believes.is_empty());
    // A renewal each two seconds, by one call.
    let writes = world.calls.values().filter(|(call, ..)| matches!(call, Call::Replace(..))).count();
    assert!((55..=61).contains(&writes), "{writes}");
}

#[test]
fn after_a_kill_another_leads_when_the_lease_is_over_and_no_retry_later() {
    let mut world = World::new(Timing::default(), &[1.0, 1.0], |_| PROMPT);
    for killed in [7_000, 7_500, 8_100, 8_900] {
        let killed = ms(killed);
        world.run(killed);
        world.nodes[0].over = true;
        world.run(ms(60_000));
        let (from, _) = world.nodes[1].believes[0];
        let gap = from - killed;
        let Timing { lease_duration, retry_period, .. } = world.timing;
        assert!(gap > lease_duration - retry_period - ms(100), "{gap:?}");
        assert!(gap <= lease_duration + retry_period + ms(100), "{gap:?}");
        world = World::new(Timing::default(), &[1.0, 1.0], |_| PROMPT);
    }
}

#[test]
fn after_a_release_another_leads_within_a_retry() {
    let mut world = World::new(Timing::default(), &[1.0, 1.0], |_| PROMPT);
    world.run(ms(9_300));
    world.release(ms(9_300), 0);
    world.run(ms(60_000));
    let (from, _) = world.nodes[1].believes[0];
    assert!(from - ms(9_300) <= world.timing.retry_period + ms(100), "{from:?}");
    assert_eq!(world.overlap(), None);
}

#[test]
fn a_release_is_taken_although_a_late_renewal_comes_in_between() {
    // Call 0 reads, 1 creates, 2 renews; the renewal arrives while the release is under way.
    let late = Fate { there: Some(ms(1_012)), ..PROMPT };
    let mut world = World::new(Timing::default(), &[1.0], move |call| if call == 2 { late } else { PROMPT });
    world.run(ms(3_005));
    assert_eq!(world.calls.len(), 3);
    world.release(ms(3_005), 0);
    world.run(ms(10_000));
    assert_eq!(world.lease.as_ref().unwrap().1.holder, "");
}

#[test]
fn a_leader_whose_renewals_are_lost_ends_before_its_lease_does() {
    let mut world =
        World::new(
            Timing::default(),
            &[1.0, 1.0],
            |call| {
                if call > 8 { Fate { there: None, ..PROMPT } } else { PROMPT }
            },
        );
    world.run(ms(60_000));
    let leader = &world.nodes[0];
    assert!(leader.over);
    let [(_, end)] = leader.believes[..] else { panic!("{:?}", leader.believes) };
    assert_eq!(world.leader(end), None);
}

#[test]
fn a_frozen_leader_that_wakes_up_is_none() {
    for frozen in [7_000, 12_000, 16_000, 40_000] {
        let fate = Fate { frozen: ms(frozen), ..PROMPT };
        let mut world = World::new(Timing::default(), &[1.0, 1.0], move |call| if call == 6 { fate } else { PROMPT });
        world.run(ms(80_000));
        assert_eq!(world.overlap(), None, "{frozen}");
        assert_eq!(world.nodes[0].over, frozen > 10_000, "{frozen}");
    }
}

#[test]
fn a_standing_clock_still_renews() {
    let mut elector = Elector::new("a".into(), Timing::default());
    let today = Timestamp::UNIX_EPOCH;
    let record = elector.claim(None, today);
    let renewed = elector.renewal(&record, today);
    assert_ne!(record, renewed);
    assert_ne!(renewed, elector.renewal(&renewed, today));
    elector.renewed = Some(ms(0));
    assert_eq!(elector.holder(), "");
}

#[test]
fn what_people_do_to_the_lease_makes_no_two_leaders() {
    for deed in [Deed::Delete, Deed::Empty, Deed::GiveTo("somebody"), Deed::GiveTo("pod-1"), Deed::GiveTo("pod-0")] {
        for at in (5_000..9_000).step_by(130) {
            let mut world = World::new(Timing::default(), &[1.0, 1.0, 1.0], |_| PROMPT);
            world.run(ms(at));
            world.meddle(deed);
            world.run(ms(90_000));
            assert_eq!(world.overlap(), None, "{deed:?} at {at}");
            assert!(world.leader(ms(89_000)).is_some(), "{deed:?} at {at}: nobody leads");
        }
    }
}

#[test]
fn a_lease_of_another_duration_is_waited_for_as_it_says() {
    let mut world = World::new(Timing::default(), &[1.0], |_| PROMPT);
    let foreign = Record {
        holder: "older".into(),
        duration: ms(40_000),
        acquired: Timestamp::UNIX_EPOCH,
        renewed: Timestamp::from_second(1).unwrap(),
        transitions: 3,
    };
    world.put(Some(foreign));
    world.run(ms(60_000));
    let (from, _) = world.nodes[0].believes[0];
    assert!(from >= ms(40_000) && from < ms(43_000), "{from:?}");
    assert_eq!(world.lease.unwrap().1.transitions, 4);
}

/// Every outcome of four calls in a row, for two candidates, once one of them leads.
#[test]
fn whatever_becomes_of_four_calls_there_are_no_two_leaders() {
    const FATES: [Fate; 6] = [
        PROMPT,
        Fate { there: None, ..PROMPT },
        Fate { back: None, ..PROMPT },
        Fate { there: Some(ms(9_000)), ..PROMPT },
        Fate { back: Some(ms(2_990)), ..PROMPT },
        Fate { frozen: ms(11_000), ..PROMPT },
    ];
    const CALLS: u32 = 4;
    for case in 0..FATES.len().pow(CALLS) {
        let mut world = World::new(Timing::default(), &[1.0, 1.0], move |call| {
            let Some(place) = call.checked_sub(4).filter(|place| *place < u64::from(CALLS)) else { return PROMPT };
            FATES[case / FATES.len().pow(u32::try_from(place).unwrap()) % FATES.len()]
        });
        world.run(ms(75_000));
        assert_eq!(world.overlap(), None, "case {case}");
        assert!(world.leader(ms(74_000)).is_some(), "case {case}: nobody leads");
    }
}

fn fate() -> impl Strategy<Value = Fate> {
    let delay = prop_oneof![4 => 1u64..50, 2 => 50u64..3_500, 1 => 3_500u64..20_000];
    let way = prop_oneof![6 => delay.prop_map(|delay| Some(ms(delay))), 1 => Just(None)];
    let frozen = prop_oneof![12 => Just(0u64), 1 => 1u64..30_000];
    (way.clone(), way, frozen, prop_oneof![8 => Just(0i64), 1 => -4_000i64..4_000])
        .prop_map(|(there, back, frozen, jump)| Fate { there, back, frozen: ms(frozen), jump })
}

fn deed() -> impl Strategy<Value = Deed> {
    // No deletion: who starts at that very moment has seen nobody, and takes it (ADR 13).
    prop_oneof![Just(Deed::Empty), Just(Deed::GiveTo("somebody")), Just(Deed::GiveTo("pod-1"))]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_two_believe_that_they_lead(
        timing in prop_oneof![Just((15, 10, 2)), Just((6, 4, 1)), Just((30, 10, 3)), Just((15, 13, 2))],
        paces in proptest::collection::vec(0.98f64..1.02, 2..4),
        fates in proptest::collection::vec(fate(), 0..120),
        deeds in proptest::collection::vec((0u64..90, deed()), 0..3),
        leaves in proptest::collection::vec((0u64..90, 0usize..4), 0..3),
    ) {
        let (lease, renew, retry) = timing;
        let timing = Timing {
            lease_duration: Duration::from_secs(lease),
            renew_deadline: Duration::from_secs(renew),
            retry_period: Duration::from_secs(retry),
        };
        timing.check().unwrap();
        let mut world = World::new(timing, &paces, move |call| {
            usize::try_from(call).ok().and_then(|call| fates.get(call)).copied().unwrap_or(PROMPT)
        });
        for second in 0..90 {
            let time = Duration::from_secs(second);
            world.run(time);
            deeds.iter().filter(|(at, _)| *at == second).for_each(|(_, deed)| world.meddle(*deed));
            for (_, number) in leaves.iter().filter(|(at, _)| *at == second) {
                if world.nodes.get(*number).is_some_and(|node| !node.over && node.frozen_until <= time) {
                    world.release(time, *number);
                    world.start(1.0, time + ms(500));
                }
            }
        }
        // Calm: from now on it must heal.
        world.fates = Box::new(|_| PROMPT);
        world.run(Duration::from_secs(240));
        prop_assert_eq!(world.overlap(), None);
        prop_assert!(world.leader(Duration::from_secs(239)).is_some(), "nobody leads in the end");
    }
}
