//! The caller in the cluster: carries a plan out, within its caps, and tells what it saw.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use http::{HeaderMap, Method};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::proxy::OwnProxy;
use crate::{
    load::{self, Connections, Control, Pacing, Protocol},
    verification::{Act, Answers, Evidence, Guard, Plan, Reading, Sign, Step, Stopped, counters, withheld},
};

/// How long a proxy may take to be ready; where there is none, so long is waited in vain.
const READY: Duration = Duration::from_secs(20);
/// How long the target may take to be known to a proxy that has just started.
const KNOWN: Duration = Duration::from_secs(15);
/// Between two looks at something that changes by itself.
const PAUSE: Duration = Duration::from_millis(250);
/// One call may take so long, unless it is the slow one.
const PATIENCE: Duration = Duration::from_secs(10);
/// Calls of each caller in a round.
const EACH: u32 = 4;
/// Rounds at one number of callers until the next.
const ROUNDS: u32 = 3;
/// Rounds on the path that fails until it is given up.
const FAILING_ROUNDS: u32 = 5;
/// Calls, one after another, before anything else.
const CALM: u32 = 3;
/// From so many calls on a share of errors means something.
const SAMPLE: u64 = 10;

/// Carries out `plan` by way of the proxy. Ends by itself; `tell` hears how far it is.
pub async fn carry_out(plan: &Plan, proxy: &OwnProxy, stop: &CancellationToken, tell: impl FnMut(String)) -> Evidence {
    let begun = Instant::now();
    let mut run = Run {
        plan,
        proxy,
        stop,
        tell,
        deadline: begun + Duration::from_millis(plan.asked.caps.duration_ms),
        not_before: begun,
        calls: 0,
        unexpected: 0,
        evidence: Evidence::default(),
    };
    if let Err(stopped) = run.all().await {
        run.evidence.stopped = Some(stopped);
    }
    run.evidence
}

struct Run<'a, T> {
    plan: &'a Plan,
    proxy: &'a OwnProxy,
    stop: &'a CancellationToken,
    tell: T,
    deadline: Instant,
    /// The rate is kept by rests between rounds.
    not_before: Instant,
    calls: u64,
    unexpected: u64,
    evidence: Evidence,
}

/// What calls are to be answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// Good answers and refusals of breakers.
    Good,
    /// Answers of any status.
    Failing,
    /// Anything.
    Late,
}

/// One round of calls.
#[derive(Clone, Copy, Debug)]
struct Round {
    callers: u32,
    calls: u32,
    patience: Duration,
    expected: Expected,
}

impl Round {
    const fn of(callers: u32, calls: u32, expected: Expected) -> Self {
        Self { callers, calls, patience: PATIENCE, expected }
    }
}

impl<T: FnMut(String)> Run<'_, T> {
    async fn all(&mut self) -> Result<(), Stopped> {
        let ready = async |proxy: &OwnProxy| proxy.is_ready().await.filter(|ready| *ready);
        if self.until(READY, ready).await?.is_none() {
            return match self.proxy.is_ready().await {
                None => Ok(()),
                Some(_) => Err(broken("the caller's proxy does not get ready: does istiod answer it?")),
            };
        }
        let held = self.until(KNOWN, async |proxy| proxy.held().await.ok().filter(|held| held.knows_target)).await?;
        self.evidence.proxy = Some(match held {
            Some(held) => held,
            None => self.proxy.held().await.map_err(|error| silent(&error))?,
        });
        self.calm().await?;
        let total = self.plan.lines.len();
        for (number, line) in self.plan.lines.iter().enumerate() {
            let Step::Drive(act) = &line.step else { continue };
            if withheld(self.plan, line, self.evidence.proxy.as_ref()).is_some() {
                continue;
            }
            let earlier = self.plan.lines.iter().take(number).position(|earlier| earlier.step == line.step);
            if let Some(same) = earlier.and_then(|earlier| self.evidence.readings.get(&earlier)).cloned() {
                self.evidence.readings.insert(number, same);
                continue;
            }
            (self.tell)(format!("{} of {total}: {} {}", number + 1, line.path, line.value));
            self.act(number, act).await?;
        }
        Ok(())
    }

    /// Looks until there is something to see, `limit` long at most.
    async fn until<S>(
        &self,
        limit: Duration,
        look: impl AsyncFn(&OwnProxy) -> Option<S>,
    ) -> Result<Option<S>, Stopped> {
        let end = Instant::now() + limit;
        loop {
            if let Some(seen) = look(self.proxy).await {
                return Ok(Some(seen));
            }
            if Instant::now() >= end {
                return Ok(None);
            }
            self.rest_until(Instant::now() + PAUSE).await?;
        }
    }

    /// The path is answered as it should be before anybody presses.
    async fn calm(&mut self) -> Result<(), Stopped> {
        if !self.evidence.proxy.as_ref().is_some_and(|proxy| proxy.knows_target) {
            return Ok(());
        }
        let round = Round::of(1, CALM, Expected::Good);
        let end = Instant::now() + KNOWN;
        loop {
            // Endpoints may come to a proxy after their cluster.
            let reading = self.send(round).await?;
            let good = reading.answers.good();
            let may_heal = good < reading.calls && reading.answers.worst().is_none_or(|status| status == 503);
            if !may_heal || Instant::now() >= end {
                let seen = reading.answers.worst().map_or("not at all".to_owned(), |status| status.to_string());
                let calls = reading.calls;
                self.evidence.calm = Some(reading);
                if good == calls {
                    return Ok(());
                }
                return Err(Stopped {
                    guard: Guard::Path,
                    message: format!(
                        "{} is answered {seen} even calmly ({good} of {calls} calls went well): --path names one that is answered below 400",
                        self.plan.asked.path
                    ),
                });
            }
            self.rest_until(Instant::now() + PAUSE).await?;
        }
    }

    async fn act(&mut self, number: usize, act: &Act) -> Result<(), Stopped> {
        match act {
            Act::Callers { sign, within, past, failing } => {
                let expected = if *failing { Expected::Failing } else { Expected::Good };
                if let Some(within) = within {
                    self.round(number, Round::of(*within, within.saturating_mul(EACH), expected)).await?;
                }
                for callers in past {
                    let round = Round::of(*callers, callers.saturating_mul(EACH), expected);
                    for _ in 0..ROUNDS {
                        if self.round(number, round).await?.shows(sign) {
                            // Once past it is a chance, twice is a limit.
                            self.round(number, round).await?;
                            return Ok(());
                        }
                    }
                }
            }
            Act::Calm { calls, counter: _ } => {
                let mut left = *calls;
                while left > 0 {
                    let now = left.min(self.a_second());
                    left -= now;
                    self.round(number, Round::of(1, now, Expected::Good)).await?;
                }
            }
            Act::Repeat { calls, on: _ } => {
                for _ in 0..*calls {
                    self.round(number, Round::of(1, 1, Expected::Failing)).await?;
                }
            }
            Act::Slow { patience_ms } => {
                let patience = Duration::from_millis(*patience_ms);
                self.round(number, Round { patience, ..Round::of(1, 1, Expected::Late) }).await?;
            }
            Act::Fail { calls, back_within_ms } => {
                // The pod is new: whatever it has ejected, calls of this run did.
                let counted = self.proxy.counted().await.map_err(|error| silent(&error))?;
                if counted.get(counters::EJECTED).is_some_and(|ejected| *ejected > 0) {
                    let counters = of_interest(&BTreeMap::new(), &counted);
                    let earlier = Reading { callers: 1, counters, ..Reading::default() };
                    self.evidence.readings.entry(number).or_default().push(earlier);
                    return Ok(());
                }
                let mut left = calls.saturating_mul(FAILING_ROUNDS);
                while left > 0 {
                    let now = left.min(*calls).min(self.a_second());
                    left -= now;
                    let ejected = self.round(number, Round::of(1, now, Expected::Failing)).await?;
                    if ejected.counted(counters::EJECTED) > 0 {
                        if let Some(millis) = back_within_ms {
                            self.back(number, Duration::from_millis(*millis)).await?;
                        }
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Calls that one caller makes in one go: a second's worth at the highest rate.
    fn a_second(&self) -> u32 {
        self.plan.asked.caps.rate_per_s.max(1)
    }

    /// Waits until no endpoint is out any more.
    async fn back(&mut self, number: usize, limit: Duration) -> Result<(), Stopped> {
        let since = Instant::now();
        let none_out = async |proxy: &OwnProxy| {
            let counted = proxy.counted().await.ok()?;
            (counted.get(counters::OUT).copied().unwrap_or(0) == 0).then_some(())
        };
        let back = self.until(limit, none_out).await?;
        if let Some(last) = self.evidence.readings.get_mut(&number).and_then(|readings| readings.last_mut()) {
            last.back_after_ms = back.map(|()| millis(since.elapsed()));
        }
        Ok(())
    }

    /// One round, written down, unless it breaks a guard; then it is written down as well.
    async fn round(&mut self, number: usize, round: Round) -> Result<&Reading, Stopped> {
        let reading = self.send(round).await?;
        let guarded = self.guard(&reading, round.expected);
        let readings = self.evidence.readings.entry(number).or_default();
        readings.push(reading);
        guarded?;
        readings.last().ok_or_else(|| Stopped { guard: Guard::Errors, message: "nothing was read".to_owned() })
    }

    fn guard(&mut self, reading: &Reading, expected: Expected) -> Result<(), Stopped> {
        let answers = &reading.answers;
        let unexpected = match expected {
            Expected::Good => answers.bad() + answers.failed,
            Expected::Failing => answers.failed,
            Expected::Late => 0,
        };
        self.calls += reading.calls;
        self.unexpected += unexpected;
        let most = u64::from(self.plan.asked.caps.errors_percent);
        let too_many = |unexpected: u64, calls: u64| calls >= SAMPLE && unexpected * 100 > most * calls;
        for (unexpected, calls) in [(unexpected, reading.calls), (self.unexpected, self.calls)] {
            if too_many(unexpected, calls) {
                let seen = answers.worst().map_or_else(String::new, |status| format!(", most of them with {status}"));
                return Err(Stopped {
                    guard: Guard::Errors,
                    message: format!(
                        "{unexpected} of {calls} calls failed otherwise than a limit would have it{seen}: stopped, since that is more than {most} % (--max-errors)"
                    ),
                });
            }
        }
        Ok(())
    }

    /// Sends, and reads what the proxy counted meanwhile.
    async fn send(&mut self, round: Round) -> Result<Reading, Stopped> {
        self.rest_until(self.not_before).await?;
        let before = self.proxy.counted().await.map_err(|error| silent(&error))?;
        let plan = self.load(round)?;
        let begun = Instant::now();
        let control = Control::default();
        let report = tokio::select! {
            report = load::run(&plan, &control) => report.map_err(|error| broken(&error.to_string()))?,
            stopped = self.stopped() => return Err(stopped),
        };
        self.not_before = begun + Duration::from_millis(self.plan.asked.caps.rest_after_ms(round.calls));
        let after = self.proxy.counted().await.map_err(|error| silent(&error))?;
        Ok(Reading {
            callers: round.callers,
            calls: report.requests + report.unfinished,
            answers: Answers::of(&report),
            counters: of_interest(&before, &after),
            longest_ms: report.latency.map_or(0, |latency| millis(Duration::from_secs_f64(latency.max_ms / 1_000.0))),
            back_after_ms: None,
        })
    }

    fn load(&self, round: Round) -> Result<load::Plan, Stopped> {
        let path = match round.expected {
            Expected::Good => Some(&self.plan.asked.path),
            Expected::Failing => self.plan.asked.fail_path.as_ref(),
            Expected::Late => self.plan.asked.slow_path.as_ref(),
        };
        let path = path.ok_or_else(|| broken("the plan has no path for it"))?;
        let url = format!("http://{}:{}{path}", self.plan.host, self.plan.asked.port);
        let url = Url::parse(&url).map_err(|error| broken(&format!("{url}: {error}")))?;
        let http2 = self.plan.asked.http2;
        Ok(load::Plan {
            url,
            method: Method::GET,
            headers: HeaderMap::new(),
            body: Vec::new(),
            protocol: if http2 { Protocol::Http2 } else { Protocol::Http1 },
            timeout: round.patience,
            pacing: Pacing::Closed { concurrency: usize::try_from(round.callers.max(1)).unwrap_or(1) },
            connections: if http2 { Connections::Shared } else { Connections::Own },
            http2_connections: 1,
            warm_up: Duration::ZERO,
            requests: Some(u64::from(round.calls.max(1))),
            duration: None,
            fail_above_errors: None,
        })
    }

    async fn rest_until(&self, then: Instant) -> Result<(), Stopped> {
        if self.stop.is_cancelled() || Instant::now() >= self.deadline {
            return Err(self.stopped().await);
        }
        tokio::select! {
            () = tokio::time::sleep_until(then.into()) => Ok(()),
            stopped = self.stopped() => Err(stopped),
        }
    }

    /// Comes back when the run must stop.
    async fn stopped(&self) -> Stopped {
        tokio::select! {
            () = self.stop.cancelled() => Stopped { guard: Guard::Interrupted, message: "it was told to stop".to_owned() },
            () = tokio::time::sleep_until(self.deadline.into()) => Stopped {
                guard: Guard::Deadline,
                message: format!("its {} s were over (--duration)", self.plan.asked.caps.duration_ms / 1_000),
            },
        }
    }
}

impl Reading {
    /// Whether it shows that a limit tripped.
    fn shows(&self, sign: &Sign) -> bool {
        match sign {
            Sign::Counter(counter) | Sign::WhileConnecting(counter) => self.counted(counter) > 0,
            Sign::RefusedBehind => self.answers.refused_behind > 0,
        }
    }
}

/// What was added to the counters that are judged.
fn of_interest(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let added = counters::ALL.into_iter().filter_map(|name| {
        let value = |counted: &BTreeMap<String, u64>| counted.get(name).copied().unwrap_or(0);
        let added = value(after).saturating_sub(value(before));
        (added > 0).then(|| (name.to_owned(), added))
    });
    added.collect()
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn silent(error: &anyhow::Error) -> Stopped {
    broken(&format!("the caller's proxy does not tell what it holds and counts: {error}"))
}

fn broken(why: &str) -> Stopped {
    Stopped { guard: Guard::Failed, message: why.to_owned() }
}
