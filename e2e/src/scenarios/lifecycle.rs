//! Policies come, go, compete and are refused; the operator dies at the worst moment.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::stage::{SOON, on_stage, policy};
use crate::checkout::Checkout;
use crate::lab::Lab;
use crate::operator;
use crate::wait::Seen;

/// After the policy is deleted nothing of it is left, and nothing that is not its own goes with it.
///
/// # Errors
/// When something is left, or missing.
pub fn delete_restores(checkout: &Checkout) -> Result<()> {
    on_stage(checkout, "delete-restores", |stage| {
        let host = stage.host();
        let foreign = json!({
            "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
            "metadata": {"name": "someone-elses"},
            "spec": {"host": format!("not-{host}"), "trafficPolicy": {"connectionPool": {"tcp": {"maxConnections": 5}}}},
        });
        stage.kubectl.apply(&foreign.to_string())?;
        stage.policy(&json!({"limits": {"perClient": {"activeRequests": 10}}, "timeouts": {"request": "3s"}}))?;
        stage.generated("destinationrule")?;
        stage.generated("virtualservice")?;
        stage.kubectl.run(&["delete", "resilience", "httpbin"])?;
        stage.until_gone("virtualservice", "httpbin")?;
        stage.until_gone("destinationrule", "httpbin")?;
        stage.kubectl.run(&["get", "destinationrule", "someone-elses"]).context("a rule that is not ours is gone")?;
        Ok(())
    })
}

/// A policy with a fault that only the cluster shows is refused with the field's path; one beside it works.
/// What its last good version generated stays.
///
/// # Errors
/// When one of these is not so.
pub fn refused_beside_good(checkout: &Checkout) -> Result<()> {
    on_stage(checkout, "refused-beside-good", |stage| {
        let bytes = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "bytes"}, "spec": {"ports": [{"name": "tcp", "port": 9000}]}});
        stage.kubectl.apply(&bytes.to_string())?;
        stage.kubectl.apply(&policy("bytes", "bytes", &json!({"limits": {"perClient": {"connections": 7}}})))?;
        stage.until_condition("bytes", "Programmed", "True")?;
        let rule = stage.kubectl.json(&["get", "destinationrule", "bytes"])?;
        stage.kubectl.apply(&policy(
            "bytes",
            "bytes",
            &json!({"limits": {"perClient": {"connections": 8}}, "timeouts": {"request": "1s"}}),
        ))?;
        let refused = stage.until_condition("bytes", "Accepted", "False")?;
        let accepted = condition(&refused, "Accepted");
        ensure!(accepted["reason"] == "Invalid", "the reason should be Invalid: {accepted}");
        ensure!(
            accepted["message"].as_str().is_some_and(|text| text.contains("spec.timeouts.request")),
            "the message should name the field: {accepted}"
        );
        ensure!(
            condition(&refused, "Stalled")["status"] == "True",
            "waiting does not heal it, so Stalled should be True: {}",
            refused["status"]
        );
        stage.policy(&json!({"limits": {"perClient": {"activeRequests": 10}}}))?;
        let rule_after = stage.kubectl.json(&["get", "destinationrule", "bytes"])?;
        ensure!(
            rule["metadata"]["resourceVersion"] == rule_after["metadata"]["resourceVersion"],
            "what the last good version generated was touched: {rule_after}"
        );
        Ok(())
    })
}

/// Of two policies for one Service the older has it, the younger says so and takes over when the older goes.
///
/// # Errors
/// When one of these is not so.
pub fn two_for_one_service(checkout: &Checkout) -> Result<()> {
    on_stage(checkout, "two-for-one-service", |stage| {
        stage.policy(&json!({"limits": {"perClient": {"activeRequests": 11}}}))?;
        stage.apply_policy("later", &json!({"limits": {"perClient": {"activeRequests": 22}}}))?;
        let loser = stage.until_condition("later", "Accepted", "False")?;
        let accepted = condition(&loser, "Accepted");
        ensure!(accepted["reason"] == "Conflicted", "the reason should be Conflicted: {accepted}");
        ensure!(
            accepted["message"].as_str().is_some_and(|text| text.contains("httpbin")),
            "the message should name the winner: {accepted}"
        );
        stage.kubectl.run(&["delete", "resilience", "httpbin"])?;
        stage.until_condition("later", "Programmed", "True")?;
        stage.kubectl.until("the rule is the younger one's", SOON, |_| {
            let limit = stage
                .generated("destinationrule")?
                .pointer("/spec/trafficPolicy/connectionPool/http/http2MaxRequests")
                .cloned();
            Ok(if limit == Some(json!(22)) { Seen::Done(()) } else { Seen::NotYet(format!("{limit:?}")) })
        })
    })
}

/// A policy may come before its Service: it waits, and heals by itself.
///
/// # Errors
/// When it does not.
pub fn waits_for_its_service(checkout: &Checkout) -> Result<()> {
    on_stage(checkout, "waits-for-its-service", |stage| {
        stage.kubectl.apply(&policy("early", "late", &json!({"limits": {"perClient": {"activeRequests": 5}}})))?;
        let waiting = stage.until_condition("early", "Accepted", "False")?;
        ensure!(condition(&waiting, "Accepted")["reason"] == "TargetNotFound", "it should wait: {}", waiting["status"]);
        ensure!(condition(&waiting, "Stalled")["status"] == "False", "a wait is not Stalled: {}", waiting["status"]);
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "late"}, "spec": {"ports": [{"name": "http", "port": 80}]}});
        stage.kubectl.apply(&service.to_string())?;
        stage.until_condition("early", "Programmed", "True").map(drop)
    })
}

/// The operator has written the rule, cannot write the routes, and is killed; the next one ends right.
///
/// # Errors
/// When it does not.
pub fn killed_between_two_writes(checkout: &Checkout) -> Result<()> {
    let system = Lab::attach_to(checkout)?.namespace(operator::NAMESPACE);
    on_stage(checkout, "killed-between-writes", |stage| {
        let here = stage.kubectl.current_namespace();
        let wall = wall(here);
        stage.kubectl.apply(&wall)?;
        let walled = || {
            stage.kubectl.until("the API server takes no routes here", SOON, |kubectl| {
                let routes = json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "probe"},
                    "spec": {"hosts": ["probe.example"], "http": [{"route": [{"destination": {"host": "probe.example"}}]}]}});
                let answer = kubectl.try_apply(&routes.to_string())?;
                Ok(if answer.status.success() { Seen::NotYet("it does".to_owned()) } else { Seen::Done(()) })
            })
        };
        let played = walled().and_then(|()| {
            stage.apply_policy(
                "httpbin",
                &json!({"limits": {"perClient": {"activeRequests": 10}}, "timeouts": {"request": "3s"}}),
            )?;
            let stuck = stage.until_condition("httpbin", "Programmed", "False")?;
            stage.generated("destinationrule")?;
            ensure!(
                condition(&stuck, "Programmed")["message"].as_str().is_some_and(|text| text.contains("VirtualService")),
                "the message should name the object: {}",
                stuck["status"]
            );
            let absent =
                stage.kubectl.run(&["get", "virtualservice", "httpbin", "--ignore-not-found", "-o", "name"])?;
            ensure!(absent.trim().is_empty(), "the routes are there although the API server takes none");
            system.run(&[
                "delete",
                "pod",
                "-l",
                "app.kubernetes.io/name=resilience-operator",
                "--grace-period=0",
                "--force",
            ])
        });
        // It must fall whatever happened: it is not in this namespace.
        stage.kubectl.delete(&wall)?;
        played?;
        system.rolled_out("deployment", Duration::from_mins(2))?;
        stage.until_condition("httpbin", "Programmed", "True")?;
        stage.generated("destinationrule")?;
        stage.generated("virtualservice").map(drop)
    })
}

/// An admission policy that lets no VirtualService into a namespace.
fn wall(namespace: &str) -> String {
    let name = format!("no-routes-{namespace}");
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": name},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [{"apiGroups": ["networking.istio.io"], "apiVersions": ["*"], "operations": ["CREATE", "UPDATE"], "resources": ["virtualservices"]}]},
            "validations": [{"expression": "false", "message": "a scenario holds the routes back"}],
        },
    });
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}},
    });
    format!("{policy}\n---\n{binding}\n")
}

fn condition<'a>(object: &'a Value, kind: &str) -> &'a Value {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().find(|condition| condition["type"] == kind).unwrap_or(&Value::Null)
}
