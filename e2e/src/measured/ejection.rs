//! Outlier detection: what is ejected, for how long, and what forgets it.

mod forgetting;
mod hosts;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::raw_stage::{CLIENT, RawStage};
use super::{Claim, Family, Judge, listed};
use crate::checkout::Checkout;
use crate::cluster::manifest;
use crate::envoy::Stats;
use crate::fortio::{Answers, load_from};
use crate::lab::Lab;
use crate::namespace::with_namespace;
use crate::report::seconds;
use crate::scenarios::stage::{PORT, SOON};
use crate::wait::{self, Seen};
use crate::workloads::{start_in, with_images};

const CLAIMS: &[Claim<RawStage>] = &[
    Claim {
        ids: &["M5"],
        says: "when all endpoints fail, exactly floor(n × maxEjectionPercent / 100) of n are ejected",
        judge: exactly_the_floor,
    },
    Claim {
        ids: &["M60"],
        says: "a headless Service is limited; its ejections are counted and have no effect",
        judge: hosts::headless,
    },
    Claim {
        ids: &["M61"],
        says: "a ServiceEntry with STATIC endpoints is limited, and its endpoints are ejected",
        judge: hosts::static_entry,
    },
    Claim {
        ids: &["M62"],
        says: "a ServiceEntry resolved by DNS is limited, and its endpoints are ejected",
        judge: hosts::dns_entry,
    },
    Claim {
        ids: &["M63"],
        says: "when every endpoint is ejected the client's own proxy answers 503, no healthy upstream",
        judge: nothing_healthy,
    },
    Claim {
        ids: &["M64"],
        says: "ejections one after the other last base times their number, not doubled; health makes them short again",
        judge: times_are_multiples,
    },
    Claim {
        ids: &["M65"],
        says: "a first ejection acts at once, one soon after another change of health only later",
        judge: soon_after_another_it_acts_late,
    },
    Claim {
        ids: &["M66"],
        says: "minHealthPercent keeps the only endpoint in use although it is ejected",
        judge: panic_keeps_all,
    },
    Claim {
        ids: &["M67"],
        says: "any change of the DestinationRule forgets ejections and counts limits anew",
        judge: forgetting::by_any_change,
    },
];

/// The family.
pub(super) const FAMILY: Family = Family { name: "ejection", claims: || listed(CLAIMS), play };

fn play(checkout: &Checkout, judge: &mut Judge<'_>) -> Result<()> {
    let lab = Lab::attach_to(checkout)?;
    with_namespace(&lab, "measured-ejection", |kubectl| {
        kubectl.apply(&with_images(&manifest(checkout, "measured-endpoints.yaml")?))?;
        start_in(checkout, kubectl)?;
        kubectl.rolled_out("deployment/plain", SOON * 2)?;
        let stage = RawStage::set(kubectl, "plain", &[CLIENT], false)?;
        judge.all(&stage, CLAIMS, RawStage::sweep);
        Ok(())
    })
}

/// An outlier detection that one 5xx trips.
fn detection(percent: u64, base: &str) -> Value {
    json!({
        "consecutive5xxErrors": 1, "interval": "1s", "baseEjectionTime": base, "maxEjectionPercent": percent,
    })
}

/// Calls that answer 500 until so many endpoints are ejected.
fn eject(stage: &RawStage, wanted: u64) -> Result<()> {
    stage.kubectl.until(&format!("{wanted} endpoints are ejected"), SOON, |_| {
        let active = stage.counted(CLIENT, "outlier_detection.ejections_active")?;
        if active < wanted {
            stage.call(CLIENT, "/status/500", 1, 20)?;
        }
        ensure!(active <= wanted, "{active} endpoints are ejected, not {wanted}");
        Ok(if active == wanted { Seen::Done(()) } else { Seen::NotYet(format!("{active} are")) })
    })
}

/// Calls a path of the server from one caller, so many times a second.
fn paced(stage: &RawStage, path: &str, requests: u32, rate: u32) -> Result<Answers> {
    load_from(&stage.kubectl, CLIENT, &stage.url(path), 1, requests, &["-qps", &rate.to_string()])
}

fn exactly_the_floor(stage: &RawStage) -> Result<()> {
    let mut refused_before = stage.counted(CLIENT, "outlier_detection.ejections_overflow")?;
    for endpoints in [10, 3, 2, 1] {
        stage.endpoints(endpoints)?;
        for percent in [10, 34, 50, 67, 99, 100] {
            let floor = endpoints * percent / 100;
            stage.detect(&detection(percent, "300s"))?;
            // Those that are left fail too; Envoy counts each ejection that the percentage forbids.
            let what = format!("{floor} of {endpoints} are ejected at {percent} per cent, and no more may be");
            refused_before = stage.kubectl.until(&what, SOON, |kubectl| {
                stage.call(CLIENT, "/status/500", 1, 50)?;
                let stats = Stats::of(kubectl, CLIENT)?;
                let count = |counter: &str| stats.outbound(&stage.host(), PORT, counter);
                let active = count("outlier_detection.ejections_active");
                let refused = count("outlier_detection.ejections_overflow");
                ensure!(active <= floor, "{active} of {endpoints} endpoints are ejected at {percent} per cent");
                let complete = active == floor && (floor == endpoints || refused > refused_before);
                let seen = format!("{active} are, {} more were refused", refused - refused_before);
                Ok(if complete { Seen::Done(refused) } else { Seen::NotYet(seen) })
            })?;
        }
    }
    Ok(())
}

fn nothing_healthy(stage: &RawStage) -> Result<()> {
    stage.detect(&detection(100, "300s"))?;
    eject(stage, 1)?;
    stage.until_answers(CLIENT, "every answer is 503", "/status/200", 1, |answers| {
        answers.status(503) == answers.total()
    })?;
    let (answers, counted) = stage.meanwhile(&[CLIENT], || stage.call(CLIENT, "/status/200", 1, 20))?;
    let count = |counter: &str| counted[0].outbound(&stage.host(), PORT, counter);
    let (without, tried) = (count("upstream_cx_none_healthy"), count("upstream_rq_total"));
    ensure!(
        answers.status(503) == 20 && without == 20 && tried == 0,
        "{answers:?}, {without} found no healthy endpoint, {tried} were sent"
    );
    let url = stage.url("/status/200");
    let answer = stage.kubectl.try_exec(CLIENT, "fortio", &["fortio", "curl", "-quiet", &url])?;
    ensure!(answer.all().contains("no healthy upstream"), "the answer gives another reason: {}", answer.all());
    Ok(())
}

/// The first ejections one after the other last 1, 2, 3 and 4 × base, each up to one interval longer; doubled
/// the fourth would last 8 × base. Times are bounded from the side on which a slow look cannot be wrong.
fn times_are_multiples(stage: &RawStage) -> Result<()> {
    const BASE: Duration = Duration::from_secs(1);
    stage.detect(&detection(100, "1s"))?;
    let begun = stage.counted(CLIENT, "outlier_detection.ejections_enforced_total")?;
    // When the number of ejections was last seen to be smaller, and first seen to be as large.
    let mut looks: Vec<(Instant, Instant)> = Vec::new();
    std::thread::scope(|scope| {
        // Longer than four ejections, without a gap: whoever returns fails again within an interval.
        let callers = scope.spawn(|| paced(stage, "/status/500", 800, 50));
        let mut before = Instant::now();
        let watched = wait::until("five ejections", SOON, || {
            let asked = Instant::now();
            let ejections = stage.counted(CLIENT, "outlier_detection.ejections_enforced_total")? - begun;
            while (looks.len() as u64) < ejections {
                looks.push((before, Instant::now()));
            }
            before = asked;
            Ok(if looks.len() >= 5 { Seen::Done(()) } else { Seen::NotYet(format!("{ejections}")) })
        });
        let called = callers.join().unwrap_or_else(|_| anyhow::bail!("the caller panicked"));
        watched.and(called)
    })?;
    let mut told = Vec::new();
    for (number, pair) in (1..).zip(looks.windows(2)) {
        let ((before, seen), (next_before, next_seen)) = (pair[0], pair[1]);
        let (least, most) = (next_before.saturating_duration_since(seen), next_seen - before);
        told.push(format!("{} to {}", seconds(least), seconds(most)));
        ensure!(most >= BASE * number, "ejection {number} lasted at most {}: less than its multiple", seconds(most));
        ensure!(
            number < 4 || least < BASE * 8,
            "ejection {number} lasted at least {}: its time is doubled each time",
            seconds(least)
        );
    }
    eprintln!("          ejections lasted {}", told.join(", "));
    short_again(stage)
}

/// Each healthy interval takes one from the multiple. The sixth ejection would last six times the base.
fn short_again(stage: &RawStage) -> Result<()> {
    let active = || stage.counted(CLIENT, "outlier_detection.ejections_active");
    let until_back = || {
        stage.kubectl.until("the endpoint is back", SOON, |_| {
            Ok(if active()? == 0 { Seen::Done(()) } else { Seen::NotYet("ejected".to_owned()) })
        })
    };
    until_back()?;
    // Eight intervals of health, told by calls.
    let healthy = paced(stage, "/status/200", 80, 10)?;
    ensure!(healthy.status(200) > 40, "the endpoint is not back: {healthy:?}");
    eject(stage, 1)?;
    let ejected = Instant::now();
    let mut still = ejected;
    wait::until("the endpoint is back", SOON, || {
        let asked = Instant::now();
        if active()? == 0 {
            return Ok(Seen::Done(()));
        }
        still = asked;
        Ok(Seen::NotYet("ejected".to_owned()))
    })?;
    let least = still - ejected;
    ensure!(
        least < Duration::from_secs(5),
        "after eight healthy intervals an ejection lasted at least {}",
        seconds(least)
    );
    Ok(())
}

/// Envoy gathers changes of health for a second (`update_merge_window`) and lets the first one through. At
/// `consecutive5xxErrors: 1` each 500 beyond the number of ejections came from an endpoint that was ejected.
fn soon_after_another_it_acts_late(stage: &RawStage) -> Result<()> {
    const RATE: u32 = 50;
    // A fifth of a second: much longer than an ejection needs, much shorter than the window.
    const FEW: u64 = 10;
    let run = |base: &str, calls: u32| -> Result<(u64, u64)> {
        stage.detect(&detection(100, base))?;
        let (answers, counted) = stage.meanwhile(&[CLIENT], || paced(stage, "/status/500", calls, RATE))?;
        let ejections = counted[0].outbound(&stage.host(), PORT, "outlier_detection.ejections_enforced_total");
        Ok((ejections, answers.status(500)))
    };
    let (ejections, failed) = run("300s", RATE)?;
    ensure!(ejections == 1, "{ejections} ejections instead of one");
    ensure!(failed <= FEW, "after the first ejection {failed} calls were still sent");
    // Six seconds: the endpoint returns after three or four, and is ejected again at once.
    let (ejections, failed) = run("3s", 6 * RATE)?;
    eprintln!("          {ejections} ejections let {failed} calls through at {RATE} a second");
    ensure!(ejections == 2, "{ejections} ejections instead of two");
    ensure!(failed > 2 * FEW, "a second ejection soon after the return let only {failed} calls through");
    Ok(())
}

fn panic_keeps_all(stage: &RawStage) -> Result<()> {
    let mut detection = detection(100, "300s");
    detection["minHealthPercent"] = json!(50);
    stage.detect(&detection)?;
    eject(stage, 1)?;
    let (answers, counted) = stage.meanwhile(&[CLIENT], || stage.call(CLIENT, "/status/200", 1, 20))?;
    let count = |counter: &str| counted[0].outbound(&stage.host(), PORT, counter);
    let panicked = count("lb_healthy_panic");
    ensure!(answers.status(200) == 20 && panicked >= 20, "{answers:?}, {panicked} were sent in panic");
    let active = stage.counted(CLIENT, "outlier_detection.ejections_active")?;
    ensure!(active == 1, "the endpoint is not ejected");
    Ok(())
}
