//! Whether there is an endpoint to send to: 503 with the flag UH where there is none.

use super::{
    super::{
        Cause, Evidence, Kind,
        calls::{Call, Calls},
        counted::Signal,
        judge::{Counted, Found},
    },
    client_side::COUNT_IT,
};

/// No endpoint is ready, or all are ejected; and what clients' proxies counted of that.
pub(super) fn none_or_ejected(calls: &Calls<'_>) -> Found {
    let mut found = Found::default();
    let target = &calls.seen.target;
    let none = target.ready == Some(0);
    let (mut without, mut ejected) = (Counted::default(), Counted::default());
    let mut all_out: Vec<&Call<'_>> = Vec::new();
    for call in &calls.made {
        let is_out = !call.ejected().is_empty() && call.out() == call.cluster.endpoints.len();
        let of_ejection = !none && (is_out || !call.ejected().is_empty());
        let counted = if of_ejection { &mut ejected } else { &mut without };
        counted
            .take(call.tally.count(Signal::NoHealthy), |count| call.counted(count, "calls found no endpoint (503 UH)"));
        if is_out && !none {
            all_out.push(call);
        }
    }
    found.causes.extend(no_endpoint(calls, none, without));
    found.causes.extend(no_such_port(calls, none));
    found.causes.extend(ejection(calls, &all_out, ejected));
    if found.causes.is_empty() {
        let ready = target.ready.map_or_else(
            || "how many are ready was not read".to_owned(),
            |ready| format!("{ready} ready, {} not", target.not_ready),
        );
        found = found.and(Found::nothing("endpoints", ready));
    }
    found.and(some_ejected(calls)).and(not_counted(calls))
}

fn no_endpoint(calls: &Calls<'_>, none: bool, mut counted: Counted) -> Option<Cause> {
    let target = &calls.seen.target;
    let (object, name, namespace) = (target.whole(), &target.name, &target.namespace);
    let slices = format!("kubectl get endpointslices,pods -n {namespace} -l kubernetes.io/service-name={name}");
    if !none {
        let summary = "clients' proxies found no endpoint that was well, for a while".to_owned();
        return counted.cause(Kind::NoEndpoints, summary, vec![format!("did pods restart? {slices}")]);
    }
    let (why, next) = match &target.pods {
        _ if target.selector.is_empty() => (
            "it selects no pods, and nobody else gives it endpoints".to_owned(),
            format!("set spec.selector of {object}, or write its EndpointSlices"),
        ),
        None => ("what its pods say was not read".to_owned(), slices),
        Some(pods) if pods.is_empty() => (
            format!("no pod has the labels {}", target.selector),
            format!(
                "compare spec.selector of {object} with the labels of the pods: kubectl get pods -n {namespace} --show-labels; are there any, or is the workload scaled to 0?"
            ),
        ),
        Some(pods) => {
            for (pod, why) in pods.iter().filter(|(_, why)| !why.is_empty()) {
                counted.evidence.push(Evidence::fact(format!("Pod {namespace}/{pod}"), why.clone()));
            }
            let first = pods.keys().next().map(String::as_str).unwrap_or_default();
            ("none of its pods is ready".to_owned(), format!("kubectl describe pod {first} -n {namespace}"))
        }
    };
    let says = format!("0 endpoints are ready, {} are not", target.not_ready);
    counted.evidence.push(Evidence::fact(object.clone(), says));
    let summary = format!("{object} has no endpoint that is ready: {why}");
    Some(counted.certain(Kind::NoEndpoints, summary, vec![next]))
}

/// A port whose `targetPort` is a name that no container has.
fn no_such_port(calls: &Calls<'_>, none: bool) -> Option<Cause> {
    let target = &calls.seen.target;
    let lacking: Vec<String> =
        target.ports.iter().filter(|(_, there)| !**there).map(|(port, _)| port.to_string()).collect();
    if none || target.ready.is_none() || lacking.is_empty() {
        return None;
    }
    let ports = lacking.join(", ");
    let mut counted = Counted::default();
    counted.evidence.push(Evidence::fact(target.whole(), format!("no EndpointSlice has its port {ports}")));
    let summary = format!("port {ports} of {} has no endpoint, and other ports of it have", target.whole());
    let next = vec![format!("targetPort of port {ports} must be a number, or the name of a container's port")];
    Some(counted.certain(Kind::NoEndpoints, summary, next))
}

fn ejection(calls: &Calls<'_>, all_out: &[&Call<'_>], mut counted: Counted) -> Option<Cause> {
    let target = &calls.seen.target;
    let policy = calls.policy().unwrap_or_else(|| "the DestinationRule".to_owned());
    let next = vec![
        format!(
            "find why they failed: the servers' logs, and what the causes below say; then wait for ejection.baseTime, or restart nothing: kubectl resilience top {} -n {} says when they are back",
            target.name, target.namespace
        ),
        format!("so that some always stay: ejection.maxPercent below 100 in {policy}"),
    ];
    for call in all_out {
        let addresses = call.ejected().join(", ");
        let says =
            format!("outlier detection has ejected {addresses}: nobody is left of {}", call.cluster.endpoints.len());
        counted.evidence.push(Evidence::fact(call.client.place(), says));
    }
    let whose = all_out.iter().find_map(|call| call.rule()).map(|rule| format!(", by {rule}")).unwrap_or_default();
    let summary = format!("outlier detection has ejected all endpoints{whose}: there is nobody left to call");
    if all_out.is_empty() {
        let summary = "endpoints are ejected, and for a while there was nobody left to call";
        return counted.cause(Kind::Ejection, summary, next);
    }
    Some(counted.certain(Kind::Ejection, summary, next))
}

/// An ejection that leaves others is no failure by itself.
fn some_ejected(calls: &Calls<'_>) -> Found {
    let some = calls.made.iter().filter(|call| !call.ejected().is_empty() && call.out() < call.cluster.endpoints.len());
    let says: Vec<String> = some
        .map(|call| {
            let (out, of) = (call.ejected(), call.cluster.endpoints.len());
            format!("{} of {of} endpoints out at {}: {}", out.len(), call.client.place(), out.join(", "))
        })
        .collect();
    if says.is_empty() { Found::default() } else { Found::nothing("ejection", says.join("; ")) }
}

fn not_counted(calls: &Calls<'_>) -> Found {
    if calls.is_counted(Signal::NoHealthy) {
        return Found::default();
    }
    let says = format!(
        "calls that found no endpoint: not every client's proxy counts them; annotate the clients' pods with {COUNT_IT}"
    );
    Found { not_seen: vec![says], ..Found::default() }
}
