//! How istiod reads a host.

/// The host that a rule in `namespace` means by `host`: a name without a dot is a Service of the
/// rule's own namespace, anything else is taken as it stands. `httpbin.prod` is therefore no Service
/// (istio `pilot/pkg/model/config.go`, `ResolveShortnameToFQDN`; claim R1.1a), and neither is `Httpbin` in a
/// DestinationRule (claim R1.1c); of a VirtualService istiod reads hosts in lower case.
#[must_use]
pub fn resolve_host(host: &str, namespace: &str, cluster_domain: &str) -> String {
    if host.is_empty() || host == "*" || host.contains('.') || host.contains(':') {
        host.to_owned()
    } else {
        format!("{host}.{namespace}.svc.{cluster_domain}")
    }
}

#[cfg(test)]
mod tests {
    use super::resolve_host;

    #[test]
    fn a_name_without_a_dot_is_a_service_of_the_rules_namespace() {
        assert_eq!(resolve_host("httpbin", "prod", "cluster.local"), "httpbin.prod.svc.cluster.local");
    }

    #[test]
    fn a_dotted_short_name_stays_and_so_matches_nothing() {
        assert_eq!(resolve_host("httpbin.prod", "prod", "cluster.local"), "httpbin.prod");
        assert_eq!(resolve_host("*", "prod", "cluster.local"), "*");
        assert_eq!(resolve_host("*.example.org", "prod", "cluster.local"), "*.example.org");
    }
}
