//! Which protocol istiod takes a Service port for.

use serde::{Deserialize, Serialize};

/// What istiod makes of a Service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// HTTP/1: routes with timeouts and retries apply.
    Http,
    /// HTTP/2 by declaration: likewise; one connection carries many requests.
    Http2,
    /// gRPC, which is HTTP/2; calls may be streams. gRPC-Web as well: proxies turn it into gRPC for the
    /// server (claims R8a, R8b).
    Grpc,
    /// Undeclared: each connection is looked at, and routes apply to those that speak HTTP.
    Sniffed,
    /// TLS of the application's own: proxies see connections, not requests.
    Tls,
    /// TCP or a database protocol: connection limits only.
    Opaque,
    /// UDP: the mesh does not carry it.
    Udp,
}

impl Protocol {
    /// Whether proxies see, or may see, requests.
    #[must_use]
    pub const fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc | Self::Sniffed)
    }

    /// Whether many requests share one connection for certain.
    #[must_use]
    pub const fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Grpc)
    }
}

/// Ports that are TCP unless declared otherwise: servers there speak first, so sniffing would hang
/// (istio `pkg/config/kube/conversion.go`: SMTP, DNS, `MySQL`, `MongoDB`).
const SERVER_FIRST: [u16; 4] = [25, 53, 3306, 27017];

/// The protocol of a Service port: `appProtocol` beats the name, whose part before the first `-`
/// counts (istio `pkg/config/kube/conversion.go`, `ConvertProtocol`).
#[must_use]
pub fn port_protocol(number: u16, name: Option<&str>, transport: Option<&str>, app_protocol: Option<&str>) -> Protocol {
    if transport == Some("UDP") {
        return Protocol::Udp;
    }
    let declared = app_protocol.or(name).unwrap_or_default().to_ascii_lowercase();
    if app_protocol.is_some() {
        match declared.as_str() {
            "kubernetes.io/h2c" => return Protocol::Http2,
            "kubernetes.io/ws" => return Protocol::Http,
            "kubernetes.io/wss" => return Protocol::Tls,
            _ => {}
        }
    }
    if declared.starts_with("grpc-web") {
        return Protocol::Grpc;
    }
    match word(declared.split('-').next().unwrap_or_default()) {
        Some(protocol) => protocol,
        None if SERVER_FIRST.contains(&number) => Protocol::Opaque,
        None => Protocol::Sniffed,
    }
}

/// The protocol of a port of a ServiceEntry, whose word must be one of Istio's as a whole; any other
/// is sniffed (istio `pkg/config/protocol/instance.go`, `Parse`).
#[must_use]
pub fn entry_protocol(declared: &str) -> Protocol {
    match declared.to_ascii_lowercase().as_str() {
        "grpc-web" => Protocol::Grpc,
        declared => word(declared).unwrap_or(Protocol::Sniffed),
    }
}

fn word(word: &str) -> Option<Protocol> {
    match word {
        "http" | "http_proxy" => Some(Protocol::Http),
        "http2" => Some(Protocol::Http2),
        "grpc" => Some(Protocol::Grpc),
        "https" | "tls" => Some(Protocol::Tls),
        "tcp" | "mongo" | "redis" | "mysql" => Some(Protocol::Opaque),
        "udp" => Some(Protocol::Udp),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Protocol, entry_protocol, port_protocol};

    #[test]
    fn the_part_of_the_name_before_the_dash_counts() {
        assert_eq!(port_protocol(80, Some("http-web"), None, None), Protocol::Http);
        assert_eq!(port_protocol(80, Some("HTTP2"), None, None), Protocol::Http2);
        assert_eq!(port_protocol(80, Some("grpc-web"), None, None), Protocol::Grpc);
        assert_eq!(port_protocol(80, Some("https"), None, None), Protocol::Tls);
        assert_eq!(port_protocol(80, Some("grpc"), None, None), Protocol::Grpc);
        assert_eq!(port_protocol(80, Some("web-http"), None, None), Protocol::Sniffed);
        assert_eq!(port_protocol(80, None, None, None), Protocol::Sniffed);
    }

    #[test]
    fn app_protocol_beats_the_name() {
        assert_eq!(port_protocol(80, Some("http"), None, Some("tcp")), Protocol::Opaque);
        assert_eq!(port_protocol(80, Some("tcp"), None, Some("kubernetes.io/h2c")), Protocol::Http2);
        assert_eq!(port_protocol(80, Some("tcp"), None, Some("kubernetes.io/wss")), Protocol::Tls);
    }

    #[test]
    fn a_service_entry_says_it_in_one_word() {
        assert_eq!(entry_protocol("HTTP"), Protocol::Http);
        assert_eq!(entry_protocol("gRPC-Web"), Protocol::Grpc);
        assert_eq!(entry_protocol("TLS"), Protocol::Tls);
        assert_eq!(entry_protocol("http-web"), Protocol::Sniffed);
        assert_eq!(entry_protocol(""), Protocol::Sniffed);
    }

    #[test]
    fn where_servers_speak_first_nothing_is_sniffed() {
        assert_eq!(port_protocol(3306, None, None, None), Protocol::Opaque);
        assert_eq!(port_protocol(3306, Some("http"), None, None), Protocol::Http);
        assert_eq!(port_protocol(53, Some("dns"), Some("UDP"), None), Protocol::Udp);
    }
}
