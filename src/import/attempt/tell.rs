//! What was found, and the values by which it is the same.

use std::collections::BTreeSet;

use super::{
    super::{
        report::{Imported, Line, SourceFate},
        routes::{Calls, Retry, Route},
        rule::{Meaning, of_port},
        words::{Words, leaves, text},
    },
    Attempt, Found, Part,
};
use crate::istio::Kind;

impl Attempt<'_> {
    /// What was found, and why it is the same.
    pub(super) fn tell(&self, wanted: &BTreeSet<Part>, found: Found, imported: &mut Imported) {
        let Found { policy, desired } = found;
        let service = self.group.service;
        if let Some(rule) = &self.chosen.rule {
            let imported_any = Part::OF_RULE.iter().any(|part| wanted.contains(part));
            let fate = match (imported_any, &desired.merged) {
                (true, Some(_)) => SourceFate::Shared,
                (true, None) => SourceFate::Replaced,
                (false, _) => SourceFate::Stays,
            };
            imported.source(rule, fate);
            let meaning = Meaning::of(&rule.spec, self.namespace, service, &self.settings.cluster_domain);
            let blocks: Vec<&str> = wanted.iter().map(|part| part.field()).collect();
            for (port, words) in meaning.ports.iter().filter(|(port, _)| port.is_some()) {
                let mut raw = Words::new();
                leaves("", &of_port(&rule.spec, *port), &mut raw);
                for (path, value) in
                    words.iter().filter(|(path, _)| path.split('.').next().is_some_and(|b| blocks.contains(&b)))
                {
                    let line = |value| Line {
                        kind: Kind::DestinationRule.as_str().to_owned(),
                        port: *port,
                        path: path.clone(),
                        value,
                    };
                    imported.same.push(line(text(value)));
                    let said = raw.contains_key(path)
                        || path.ends_with("(of listeners)")
                        || path == "connectionPool.http.idleTimeout";
                    if !said {
                        imported.explicit.push(line(text(value)));
                    }
                }
            }
        }
        if let Some(object) = &self.chosen.routes {
            imported
                .source(object, if wanted.contains(&Part::Routes) { SourceFate::Replaced } else { SourceFate::Stays });
        }
        if wanted.contains(&Part::Routes) || policy.spec.retries.is_some() {
            for (port, routes) in self.routes(&service.http_ports()) {
                for route in routes {
                    imported.same.push(route_line(port, &route));
                }
            }
            if !wanted.contains(&Part::Routes) {
                let value = "2, on connect-failure, refused-stream, unavailable and cancelled, unless meshConfig.defaultHttpRetryPolicy says otherwise";
                imported.explicit.push(Line {
                    kind: Kind::VirtualService.as_str().to_owned(),
                    port: None,
                    path: "retries.attempts".to_owned(),
                    value: value.to_owned(),
                });
            }
        }
        imported.found(policy, desired.objects());
    }
}

fn route_line(port: u16, route: &Route) -> Line {
    let calls = match &route.calls {
        Calls::All => "calls".to_owned(),
        Calls::Method(method) => format!("{method} calls"),
        Calls::Selected(words) => format!("calls with {words}"),
    };
    let timeout =
        route.timeout.as_ref().map_or_else(|| "no timeout".to_owned(), |time| format!("timeout {}", time.text));
    let Retry { attempts, on, codes, per_try_timeout, backoff } = &route.retries;
    let mut retries = format!("{attempts} retries");
    if *attempts > 0 {
        let words = on.iter().cloned().chain(codes.iter().map(ToString::to_string)).collect::<Vec<_>>();
        let backoff = backoff.as_ref().map_or("25ms", |time| &time.text);
        retries = format!("{retries} on {}, backoff {backoff}", words.join(","));
        if let Some(time) = per_try_timeout {
            retries = format!("{retries}, each {}", time.text);
        }
    }
    Line {
        kind: Kind::VirtualService.as_str().to_owned(),
        port: Some(port),
        path: calls,
        value: format!("{timeout}, {retries}"),
    }
}
