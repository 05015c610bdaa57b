//! `status [NAME]`: what the policies say of themselves, and since when.

use std::{io::Write as _, process::ExitCode};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{Api, api::DynamicObject};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::{
    Io, Paint, Tone, all_told,
    live::{Connection, block_on},
    neighbours::resource,
    output::{Output, ago, columns},
};
use crate::{
    api::{ResilienceStatus, conditions},
    names,
};

/// Show the conditions of the policies of a namespace, and since when they are so.
///
/// A line for each policy; with NAME a line for each of its conditions, with its message. It is what the objects say: why a
/// value is in force tells explain, and why calls fail tells why.
///
/// Exit codes: 0 all are Ready, 1 one is not, or there is none of that name, 2 the question could not be answered (bad usage, no
/// cluster, no permission).
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A Resilience, as NAME or resilience/NAME [default: all of the namespace].
    #[arg(value_parser = policy_name)]
    name: Option<String>,
    #[command(flatten)]
    cluster: Connection,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// What the policies say of themselves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Whether all of them are Ready: exit code 0.
    pub ready: bool,
    /// By name.
    pub policies: Vec<PolicyLine>,
}

/// One policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyLine {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Kind and name of what it is for; empty: it names nothing.
    pub target: String,
    /// Whether the conditions speak of the spec as it is.
    pub current: bool,
    /// In the order of the object; empty: the operator has not looked at it yet.
    pub conditions: Vec<ConditionSince>,
    /// Codes of what is legal but will surprise.
    pub warnings: Vec<String>,
}

/// A condition, and since when it is so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConditionSince {
    /// Which one.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// One word.
    pub reason: String,
    /// For people.
    pub message: String,
    /// Since when its status is so.
    #[schemars(with = "String")]
    pub since: Timestamp,
}

fn policy_name(text: &str) -> Result<String, String> {
    let kinds = ["resilience/", "resiliences/", "rsl/"];
    let name = kinds.iter().find_map(|kind| text.strip_prefix(kind)).unwrap_or(text);
    if name.is_empty() || name.contains('/') {
        return Err("must be NAME or resilience/NAME".to_owned());
    }
    Ok(name.to_owned())
}

/// Prints it.
///
/// # Errors
/// If the cluster cannot be read, or standard output cannot be written to.
pub fn run(args: &Args, io: &mut Io) -> anyhow::Result<ExitCode> {
    block_on(async {
        let chosen = args.cluster.choose().await?;
        let (reader, namespace) = (&chosen.reader, &chosen.namespace);
        let kind = resource(names::API_VERSION, names::KIND, "resiliences");
        let objects = match &args.name {
            Some(name) => match reader.get(&kind, namespace, name).await {
                Ok(Some(object)) => vec![object],
                Ok(None) => {
                    io.error(&format!(
                        "there is no Resilience {name} in namespace {namespace}: -n says which namespace"
                    ));
                    return Ok(ExitCode::FAILURE);
                }
                Err(fault) => return all_told(&[fault], io).map(|()| ExitCode::from(2)),
            },
            None => match reader.all(Api::namespaced_with(reader.client.clone(), namespace, &kind)).await {
                Some(Ok(objects)) => objects,
                Some(Err(error)) => {
                    return all_told(&[reader.explain(&error, "resiliences", namespace)], io)
                        .map(|()| ExitCode::from(2));
                }
                None => return all_told(&[reader.silent()], io).map(|()| ExitCode::from(2)),
            },
        };
        let mut policies: Vec<PolicyLine> = objects.iter().map(policy).collect();
        policies.sort_by(|one, other| one.name.cmp(&other.name));
        let report = Report { ready: policies.iter().all(is_ready), policies };
        let (paint, now, alone) = (io.paint, Timestamp::now(), args.name.is_some());
        let text = args.output.text(&report, |report| text(report, namespace, alone, now, paint))?;
        io.out.write_all(text.as_bytes())?;
        Ok(if report.ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}

/// As leniently as a status of another version is read.
fn policy(object: &DynamicObject) -> PolicyLine {
    let status = object.data.get("status").cloned().unwrap_or_default();
    let status: ResilienceStatus = serde_json::from_value(status).unwrap_or_default();
    let target = object.data.pointer("/spec/targetRefs/0");
    let word = |field: &str| target.and_then(|target| target.get(field)).and_then(Value::as_str);
    PolicyLine {
        namespace: object.metadata.namespace.clone().unwrap_or_default(),
        name: object.metadata.name.clone().unwrap_or_default(),
        target: word("name").map(|name| format!("{} {name}", word("kind").unwrap_or("Service"))).unwrap_or_default(),
        current: status.observed_generation == object.metadata.generation,
        conditions: status.conditions.iter().map(condition).collect(),
        warnings: status.warnings.iter().map(|warning| warning.code.to_string()).collect(),
    }
}

fn condition(condition: &Condition) -> ConditionSince {
    ConditionSince {
        kind: condition.type_.clone(),
        status: condition.status.clone(),
        reason: condition.reason.clone(),
        message: condition.message.clone(),
        since: condition.last_transition_time.0,
    }
}

fn of<'a>(policy: &'a PolicyLine, kind: &str) -> Option<&'a ConditionSince> {
    policy.conditions.iter().find(|condition| condition.kind == kind)
}

/// A status of an earlier spec says nothing of this one.
fn is_ready(policy: &PolicyLine) -> bool {
    policy.current && of(policy, conditions::READY).is_some_and(|ready| ready.status == "True")
}

/// For people.
fn text(report: &Report, namespace: &str, alone: bool, now: Timestamp, paint: Paint) -> String {
    if report.policies.is_empty() {
        return format!("no Resilience in namespace {namespace}\n");
    }
    if alone { report.policies.iter().map(|policy| whole(policy, now, paint)).collect() } else { table(report, now) }
}

fn table(report: &Report, now: Timestamp) -> String {
    let head = ["NAME", "TARGET", "READY", "SINCE", "REASON", "INEFFECT", "WARNINGS"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for policy in &report.policies {
        let status = |kind: &str| of(policy, kind).map_or("Unknown", |condition| &condition.status).to_owned();
        let ready = of(policy, conditions::READY);
        let word = if policy.current { status(conditions::READY) } else { "not looked at".to_owned() };
        rows.push(vec![
            policy.name.clone(),
            policy.target.clone(),
            word,
            ready.map(|ready| ago(now, ready.since)).unwrap_or_default(),
            reason(policy).unwrap_or_default(),
            status(conditions::IN_EFFECT),
            policy.warnings.join(","),
        ]);
    }
    columns(0, &rows)
}

/// Why it is not ready, by the first condition that says so; else what Ready says.
fn reason(policy: &PolicyLine) -> Option<String> {
    let kinds = [conditions::ACCEPTED, conditions::PROGRAMMED, conditions::IN_EFFECT];
    let wrong = kinds.into_iter().filter_map(|kind| of(policy, kind)).find(|condition| condition.status == "False");
    wrong.or_else(|| of(policy, conditions::READY)).map(|condition| condition.reason.clone())
}

fn whole(policy: &PolicyLine, now: Timestamp, paint: Paint) -> String {
    if policy.conditions.is_empty() {
        return format!("Resilience {}/{}: the operator has not looked at it yet\n", policy.namespace, policy.name);
    }
    let stale = if policy.current { "" } else { ", of an earlier version of its spec" };
    let head = format!("Resilience {}/{} for {}{stale}\n", policy.namespace, policy.name, policy.target);
    let rows = policy.conditions.iter().map(|condition| {
        // Of all conditions Stalled alone is good news when it is False.
        let is_good = (condition.status == "True") != (condition.kind == conditions::STALLED);
        let tone = match condition.status.as_str() {
            "Unknown" => Tone::Warning,
            _ if is_good => Tone::Good,
            _ => Tone::Error,
        };
        vec![
            condition.kind.clone(),
            paint.word(tone, &condition.status),
            ago(now, condition.since),
            condition.reason.clone(),
            condition.message.clone(),
        ]
    });
    head + &columns(2, &rows.collect::<Vec<_>>())
}
