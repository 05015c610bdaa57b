//! From a host's name to its addresses, as the system looks names up.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use tokio::sync::Mutex;
use tower::{Service, ServiceExt as _};

use super::failure::LookupFailed;

/// How long an answer is believed, a failure too. Without it, a new connection for every request
/// would measure the name server; much longer, and a run would not see that a name moved.
const BELIEVED: Duration = Duration::from_secs(1);

/// The system's resolver, asked once a second at most. A run has one host, so one answer is kept.
#[derive(Debug, Clone)]
pub(super) struct Names {
    system: GaiResolver,
    known: Arc<Mutex<Known>>,
}

#[derive(Debug)]
struct Known {
    until: Option<Instant>,
    addresses: Result<Vec<SocketAddr>, String>,
    /// How often it was asked for.
    asked: usize,
}

impl Default for Known {
    fn default() -> Self {
        Self { until: None, addresses: Ok(Vec::new()), asked: 0 }
    }
}

impl Names {
    pub(super) fn new() -> Self {
        Self { system: GaiResolver::new(), known: Arc::default() }
    }

    async fn look_up(self, name: Name) -> Result<std::vec::IntoIter<SocketAddr>, LookupFailed> {
        // Held while the system looks: those who come meanwhile want the same answer.
        let mut known = self.known.lock().await;
        if known.until.is_none_or(|until| until <= Instant::now()) {
            let found = self.system.oneshot(name).await;
            known.addresses = found.map(Iterator::collect).map_err(|error| error.to_string());
            known.until = Some(Instant::now() + BELIEVED);
        }
        let turn = known.asked;
        known.asked = turn.wrapping_add(1);
        match &known.addresses {
            Ok(addresses) => Ok(in_turn(addresses, turn).into_iter()),
            Err(error) => Err(LookupFailed(error.clone())),
        }
    }
}

/// The addresses for connection number `turn`: those of the family that the system prefers, each in
/// turn the first one, or all connections would go to one of many pods.
fn in_turn(addresses: &[SocketAddr], turn: usize) -> Vec<SocketAddr> {
    let first_is_v4 = addresses.first().is_some_and(SocketAddr::is_ipv4);
    let (mut preferred, others): (Vec<_>, Vec<_>) =
        addresses.iter().copied().partition(|address| address.is_ipv4() == first_is_v4);
    if !preferred.is_empty() {
        let by = turn % preferred.len();
        preferred.rotate_left(by);
    }
    preferred.extend(others);
    preferred
}

impl Service<Name> for Names {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = LookupFailed;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, LookupFailed>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), LookupFailed>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        Box::pin(self.clone().look_up(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_go_to_every_address_of_the_preferred_family_in_turn() {
        let addresses: Vec<SocketAddr> =
            ["10.0.0.1:80", "[fd00::1]:80", "10.0.0.2:80"].map(|text| text.parse().unwrap()).to_vec();
        let firsts: Vec<String> = (0..3).map(|turn| in_turn(&addresses, turn)[0].to_string()).collect();
        assert_eq!(firsts, ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.1:80"]);
        assert!((0..3).all(|turn| in_turn(&addresses, turn).last() == Some(&addresses[1])), "the other family is last");
        assert_eq!(in_turn(&[], 7), []);
    }
}
