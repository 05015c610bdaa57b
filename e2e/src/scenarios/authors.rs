//! Who may write what: policies, where `deploy/admission-policy` is installed, and pods beside the operator.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::stage::{SOON, policy};
use crate::checkout::Checkout;
use crate::kubectl::Kubectl;
use crate::lab::Lab;
use crate::namespace::with_namespace;
use crate::operator;
use crate::run::{Finished, finish_with_input};
use crate::wait::Seen;

/// Only who may write what is generated writes a policy; who may not is told which right is missing.
///
/// # Errors
/// When one of these is not so.
pub fn need_the_rights(checkout: &Checkout) -> Result<()> {
    let lab = Lab::attach_to(checkout)?;
    ensure!(lab.has_operator(), "the lab is up without our operator: `cargo lab up` puts it there");
    let folder = checkout.root().join("deploy/admission-policy").display().to_string();
    with_namespace(&lab, "authors", |kubectl| {
        lab.kubectl().run(&["apply", "--server-side", "-k", &folder])?;
        let judged = judge(kubectl);
        // It is for the whole cluster.
        let gone = lab.kubectl().run(&["delete", "-k", &folder]);
        judged.and(gone.map(drop))
    })
}

/// Users, and what each may do beside writing policies.
fn people() -> String {
    let of = |user: &str, istio: &Value| {
        let mut rules = vec![
            json!({"apiGroups": ["resilience.dev"], "resources": ["resiliences"], "verbs": ["get", "create", "update", "patch"]}),
        ];
        rules.extend(istio.as_array().cloned().unwrap_or_default());
        let version = "rbac.authorization.k8s.io/v1";
        let role = json!({"apiVersion": version, "kind": "Role", "metadata": {"name": user}, "rules": rules});
        let binding = json!({"apiVersion": version, "kind": "RoleBinding", "metadata": {"name": user},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": user},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}]});
        format!("{role}\n---\n{binding}")
    };
    let may = |resources: &[&str], verbs: &[&str]| json!({"apiGroups": ["networking.istio.io"], "resources": resources, "verbs": verbs});
    [
        of("ann", &json!([])),
        of("ben", &json!([may(&["destinationrules"], &["create"])])),
        of("cleo", &json!([may(&["destinationrules", "virtualservices"], &["create"])])),
        of("dora", &json!([may(&["destinationrules", "virtualservices", "sidecars"], &["create", "patch"])])),
    ]
    .join("\n---\n")
}

fn write(kubectl: &Kubectl, user: &str, yaml: &str) -> Result<Finished> {
    let who = format!("--field-manager={user}");
    let mut command =
        kubectl.command(&["--as", user, "apply", "--server-side", "--force-conflicts", &who, "-f", "-"])?;
    finish_with_input(&mut command, yaml)
}

fn judge(kubectl: &Kubectl) -> Result<()> {
    kubectl.apply(&people())?;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "shop"},
        "spec": {"selector": {"app": "shop"}, "ports": [{"name": "http", "port": 80}]}});
    kubectl.apply(&service.to_string())?;
    let named = |name: &str, more: &Value| {
        let mut spec = json!({"limits": {"perClient": {"activeRequests": 5}}});
        spec.as_object_mut().into_iter().zip(more.as_object()).for_each(|(spec, more)| spec.extend(more.clone()));
        policy(name, "shop", &spec)
    };
    let plain = named("shop", &json!({}));
    let server = named("shop", &json!({"limits": {"perServer": {"mode": "Unlimited"}}}));
    let merged = named("shop", &json!({"coexistence": "Merge"}));
    let namespace = kubectl.current_namespace();
    let refused = |user: &str, yaml: &str, right: &str| -> Result<bool> {
        let answer = write(kubectl, user, yaml)?;
        let sentence = format!("{user} may not {right} of networking.istio.io in namespace {namespace}");
        ensure!(
            answer.status.success() || answer.all().contains(&sentence),
            "{user}: {sentence:?} is not said: {}",
            answer.all()
        );
        Ok(!answer.status.success())
    };
    // An admission policy that was just written acts a moment later.
    kubectl.until("ann may not create a policy", SOON, |kubectl| {
        if refused("ann", &plain, "create destinationrules")? {
            return Ok(Seen::Done(()));
        }
        kubectl.run(&["delete", "resilience", "--all"])?;
        Ok(Seen::NotYet("she may".to_owned()))
    })?;
    for (user, yaml, right) in [
        ("ben", &plain, "create virtualservices"),
        ("cleo", &server, "create sidecars"),
        ("cleo", &merged, "patch destinationrules"),
    ] {
        ensure!(refused(user, yaml, right)?, "{user} may write {yaml} without the right to {right}");
    }
    for (user, yaml) in [("cleo", &plain), ("dora", &server), ("dora", &merged), ("cleo", &plain)] {
        let answer = write(kubectl, user, yaml)?;
        ensure!(answer.status.success(), "{user} may not write {yaml}: {}", answer.all());
    }
    // Whoever may not create one may not change one either; a label is another matter.
    let edited = named("shop", &json!({"limits": {"perClient": {"activeRequests": 6}}}));
    ensure!(refused("ann", &edited, "create destinationrules")?, "ann may change what a policy says");
    kubectl.run(&["--as", "ann", "label", "resilience", "shop", "team=a"])?;
    // The operator itself, which writes status alone, is not held back.
    kubectl.until("the policy is programmed", SOON, |kubectl| {
        let policy = kubectl.json(&["get", "resilience", "shop"])?;
        let conditions = policy["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let is_so = conditions.iter().any(|one| {
            one["type"] == "Programmed"
                && one["status"] == "True"
                && one["observedGeneration"] == policy["metadata"]["generation"]
        });
        Ok(if is_so { Seen::Done(()) } else { Seen::NotYet(policy["status"].to_string()) })
    })
}

/// The operator's own pod is one that its namespace admits, and whatever is worse in one way is not.
///
/// # Errors
/// When one of these is not so.
pub fn pods_beside_the_operator_are_restricted(checkout: &Checkout) -> Result<()> {
    let lab = Lab::attach_to(checkout)?;
    ensure!(lab.has_operator(), "the lab is up without our operator: `cargo lab up` puts it there");
    let system = lab.namespace(operator::NAMESPACE);
    let deployment = system.json(&["get", "deployment", "resilience-operator"])?;
    let pod = |change: &dyn Fn(&mut Value)| {
        let mut spec = deployment["spec"]["template"]["spec"].clone();
        change(&mut spec);
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "another"}, "spec": spec}).to_string()
    };
    let create = |yaml: &str| finish_with_input(&mut system.command(&["create", "--dry-run=server", "-f", "-"])?, yaml);
    let as_it_is = create(&pod(&|_| ()))?;
    ensure!(as_it_is.status.success(), "the operator's own pod is refused: {}", as_it_is.all());
    let worse: [(&str, Change); 7] = [
        ("runs as root", |spec| {
            spec["securityContext"] = json!({"runAsUser": 0, "seccompProfile": {"type": "RuntimeDefault"}});
        }),
        ("may gain privileges", |spec| of_container(spec, "allowPrivilegeEscalation", json!(true))),
        ("keeps capabilities", |spec| of_container(spec, "capabilities", json!({}))),
        ("is privileged", |spec| {
            // Which Kubernetes takes only together.
            of_container(spec, "allowPrivilegeEscalation", json!(true));
            of_container(spec, "privileged", json!(true));
        }),
        ("has no seccomp profile", |spec| {
            spec["securityContext"] = json!({"runAsNonRoot": true, "runAsUser": 65532});
        }),
        ("has the node's network", |spec| spec["hostNetwork"] = json!(true)),
        ("has the node's files", |spec| spec["volumes"] = json!([{"name": "node", "hostPath": {"path": "/"}}])),
    ];
    for (what, change) in worse {
        let answer = create(&pod(&change))?;
        let by_standard = answer.all().contains("violates PodSecurity \"restricted");
        ensure!(
            !answer.status.success() && by_standard,
            "a pod that {what} is admitted, or refused for another reason: {}",
            answer.all()
        );
    }
    Ok(())
}

/// What is worse about a pod.
type Change = fn(&mut Value);

fn of_container(spec: &mut Value, field: &str, value: Value) {
    spec["containers"][0]["securityContext"][field] = value;
}
