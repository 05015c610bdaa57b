//! How long this process may write: what every write asks, and what the election answers.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

/// Shared by who writes and who is elected. Says how long a write may take by the clock alone: if the
/// election itself hangs, the time runs out all the same.
#[derive(Clone, Debug)]
pub struct Term(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    tenure: watch::Sender<Tenure>,
    standing: CancellationToken,
    resigned: CancellationToken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tenure {
    None,
    Until {
        /// No write begins from here on.
        begin: Instant,
        /// No write lasts until here.
        end: Instant,
    },
    /// There is no election.
    Always,
}

impl Term {
    /// One that begins when [`Term::renew`] is called.
    #[must_use]
    pub fn to_be_elected() -> Self {
        Self::with(Tenure::None)
    }

    /// Without an election: of somebody who is alone.
    #[must_use]
    pub fn always() -> Self {
        Self::with(Tenure::Always)
    }

    fn with(tenure: Tenure) -> Self {
        let (tenure, _) = watch::channel(tenure);
        Self(Arc::new(Shared { tenure, standing: CancellationToken::new(), resigned: CancellationToken::new() }))
    }

    /// How long a write that begins now may take; `None`: it may not begin.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        let now = Instant::now();
        match *self.0.tenure.borrow() {
            Tenure::None => None,
            Tenure::Until { begin, end } => (now < begin).then(|| end.saturating_duration_since(now)),
            Tenure::Always => Some(Duration::MAX),
        }
    }

    /// Whether what was begun may still go on.
    #[must_use]
    pub fn lasts(&self) -> bool {
        match *self.0.tenure.borrow() {
            Tenure::None => false,
            Tenure::Until { end, .. } => Instant::now() < end,
            Tenure::Always => true,
        }
    }

    /// Returns when it begins.
    pub async fn begun(&self) {
        let mut tenure = self.0.tenure.subscribe();
        // Only a closed channel fails, and this holds its other end.
        let _begun = tenure.wait_for(|tenure| *tenure != Tenure::None).await.is_ok();
    }

    /// Ready to lead: until then the election does not begin, so that nobody leads who could not act.
    pub fn stand(&self) {
        self.0.standing.cancel();
    }

    /// Returns when it is ready to lead.
    pub async fn standing(&self) {
        self.0.standing.cancelled().await;
    }

    /// The last write has ended, and none will follow.
    pub fn resign(&self) {
        self.end();
        self.0.resigned.cancel();
    }

    /// Whether it has.
    #[must_use]
    pub fn has_resigned(&self) -> bool {
        self.0.resigned.is_cancelled()
    }

    /// Returns when it has resigned.
    pub async fn resigned(&self) {
        self.0.resigned.cancelled().await;
    }

    /// Writes may begin until `begin`, and last until `end`.
    pub fn renew(&self, begin: Instant, end: Instant) {
        if !self.0.resigned.is_cancelled() {
            self.0.tenure.send_replace(Tenure::Until { begin, end });
        }
    }

    /// It is over, now.
    pub fn end(&self) {
        self.0.tenure.send_replace(Tenure::None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_term_runs_out_by_itself() {
        let term = Term::to_be_elected();
        assert_eq!((term.left(), term.lasts()), (None, false));
        let now = Instant::now();
        term.renew(now + Duration::from_secs(10), now + Duration::from_secs(14));
        assert_eq!(term.left(), Some(Duration::from_secs(14)));
        tokio::time::advance(Duration::from_secs(9)).await;
        assert_eq!(term.left(), Some(Duration::from_secs(5)));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!((term.left(), term.lasts()), (None, true));
        tokio::time::advance(Duration::from_secs(4)).await;
        assert!(!term.lasts());
    }

    #[tokio::test]
    async fn who_has_resigned_is_not_renewed() {
        let term = Term::to_be_elected();
        let later = Instant::now() + Duration::from_mins(1);
        term.renew(later, later);
        assert!(term.lasts());
        term.resign();
        term.renew(later, later);
        assert!(!term.lasts());
    }

    #[test]
    fn without_an_election_it_lasts() {
        assert!(Term::always().lasts() && Term::always().left().is_some());
    }
}
