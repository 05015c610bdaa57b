//! `verify-worker`: the caller of `verify`, as its Job runs it.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::Context as _;

use super::live::block_on;
use crate::{
    runtime::shutdown,
    verification::Plan,
    verify::{
        caller::carry_out,
        job::{PLAN_VARIABLE, Told},
        proxy::{OwnProxy, Places},
    },
};

/// Call a target as a plan says, and print what was seen. Run by the Job of verify; of no use by hand.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The plan, as JSON.
    #[arg(long, env = PLAN_VARIABLE, hide_env_values = true)]
    plan: String,
}

/// Carries it out.
///
/// # Errors
/// If the plan cannot be read, or standard output cannot be written to.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let plan: Plan = serde_json::from_str(&args.plan)
        .context("the plan is none of this version: the image and the program that made the Job must be of one")?;
    block_on(async {
        let stop = shutdown::on_signal()?;
        let proxy = OwnProxy::about(Places::of_istio()?, &plan.host, plan.asked.port)?;
        let evidence = carry_out(&plan, &proxy, &stop, |words| {
            // Who follows the log and is gone needs no progress.
            let _lost = print(&Told::Progress(words));
        })
        .await;
        let printed = print(&Told::Evidence(Box::new(evidence)));
        proxy.quit().await;
        printed.map(|()| ExitCode::SUCCESS)
    })
}

fn print(told: &Told) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(told)?)?;
    Ok(out.flush()?)
}
