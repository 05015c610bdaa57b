//! What was measured, beside what is wanted: a table, JSON, a picture.

use std::fmt::Write as _;

use serde::Serialize;

use super::contenders::Contender;
use super::envoy::ToEnvoy;
use super::filled::{Changes, Churn, Drift, One, Percentiles, Restart};
use super::median;
use super::offline::{Image, Pure, Render};
use super::storm::Round;
use crate::svg;

/// All of a run. What was not asked for is empty.
#[derive(Debug, Default, Serialize)]
pub struct Found {
    /// Of what machine.
    pub machine: Machine,
    /// Every round.
    pub storms: Vec<Round>,
    /// A change that one half carries.
    pub changes: Option<Changes>,
    /// One policy more, beside none and beside many.
    pub ones: Vec<One>,
    /// Repairs.
    pub drift: Option<Drift>,
    /// Starts with everything in place.
    pub restarts: Vec<Restart>,
    /// A start with as many objects of others beside, for its memory.
    pub memory: Option<Restart>,
    /// Others' changes.
    pub churn: Option<Churn>,
    /// `render` from files.
    pub render: Option<Render>,
    /// Decisions.
    pub pure: Vec<Pure>,
    /// The binary.
    pub image: Option<Image>,
    /// The way to a client's Envoy.
    pub to_envoy: Option<ToEnvoy>,
}

/// On what it was measured.
#[derive(Debug, Default, Serialize)]
pub struct Machine {
    /// Processors.
    pub cores: usize,
    /// Of the API server.
    pub kubernetes: String,
}

/// One line of the table.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// What.
    pub what: String,
    /// What is wanted.
    pub target: String,
    /// What was found.
    pub measured: String,
    /// Whether that is enough.
    pub met: bool,
}

impl Found {
    /// The round of one contender with so many policies that took the median of seconds; of two in the middle the
    /// slower.
    #[must_use]
    pub fn median(&self, who: Contender, policies: u32) -> Option<&Round> {
        let mut rounds: Vec<&Round> =
            self.storms.iter().filter(|round| round.contender == who && round.policies == policies).collect();
        rounds.sort_by(|one, two| one.seconds.total_cmp(&two.seconds));
        rounds.get(rounds.len() / 2).copied()
    }

    /// How many times as fast as the bare writer of the same round: the median.
    #[must_use]
    pub fn ratio(&self, who: Contender, policies: u32) -> Option<f64> {
        self.ratio_to(who, Contender::Floor, policies)
    }

    /// How many times as fast as another one in the same round: the median.
    fn ratio_to(&self, who: Contender, other: Contender, policies: u32) -> Option<f64> {
        let of = |who| self.storms.iter().filter(move |round| round.contender == who && round.policies == policies);
        let ratios: Vec<f64> = of(who).zip(of(other)).map(|(one, other)| other.seconds / one.seconds).collect();
        (!ratios.is_empty()).then(|| median(ratios.into_iter()))
    }

    fn sizes(&self) -> Vec<u32> {
        let mut sizes: Vec<u32> = self.storms.iter().map(|round| round.policies).collect();
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }

    fn contenders(&self, policies: u32) -> Vec<Contender> {
        let mut all = Vec::new();
        for round in self.storms.iter().filter(|round| round.policies == policies) {
            if !all.contains(&round.contender) {
                all.push(round.contender);
            }
        }
        all
    }

    /// Every target that this run can judge.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        let mut all = Vec::new();
        for policies in self.sizes() {
            self.of_storm(policies, &mut all);
        }
        if let Some(changes) = &self.changes {
            let each = share(changes.writes, changes.policies);
            all.push(finding("writes, change of one half", "2 a policy", format!("{each:.2}"), each <= 2.0));
        }
        for one in &self.ones {
            let [floor, ours] = [middle(&one.floor), middle(&one.ours)];
            let (p50, p99) = (ours.p50 - floor.p50, ours.p99 - floor.p99);
            all.push(finding(
                &format!("one policy beside {}", one.beside),
                "bare writer + 5 ms p50, + 50 ms p99",
                format!("{:.1} ms ({p50:+.1}), p99 {:.1} ms ({p99:+.1})", ours.p50, ours.p99),
                p50 <= 5.0 && p99 <= 50.0,
            ));
        }
        if let Some(Drift { edits, deletions }) = &self.drift {
            let p99 = edits.p99.max(deletions.p99);
            let measured = format!(
                "p50 {:.1} and {:.1} ms, p99 {:.1} and {:.1} ms",
                edits.p50, deletions.p50, edits.p99, deletions.p99
            );
            all.push(finding("repair of an edit, of a deletion", "p99 50 ms", measured, p99 <= 50.0));
        }
        if let Some(ToEnvoy { raw, ours, look }) = &self.to_envoy {
            let (p50, p99) = (ours.p50 - raw.p50, ours.p99 - raw.p99);
            let measured = format!(
                "{:.0} ms ({p50:+.1}), p99 {:.0} ms ({p99:+.1}); a look takes {:.1} ms",
                ours.p50, ours.p99, look.p50
            );
            all.push(finding("a change, to a client's Envoy", "rule by hand + 15 ms p50", measured, p50 <= 15.0));
        }
        if let Some(restart) = self.restarts.iter().min_by(|one, two| one.ratio().total_cmp(&two.ratio())) {
            let writes = restart.writes + restart.events;
            all.push(finding("writes of a restart", "0", writes.to_string(), writes == 0));
            let measured = format!(
                "{:.2} × ({:.2} s; lists {:.2} s)",
                restart.ratio(),
                restart.ready_seconds,
                restart.lists_seconds
            );
            all.push(finding("ready after a restart", "1.3 × three raw lists", measured, restart.ratio() <= 1.3));
        }
        if let Some(Restart { usage, .. }) = &self.memory {
            let measured = format!(
                "{:.0} MiB, peak {:.0} MiB ({:.2} ×)",
                usage.rss_mib,
                usage.peak_mib,
                usage.peak_mib / usage.rss_mib
            );
            let met = usage.rss_mib <= 60.0 && usage.peak_mib <= 1.6 * usage.rss_mib;
            all.push(finding("memory", "60 MiB, peak 1.6 ×", measured, met));
        }
        if let Some(churn) = &self.churn {
            let measured =
                format!("{} writes, {:.1} % of a core at {:.0} changes/s", churn.writes, churn.core * 1e2, churn.rate);
            all.push(finding(
                "changes of others",
                "0 writes, 5 % of a core at 50/s",
                measured,
                churn.writes == 0 && churn.core <= 0.05,
            ));
        }
        for Pure { file, render, decision } in &self.pure {
            let measured = format!(
                "p50 {:.1} µs, p99 {:.1} µs; with the CRD's rules and the comparison {:.1} µs",
                micros(render.p50_ns),
                micros(render.p99_ns),
                micros(decision.p50_ns)
            );
            all.push(finding(&format!("pure render, {file}"), "10 µs", measured, render.p50_ns <= 10_000));
        }
        if let Some(Render { policies, seconds }) = &self.render {
            all.push(finding(
                &format!("render of {policies} files"),
                "0.5 s",
                format!("{seconds:.2} s"),
                *seconds <= 0.5,
            ));
        }
        if let Some(Image { mib, pulled_mib, start_ms, usage }) = &self.image {
            let measured = format!("{pulled_mib:.1} MiB pulled ({mib:.1} on disk)");
            all.push(finding("image", "15 MiB", measured, *pulled_mib <= 15.0));
            let measured = format!("{start_ms:.0} ms, {:.0} MiB", usage.rss_mib);
            all.push(finding("cold start, until all is watched", "100 ms", measured, *start_ms <= 100.0));
        }
        all
    }

    fn of_storm(&self, policies: u32, all: &mut Vec<Finding>) {
        let Some(ours) = self.median(Contender::Ours, policies) else { return };
        if let Some(ratio) = self.ratio(Contender::Ours, policies) {
            let measured = format!("{ratio:.2} ({:.0} policies/s)", ours.rate());
            all.push(finding(&format!("create storm, {policies}"), "0.90 of the bare writer", measured, ratio >= 0.9));
        }
        let peers: Vec<_> = self
            .contenders(policies)
            .into_iter()
            .filter(|who| !matches!(who, Contender::Floor | Contender::Ours))
            .collect();
        let ratios = peers.iter().filter_map(|who| Some((who.name(), self.ratio_to(Contender::Ours, *who, policies)?)));
        if let Some((name, ratio)) = ratios.min_by(|one, two| one.1.total_cmp(&two.1)) {
            let measured = format!("{ratio:.2} × the fastest ({name})");
            all.push(finding(&format!("ahead of every peer, {policies}"), "above 1", measured, ratio > 1.0));
        }
        let writes = ours.each(ours.calls.writes());
        let measured = format!("{writes:.2}, and {:.2} events", ours.each(ours.calls.events()));
        all.push(finding(&format!("writes at create, {policies}"), "3 a policy", measured, writes <= 3.0));
    }

    /// Tables for people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::new();
        for policies in self.sizes() {
            let _ = writeln!(
                text,
                "\n{:<27} {:>10} {:>8} {:>7} {:>7} {:>7} {:>11} {:>9} {:>9}",
                format!("{policies} policies"),
                "policies/s",
                "to floor",
                "writes",
                "events",
                "reads",
                "API CPU ms",
                "CPU ms",
                "peak MiB"
            );
            for who in self.contenders(policies) {
                let Some(round) = self.median(who, policies) else { continue };
                let of = |seconds: f64| seconds * 1e3 / f64::from(policies);
                let _ = writeln!(
                    text,
                    "  {:<25} {:>10.0} {:>8.2} {:>7.2} {:>7.2} {:>7.2} {:>11.1} {:>9.2} {:>9.0}",
                    who.name(),
                    round.rate(),
                    self.ratio(who, policies).unwrap_or(f64::NAN),
                    round.each(round.calls.writes()),
                    round.each(round.calls.events()),
                    round.each(round.calls.reads()),
                    of(round.api_cpu_seconds),
                    of(round.usage.cpu_seconds),
                    round.usage.peak_mib,
                );
            }
        }
        let _ = writeln!(text, "\n{:<30} {:<36} {:<50} met", "what", "target", "measured");
        for Finding { what, target, measured, met } in self.findings() {
            let _ = writeln!(text, "{what:<30} {target:<36} {measured:<50} {}", if met { "yes" } else { "NO" });
        }
        text
    }

    /// The storms as bars: how near each contender comes to the bare writer.
    #[must_use]
    pub fn picture(&self) -> String {
        const STEP: f64 = 30.0;
        let mut bars = String::new();
        let mut y = 60.0;
        for policies in self.sizes() {
            let _ = writeln!(bars, "<text x=\"20\" y=\"{}\" font-weight=\"bold\">{policies} policies</text>", y + 16.0);
            y += STEP;
            for who in self.contenders(policies) {
                let (Some(ratio), Some(round)) = (self.ratio(who, policies), self.median(who, policies)) else {
                    continue;
                };
                let colour = if who == Contender::Ours { "#0072b2" } else { "#999999" };
                let width = 440.0 * ratio.min(1.2);
                let _ = writeln!(
                    bars,
                    "<text x=\"212\" y=\"{:.0}\" text-anchor=\"end\">{}</text>\
                     <rect x=\"220\" y=\"{y:.0}\" width=\"{width:.1}\" height=\"20\" fill=\"{colour}\"/>\
                     <text x=\"{:.1}\" y=\"{:.0}\">{ratio:.2} ({:.0}/s)</text>",
                    y + 15.0,
                    who.name(),
                    228.0 + width,
                    y + 15.0,
                    round.rate(),
                );
                y += STEP;
            }
        }
        svg::sheet(
            "Policies programmed a second, to the bare writer of the same round",
            "How near each contender comes to the bare writer",
            (y + 10.0).round(),
            &bars,
        )
    }
}

fn finding(what: &str, target: &str, measured: String, met: bool) -> Finding {
    Finding { what: what.to_owned(), target: target.to_owned(), measured, met }
}

fn share(number: u64, of: u32) -> f64 {
    u32::try_from(number).map_or(f64::INFINITY, f64::from) / f64::from(of)
}

fn micros(nanos: u64) -> f64 {
    std::time::Duration::from_nanos(nanos).as_secs_f64() * 1e6
}

/// The block whose median is the median.
fn middle(blocks: &[Percentiles]) -> Percentiles {
    let mut blocks = blocks.to_vec();
    blocks.sort_by(|one, two| one.p50.total_cmp(&two.p50));
    let nothing = Percentiles { p50: f64::NAN, p90: f64::NAN, p99: f64::NAN };
    blocks.get(blocks.len() / 2).copied().unwrap_or(nothing)
}

#[cfg(test)]
mod tests {
    use super::super::counts::Counts;
    use super::super::process::Usage;
    use super::*;

    fn round(contender: Contender, seconds: f64) -> Round {
        Round {
            contender,
            policies: 10,
            seconds,
            first_after: 0.1,
            api_cpu_seconds: 1.0,
            etcd_cpu_seconds: 1.0,
            usage: Usage::default(),
            calls: Counts::default(),
        }
    }

    #[test]
    fn a_ratio_is_that_of_the_same_round_and_one_bad_round_does_not_count() {
        let mut found = Found::default();
        for (floor, ours) in [(1.0, 1.25), (10.0, 12.5), (1.0, 9.0)] {
            found.storms.extend([round(Contender::Floor, floor), round(Contender::Ours, ours)]);
        }
        assert!((found.ratio(Contender::Ours, 10).unwrap() - 0.8).abs() < 1e-9);
        let storm = &found.findings()[0];
        assert!(!storm.met && storm.measured.starts_with("0.80"), "{storm:?}");
        assert!(found.picture().contains("0.80") && found.table().contains("NO"));
    }

    #[test]
    fn a_peer_that_is_faster_is_named() {
        let mut found = Found::default();
        found.storms.extend([round(Contender::Ours, 2.0), round(Contender::Go, 1.0), round(Contender::Textbook, 4.0)]);
        let ahead = found.findings().into_iter().find(|one| one.what.starts_with("ahead")).unwrap();
        assert!(!ahead.met && ahead.measured.contains(Contender::Go.name()), "{ahead:?}");
    }

    #[test]
    fn of_two_rounds_neither_is_left_out_and_a_peer_is_met_in_its_own_round() {
        let mut found = Found::default();
        for (ours, go) in [(2.0, 3.0), (4.0, 2.0)] {
            found.storms.extend([round(Contender::Ours, ours), round(Contender::Go, go)]);
        }
        let ahead = found.findings().into_iter().find(|one| one.what.starts_with("ahead")).unwrap();
        assert!(!ahead.met && ahead.measured.starts_with("1.00"), "{ahead:?}");
    }
}
