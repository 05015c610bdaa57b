//! What each server's own proxy takes, as a Sidecar.

use super::metadata;
use crate::{
    istio::{ConnectionPool, HttpPool, Kind, Sidecar, SidecarSpec, TcpPool, WorkloadSelector},
    names,
    validate::{ServerLimits, Valid},
};

/// `None` if the policy does not state the server's side, or it is not known which pods that are.
pub(super) fn build(valid: &Valid) -> Option<Sidecar> {
    let server = valid.server.as_ref()?;
    if server.selector.is_empty() {
        // Istio would take it for every pod of the namespace.
        return None;
    }
    Some(Sidecar {
        api_version: names::ISTIO_API_VERSION,
        kind: Kind::Sidecar.as_str(),
        metadata: metadata(valid),
        spec: SidecarSpec {
            workload_selector: WorkloadSelector { labels: server.selector.clone() },
            inbound_connection_pool: pool(server, valid),
        },
    })
}

/// Takes the place of the DestinationRule's pool as a whole: a limit that is left out is none (istio
/// `getDefaultCircuitBreakerThresholds`), and times of connections have to be said again to stay.
fn pool(server: &ServerLimits, valid: &Valid) -> ConnectionPool {
    let timeouts = &valid.common.timeouts;
    let tcp = TcpPool {
        max_connections: server.connections,
        connect_timeout: timeouts.connect.as_ref().map(ToString::to_string),
        idle_timeout: timeouts.idle.as_ref().map(ToString::to_string),
        max_connection_duration: timeouts.lifetime.as_ref().map(ToString::to_string),
    };
    let http = HttpPool {
        http1_max_pending_requests: server.pending_requests,
        http2_max_requests: server.active_requests,
        max_requests_per_connection: server.requests_per_connection,
        max_retries: None,
        idle_timeout: None,
    };
    ConnectionPool {
        tcp: (tcp != TcpPool::default()).then_some(tcp),
        http: (http != HttpPool::default()).then_some(http),
    }
}
