//! What is configured so that calls cannot but fail: routes that lead nowhere or answer themselves, one side that
//! encrypts and another that does not, and a policy that does not count.

use std::collections::BTreeSet;

use super::{
    super::{
        Cause, Class, Encryption, Evidence, Kind, ProxySeen, Route,
        calls::{Call, Calls},
        counted::Signal,
        judge::{Counted, Found},
    },
    client_side::explain,
};

/// Routes as the clients' own proxies have them.
pub(super) fn routes(calls: &Calls<'_>) -> Found {
    let mut found = Found::default();
    found.causes.extend(leads_nowhere(calls));
    found.causes.extend(answers_itself(calls));
    found = found.and(not_there(calls));
    found.causes.extend(not_for_all(calls));
    if found.causes.is_empty() && calls.routes().next().is_some() {
        let whose: BTreeSet<String> = calls.routes().map(|(_, route)| route.whose()).collect();
        let whose: Vec<String> = whose.into_iter().collect();
        found = found.and(Found::nothing("routes", format!("they lead to what is there: {}", whose.join(", "))));
    }
    found
}

/// One line for each route, however many clients have it: whose it is, what is said of it, and of which client.
fn by_route(routes: impl Iterator<Item = (String, String, String)>) -> Vec<Evidence> {
    let mut told: Vec<Evidence> = Vec::new();
    for (whose, says, client) in routes {
        if !told.iter().any(|one| one.seen_at == whose && one.says.starts_with(&says)) {
            told.push(Evidence::fact(whose, format!("{says} (at {client})")));
        }
    }
    told
}

/// 503 with the flag NC.
fn leads_nowhere(calls: &Calls<'_>) -> Option<Cause> {
    let broken: Vec<(&ProxySeen, &Route)> = calls.routes().filter(|(_, route)| !route.missing.is_empty()).collect();
    let (_, first) = *broken.first()?;
    let (whose, missing) = (first.whose(), first.missing.join(", "));
    let evidence = by_route(broken.into_iter().map(|(client, route)| {
        let (port, missing) = (route.port, route.missing.join(", "));
        let says = format!("a route of port {port} leads to {missing}, and there is no such cluster");
        (route.whose(), says, client.place())
    }));
    let mut counted = Counted::facts(evidence);
    count(calls, Signal::NoRoute, "calls had no route (NR, NC)", &mut counted);
    let summary = format!("{whose} sends calls to {missing}, which is not there (503 NC)");
    let next = vec![
        format!(
            "give {whose} a destination that exists: its subset must stand in a DestinationRule that counts for the client, its host and port in a Service"
        ),
        explain(calls),
    ];
    Some(counted.certain(Kind::MissingRoute, summary, next))
}

/// A fault that aborts: 503 or whatever it says, with the flag FI.
fn answers_itself(calls: &Calls<'_>) -> Option<Cause> {
    let aborting: Vec<(&ProxySeen, &Route, u16, u32)> = calls
        .routes()
        .filter_map(|(client, route)| route.abort.map(|(code, share)| (client, route, code, share)))
        .collect();
    let (_, first, code, share) = *aborting.first()?;
    let whose = first.whose();
    let evidence = by_route(aborting.into_iter().map(|(client, route, code, share)| {
        let says = format!("answers {} of calls on port {} with {code} itself, as a fault", percent(share), route.port);
        (route.whose(), says, client.place())
    }));
    let mut counted = Counted::facts(evidence);
    count(calls, Signal::Fault, "calls were answered by a fault (FI)", &mut counted);
    let instead = calls.policy().filter(|_| !calls.is_the_policys(&whose));
    let instead = instead.map(|policy| format!(", whose routes count and not those of {policy},")).unwrap_or_default();
    let summary = format!("{whose}{instead} answers {} of calls with {code} itself", percent(share));
    let next = vec![format!("take spec.http[].fault out of {whose}, or delete it"), explain(calls)];
    Some(counted.certain(Kind::OtherRule, summary, next))
}

fn percent(of_a_million: u32) -> String {
    format!("{} %", f64::from(of_a_million) / 10_000.0)
}

/// The host is hidden from clients, or the port is none of the Service's.
fn not_there(calls: &Calls<'_>) -> Found {
    let lacking: Vec<&ProxySeen> = calls.seen.clients.iter().filter(|client| client.last.outbound.is_empty()).collect();
    let Some(first) = lacking.first() else { return Found::default() };
    let target = calls.seen.target.whole();
    let lets_out = lacking.iter().all(|client| client.last.configured.lets_unknown_out);
    let becomes = if lets_out { "go out past all rules" } else { "are blocked (502)" };
    let evidence = lacking.iter().map(|client| {
        Evidence::fact(client.place(), format!("has no cluster of {}: calls of it {becomes}", calls.seen.target.host))
    });
    let cause = Cause {
        cause: Kind::MissingRoute,
        class: if lets_out { Class::Possible } else { Class::MustFail },
        summary: format!(
            "{target} is not there for {}: a Sidecar of its namespace hides it, or it is not exported",
            first.place()
        ),
        calls: None,
        evidence: evidence.collect(),
        next: vec![format!(
            "add the host to spec.egress of the client's Sidecar, or look at exportTo: {} --client {}",
            explain(calls),
            first.proxy.namespace
        )],
    };
    Found::cause(cause)
}

/// 404 with the flag NR, for what no route takes.
fn not_for_all(calls: &Calls<'_>) -> Option<Cause> {
    let mut ports: BTreeSet<(u16, String)> = BTreeSet::new();
    for client in &calls.seen.clients {
        let routes = &client.last.configured.routes;
        for port in routes.iter().map(|route| route.port).collect::<BTreeSet<u16>>() {
            let mut of_port = routes.iter().filter(|route| route.port == port);
            if of_port.clone().all(|route| !route.takes_all)
                && let Some(last) = of_port.next_back()
            {
                ports.insert((port, last.whose()));
            }
        }
    }
    let (_, whose) = ports.first()?.clone();
    let evidence = ports.into_iter().map(|(port, whose)| {
        Evidence::fact(
            whose,
            format!("none of its routes of port {port} takes every call: what matches none gets 404 NR"),
        )
    });
    Some(Cause {
        cause: Kind::MissingRoute,
        class: Class::Possible,
        summary: format!("{whose} has no route for calls that match none of its own (404 NR)"),
        calls: None,
        evidence: evidence.collect(),
        next: vec![format!("end spec.http of {whose} with a route without a match")],
    })
}

/// Adds what is counted of it, where it moved.
fn count(calls: &Calls<'_>, signal: Signal, says: &str, counted: &mut Counted) {
    for call in &calls.made {
        let count = call.tally.count(signal).filter(|count| count.moved() > 0);
        counted.take(count, |count| call.counted(count, says));
    }
}

/// Why a client's connections cannot be taken, if they cannot.
pub(super) fn mismatch(calls: &Calls<'_>, call: &Call<'_>) -> Option<(String, String)> {
    let config = call.config?;
    let peers = calls.seen.peers.as_ref();
    let rule = call.rule().unwrap_or_else(|| "no DestinationRule".to_owned());
    let none_has_a_proxy = calls.seen.target.without_proxy > 0 && calls.seen.servers.is_empty();
    match (config.encryption, peers.map(|peers| peers.mode.as_str())) {
        (Encryption::Plain, Some("STRICT")) => Some((
            format!("clients call in plain text ({rule}), and the servers take mutual TLS alone"),
            format!("the client's proxy has no TLS for port {}, by {rule}", call.target.port),
        )),
        (Encryption::Other, Some("STRICT")) => Some((
            format!("clients call by TLS of their own ({rule}), and the servers take Istio's mutual TLS alone"),
            format!("the client's proxy has TLS that is not Istio's for port {}, by {rule}", call.target.port),
        )),
        (Encryption::Mutual, _) if none_has_a_proxy => Some((
            format!("clients call by mutual TLS ({rule}), and the servers have no proxy that could take it"),
            format!("the client's proxy insists on mutual TLS for port {}, by {rule}", call.target.port),
        )),
        (Encryption::Mutual, Some("DISABLE")) => Some((
            format!("clients call by mutual TLS ({rule}), and the servers take plain text alone"),
            format!("the client's proxy insists on mutual TLS for port {}, by {rule}", call.target.port),
        )),
        _ => None,
    }
}

/// One side speaks mutual TLS and the other does not: connections fail or end (503 UF, UC).
pub(super) fn encryption(calls: &Calls<'_>) -> Found {
    let mut counted = Counted::default();
    let mut first = None;
    let mut facts = Vec::new();
    for call in &calls.made {
        let Some((summary, says)) = mismatch(calls, call) else { continue };
        facts.push(Evidence::fact(call.client.place(), says));
        for (signal, says) in [
            (Signal::ConnectFail, "connections failed (503 UF)"),
            (Signal::Reset, "connections ended under a call (503 UC)"),
        ] {
            let count = call.tally.count(signal).filter(|count| count.moved() > 0 || !calls.has_now());
            counted.take(count, |count| call.counted(count, says));
        }
        first.get_or_insert((summary, call.rule()));
    }
    let Some((summary, rule)) = first else { return fine(calls) };
    counted.evidence.extend(facts);
    if let Some(peers) = &calls.seen.peers {
        let object = peers.object.clone().unwrap_or_else(|| calls.seen.target.whole());
        counted.evidence.push(Evidence::fact(object, format!("the servers take {}", peers.mode)));
    }
    if calls.seen.target.without_proxy > 0 {
        let says = format!("{} of its pods have no proxy", calls.seen.target.without_proxy);
        counted.evidence.push(Evidence::fact(calls.seen.target.whole(), says));
    }
    let next = match rule {
        Some(rule) => vec![format!("take trafficPolicy.tls out of {rule}: without it both sides agree by themselves")],
        None => vec!["give the client's pods a proxy that may use mutual TLS: is enableAutoMtls off, or a namespace's PeerAuthentication DISABLE?".to_owned()],
    };
    Found::cause(counted.certain(Kind::MutualTls, summary, next))
}

fn fine(calls: &Calls<'_>) -> Found {
    match &calls.seen.peers {
        None => Found::default(),
        Some(_) if calls.made.iter().all(|call| call.config.is_none()) => Found::default(),
        Some(peers) => {
            let ports = if peers.differs_by_port { "; for some ports it says something else" } else { "" };
            Found::nothing("mutual TLS", format!("clients and servers agree: {peers}{ports}"))
        }
    }
}

/// A policy that is not in force: what is said of its limits does not hold.
pub(super) fn policy(calls: &Calls<'_>) -> Found {
    let Some(policy) = &calls.seen.policy else { return Found::nothing("policy", "there is none for it") };
    let name = calls.policy().unwrap_or_default();
    if policy.complaints.is_empty() {
        return Found::nothing("policy", format!("{name}: none of its conditions says that something is wrong"));
    }
    let evidence = policy.complaints.iter().map(|complaint| Evidence::fact(name.clone(), complaint.clone())).collect();
    Found::cause(Cause {
        cause: Kind::OtherRule,
        class: Class::Possible,
        summary: format!("{name} is not in force: what counts for clients is not what it says"),
        calls: None,
        evidence,
        next: vec![explain(calls)],
    })
}
