//! All integration tests, in one binary: one link of kube instead of many.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests may fail loudly, also in their helpers"
)]

mod acto;
mod border;
mod chart;
mod cli;
mod corpus;
mod coverage;
mod deploy;
mod docs;
mod explore;
mod fake;
mod faults;
mod faulty;
mod generated;
mod golden;
mod import;
mod in_effect;
mod installed;
mod leadership;
mod legal;
mod live;
mod load;
mod merge;
mod metrics;
mod metrics_page;
mod monitoring;
mod neighbours;
mod output;
mod properties;
mod reconcile;
mod reference;
mod start;
mod support;
mod top;
mod verify;
mod why;
