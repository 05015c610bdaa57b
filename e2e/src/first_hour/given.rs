//! What a reader of the pages has and the lab does not give as such, and what was done before a block begins.

use std::fs;

use anyhow::{Context, Result};

use super::pages::{Act, Step};
use super::place::Place;
use crate::cache::Cache;
use crate::cluster::Cluster;
use crate::image::Image;
use crate::lab::Lab;
use crate::operator;
use crate::parts::Parts;
use crate::report::Report;
use crate::workloads;

/// One such thing.
pub(super) struct Given {
    pub(super) page: &'static str,
    /// How the first command of the block begins, before which it is made so.
    pub(super) before: &'static str,
    /// In words.
    pub(super) what: &'static str,
    pub(super) make: fn(&Place, &Report) -> Result<()>,
}

impl Given {
    /// Whether it is made so before this step.
    pub(super) fn is_before(&self, step: &Step) -> bool {
        step.page == self.page && step.is_first && matches!(&step.act, Act::Run(line) if line.starts_with(self.before))
    }
}

/// What is given before this step, in order.
pub(super) fn before(step: &Step) -> impl Iterator<Item = &'static Given> {
    GIVEN.iter().filter(move |given| given.is_before(step))
}

/// The image as the README tells to build and push it.
const PUSHED: &str = concat!("registry.example/resilience-operator:", env!("CARGO_PKG_VERSION"));

pub(super) const GIVEN: &[Given] = &[
    Given {
        page: "README.md",
        before: "mkdir mine && cd mine && kustomize create",
        what: "a cluster of one's own with Istio: a lab without the operator",
        make: |place, _| {
            place.must_run("cargo lab down")?;
            place.must_run("cargo lab up --without-operator")
        },
    },
    Given {
        page: "README.md",
        before: "mkdir mine && cd mine && kustomize create",
        what: "the image where nodes can pull it, as docker build and docker push would have put it",
        make: image,
    },
    Given {
        page: "README.md",
        before: "kubectl apply -f deploy/namespace.yaml",
        what: "that cluster without the operator, since Helm is the other way",
        make: |place, _| place.must_run("kubectl delete -k mine/"),
    },
    Given {
        page: "README.md",
        before: "kubectl apply -n shop",
        what: "a namespace shop with httpbin in it, behind a sidecar",
        make: |place, _| {
            let lab = Lab::attach_to(place.checkout())?;
            let namespace =
                "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {istio-injection: enabled}}\n";
            lab.kubectl().apply(namespace)?;
            workloads::start_in(place.checkout(), &lab.namespace("shop"))
        },
    },
    Given {
        page: "README.md",
        before: "resilience-operator validate",
        what: "the command line on PATH, as cargo builds it, also as kubectl-resilience",
        make: |place, _| place.must_run("cargo build"),
    },
    Given {
        page: "README.md",
        before: "kubectl resilience diff",
        what: "a policy for httpbin in resilience-demo, which is the context's namespace, and a changed one in shop.yaml",
        make: |place, _| {
            place.must_run("kubectl config set-context --current --namespace=resilience-demo")?;
            let shop = place.root().join("shop.yaml");
            let write = |limit| {
                fs::write(&shop, policy(limit)).with_context(|| format!("{} cannot be written", shop.display()))
            };
            write(100)?;
            place.must_run("kubectl apply -f shop.yaml")?;
            place.must_run("kubectl wait --for=condition=Ready resilience/httpbin --timeout=1m")?;
            write(200)
        },
    },
    Given {
        page: "docs/tutorial.md",
        before: "cargo lab doctor",
        what: "a machine without a lab",
        make: |place, _| place.must_run("cargo lab down"),
    },
];

/// The policy that the README changes and explains.
fn policy(active_requests: u32) -> String {
    format!(
        "apiVersion: resilience.dev/v1alpha1\nkind: Resilience\nmetadata: {{name: httpbin}}\nspec:\n  targetRefs:\n  - \
         {{kind: Service, name: httpbin}}\n  limits:\n    perClient: {{pendingRequests: 50, activeRequests: \
         {active_requests}}}\n  ejection: {{consecutive5xx: 5}}\n"
    )
}

/// The operator that the clone built for its lab, under the name that the README gives it, on the lab's node.
fn image(place: &Place, report: &Report) -> Result<()> {
    let checkout = place.checkout();
    let binary = operator::build(checkout, report)?;
    let tar = checkout.state().join("pushed.tar");
    Image::new(PUSHED, &["/resilience-operator"], operator::USER).file("resilience-operator", binary).write(&tar)?;
    let lab = Lab::attach_to(checkout)?;
    let parts = Parts::get(checkout, &Cache::open()?, false, report)?;
    Cluster::new(checkout, lab.sandbox(), &parts).import(&tar)
}
