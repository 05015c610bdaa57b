//! What is legal but will surprise, with the numbers of now.
//!
//! Said once for all ports without an entry of their own, and for a port with one only if it is not the
//! same sentence.

mod ejection;
mod limits;
mod mesh;
mod neighbours;
mod retries;
mod server;
mod sharing;

use super::{
    Settings,
    neighbours::Neighbours,
    valid::{Policy, Valid},
};
use crate::{
    api::{ResilienceSpec, Warning, warnings::Code},
    istio::Protocol,
    observed::{Discovery, Observed, PortView, ServiceView},
};

pub(super) fn warnings(
    spec: &ResilienceSpec,
    valid: &Valid,
    service: Option<&ServiceView>,
    observed: &Observed,
    neighbours: &Neighbours,
    settings: &Settings,
) -> Vec<Warning> {
    let mut all = Warnings::default();
    for group in groups(spec, valid, service) {
        let here = Here { group: &group, valid, service, observed };
        limits::warn(&here, &mut all);
        server::warn(&here, &mut all);
        ejection::warn(&here, &mut all);
        retries::warn(&here, &mut all);
    }
    neighbours::warn(valid, neighbours, &mut all);
    mesh::warn(valid, service, observed, &mut all);
    sharing::warn(valid, observed, settings, &mut all);
    all.said.sort_by_key(|said| said.code);
    all.said.into_iter().map(Said::warning).collect()
}

/// Ports that one policy holds for.
struct Group<'a> {
    /// The port, if it has an entry of its own.
    port: Option<u16>,
    policy: &'a Policy,
    /// Empty where the target is not known: then anything may be there.
    ports: Vec<PortView>,
}

fn groups<'a>(spec: &ResilienceSpec, valid: &'a Valid, service: Option<&ServiceView>) -> Vec<Group<'a>> {
    let ports = service.map(|service| service.ports.clone()).unwrap_or_default();
    let (own, common): (Vec<_>, Vec<_>) = ports.into_iter().partition(|port| valid.ports.contains_key(&port.number));
    let mut groups = Vec::new();
    if service.is_none() || !common.is_empty() || own.is_empty() {
        groups.push(Group { port: None, policy: &valid.common, ports: common });
    }
    groups.extend(spec.ports.iter().filter_map(|entry| {
        let policy = valid.ports.get(&entry.port)?;
        let ports = own.iter().filter(|port| port.number == entry.port).copied().collect();
        Some(Group { port: Some(entry.port), policy, ports })
    }));
    groups
}

/// What a sentence about a group may rest on.
struct Here<'a> {
    group: &'a Group<'a>,
    valid: &'a Valid,
    service: Option<&'a ServiceView>,
    observed: &'a Observed,
}

impl Here<'_> {
    fn policy(&self) -> &Policy {
        self.group.policy
    }

    /// Whether a port of the group carries HTTP, or may: not known counts as HTTP.
    fn speaks_http(&self) -> bool {
        self.group.ports.is_empty() || self.group.ports.iter().any(|port| port.protocol.is_http())
    }

    /// Whether all HTTP of the group is gRPC.
    fn speaks_only_grpc(&self) -> bool {
        let http = self.ports(|port| port.protocol.is_http());
        !http.is_empty() && http == self.ports(|port| port.protocol == Protocol::Grpc)
    }

    /// Numbers of the group's ports that are `such`.
    fn ports(&self, such: impl Fn(&PortView) -> bool) -> Vec<u16> {
        self.group.ports.iter().filter(|port| such(port)).map(|port| port.number).collect()
    }

    /// Whether the client picks the endpoint itself, so that no ejection changes anything.
    fn client_picks(&self) -> bool {
        self.service.is_some_and(|service| service.discovery.client_picks())
    }

    /// Whether servers may have proxies of their own, on which a rule acts as well: hosts outside of
    /// the mesh have none.
    fn servers_have_proxies(&self) -> bool {
        self.service.is_none_or(|service| {
            matches!(
                service.discovery,
                Discovery::ClusterIp | Discovery::Headless | Discovery::ExternalName | Discovery::Selected
            )
        })
    }
}

/// One sentence.
struct Said {
    code: Code,
    /// Ports with entries of their own that it is about; none: all others.
    ports: Vec<u16>,
    message: String,
}

impl Said {
    fn warning(self) -> Warning {
        let prefix = if self.ports.is_empty() { String::new() } else { format!("{}: ", named(&self.ports)) };
        Warning { code: self.code, message: prefix + &self.message }
    }
}

#[derive(Default)]
struct Warnings {
    said: Vec<Said>,
}

impl Warnings {
    fn add(&mut self, here: &Here<'_>, code: Code, message: impl Into<String>) {
        self.say(here.group.port, code, message.into());
    }

    fn say(&mut self, port: Option<u16>, code: Code, message: String) {
        match self.said.iter_mut().find(|said| said.code == code && said.message == message) {
            // What holds for all others was said first, and holds here too.
            Some(said) if said.ports.is_empty() => {}
            Some(said) => said.ports.extend(port),
            None => self.said.push(Said { code, ports: port.into_iter().collect(), message }),
        }
    }
}

/// `port 80 speaks`, `ports 80 and 443 speak`.
fn subject(ports: &[u16], one: &str, several: &str) -> String {
    format!("{} {}", named(ports), if ports.len() == 1 { one } else { several })
}

/// `port 80`, `ports 80 and 443`.
fn named(ports: &[u16]) -> String {
    let numbers: Vec<String> = ports.iter().map(ToString::to_string).collect();
    match &numbers[..] {
        [one] => format!("port {one}"),
        [first @ .., last] => format!("ports {} and {last}", first.join(", ")),
        [] => String::new(),
    }
}
