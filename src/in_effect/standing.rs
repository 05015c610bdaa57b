//! How one proxy stands to one policy.

use super::Expectation;
use crate::observed::proxies::{Cluster, Origin, Proxy, Told, Values};

/// How a proxy that holds the host stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// istiod generates for it what was programmed, and it took what was sent.
    InEffect,
    /// It refused the very cluster; its words.
    Refused(String),
    /// It is given something else; what that was made from.
    Shadowed(String),
    /// It is given the policy's object with another value; which.
    Differs(String),
    /// It has not acknowledged what was sent last.
    Lagging,
    /// Nothing can be said of it, and why.
    Unproven(String),
}

/// `None`: it does not hold the host.
#[must_use]
pub fn standing(expectation: &Expectation, proxy: &Proxy) -> Option<Standing> {
    let clusters: Vec<&Cluster> = proxy.clusters.iter().filter(|one| one.host == expectation.host).collect();
    if clusters.is_empty() {
        return None;
    }
    let generated = of_clusters(expectation, &clusters).or_else(|| of_routes(expectation, proxy));
    let shadowed = |standing: &Standing| matches!(standing, Standing::Shadowed(_));
    if generated.as_ref().is_some_and(shadowed) {
        return generated;
    }
    let refusal = &proxy.told_clusters.refusal;
    if clusters.iter().any(|cluster| names(refusal, &cluster.name)) {
        return Some(Standing::Refused(refusal.clone()));
    }
    let before = clusters.iter().find_map(|cluster| proxy.refused_before.get(&cluster.name));
    let routes = (expectation.routes.is_some() && !proxy.is_gateway).then_some((&proxy.told_routes, "routes"));
    let told: Vec<(&Told, &str)> = std::iter::once((&proxy.told_clusters, "clusters")).chain(routes).collect();
    let refused = told.iter().find(|(told, _)| !told.refusal.is_empty());
    Some(if let Some(standing) = generated {
        standing
    } else if let Some(text) = before {
        Standing::Unproven(format!(
            "it refused this cluster, and whether it has taken it since then is not known: {text}"
        ))
    } else if let Some((told, what)) = refused {
        Standing::Unproven(format!("it refused the last {what} for another reason: {}", told.refusal))
    } else if told.iter().all(|(told, _)| told.is_acknowledged()) {
        Standing::InEffect
    } else {
        Standing::Lagging
    })
}

/// Whether a text has the whole name: that of another host may begin with ours.
fn names(text: &str, name: &str) -> bool {
    let part = |letter: char| letter.is_ascii_alphanumeric() || letter == '.' || letter == '-';
    text.match_indices(name).any(|(at, _)| {
        let rest = &text[at + name.len()..];
        // A dot that ends a sentence is no part of a host.
        !rest.starts_with(part) || rest.starts_with(". ") || rest == "."
    })
}

fn of_clusters(expectation: &Expectation, clusters: &[&Cluster]) -> Option<Standing> {
    let rule = expectation.rule.as_ref()?;
    let mut differs = None;
    for cluster in clusters {
        let wanted = expectation.of_port(cluster.port);
        let difference = difference(wanted, &cluster.values);
        match &cluster.origin {
            Some(origin) if origin == rule => {}
            // Of rules that Istio merges, the cluster names the oldest; the values tell whose policy counts.
            Some(origin) if is_merged(origin, rule) && difference.is_none() && !wanted.is_empty() => {}
            Some(origin) => return Some(Standing::Shadowed(origin.to_string())),
            None => return Some(Standing::Shadowed("no DestinationRule".to_owned())),
        }
        differs = differs.or(difference);
    }
    differs.map(Standing::Differs)
}

fn is_merged(origin: &Origin, rule: &Origin) -> bool {
    (&origin.kind, &origin.namespace) == (&rule.kind, &rule.namespace)
}

fn of_routes(expectation: &Expectation, proxy: &Proxy) -> Option<Standing> {
    let source = expectation.routes.as_ref().filter(|_| !proxy.is_gateway)?;
    let held: Vec<_> = proxy
        .routes
        .iter()
        .filter(|routes| routes.host == expectation.host)
        .filter_map(|routes| Some((routes, expectation.of_routes(routes.port)?)))
        .collect();
    if held.is_empty() {
        return Some(Standing::Unproven("istiod shows no routes of the host for it".to_owned()));
    }
    let shadowed = held.iter().find(|(routes, _)| routes.origin.as_ref() != Some(source));
    if let Some((routes, _)) = shadowed {
        let origin = routes.origin.as_ref().map_or_else(|| "no VirtualService".to_owned(), ToString::to_string);
        return Some(Standing::Shadowed(origin));
    }
    held.iter().find_map(|(routes, wanted)| difference(wanted, &routes.values)).map(Standing::Differs)
}

/// The first value that is not as wanted.
fn difference(wanted: &Values, held: &Values) -> Option<String> {
    wanted.iter().find(|(path, value)| held.get(*path) != Some(value)).map(|(path, value)| {
        let held = held.get(path).map_or("not set", String::as_str);
        format!("{path} {held} instead of {value}")
    })
}

#[cfg(test)]
mod tests {
    use super::names;

    #[test]
    fn a_refusal_names_a_cluster_only_as_a_whole() {
        let name = "outbound|80||web.ns.svc.cluster.local";
        for text in
            [format!("cluster(s) {name}: bad"), format!("at {name}, b"), format!("no {name}"), format!("{name}.")]
        {
            assert!(names(&text, name), "{text}");
        }
        for text in [format!("{name}.example: bad"), format!("{name}host"), "outbound|80||web.ns: bad".to_owned()] {
            assert!(!names(&text, name), "{text}");
        }
    }
}
