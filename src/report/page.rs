//! One page on what is in force for a target.

use kube::ResourceExt as _;
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    ClientPart, ConditionLine, FieldChange, Origin, OthersLine, ValueLine, Verdict, WarningLine, explained, reasons,
    values,
};
use crate::{
    api::{
        GeneratedRef, Mode, Ownership, Resilience, ResilienceStatus, TargetRef, conditions::IN_EFFECT, schema::NOT_SEEN,
    },
    decide::{Step, decide, held},
    diff::{diff, without_ours},
    istio::{Existing, Kind},
    names,
    observed::{Discovery, Observed, ServiceView, Target, host_of},
    translate::translate,
    validate::{Owner, Settings, Valid, ejectable, is_co_owned, is_ours},
};

/// One page.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Page {
    /// Namespace of all that is spoken of.
    pub namespace: String,
    /// The policy; null: the target has none.
    pub policy: Option<PolicyPart>,
    /// The target; null: the policy names none that is there.
    pub target: Option<TargetPart>,
    /// What `values` are.
    pub values_are: ValuesAre,
    /// Every value, with who chose it.
    pub values: Vec<ValueLine>,
    /// How many endpoints may be ejected at a time; empty: ejection is not declared.
    pub ejection: Vec<EjectionLine>,
    /// What is generated from the policy, and what of it is there.
    pub generated: Vec<GeneratedLine>,
    /// DestinationRules and VirtualServices of the namespace that are not of the policy and speak of
    /// the target's host.
    pub beside: Vec<Beside>,
    /// Other policies for the target.
    pub rivals: Vec<String>,
    /// What is legal but will surprise.
    pub warnings: Vec<WarningLine>,
    /// Clients that get something else than what is generated, as far as Sidecars do not hide the host.
    pub others: Vec<OthersLine>,
    /// The client that was asked about; null: none was.
    pub client: Option<ClientPart>,
    /// Namespace and name of the DestinationRules that the client gets, merged in this order, empty: none;
    /// null: no client was asked about.
    pub destination_rules: Option<Vec<String>>,
    /// Namespace and name of the VirtualServices whose routes the client gets, by port, empty: none; null:
    /// no client was asked about.
    pub virtual_services: Option<Vec<String>>,
    /// What this page does not know.
    pub not_observed: Vec<String>,
}

/// The policy.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyPart {
    /// Its name.
    pub name: String,
    /// Generation of its spec.
    pub generation: Option<i64>,
    /// The generation that its conditions speak of; null: the operator has not looked at it yet.
    pub observed_generation: Option<i64>,
    /// `Enforce`, `Observe` or `Suspend`.
    pub mode: Mode,
    /// What the operator's own functions say now.
    pub outcome: Verdict,
    /// What the object says of itself.
    pub conditions: Vec<ConditionLine>,
}

/// The target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TargetPart {
    /// `Service` or `ServiceEntry`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Whether it is there.
    pub found: bool,
    /// Fully qualified host; empty where it is not known.
    pub host: String,
    /// How clients find its endpoints: `ClusterIp`, `Headless`, `ExternalName`, `Static`, `Selected`,
    /// `Dns`, `DnsRoundRobin` or `Passthrough`.
    pub discovery: Option<String>,
    /// Its ports.
    pub ports: Vec<PortLine>,
    /// Endpoints that are not on their way out; null: they cannot be counted.
    pub endpoints: Option<u32>,
    /// Those of them that are ready.
    pub ready_endpoints: Option<u32>,
    /// Zones that they are in; 0: nothing says so.
    pub zones: Option<u32>,
}

/// A port of the target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PortLine {
    /// Of the target, not of the pods.
    pub number: u16,
    /// What istiod takes it for: `Http`, `Http2`, `Grpc`, `Sniffed`, `Tls`, `Opaque` or `Udp`.
    pub protocol: String,
}

/// What the values of a page are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub enum ValuesAre {
    /// In force as far as the API server has it: every generated object is as it should be.
    Held,
    /// What the policy asks for; not all of it is in the API server.
    Wanted,
    /// Of the last version that was accepted, whose objects are still there.
    Left,
    /// What Istio and Envoy do without being told.
    Unset,
    /// Somebody else's objects decide, and they are not read here.
    Others,
}

/// The arithmetic of ejection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EjectionLine {
    /// The port that it is for; null: every port without values of its own.
    pub port: Option<u16>,
    /// Endpoints that proxies are sent; null: they cannot be counted.
    pub endpoints: Option<u32>,
    /// The share.
    pub max_percent: u32,
    /// How many that is, rounded down as Envoy does.
    pub ejectable: Option<u32>,
}

/// A generated object.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GeneratedLine {
    /// `Sidecar`, `DestinationRule` or `VirtualService`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Whose the object is: `Created`, or `CoOwned` where ours are some blocks of somebody else's.
    pub ownership: Ownership,
    /// How it is.
    pub state: State,
    /// Each field that is not as it should be.
    pub changes: Vec<FieldChange>,
}

/// How a generated object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub enum State {
    /// There, every field of ours as it should be.
    AsWanted,
    /// There, and some fields are not.
    Drifted,
    /// Not there.
    Missing,
    /// There, and it should not be.
    Unwanted,
    /// There, from the last version that was accepted.
    Left,
}

/// Somebody else's object that speaks of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Beside {
    /// `Sidecar`, `DestinationRule` or `VirtualService`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// What it has to do with the host.
    pub concern: String,
}

/// What the page of a policy knows only where its condition `InEffect` does.
const PROXIES_NOT_OBSERVED: &str =
    "whether proxies have it: this is what the API server holds, nothing here says that proxies have it";

/// What no page knows.
const NOT_OBSERVED: [&str; 2] = [
    "mesh configuration and EnvoyFilters, which may change what is marked as a default",
    "ServiceEntries of other namespaces for the same host, and defaults of exportTo, which may change who gets what",
];

/// The page of a policy.
#[must_use]
pub fn page(policy: &Resilience, observed: &Observed, settings: &Settings) -> Page {
    let step = decide(policy, observed, settings);
    let (owner, target) = (Owner::of(policy), policy.spec.target_refs.first());
    let others_routes = owns_routes(observed, &owner, target, settings);
    let generated = generated(&step, &owner, observed);
    let (values_are, values) = match step.valid() {
        Some(valid) => {
            let held = generated.iter().all(|line| line.state == State::AsWanted);
            let are = if held && valid.mode != Mode::Observe { ValuesAre::Held } else { ValuesAre::Wanted };
            let mut values = values::values(valid, ports(observed), others_routes);
            of_its_owner(&mut values, valid, observed);
            (are, values)
        }
        None if generated.is_empty() => (ValuesAre::Wanted, Vec::new()),
        None => (ValuesAre::Left, left(policy)),
    };
    let status = policy.status.as_ref();
    let outcome = match &step {
        Step::Apply(_) => Verdict::accepted(),
        Step::Release(outcome) | Step::Leave(outcome) => Verdict::of(outcome),
    };
    Page {
        namespace: owner.namespace.clone(),
        policy: Some(PolicyPart {
            name: policy.name_any(),
            generation: policy.metadata.generation,
            observed_generation: status.and_then(|status| status.observed_generation).filter(|seen| *seen != NOT_SEEN),
            mode: policy.spec.mode,
            outcome,
            conditions: status.iter().flat_map(|status| &status.conditions).map(ConditionLine::from).collect(),
        }),
        target: target.map(|target| target_part(target, &owner.namespace, observed, settings)),
        values_are,
        values,
        ejection: step.valid().map(ejection).unwrap_or_default(),
        generated,
        beside: target.map(|target| beside(target, &owner, observed, settings)).unwrap_or_default(),
        rivals: observed.rivals.iter().map(|rival| rival.name.clone()).collect(),
        warnings: step.valid().iter().flat_map(|valid| &valid.warnings).map(WarningLine::from).collect(),
        others: Vec::new(),
        client: None,
        destination_rules: None,
        virtual_services: None,
        not_observed: not_observed(observed, status.is_some_and(says_of_proxies)),
    }
}

/// Whether the operator has asked what proxies have: the condition tells it then.
fn says_of_proxies(status: &ResilienceStatus) -> bool {
    status.conditions.iter().any(|condition| condition.type_ == IN_EFFECT && condition.status != "Unknown")
}

/// The page of a target that has no policy.
#[must_use]
pub fn bare(target: &TargetRef, namespace: &str, observed: &Observed, settings: &Settings) -> Page {
    let nobody = Owner { name: String::new(), namespace: namespace.to_owned(), uid: Some(String::new()) };
    let beside = beside(target, &nobody, observed, settings);
    let (values_are, values) = if beside.is_empty() {
        (ValuesAre::Unset, values::unset_alone(ports(observed)))
    } else {
        (ValuesAre::Others, Vec::new())
    };
    Page {
        namespace: namespace.to_owned(),
        policy: None,
        target: Some(target_part(target, namespace, observed, settings)),
        values_are,
        values,
        ejection: Vec::new(),
        generated: Vec::new(),
        beside,
        rivals: Vec::new(),
        warnings: Vec::new(),
        others: Vec::new(),
        client: None,
        destination_rules: None,
        virtual_services: None,
        not_observed: not_observed(observed, false),
    }
}

/// Values that the policy leaves open and the owner of the rule that holds our blocks has set in it.
fn of_its_owner(values: &mut [ValueLine], valid: &Valid, observed: &Observed) {
    let Some(merge) = &valid.merge else { return };
    let named = |object: &&Existing| object.kind == Kind::DestinationRule && object.name == merge.name;
    let Some(theirs) = observed.existing.iter().find(named).map(without_ours) else { return };
    let set = |pointer: &str| theirs.spec.pointer(pointer).filter(|value| !value.is_null());
    for line in values.iter_mut().filter(|line| matches!(line.origin, Origin::Istio | Origin::Envoy)) {
        let budget = set("/trafficPolicy/retryBudget").filter(|_| line.path == "limits.perClient.concurrentRetries");
        let Some(value) = reasons::places(&line.path).find_map(|place| set(&place)).or(budget) else { continue };
        line.value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        line.origin = Origin::OthersRule;
    }
}

fn ports(observed: &Observed) -> &[crate::observed::PortView] {
    found(observed).map(|service| service.ports.as_slice()).unwrap_or_default()
}

const fn found(observed: &Observed) -> Option<&ServiceView> {
    match &observed.target {
        Target::Found(service) => Some(service),
        Target::Missing | Target::Unknown => None,
    }
}

fn host(target: &TargetRef, namespace: &str, observed: &Observed, settings: &Settings) -> String {
    host_of(target, namespace, found(observed), &settings.cluster_domain).unwrap_or_default()
}

fn target_part(target: &TargetRef, namespace: &str, observed: &Observed, settings: &Settings) -> TargetPart {
    let service = found(observed);
    let countable = service.is_some_and(|service| service.discovery.is_countable());
    let endpoints = observed.endpoints.filter(|_| countable);
    TargetPart {
        kind: target.kind.as_str().to_owned(),
        name: target.name.clone(),
        found: service.is_some(),
        host: host(target, namespace, observed, settings),
        discovery: service.map(|service| format!("{:?}", service.discovery)),
        ports: service
            .iter()
            .flat_map(|service| &service.ports)
            .map(|port| PortLine { number: port.number, protocol: format!("{:?}", port.protocol) })
            .collect(),
        endpoints: endpoints.map(|endpoints| endpoints.all),
        ready_endpoints: endpoints.map(|endpoints| endpoints.ready),
        zones: endpoints.map(|endpoints| endpoints.zones),
    }
}

/// Common values, then ports whose share is another.
fn ejection(valid: &Valid) -> Vec<EjectionLine> {
    let line = |port, percent| EjectionLine {
        port,
        endpoints: valid.endpoints,
        max_percent: percent,
        ejectable: valid.endpoints.map(|endpoints| ejectable(endpoints, percent)),
    };
    let share = |policy: &crate::validate::Policy| policy.ejection.as_ref().map(|ejection| ejection.max_percent);
    let common = share(&valid.common);
    let ports = valid.ports.iter().filter_map(|(port, policy)| Some((*port, share(policy)?)));
    let differing = ports.filter(|(_, percent)| Some(*percent) != common);
    let common = common.map(|percent| line(None, percent));
    common.into_iter().chain(differing.map(|(port, percent)| line(Some(port), percent))).collect()
}

/// What the last accepted version had, as the status has kept it.
fn left(policy: &Resilience) -> Vec<ValueLine> {
    let effective = policy.status.as_ref().map(|status| status.effective.as_slice()).unwrap_or_default();
    effective.iter().map(values::declared).collect()
}

fn generated(step: &Step, owner: &Owner, observed: &Observed) -> Vec<GeneratedLine> {
    let Some(valid) = step.valid() else {
        let state = if matches!(step, Step::Release(_)) { State::Unwanted } else { State::Left };
        return ours(owner, observed).map(|object| line(object, state)).collect();
    };
    if let Step::Release(_) = step {
        return ours(owner, observed).map(|object| line(object, State::Unwanted)).collect();
    }
    // Also with mode Suspend, where nobody writes it: how things stand is the same question.
    let desired = translate(valid);
    let diff = diff(&desired, owner, &observed.existing);
    let wanted = desired.objects().into_iter().map(|object| {
        let write = diff.apply.iter().find(|write| write.object.kind == object.kind);
        let state = match write {
            None => State::AsWanted,
            Some(write) if write.create => State::Missing,
            // Of somebody else's object, what is ours may not be there yet.
            Some(_) if object.ownership == Ownership::CoOwned && !shares(&object.name, owner, observed) => {
                State::Missing
            }
            Some(_) => State::Drifted,
        };
        let changes = write.iter().flat_map(|write| &write.changes);
        GeneratedLine {
            changes: explained(changes, |change| reasons::reason(object.kind, change, &valid.effective)),
            ..line(object.reference(), state)
        }
    });
    let unwanted = |kind: Kind, name: &str, ownership| {
        line(GeneratedRef { kind: kind.to_string(), name: name.to_owned(), ownership }, State::Unwanted)
    };
    let prunes = diff.prune.iter().map(|prune| unwanted(prune.kind, &prune.name, Ownership::Created));
    let releases = diff.release.iter().map(|release| unwanted(release.kind, &release.name, Ownership::CoOwned));
    wanted.chain(prunes).chain(releases).collect()
}

/// What there is of a policy.
fn ours<'a>(owner: &'a Owner, observed: &'a Observed) -> impl Iterator<Item = GeneratedRef> {
    held(owner, &observed.existing).into_iter()
}

fn shares(name: &str, owner: &Owner, observed: &Observed) -> bool {
    let named = |object: &&Existing| object.kind == Kind::DestinationRule && object.name == name;
    observed.existing.iter().find(named).is_some_and(|object| is_co_owned(object, owner))
}

fn line(object: GeneratedRef, state: State) -> GeneratedLine {
    let GeneratedRef { kind, name, ownership } = object;
    GeneratedLine { kind, name, ownership, state, changes: Vec::new() }
}

fn others<'a>(owner: &'a Owner, observed: &'a Observed) -> impl Iterator<Item = &'a Existing> {
    observed.existing.iter().filter(|object| !object.deleting && !is_ours(object, owner))
}

fn owns_routes(observed: &Observed, owner: &Owner, target: Option<&TargetRef>, settings: &Settings) -> bool {
    let Some(target) = target else { return false };
    let host = host(target, &owner.namespace, observed, settings);
    others(owner, observed).any(|object| {
        object.kind == Kind::VirtualService
            && object.binds_mesh()
            && object.hosts(&settings.cluster_domain).contains(&host)
    })
}

fn beside(target: &TargetRef, owner: &Owner, observed: &Observed, settings: &Settings) -> Vec<Beside> {
    let host = host(target, &owner.namespace, observed, settings);
    let concern = |object: &Existing| {
        let for_host = object.hosts(&settings.cluster_domain).contains(&host);
        match object.kind {
            Kind::DestinationRule if is_co_owned(object, owner) => {
                Some("holds blocks of this policy beside what is its owner's".to_owned())
            }
            Kind::DestinationRule if for_host && object.has_workload_selector() => {
                Some("sets a traffic policy for the host, for the clients that its workloadSelector selects".to_owned())
            }
            Kind::DestinationRule if for_host => {
                Some("sets a traffic policy for the host; of several, Istio takes the oldest".to_owned())
            }
            Kind::VirtualService if for_host && object.binds_mesh() => {
                Some("has the routes of the host: timeouts and retries are its own".to_owned())
            }
            Kind::VirtualService if !object.gateways().is_empty() => {
                Some(format!("sends calls here from {}", object.gateways().join(", ")))
            }
            Kind::VirtualService if object.destinations(&settings.cluster_domain).contains(&host) => {
                Some("sends calls of another host here".to_owned())
            }
            _ if object.name == names::generated_name(target) => Some("has the name that a policy needs".to_owned()),
            _ => None,
        }
    };
    let concerned = others(owner, observed).filter_map(|object| {
        let concern = concern(object)?;
        Some(Beside { kind: object.kind.to_string(), name: object.name.clone(), concern })
    });
    concerned.collect()
}

fn not_observed(observed: &Observed, proxies_were: bool) -> Vec<String> {
    let proxies = (!proxies_were).then_some(PROXIES_NOT_OBSERVED);
    let mut lines: Vec<String> = proxies.into_iter().chain(NOT_OBSERVED).map(str::to_owned).collect();
    if observed.membership.is_none() {
        lines.push("labels of the namespace, so whether its pods have a sidecar".to_owned());
    }
    if found(observed).is_some_and(|service| service.discovery == Discovery::Selected) {
        lines.push("the pods and WorkloadEntries that the ServiceEntry selects".to_owned());
    }
    lines
}
