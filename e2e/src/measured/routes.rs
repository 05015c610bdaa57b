//! Which of several VirtualServices and `HTTPRoutes` a client gets, and what shapes of one do.

mod gateway_api;
mod precedence;
mod shape;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::routes_stage::{PORT, Stage};
use super::{Claim, Family, Judge, listed};
use crate::checkout::Checkout;
use crate::fortio::load;
use crate::kubectl::Kubectl;
use crate::lab::Lab;
use crate::namespace::with_namespace;
use crate::wait::Seen;

/// A service's namespace, a client's, and one that has neither.
struct Routes {
    stage: Stage,
    third: Kubectl,
}

const CLAIMS: &[Claim<Routes>] = &[
    Claim {
        ids: &["M33"],
        says: "of two VirtualServices in one namespace the oldest has the host, whole; made anew it is the youngest",
        judge: precedence::same_namespace,
    },
    Claim {
        ids: &["M34"],
        says: "of two public ones the oldest has the host for every client, also from a client's namespace",
        judge: precedence::both_public,
    },
    Claim {
        ids: &["M35"],
        says: "one that is private to the client's namespace wins there, though younger",
        judge: precedence::private,
    },
    Claim {
        ids: &["M36"],
        says: "one exported by name to a namespace wins there, also over the service's owner, though younger",
        judge: precedence::by_name,
    },
    Claim {
        ids: &["M37"],
        says: "one in a namespace of neither client nor service takes part by its age",
        judge: precedence::third,
    },
    Claim {
        ids: &["M42"],
        says: "with match.port a VirtualService acts on that port only",
        judge: shape::matched_port,
    },
    Claim {
        ids: &["M43"],
        says: "one destination port without match.port misroutes every other port",
        judge: shape::fixed_destination,
    },
    Claim {
        ids: &["M44"],
        says: "without any port, and with a route for each, every port goes to its own",
        judge: shape::every_port_its_own,
    },
    Claim {
        ids: &["M45"],
        says: "what no route matches is 404, on the port that has routes",
        judge: shape::no_catch_all,
    },
    Claim { ids: &["M46"], says: "methods can be told apart, exactly and by expression", judge: shape::by_method },
    Claim {
        ids: &["M47"],
        says: "a route to a subset that no DestinationRule has is 503",
        judge: shape::subset_without_rule,
    },
];

/// With the CRDs of the Gateway API in the cluster.
const WITH_GATEWAY_API: &[Claim<Routes>] = &[
    Claim {
        ids: &["M38"],
        says: "a client in an HTTPRoute's namespace has it before any VirtualService; one elsewhere has the oldest",
        judge: gateway_api::beside_virtual_service,
    },
    Claim {
        ids: &["M39"],
        says: "an HTTPRoute in a client's namespace is that client's alone",
        judge: gateway_api::of_the_consumer,
    },
    Claim {
        ids: &["M40"],
        says: "in its own namespace a client has a private VirtualService before a producer's HTTPRoute, a public one if it is older",
        judge: gateway_api::against_the_consumers,
    },
    Claim {
        ids: &["M41"],
        says: "an HTTPRoute that has lost is Accepted all the same",
        judge: gateway_api::status_tells_nothing,
    },
];

/// The family.
pub(super) const FAMILY: Family =
    Family { name: "routes", claims: || [listed(CLAIMS), listed(WITH_GATEWAY_API)].concat(), play };

fn play(checkout: &Checkout, judge: &mut Judge<'_>) -> Result<()> {
    let lab = Lab::attach_to(checkout)?;
    with_namespace(&lab, "measured-routes", |kubectl| {
        with_namespace(&lab, "measured-routes-client", |away| {
            with_namespace(&lab, "measured-routes-third", |third| {
                let stage = Stage::set(checkout, kubectl, Some(away))?;
                let mut routes = Routes { stage, third: third.clone() };
                judge.all(&routes, CLAIMS, Routes::sweep);
                if !WITH_GATEWAY_API.iter().any(|claim| judge.wants(claim.ids)) {
                    return Ok(());
                }
                gateway_api::with_crds(checkout, lab.kubectl(), &mut routes, |routes| {
                    judge.all(routes, WITH_GATEWAY_API, Routes::sweep);
                    Ok(())
                })
            })
        })
    })
}

impl Routes {
    fn sweep(&self) -> Result<()> {
        self.third.run(&["delete", "virtualservices", "--all", "--wait"])?;
        self.stage.sweep()
    }

    /// Writes a VirtualService for `httpbin` that answers every call with `status`. It is younger than all
    /// before it: ages are counted in whole seconds, and of equals the name decides.
    fn answering(&self, kubectl: &Kubectl, name: &str, status: i32, export_to: &[&str]) -> Result<Age> {
        let fault = json!({"abort": {"httpStatus": status, "percentage": {"value": 100}}});
        let http = json!([{"fault": fault, "route": self.stage.to("httpbin")}]);
        let mut object = self.stage.virtual_service(name, "httpbin", &http);
        if !export_to.is_empty() {
            object["spec"]["exportTo"] = json!(export_to);
        }
        write_younger(kubectl, &object)
    }

    /// Waits until both clients have what was written, and judges what each of them is answered.
    fn expect(&self, beside: i32, away: i32) -> Result<()> {
        self.stage.settle()?;
        let url = self.stage.url("httpbin", PORT, "/get");
        let one = load(&self.stage.kubectl, &url, 1, 5)?;
        let other = load(self.stage.away()?, &url, 1, 5)?;
        ensure!(
            one.status(beside) == 5 && other.status(away) == 5,
            "the client beside the service was answered {one:?}, not {beside}; the other {other:?}, not {away}"
        );
        Ok(())
    }
}

/// When an object was made, in whole seconds.
type Age = String;

/// Writes an object once the API server's clock has passed the second in which anything before was written.
fn write_younger(kubectl: &Kubectl, object: &Value) -> Result<Age> {
    let text = object.to_string();
    let age = |args: &[&str]| -> Result<Age> {
        let args = [&["create"], args, &["-f", "-", "-o", "jsonpath={.metadata.creationTimestamp}"]].concat();
        crate::run::check_with_input(&mut kubectl.command(&args)?, &text)
    };
    let earlier = age(&["--dry-run=server"])?;
    kubectl.until("another second begins", super::routes_stage::SOON, |_| {
        let now = age(&["--dry-run=server"])?;
        Ok(if now > earlier { Seen::Done(()) } else { Seen::NotYet(now) })
    })?;
    age(&[])
}

#[cfg(test)]
mod tests {
    use super::super::routes_stage::each_is_claimed_once;

    #[test]
    fn each_measurement_of_routes_is_claimed_once() {
        each_is_claimed_once(&super::FAMILY, 33..=47);
    }
}
