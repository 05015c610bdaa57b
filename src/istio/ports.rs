//! Which protocol istiod takes a Service port for.

/// What istiod makes of a Service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1, HTTP/2 or gRPC: routes with timeouts and retries apply.
    Http,
    /// Undeclared: each connection is looked at, and routes apply to those that speak HTTP.
    Sniffed,
    /// TCP, TLS or a database protocol: connection limits only.
    Opaque,
    /// UDP: the mesh does not carry it.
    Udp,
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
            "kubernetes.io/h2c" | "kubernetes.io/ws" => return Protocol::Http,
            "kubernetes.io/wss" => return Protocol::Opaque,
            _ => {}
        }
    }
    if declared.starts_with("grpc-web") {
        return Protocol::Http;
    }
    match declared.split('-').next().unwrap_or_default() {
        "http" | "http2" | "grpc" | "http_proxy" => Protocol::Http,
        "tcp" | "https" | "tls" | "mongo" | "redis" | "mysql" => Protocol::Opaque,
        "udp" => Protocol::Udp,
        _ if SERVER_FIRST.contains(&number) => Protocol::Opaque,
        _ => Protocol::Sniffed,
    }
}

#[cfg(test)]
mod tests {
    use super::{Protocol, port_protocol};

    #[test]
    fn the_part_of_the_name_before_the_dash_counts() {
        assert_eq!(port_protocol(80, Some("http-web"), None, None), Protocol::Http);
        assert_eq!(port_protocol(80, Some("HTTP2"), None, None), Protocol::Http);
        assert_eq!(port_protocol(80, Some("grpc-web"), None, None), Protocol::Http);
        assert_eq!(port_protocol(80, Some("https"), None, None), Protocol::Opaque);
        assert_eq!(port_protocol(80, Some("web-http"), None, None), Protocol::Sniffed);
        assert_eq!(port_protocol(80, None, None, None), Protocol::Sniffed);
    }

    #[test]
    fn app_protocol_beats_the_name() {
        assert_eq!(port_protocol(80, Some("http"), None, Some("tcp")), Protocol::Opaque);
        assert_eq!(port_protocol(80, Some("tcp"), None, Some("kubernetes.io/h2c")), Protocol::Http);
        assert_eq!(port_protocol(80, Some("tcp"), None, Some("kubernetes.io/wss")), Protocol::Opaque);
    }

    #[test]
    fn where_servers_speak_first_nothing_is_sniffed() {
        assert_eq!(port_protocol(3306, None, None, None), Protocol::Opaque);
        assert_eq!(port_protocol(3306, Some("http"), None, None), Protocol::Http);
        assert_eq!(port_protocol(53, Some("dns"), Some("UDP"), None), Protocol::Udp);
    }
}
