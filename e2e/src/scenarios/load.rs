//! Our load generator sees behind a sidecar what another one sees.

use anyhow::{Result, ensure};
use serde_json::json;

use super::stage::{SOON, on_stage};
use crate::checkout::Checkout;
use crate::demo::measure::{self, CLIENT, Pace};
use crate::wait::Seen;
use crate::workloads::add_loader;

/// How far apart two generators' shares of refusals may be, in points.
const AGREEMENT: f64 = 10.0;
/// Calls a second, each of 50 ms, against one connection, and how many of them: twice and five times what it
/// can carry.
const PACES: &[(u32, u64)] = &[(40, 400), (100, 600)];

/// Under a limit, ours and fortio get the same split of answers, and each refusal that a caller got is one
/// that an Envoy counted.
///
/// # Errors
/// When one of these is not so.
pub fn splits_as_fortio_does(checkout: &Checkout) -> Result<()> {
    on_stage(checkout, "load-splits", |stage| {
        add_loader(checkout, stage.kubectl)?;
        stage.kubectl.until("the loader reaches httpbin", SOON, |_| {
            let row = measure::ours(stage, "first call", 1, Pace::Callers(1))?;
            Ok(if row.ok == 1 { Seen::Done(()) } else { Seen::NotYet(format!("{row:?}")) })
        })?;
        stage.policy(&json!({"limits": {"perClient": {"connections": 1, "pendingRequests": 1}}}))?;
        for client in [CLIENT, "deploy/fortio"] {
            stage.until_threshold(client, "max_pending_requests", 1)?;
        }
        for (rate, requests) in PACES {
            let ours = measure::ours(stage, "ours", *requests, Pace::Rate(*rate))?;
            let theirs = measure::fortio(stage, "fortio", *requests, *rate)?;
            for row in [&ours, &theirs] {
                ensure!(row.requests == *requests, "{requests} calls were asked for: {row:?}");
                ensure!(row.ok > 0 && row.refused > 0, "the answers should be mixed: {row:?}");
                ensure!(
                    row.refused == row.client_refused + row.server_refused,
                    "the Envoys counted other refusals than the caller: {row:?}"
                );
            }
            let apart = (ours.refused_percent() - theirs.refused_percent()).abs();
            ensure!(
                apart <= AGREEMENT,
                "at {rate} a second the splits are {apart:.1} points apart: {ours:?} {theirs:?}"
            );
        }
        Ok(())
    })
}
