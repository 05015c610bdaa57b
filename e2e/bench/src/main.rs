//! What writes and what watches beside the operator while `cargo lab bench` measures it: the bare writer, the
//! textbook controller, and the clients that seed, edit and wait. In: KUBECONFIG and a few numbers. Out: JSON.
//!
//! Each is a process of its own, so that its CPU and memory are its own.

mod calls;
mod churn;
mod drift;
mod envoy;
mod floor;
mod gauge;
mod lists;
mod one;
mod pure;
mod seed;
mod textbook;
mod times;

use clap::{Parser, Subcommand};

/// The other side of the operator's bench.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Create objects, sixteen at a time
    Seed(seed::Args),
    /// Write what the operator would write, and nothing else: the floor
    Floor(floor::Args),
    /// The controller that a kube-rs tutorial ends with
    Textbook,
    /// Wait until so many policies have a condition
    Gauge(gauge::Args),
    /// Create policies one after the other, and wait for each
    One(one::Args),
    /// Edit and delete what was generated, and wait until it is as it was
    Drift(drift::Args),
    /// Change a policy, and a rule without one, and wait until a client's Envoy has it
    Envoy(envoy::Args),
    /// Read three kinds, each in one list
    Lists,
    /// Change objects of others at a steady rate
    Churn(churn::Args),
    /// The time of a decision without any call
    Pure(pure::Args),
}

fn main() -> anyhow::Result<()> {
    let task = Cli::parse().task;
    if let Task::Pure(args) = task {
        return pure::run(&args);
    }
    let threads = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    threads.block_on(async {
        let client = calls::client().await?;
        match task {
            Task::Seed(args) => seed::run(&client, &args).await,
            Task::Floor(args) => floor::run(&client, &args).await,
            Task::Textbook => textbook::run(client).await,
            Task::Gauge(args) => gauge::run(&client, &args).await,
            Task::One(args) => one::run(&client, &args).await,
            Task::Drift(args) => drift::run(&client, &args).await,
            Task::Envoy(args) => envoy::run(&client, &args).await,
            Task::Lists => lists::run(&client).await,
            Task::Churn(args) => churn::run(&client, &args).await,
            Task::Pure(_) => Ok(()),
        }
    })
}
