//! Asks the istiods which proxies have what was programmed.
//!
//! In: what policies expect of proxies, on the [`Board`]. Out: a verdict for each, on the same board, and a
//! word for whom it changed. One round of questions serves all policies: who is connected, of a bounded
//! number of proxies what istiod generates for them, and then what they acknowledged. Only the leader asks,
//! after a change soon and then ever more rarely; never in the way of a reconcile. Decides nothing: what
//! answers mean is pure (`in_effect`).
//!
//! ```text
//! reconcile ──> Board (expectations) ──> round ──> istiods ──> Proxy ──> standing, verdict ──> Board ──> reconcile
//! ```

mod answers;
mod board;
mod identity;
mod istiod;
mod memory;
mod pace;
mod round;

use std::{sync::Arc, time::Duration};

use kube::Client;
use tokio::time::Instant;

use crate::runtime::{metrics::Metrics, writer::Writer};
pub use board::{Board, Key};
use identity::Identity;
use istiod::Istiods;
use memory::Memory;
use pace::Pace;

/// How the istiods are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The ServiceAccount in the root namespace whose token is shown; empty: nobody is asked.
    pub service_account: String,
    /// Istio's root namespace, where the istiods are.
    pub root_namespace: String,
    /// How long a proxy may lag behind before that matters.
    pub grace: Duration,
    /// Before the first round after a change. The next ones come after twice as long, and so on.
    pub first: Duration,
    /// Between two rounds when nothing changes.
    pub rest: Duration,
    /// Between what istiod generates and what proxies acknowledged: a push that has begun is sent by then.
    pub settle: Duration,
}

impl Options {
    /// As in production.
    #[must_use]
    pub fn new(service_account: &str, root_namespace: &str, grace: Duration) -> Self {
        Self {
            service_account: service_account.to_owned(),
            root_namespace: root_namespace.to_owned(),
            grace,
            first: Duration::from_secs(2),
            rest: Duration::from_mins(5),
            settle: Duration::from_millis(500),
        }
    }

    /// Whether anybody is asked at all.
    #[must_use]
    pub const fn is_set_up(&self) -> bool {
        !self.service_account.is_empty()
    }
}

/// What asks.
pub struct Prover {
    istiods: Istiods,
    board: Arc<Board>,
    metrics: Arc<Metrics>,
    options: Options,
}

impl Prover {
    /// Asks by tokens that `writer` gets, and so only while the term lasts.
    #[must_use]
    pub fn new(client: Client, writer: Writer, board: Arc<Board>, metrics: Arc<Metrics>, options: Options) -> Self {
        let identity = Identity::new(writer, &options.root_namespace, &options.service_account);
        let istiods = Istiods::new(client, identity, &options.root_namespace, metrics.clone());
        Self { istiods, board, metrics, options }
    }

    /// Asks for ever; `news` is told of each policy whose verdict changed.
    pub async fn follow(&self, news: impl Fn(&Key)) {
        if !self.options.is_set_up() {
            return std::future::pending().await;
        }
        let mut memory = Memory::new(self.options.grace);
        let mut pace = Pace::new(self.options.first, self.options.rest);
        loop {
            tokio::select! {
                () = tokio::time::sleep(pace.pause()) => {}
                () = self.board.stirred() => {
                    pace.restart();
                    // Many policies may change at a time, and one round serves them all.
                    tokio::time::sleep(pace.pause()).await;
                }
            }
            let begun = Instant::now();
            let changed = self.round(&mut memory).await;
            changed.iter().for_each(&news);
            pace.ended(begun.elapsed(), memory.patience());
        }
    }
}
