//! What a change of a rule forgets.

use anyhow::{Result, ensure};
use serde_json::json;

use super::{detection, eject};
use crate::fortio::load_from;
use crate::measured::raw_stage::{CLIENT, RawStage};
use crate::scenarios::stage::SOON;
use crate::wait::Seen;

/// A change of anything builds the cluster anew.
pub(super) fn by_any_change(stage: &RawStage) -> Result<()> {
    ejections(stage)?;
    limits(stage)
}

fn ejections(stage: &RawStage) -> Result<()> {
    let detection = detection(100, "300s");
    stage.detect(&detection)?;
    eject(stage, 1)?;
    stage.until_answers(CLIENT, "the only endpoint is ejected", "/status/200", 1, |answers| {
        answers.status(503) == answers.total()
    })?;
    stage.rule(&json!({
        "outlierDetection": detection, "connectionPool": {"http": {"http2MaxRequests": 1000}},
    }))?;
    stage.until_limit(CLIENT, "max_requests", 1000)?;
    let answers = stage.call(CLIENT, "/status/200", 1, 20)?;
    ensure!(answers.status(200) == 20, "the ejection is remembered: {answers:?}");
    let active = stage.counted(CLIENT, "outlier_detection.ejections_active")?;
    ensure!(active == 0, "the ejection is still counted");
    Ok(())
}

/// One call may be under way, and is; after a change another may.
fn limits(stage: &RawStage) -> Result<()> {
    // As long as httpbin waits at most. Where that is too short for all that is between, once more.
    let slow = stage.url("/delay/10");
    stage.kubectl.until("a change while a call is under way", SOON * 2, |_| {
        stage.rule_for_requests(1)?;
        std::thread::scope(|scope| {
            let first = scope.spawn(|| load_from(&stage.kubectl, CLIENT, &slow, 1, 1, &["-timeout", "30s"]));
            let begun = stage.kubectl.until("a call beside the first is refused", SOON, |_| {
                let beside = stage.call(CLIENT, "/status/200", 1, 1)?;
                let refused = beside.status(503) == 1;
                // The first call may have ended before this one was made.
                Ok(if refused || first.is_finished() { Seen::Done(refused) } else { Seen::NotYet("200".to_owned()) })
            })?;
            stage.rule(&json!({"connectionPool": {"http": {"http2MaxRequests": 1, "maxRetries": 99}}}))?;
            stage.until_limit(CLIENT, "max_retries", 99)?;
            let second = stage.call(CLIENT, "/status/200", 1, 5)?;
            let in_time = begun && !first.is_finished();
            let first = first.join().unwrap_or_else(|_| anyhow::bail!("the caller panicked"))?;
            ensure!(second.status(200) == 5, "the call under way still counts after the change: {second:?}");
            // One that was over too early may itself have been refused, by the call beside it.
            ensure!(!in_time || first.status(200) == 1, "the call under way did not end well: {first:?}");
            Ok(if in_time { Seen::Done(()) } else { Seen::NotYet("the call was over too early".to_owned()) })
        })
    })
}
