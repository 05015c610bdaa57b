//! In: a moment of the stage. Out: whether Prometheus tells it: alerts, every query of the dashboard, rules, and
//! the numbers of the client's own Envoy.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::dashboard::{self, Dashboard};
use super::moment::Moment;
use super::{LIMITS, METRICS, operators, proxies};
use crate::envoy::Stats;
use crate::lab::Lab;
use crate::prometheus::{INTERVAL, Prometheus, Sample};
use crate::scenarios::incident::{Act, CLIENT};
use crate::scenarios::stage::{PORT, Stage};
use crate::wait::{self, Seen};

/// For what comes with the next scrapes, or leaves a window: long enough for a busy machine.
const PATIENCE: Duration = Duration::from_mins(2);

/// All alerts that fire.
const FIRING: &str = r#"ALERTS{alertstate="firing"}"#;

/// Records that nothing in the lab can make: its Envoy has no `istio_requests_total`.
const OF_RESPONSE_FLAGS: &str = "resilience:istio_";

/// What is counted of the client's calls.
const COUNTERS: [&str; 7] = [
    "upstream_rq_total",
    "upstream_rq_active_overflow",
    "upstream_rq_pending_overflow",
    "upstream_cx_overflow",
    "upstream_cx_none_healthy",
    "outlier_detection.ejections_active",
    "membership_total",
];

/// A Prometheus that watches a stage.
pub struct Watch<'a> {
    pub lab: &'a Lab,
    pub prometheus: &'a Prometheus,
    pub dashboard: &'a Dashboard,
    pub stage: &'a Stage<'a>,
}

impl Watch<'_> {
    /// A query of the dashboard, with the stage chosen.
    pub fn filled_in(&self, query: &str) -> String {
        dashboard::filled_in(query, &self.stage.host(), self.stage.kubectl.current_namespace())
    }

    /// Scrapes all that is there now: pods come and go between moments.
    pub fn follow(&self) -> Result<()> {
        self.prometheus.scrape(&[proxies(self.stage)?, operators(self.lab, &[METRICS, LIMITS])?].concat())
    }

    /// Alerts, panels, what variables can be chosen from, and rules: until each tells this moment.
    pub fn look(&self, moment: &Moment) -> Result<()> {
        self.follow()?;
        self.until_alerts(moment.name, moment.alerts)?;
        for panel in &self.dashboard.panels {
            for (number, query) in panel.queries.iter().enumerate() {
                let expression = self.filled_in(&query.expression);
                let what = format!("{}: «{}», query {}", moment.name, panel.title, number + 1);
                until(&what, || {
                    let answer = self.prometheus.query(&expression)?;
                    let right = dashboard::is_right(&panel.title, number, moment, &answer)?;
                    Ok(if right { Seen::Done(()) } else { Seen::NotYet(format!("{expression} gives {answer:?}")) })
                })?;
            }
        }
        self.variables()?;
        for rule in self.prometheus.rules()? {
            ensure!(rule.fault.is_none(), "{}: the rule {} fails: {:?}", moment.name, rule.name, rule.fault);
        }
        Ok(())
    }

    /// All alerts that fire now.
    pub fn firing(&self) -> Result<Vec<Sample>> {
        self.prometheus.query(FIRING)
    }

    /// Until these alerts fire and no other does.
    pub fn until_alerts(&self, moment: &str, wanted: &[&str]) -> Result<()> {
        let wanted: BTreeSet<String> = wanted.iter().copied().map(str::to_owned).collect();
        // What the dashboard marks: those of its Service, and those of none. There is no other Service here.
        for query in [FIRING, &self.filled_in(&self.dashboard.annotation)] {
            until(&format!("{moment}: {wanted:?} fire, and no others"), || {
                let firing = dashboard::alerts(&self.prometheus.query(query)?);
                Ok(if firing == wanted { Seen::Done(()) } else { Seen::NotYet(format!("{query} gives {firing:?}")) })
            })?;
        }
        Ok(())
    }

    fn variables(&self) -> Result<()> {
        for variable in &self.dashboard.variables {
            let host = self.stage.host();
            let wanted = match variable.name.as_str() {
                "destination_service" => host.as_str(),
                _ => self.stage.kubectl.current_namespace(),
            };
            until(&format!("the variable {} can be {wanted}", variable.name), || {
                let values = self.prometheus.label_values(&self.filled_in(&variable.series), &variable.label)?;
                let there = values.iter().any(|value| value == wanted);
                Ok(if there { Seen::Done(()) } else { Seen::NotYet(format!("{values:?}")) })
            })?;
        }
        Ok(())
    }

    /// Prometheus has the very numbers of the Envoy, and the refused share is what they make.
    pub fn counters(&self, act: Act) -> Result<()> {
        let host = self.stage.host();
        let envoy = || Stats::of(self.stage.kubectl, CLIENT);
        let of = |stats: &Stats, counter: &str| stats.outbound(&host, PORT, counter);
        let begun = until("the Envoy tells what it counts", || envoy().map(Seen::Done))?;
        until(&format!("{act:?}: what is scraped is what the Envoy counts"), || {
            let before = envoy()?;
            let scraped = self.scraped_after(of(&before, COUNTERS[0]))?;
            let after = envoy()?;
            // What is scraped between two looks lies between them.
            let wrong = COUNTERS.iter().filter_map(|counter| {
                let name = format!("envoy_cluster_{}", counter.replace('.', "_"));
                let told = scraped.iter().find(|sample| sample.label("__name__") == name).map(|sample| sample.value);
                let (one, other) = (of(&before, counter), of(&after, counter));
                let lies = told.is_some_and(|told| (float(one.min(other))..=float(one.max(other))).contains(&told));
                (!lies).then(|| format!("{name} is {told:?}, and {one} to {other}"))
            });
            let wrong: Vec<String> = wrong.collect();
            Ok(if wrong.is_empty() { Seen::Done(()) } else { Seen::NotYet(wrong.join("; ")) })
        })?;
        if act != Act::Overload {
            return Ok(());
        }
        let share =
            format!("resilience:refused:ratio_rate2m{{destination_service=\"{host}\", cause=\"activeRequests\"}} > 0");
        until("the refused share is that of the counters", || {
            let counted = envoy()?.since(&begun);
            let (refused, sent) = (of(&counted, "upstream_rq_active_overflow"), of(&counted, "upstream_rq_total"));
            let told = one(&self.prometheus.query(&share)?);
            let is = float(refused) / float((refused + sent).max(1));
            let near = told.is_some_and(|told| refused > 100 && (told - is).abs() < 0.15);
            Ok(if near { Seen::Done(()) } else { Seen::NotYet(format!("told {told:?}, counted {is} of {refused}")) })
        })
    }

    /// What is scraped of the client, once that is as new as a look at its Envoy, which had sent so many calls.
    fn scraped_after(&self, sent: u64) -> Result<Vec<Sample>> {
        let names = COUNTERS.map(|counter| counter.replace('.', "_")).join("|");
        let series = format!(
            "{{__name__=~\"envoy_cluster_({names})\", cluster_name=~\"outbound[|]{PORT}[|][|]{}\", pod=~\"fortio-.*\"}}",
            self.stage.host()
        );
        wait::until("it is scraped anew", INTERVAL * 15, || {
            let scraped = self.prometheus.query(&series)?;
            let is_new = scraped.iter().any(|sample| {
                sample.label("__name__") == "envoy_cluster_upstream_rq_total" && sample.value >= float(sent)
            });
            Ok(if is_new { Seen::Done(scraped) } else { Seen::NotYet(format!("{scraped:?}")) })
        })
    }

    /// Every alert has fired by now, and every rule has recorded something.
    pub fn nothing_was_left_out(&self) -> Result<()> {
        let fired = self.prometheus.query(&format!("last_over_time({FIRING}[1h])"))?;
        for rule in self.prometheus.rules()? {
            if rule.is_alert {
                let has = fired.iter().any(|sample| sample.label("alertname") == rule.name);
                ensure!(has, "{} has not fired in the whole incident", rule.name);
            } else if !rule.name.starts_with(OF_RESPONSE_FLAGS) {
                let recorded = self.prometheus.query(&format!("last_over_time({}[1h])", rule.name))?;
                ensure!(!recorded.is_empty(), "{} has recorded nothing in the whole incident", rule.name);
            }
        }
        Ok(())
    }
}

/// Waits as long as a busy machine may take; who does not answer in time is asked again.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Result<Seen<T>>) -> Result<T> {
    let begun = Instant::now();
    wait::until(what, PATIENCE, || Ok(look().unwrap_or_else(|error| Seen::NotYet(format!("{error:#}")))))
        .with_context(|| format!("waited {:.1} s", begun.elapsed().as_secs_f64()))
}

/// The only value of an answer.
fn one(answer: &[Sample]) -> Option<f64> {
    match answer {
        [sample] => Some(sample.value),
        _ => None,
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts of an incident are far below 2^52")]
fn float(count: u64) -> f64 {
    count as f64
}
