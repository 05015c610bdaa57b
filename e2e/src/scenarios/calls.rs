//! Timeouts and retries act as declared, and are counted where they end.

use anyhow::{Result, ensure};
use serde_json::json;

use super::stage::{CONTAINER_PORT, PORT, on_stage};
use crate::checkout::Checkout;

/// A call that takes a second has a fifth of one.
///
/// # Errors
/// When it is not cut off, or a quick one is.
pub fn times_out(checkout: &Checkout) -> Result<()> {
    on_stage(checkout, "times-out", |stage| {
        let before = stage.call("/delay/1", 1, 2)?;
        ensure!(before.status(200) == 2, "a slow call fails without a policy: {before:?}");
        stage.policy(&json!({"timeouts": {"request": "200ms"}}))?;
        stage.until_answers("slow calls are cut off", "/delay/1", 1, 2, |answers| answers.status(504) == 2)?;
        let (_, client, _) = stage.counted(|| stage.call("/delay/1", 1, 3))?;
        let timeouts = client.outbound(&stage.host(), PORT, "upstream_rq_timeout");
        ensure!(timeouts == 3, "3 calls were cut off, and the client's Envoy counted {timeouts} timeouts");
        let quick = stage.call("/get", 2, 50)?;
        ensure!(quick.status(200) == 50, "quick calls are cut off as well: {quick:?}");
        Ok(())
    })
}

/// Two more tries on 503 make three at the server for each call; none on 500.
///
/// # Errors
/// When the server counts another number.
pub fn retries(checkout: &Checkout) -> Result<()> {
    on_stage(checkout, "retries", |stage| {
        let tries = |path: &str| {
            let (answers, _, server) = stage.counted(|| stage.call(path, 1, 10))?;
            ensure!(answers.total() == 10, "10 calls gave {answers:?}");
            Ok(server.inbound(CONTAINER_PORT, "upstream_rq_total"))
        };
        ensure!(tries("/status/503")? == 10, "calls are tried again without a policy");
        stage.policy(&json!({"retries": {"attempts": 2, "statusCodes": [503], "backoff": "1ms"}}))?;
        stage.kubectl.until("the client's Envoy has the route", super::stage::SOON, |_| {
            use crate::wait::Seen;
            let seen = tries("/status/503")?;
            Ok(if seen == 30 { Seen::Done(()) } else { Seen::NotYet(format!("{seen} tries")) })
        })?;
        let (on_503, on_500) = (tries("/status/503")?, tries("/status/500")?);
        ensure!(on_503 == 30, "10 calls answered 503 made {on_503} tries at the server, not 30");
        ensure!(on_500 == 10, "10 calls answered 500 made {on_500} tries at the server, not 10");
        Ok(())
    })
}
