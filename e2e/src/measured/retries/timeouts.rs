//! Timeouts and tries. The witnesses are statuses and tries, never a clock: the times are far enough apart for
//! a busy machine to change neither.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::measured::routes_stage::Stage;

/// Calls for each case.
const CALLS: u32 = 2;

pub(super) fn overall(stage: &Stage) -> Result<()> {
    let retries = |per_try: &str| json!({"attempts": 3, "retryOn": "5xx", "perTryTimeout": per_try});
    stage.write(&[stage.cases(
        "httpbin",
        &[
            ("alone", json!({"timeout": "1s"})),
            ("with-retries", json!({"timeout": "1s", "retries": {"attempts": 3, "retryOn": "5xx"}})),
            ("two-fit", json!({"timeout": "1.7s", "retries": retries("1s")})),
            ("longer", json!({"timeout": "1s", "retries": retries("2s")})),
            ("equal", json!({"timeout": "1s", "retries": retries("1s")})),
        ],
    )])?;
    for (case, tries) in [("alone", 1), ("with-retries", 1), ("two-fit", 2), ("longer", 1), ("equal", 1)] {
        cut_off(stage, case, tries)?;
    }
    Ok(())
}

pub(super) fn per_try(stage: &Stage) -> Result<()> {
    let cases = [
        ("all", Some("5xx"), 4),
        ("gateway", Some("gateway-error"), 4),
        ("reset", Some("reset"), 4),
        ("default", None, 1),
        ("code", Some("503"), 1),
        ("its-code", Some("504"), 1),
    ];
    let routes = cases.map(|(name, on, _)| {
        let mut retries = json!({"attempts": 3, "perTryTimeout": "500ms"});
        if let Some(on) = on {
            retries["retryOn"] = json!(on);
        }
        (name, json!({"retries": retries}))
    });
    stage.write(&[stage.cases("httpbin", &routes)])?;
    for (case, _, tries) in cases {
        cut_off(stage, case, tries)?;
    }
    Ok(())
}

/// Slow calls by this route must all end with 504, each after so many tries.
fn cut_off(stage: &Stage, case: &str, tries: u64) -> Result<()> {
    let seen = stage.call(&format!("/delay/4?case={case}"), CALLS)?;
    seen.expect(504, tries * u64::from(CALLS)).map_err(|error| error.context(case.to_owned()))?;
    let retries = seen.retries(stage);
    ensure!(retries == (tries - 1) * u64::from(CALLS), "{case}: {CALLS} calls were tried again {retries} times");
    Ok(())
}
