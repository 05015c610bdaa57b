//! After a fault has healed: the actual state becomes the desired one, stays so, and nothing else has changed.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::invariants::owner;
use super::plan::{self, NAMESPACES, Wishes};
use super::stage::{BYSTANDER, SOON, Stage, yaml};
use super::terms;
use crate::replicas;
use crate::run::{finish_with_input, tail};
use crate::wait::{self, Seen};

/// How long nothing may be written before the operator is at rest.
const REST: Duration = Duration::from_secs(6);

/// What became of a step.
#[derive(Debug, Clone, Copy)]
pub struct Settled {
    /// From the end of the fault until everything is as wanted.
    pub converged: Duration,
    /// Kilobytes that the largest replica holds.
    pub resident: u64,
}

/// Waits until everything is as the user wants it, and judges what there is then.
///
/// # Errors
/// Whatever is not right, all at once.
pub fn settle(stage: &Stage, limit: Duration) -> Result<Settled> {
    let begun = Instant::now();
    stage.apply_wishes()?;
    until_as_wanted(stage, limit)?;
    let wishes = stage.wishes();
    let converged = begun.elapsed();
    replicas::until_one_leads(&stage.lab, limit)?;
    rests(stage)?;
    let there = look(stage)?;
    let mut wrong = differences(&there, &wishes);
    wrong.extend(by_our_own_diff(stage)?);
    wrong.extend(stage.touched()?);
    wrong.extend(judged(stage)?);
    wrong.extend(died(stage)?);
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(Settled { converged, resident: resident(stage)? })
}

/// Waits until everything is as the user wants it.
///
/// # Errors
/// When it is not in time.
pub fn until_as_wanted(stage: &Stage, limit: Duration) -> Result<()> {
    wait::until("actual is desired", limit, || {
        let differences = match look(stage) {
            Ok(there) => differences(&there, &stage.wishes()),
            // The API server may need a moment.
            Err(error) => vec![format!("{error:#}")],
        };
        Ok(if differences.is_empty() { Seen::Done(()) } else { Seen::NotYet(differences.join("\n")) })
    })
}

/// What broke an invariant so far, at any moment.
///
/// # Errors
/// When the audit log cannot be read.
pub fn judged(stage: &Stage) -> Result<Vec<String>> {
    let mut wrong = stage.watcher.broken();
    wrong.extend(stage.with_log(|writes| {
        let mut wrong = terms::judge(writes, stage.since, &stage.stalls()).broken;
        let theirs = writes.iter().filter(|write| write.pod.is_some() && write.from >= stage.since);
        let touched = theirs.filter(|write| write.uri.contains(&format!("/{BYSTANDER}")));
        wrong.extend(touched.map(|write| format!("a write of what is of somebody else: {write}")));
        wrong
    })?);
    Ok(wrong)
}

/// Policies and what was generated, everywhere.
fn look(stage: &Stage) -> Result<Vec<Value>> {
    let kinds = "resiliences.resilience.dev,destinationrules.networking.istio.io,virtualservices.networking.istio.io";
    let list = stage.kubectl().json(&["get", kinds, "--all-namespaces"])?;
    let items = list["items"].as_array().cloned().unwrap_or_default();
    let here = |item: &Value| NAMESPACES.iter().any(|namespace| item["metadata"]["namespace"] == *namespace);
    Ok(items.into_iter().filter(here).collect())
}

/// What is not as it should be: judged without any code of the operator.
fn differences(there: &[Value], wishes: &Wishes) -> Vec<String> {
    let mut wrong = Vec::new();
    let find = |kind: &str, namespace: &str, name: &str| {
        there.iter().find(|object| {
            object["kind"] == kind && object["metadata"]["namespace"] == namespace && object["metadata"]["name"] == name
        })
    };
    let mut owners = BTreeMap::new();
    for (slot, wish) in wishes {
        let (namespace, name) = (plan::namespace(*slot), plan::name(*slot));
        let Some(policy) = find("Resilience", namespace, &name) else {
            wrong.push(format!("{namespace}/{name}: no policy"));
            continue;
        };
        let wanted = if wish.observe { "Accepted" } else { "Ready" };
        if !holds(policy, wanted) {
            wrong.push(format!("{namespace}/{name}: not {wanted}: {}", policy["status"]["conditions"]));
        }
        if !wish.observe {
            let uid = policy["metadata"]["uid"].as_str().unwrap_or_default();
            owners.insert((namespace.to_owned(), name.clone()), uid.to_owned());
            let limit = "/spec/trafficPolicy/connectionPool/http/http2MaxRequests";
            let timeout = format!("{}s", plan::seconds(wish.value));
            let rule = find("DestinationRule", namespace, &name).and_then(|rule| rule.pointer(limit));
            if rule.and_then(Value::as_u64) != Some(wish.value.into()) {
                wrong.push(format!("{namespace}/{name}: the rule should have {}: {rule:?}", wish.value));
            }
            let routes =
                find("VirtualService", namespace, &name).and_then(|routes| routes.pointer("/spec/http/0/timeout"));
            if routes.and_then(Value::as_str) != Some(timeout.as_str()) {
                wrong.push(format!("{namespace}/{name}: the routes should have {timeout}: {routes:?}"));
            }
        }
    }
    for object in there {
        let kind = object["kind"].as_str().unwrap_or_default();
        let metadata = &object["metadata"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (namespace, name) = (text(&metadata["namespace"]), text(&metadata["name"]));
        if kind == "Resilience" {
            if !wishes.keys().any(|slot| plan::namespace(*slot) == namespace && plan::name(*slot) == name) {
                wrong.push(format!("{namespace}/{name}: a policy that nobody wants"));
            }
        } else if name != BYSTANDER {
            let label = metadata["labels"]["resilience.dev/owner-uid"].as_str();
            match owners.get(&(namespace.clone(), name.clone())) {
                None => wrong.push(format!("{namespace}/{name}: an orphan: {kind}")),
                Some(uid) if owner(object) != Some(uid) || label != Some(uid) => {
                    wrong.push(format!("{namespace}/{name}: {kind} is not its policy's: {metadata}"));
                }
                Some(_) => {}
            }
        }
    }
    wrong
}

/// A condition that is True of the present spec.
fn holds(policy: &Value, kind: &str) -> bool {
    let conditions = policy["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|condition| {
        condition["type"] == kind
            && condition["status"] == "True"
            && condition["observedGeneration"] == policy["metadata"]["generation"]
    })
}

/// What our own `diff` says of the user's files against the cluster: nothing, and exit code 0.
fn by_our_own_diff(stage: &Stage) -> Result<Option<String>> {
    let files = yaml(plan::policies(&stage.wishes(), None));
    if files.is_empty() {
        return Ok(None);
    }
    let mut command = stage.kubectl().inside(stage.program.to_str().context("the path is no text")?)?;
    let answer = finish_with_input(command.args(["diff", "-f", "-"]), &files)?;
    Ok((answer.status.code() != Some(0))
        .then(|| format!("our own diff ends with {}:\n{}", answer.status, tail(&answer.all(), 30))))
}

/// Waits until nothing has been written for a while.
fn rests(stage: &Stage) -> Result<()> {
    wait::until_unchanged("the operator's writes", SOON, REST, || {
        stage.with_log(|writes| writes.iter().filter(|write| write.pod.is_some() && !write.is_about_leading()).count())
    })
    .map(drop)
}

/// Replicas that ended as none should: by a panic, or for want of memory.
fn died(stage: &Stage) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for pod in replicas::pods(&stage.lab)? {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let ended = &pod["status"]["containerStatuses"][0]["lastState"]["terminated"];
        // 0: told to; 2: its own decision, as that of a leader without a lease; 137: somebody's SIGKILL.
        let code = ended["exitCode"].as_i64();
        if ended["reason"] == "OOMKilled" || !matches!(code, None | Some(0 | 2 | 137)) {
            wrong.push(format!("{name} ended as none should: {ended}"));
        }
        let path = format!("/api/v1/namespaces/{}/pods/{name}:8080/proxy/metrics", crate::operator::NAMESPACE);
        let metrics = stage.kubectl().try_run(&["get", "--raw", &path])?;
        let panics = metrics.stdout.lines().find_map(|line| line.strip_prefix("resilience_operator_panics_total "));
        if panics.is_some_and(|panics| panics != "0") {
            wrong.push(format!("{name} has panicked {} times", panics.unwrap_or_default()));
        }
    }
    Ok(wrong)
}

/// Kilobytes that the largest replica holds, from the kernel.
fn resident(stage: &Stage) -> Result<u64> {
    let mut largest = None;
    for (_, pid) in replicas::processes(&stage.lab)? {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")).and_then(|text| text.trim().parse().ok());
        largest = largest.max(kilobytes);
    }
    match largest {
        Some(kilobytes) => Ok(kilobytes),
        None => bail!("no process of the operator was found"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::plan::Wish;
    use super::*;

    fn wishes() -> Wishes {
        [(0, Wish { value: 7, observe: false }), (1, Wish { value: 8, observe: true })].into()
    }

    fn there() -> Vec<Value> {
        let policy = |namespace: &str, name: &str, kind: &str| {
            json!({"kind": "Resilience", "metadata": {"namespace": namespace, "name": name, "uid": "u", "generation": 3},
                "status": {"conditions": [{"type": kind, "status": "True", "observedGeneration": 3}]}})
        };
        let metadata = json!({"namespace": "chaos-a", "name": "service-0", "labels": {"resilience.dev/owner-uid": "u"},
            "ownerReferences": [{"kind": "Resilience", "uid": "u"}]});
        let rule = json!({"kind": "DestinationRule", "metadata": metadata,
            "spec": {"trafficPolicy": {"connectionPool": {"http": {"http2MaxRequests": 7}}}}});
        let routes = json!({"kind": "VirtualService", "metadata": metadata, "spec": {"http": [{"timeout": "8s"}]}});
        let bystander = json!({"kind": "DestinationRule", "metadata": {"namespace": "chaos-a", "name": BYSTANDER}});
        vec![
            policy("chaos-a", "service-0", "Ready"),
            policy("chaos-b", "service-1", "Accepted"),
            rule,
            routes,
            bystander,
        ]
    }

    #[test]
    fn what_is_as_wanted_is_no_difference() {
        assert_eq!(differences(&there(), &wishes()), [""; 0]);
    }

    #[test]
    fn each_thing_that_is_not_as_wanted_is_told() {
        type Break = fn(&mut Vec<Value>);
        let cases: [(&str, Break); 8] = [
            ("no policy", |there| drop(there.remove(0))),
            ("not Ready", |there| there[0]["metadata"]["generation"] = json!(4)),
            ("not Accepted", |there| there[1]["status"]["conditions"][0]["status"] = json!("False")),
            ("the rule should have 7", |there| drop(there.remove(2))),
            ("the routes should have 8s", |there| there[3]["spec"]["http"][0]["timeout"] = json!("9s")),
            ("an orphan", |there| there[2]["metadata"]["name"] = json!("service-4")),
            ("not its policy's", |there| there[2]["metadata"]["ownerReferences"] = json!([])),
            ("nobody wants", |there| there[1]["metadata"]["name"] = json!("service-3")),
        ];
        for (words, damage) in cases {
            let mut there = there();
            damage(&mut there);
            let said = differences(&there, &wishes());
            assert!(said.iter().any(|line| line.contains(words)), "{words}: {said:?}");
        }
    }
}
