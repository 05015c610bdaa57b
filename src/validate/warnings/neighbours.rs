//! What stands beside the policy: which clients it does not hold for, and what it takes from others.

use super::Warnings;
use crate::{
    api::warnings::Code,
    istio::Kind,
    observed::Unseen,
    validate::{neighbours::Neighbours, valid::Valid},
};

/// So many are named.
const NAMED: usize = 5;

pub(super) fn warn(valid: &Valid, neighbours: &Neighbours, all: &mut Warnings) {
    rules(neighbours, all);
    routes(valid, neighbours, all);
    for unseen in &neighbours.unseen {
        let message = match unseen {
            // Whoever needs to know was refused (`validate::server_side`).
            Unseen::RootNamespace(Kind::Sidecar) => continue,
            Unseen::RootNamespace(Kind::DestinationRule) => {
                "DestinationRules of Istio's root namespace may not be read: whether one of them counts for some clients, or is hidden by ours, is not known; give the operator the right that deploy/ has for it"
            }
            Unseen::RootNamespace(Kind::VirtualService) => {
                "VirtualServices of Istio's root namespace may not be read: whether one of them has the routes of this host is not known; give the operator the right that deploy/ has for it"
            }
            Unseen::OtherNamespaces => {
                "the operator works in some namespaces only: DestinationRules, VirtualServices and ServiceEntries of others, by which their clients may get something else, and the labels of this namespace, which say whether its pods have sidecars, are not seen"
            }
            Unseen::GatewayRoutes(kind) => {
                all.say(None, Code::NotRead, format!("{kind}s may not be read: whether one of them has the routes of this target is not known; give the operator the right that deploy/ has for it"));
                continue;
            }
        };
        all.say(None, Code::NotRead, message.to_owned());
    }
}

fn rules(neighbours: &Neighbours, all: &mut Warnings) {
    for other in &neighbours.ignored_rules {
        all.say(
            None,
            Code::YoungerRuleIgnored,
            format!(
                "{other} is for the same host and younger: Istio ignores its traffic policy beside ours; delete it"
            ),
        );
    }
    let rules = &neighbours.rules;
    if !rules.others.is_empty() {
        let who = listed(rules.others.iter().map(|(clients, other)| format!("{clients} ({other})")));
        all.say(
            None,
            Code::RuleOfSomeClients,
            format!(
                "some clients get another rule for this host, with which Istio ends its search, so limits and ejection of this policy do not hold for them: {who}; delete those rules, or repeat the settings there"
            ),
        );
    }
    if !rules.none.is_empty() {
        let who = listed(rules.none.iter().map(|(clients, other)| format!("{clients} (by {other})")));
        all.say(
            None,
            Code::NoRuleForSomeClients,
            format!(
                "some clients get no rule at all for this host, since their namespace has one for other pods and Istio looks no further: {who}; limits and ejection of this policy do not hold for them; give that namespace a rule without workloadSelector that repeats them, or delete the one with it"
            ),
        );
    }
    for hidden in &rules.hidden {
        let lost = if hidden.lost.is_empty() { "nothing".to_owned() } else { hidden.lost.join(", ") };
        all.say(
            None,
            Code::HidesRule,
            format!(
                "{} is hidden by ours for {}, since Istio inherits nothing from it: lost for this host is its {lost}; declare here what of it should stay",
                hidden.rule, hidden.clients
            ),
        );
    }
}

fn routes(valid: &Valid, neighbours: &Neighbours, all: &mut Warnings) {
    let routes = &neighbours.routes;
    if let Some(other) = &routes.owner {
        let name = &other.name;
        let message = if other.is_gateway_api {
            format!(
                "{name} has the routes of this target, which go before those of a VirtualService: timeouts.request and retries are not generated; put them there"
            )
        } else {
            format!(
                "{name} has the host, and a proxy takes the routes of one VirtualService only: timeouts.request and retries are not generated; put them there"
            )
        };
        all.say(None, Code::RoutesOwnedByAnother, message);
    }
    for (other, gateway) in neighbours.gateways.iter().filter(|_| !valid.routes.is_empty()) {
        all.say(
            None,
            Code::GatewayRoutesApart,
            format!(
                "calls also come in through gateway {gateway} by {other}, where timeouts.request and retries of this policy do not act, unlike its limits and ejection; put them into the routes there"
            ),
        );
    }
    if !routes.others.is_empty() {
        let who = listed(routes.others.iter().map(|(clients, other)| format!("{clients} ({other})")));
        all.say(
            None,
            Code::RoutesOfSomeClients,
            format!(
                "some clients have other routes for this host, so timeouts.request and retries of this policy do not hold for them: {who}; put them there"
            ),
        );
    }
    for other in &routes.ignored {
        all.say(
            None,
            Code::YoungerRoutesIgnored,
            format!(
                "{other} has the host too and is younger: Istio ignores its routes beside ours; move what they should do, or delete it"
            ),
        );
    }
    if !neighbours.namesakes.is_empty() && !valid.routes.is_empty() {
        let who = listed(neighbours.namesakes.iter().map(|other| format!("ServiceEntry {other}")));
        all.say(
            None,
            Code::RoutesStayHome,
            format!(
                "the host is declared in other namespaces as well ({who}), and routes count wherever it is called: ours are exported to namespace {} alone, so timeouts.request and retries hold for its clients only; declare a host in one place, or a policy in each",
                valid.owner.namespace
            ),
        );
    }
    for other in &routes.hidden {
        all.say(
            None,
            Code::WildcardRoutesHidden,
            format!(
                "{other} covers the host by a wildcard: ours is for the host itself and hides its routes there; declare here what of them should stay"
            ),
        );
    }
}

/// A list that stays short enough to be read.
fn listed(items: impl ExactSizeIterator<Item = String>) -> String {
    let more = items.len().saturating_sub(NAMED);
    let named: Vec<String> = items.take(NAMED).collect();
    let named = named.join(", ");
    if more == 0 { named } else { format!("{named} and {more} more") }
}
