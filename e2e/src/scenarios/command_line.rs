//! `diff` and `explain` against a real cluster: they say what the operator then does, and see what it has
//! not undone.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::stage::{SOON, Stage, on_stage, policy};
use crate::checkout::Checkout;
use crate::operator;
use crate::report::Report;
use crate::run::{Finished, finish_with_input};
use crate::wait::Seen;

/// Before, after, and with drift that nobody undoes.
///
/// # Errors
/// When the command line and the cluster do not agree.
pub fn tells(checkout: &Checkout) -> Result<()> {
    // The same file that the operator's image holds.
    let program = operator::build(checkout, &Report::new())?;
    on_stage(checkout, "command-line", |stage| {
        let cli = Cli { stage, program: &program };
        let mut spec = json!({
            "limits": {"perClient": {"activeRequests": 100}},
            "ejection": {"consecutive5xx": 5},
            "timeouts": {"request": "5s"},
        });
        let bare = cli.json(0, &["explain", "httpbin"], "")?;
        ensure!(bare["policy"].is_null() && bare["valuesAre"] == "Unset", "it has no policy yet: {bare}");

        let file = policy("httpbin", "httpbin", &spec);
        let new = cli.run(1, &["diff", "-f", "-"], &file)?.stdout;
        ensure!(new.contains("http2MaxRequests: 100"), "the rule that would come is not shown:\n{new}");
        ensure!(actions(&cli.json(1, &["diff", "-f", "-"], &file)?) == CREATED, "it would be created:\n{new}");
        stage.policy(&spec)?;
        cli.run(0, &["diff", "-f", "-"], &file)?;
        let held = cli.json(0, &["explain", "svc/httpbin"], "")?;
        ensure!(held["valuesAre"] == "Held", "the API server holds it: {held}");
        said_by_status(stage, &held)?;

        spec["limits"]["perClient"]["activeRequests"] = json!(50);
        let changed = policy("httpbin", "httpbin", &spec);
        let report = cli.json(1, &["diff", "-f", "-"], &changed)?;
        ensure!(actions(&report) == ["Update Resilience", "Update DestinationRule"], "one field changes: {report}");
        drifts(&cli, &mut spec)?;
        unreachable(checkout, &cli)
    })
}

const CREATED: [&str; 3] = ["Create Resilience", "Create DestinationRule", "Create VirtualService"];

struct Cli<'a> {
    stage: &'a Stage<'a>,
    program: &'a Path,
}

impl Cli<'_> {
    /// Runs our program in the lab; it must end so.
    fn run(&self, code: i32, args: &[&str], input: &str) -> Result<Finished> {
        let kubectl = self.stage.kubectl;
        let mut command = kubectl.inside(self.program.to_str().context("the path is no text")?)?;
        command.args(args).args(["--namespace", kubectl.current_namespace()]);
        let finished = finish_with_input(&mut command, input)?;
        ensure!(
            finished.status.code() == Some(code),
            "{args:?} should end with {code}, not {}:\n{}",
            finished.status,
            finished.all()
        );
        Ok(finished)
    }

    fn json(&self, code: i32, args: &[&str], input: &str) -> Result<Value> {
        let text = self.run(code, &[args, &["-o", "json"]].concat(), input)?.stdout;
        serde_json::from_str(&text).with_context(|| format!("{args:?} printed no JSON: {text}"))
    }
}

fn actions(report: &Value) -> Vec<String> {
    let objects = report.pointer("/resiliences/0/objects").and_then(Value::as_array);
    let word = |object: &Value| {
        format!("{} {}", object["action"].as_str().unwrap_or_default(), object["kind"].as_str().unwrap_or_default())
    };
    objects.into_iter().flatten().map(word).collect()
}

/// Every value of the status is on the page, with the same origin, and so is every warning.
fn said_by_status(stage: &Stage<'_>, page: &Value) -> Result<()> {
    let object = stage.kubectl.json(&["get", "resilience", "httpbin"])?;
    let effective = object.pointer("/status/effective").and_then(Value::as_array).cloned().unwrap_or_default();
    ensure!(!effective.is_empty(), "the status tells no value: {object}");
    for value in &effective {
        let there = page["values"].as_array().into_iter().flatten().any(|line| {
            line["path"] == value["path"] && line["value"] == value["value"] && line["origin"] == value["origin"]
        });
        ensure!(there, "{value} of the status is not on the page: {page}");
    }
    let codes = |list: &Value| -> Vec<String> {
        list.as_array().into_iter().flatten().map(|warning| warning["code"].to_string()).collect()
    };
    let (said, told) = (codes(&object["status"]["warnings"]), codes(&page["warnings"]));
    ensure!(said == told, "the status warns of {said:?}, the page of {told:?}");
    Ok(())
}

/// With mode Suspend drift stays, and the page shows the field.
fn drifts(cli: &Cli<'_>, spec: &mut Value) -> Result<()> {
    let Cli { stage, program: _ } = cli;
    spec["limits"]["perClient"]["activeRequests"] = json!(100);
    spec["mode"] = json!("Suspend");
    stage.policy(spec)?;
    let patch = json!({"spec": {"trafficPolicy": {"connectionPool": {"http": {"http2MaxRequests": 7}}}}});
    stage.kubectl.run(&["patch", "destinationrule", "httpbin", "--type=merge", "-p", &patch.to_string()])?;
    let page = cli.json(0, &["explain", "httpbin"], "")?;
    let rule = &page["generated"][0];
    ensure!(rule["state"] == "Drifted" && page["valuesAre"] == "Wanted", "the rule has drifted: {page}");
    let change = &rule["changes"][0];
    ensure!(change["before"] == 7 && change["after"] == 100, "7 should be 100: {change}");
    let text = cli.run(0, &["explain", "httpbin"], "")?.stdout;
    ensure!(text.contains("http2MaxRequests: 7, should be 100"), "the page does not show the field:\n{text}");
    // The operator sees the same, and says it as soon as it does.
    stage.until_condition("httpbin", "Programmed", "False")?;
    spec["mode"] = json!("Enforce");
    stage.policy(spec)?;
    stage.kubectl.until("nothing differs again", SOON, |_| {
        let file = policy("httpbin", "httpbin", spec);
        Ok(match cli.run(0, &["diff", "-f", "-"], &file) {
            Ok(_) => Seen::Done(()),
            Err(error) => Seen::NotYet(format!("{error:#}")),
        })
    })
}

/// A cluster that is not there is no answer.
fn unreachable(checkout: &Checkout, cli: &Cli<'_>) -> Result<()> {
    let nowhere = checkout.state().join("nowhere.yaml");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    });
    fs::write(&nowhere, config.to_string()).with_context(|| format!("{} cannot be written", nowhere.display()))?;
    let path = nowhere.display().to_string();
    let said = cli.run(2, &["explain", "httpbin", "--kubeconfig", &path], "")?;
    fs::remove_file(&nowhere)?;
    ensure!(said.stderr.contains("cannot be reached") && said.stdout.is_empty(), "{}", said.all());
    Ok(())
}
