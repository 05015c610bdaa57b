//! `deploy/monitoring` before its judges: promtool for what can be judged without a mesh, and a Prometheus that
//! watches one incident, whose every answer is held beside what the client's own Envoy has counted.

mod beyond;
mod dashboard;
mod moment;
mod picture;
mod watch;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::in_effect;
use super::incident::{self, Act};
use super::stage::{SOON, Stage};
use crate::checkout::Checkout;
use crate::cluster::manifest;
use crate::lab::Lab;
use crate::operator;
use crate::prometheus::{Programs, Prometheus, Target, get, hasty, promtool};
use crate::report::Report;
use crate::run::finish_with_input;
use crate::wait::Seen;
use crate::workloads::with_images;
use dashboard::Dashboard;
use watch::Watch;

/// Where the picture of the incident is put, if anywhere: `RESILIENCE_LAB_PICTURES=FOLDER`.
const PICTURES: &str = "RESILIENCE_LAB_PICTURES";

/// Rules are legal, make of given counters what their tests say, and every metric of the operator follows the
/// conventions, as it is served.
///
/// # Errors
/// What promtool says.
pub fn stands_before_promtool(checkout: &Checkout) -> Result<()> {
    let lab = Lab::attach_to(checkout)?;
    ensure!(lab.has_operator(), "the lab is up without our operator: `cargo lab up` puts it there");
    let programs = Programs::get(checkout, &Report::new())?;
    let root = checkout.root();
    promtool(&programs, root, &["check", "rules", "--lint=all", "--lint-fatal", "deploy/monitoring/rules.yaml"])?;
    let mut tests: Vec<String> = Vec::new();
    for entry in fs::read_dir(root.join("tests/monitoring"))? {
        tests.push(entry?.path().display().to_string());
    }
    ensure!(tests.len() >= 3, "tests/monitoring holds only {tests:?}");
    let mut args = vec!["test", "rules"];
    args.extend(tests.iter().map(String::as_str));
    promtool(&programs, root, &args)?;
    conventional(&lab, &programs, &operators(&lab, &[METRICS])?)
}

/// What promtool says of names, types and units, as it is served to who asks for nothing in particular.
fn conventional(lab: &Lab, programs: &Programs, served: &[Target]) -> Result<()> {
    for target in served {
        let url = format!("http://{}{}", target.address, target.path);
        let text = get(lab, &url)?;
        ensure!(text.contains("# TYPE resilience_"), "{url} tells no metric of ours:\n{text}");
        let said = finish_with_input(programs.promtool().args(["check", "metrics"]), &text)?;
        ensure!(said.status.success() && said.all().trim().is_empty(), "promtool of {url}: {}", said.all());
    }
    Ok(())
}

/// In each act of the incident, and beyond it, rules, alerts and every query of the dashboard say what the client's
/// Envoy has counted; every alert fires, and is over when what it is about is over.
///
/// # Errors
/// When one does not.
pub fn tells_the_incident(checkout: &Checkout) -> Result<()> {
    let lab = Lab::attach_to(checkout)?;
    ensure!(lab.has_operator(), "the lab is up without our operator: `cargo lab up` puts it there");
    let programs = Programs::get(checkout, &Report::new())?;
    let folder = checkout.root().join("deploy/monitoring");
    let read =
        |name: &str| fs::read_to_string(folder.join(name)).with_context(|| format!("deploy/monitoring has no {name}"));
    let (rules, dashboard) = (read("rules.yaml")?, Dashboard::read(&read("dashboard.json")?)?);
    let prometheus = Prometheus::start(&lab, &programs, &hasty(&rules)?)?;
    let watched = opted_in(checkout, &lab).and_then(|()| play(checkout, &lab, &prometheus, &dashboard, &programs));
    // Whatever happened.
    let back = in_effect::take_away(checkout, &lab);
    watched.and(back)
}

/// The operator as somebody has it who opted in to all that can be watched.
fn opted_in(checkout: &Checkout, lab: &Lab) -> Result<()> {
    let overlay = checkout.state().join("monitoring");
    fs::create_dir_all(&overlay)?;
    // From target/lab/state/monitoring.
    let root = "../../../..";
    let text = format!(
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [{root}/deploy]\n\
         components: [{root}/deploy/limit-metrics, {root}/deploy/in-effect]\n"
    );
    fs::write(overlay.join("kustomization.yaml"), text)?;
    in_effect::deploy(lab, &overlay.display().to_string())
}

fn play(
    checkout: &Checkout,
    lab: &Lab,
    prometheus: &Prometheus,
    dashboard: &Dashboard,
    programs: &Programs,
) -> Result<()> {
    // Before it counts anything for the incident.
    prometheus.scrape(&operators(lab, &[METRICS, LIMITS])?)?;
    let least = least_matcher(&fs::read_to_string(checkout.root().join("docs/monitoring.md"))?)?;
    let prepare = |stage: &Stage<'_>| {
        add_quiet(checkout, stage)?;
        exports_only(stage, &least)
    };
    let mut story = picture::Story::default();
    incident::play_after(checkout, "monitoring", prepare, |act, stage| {
        let watch = Watch { lab, prometheus, dashboard, stage };
        let moment = match act {
            Act::Calm => moment::CALM,
            Act::Overload => moment::OVERLOAD,
            Act::FailingEndpoint => moment::FAILING_ENDPOINT,
            Act::Recovery => moment::RECOVERY,
        };
        story.begins(moment.name);
        if act == Act::Calm {
            // Now there is a policy to tell of.
            conventional(lab, programs, &operators(lab, &[METRICS, LIMITS])?)?;
            beyond::trouble(&watch)?;
        }
        watch.look(&moment)?;
        watch.counters(act)?;
        if act == Act::Recovery {
            story.ends(&watch)?;
            beyond::play(checkout, &watch)?;
        }
        Ok(())
    })?;
    if let Some(folder) = std::env::var_os(PICTURES).map(PathBuf::from) {
        story.draw(&folder.join("incident.svg"))?;
    }
    Ok(())
}

/// A client whose proxy tells nothing of its breakers, as by default.
fn add_quiet(checkout: &Checkout, stage: &Stage<'_>) -> Result<()> {
    let clients = with_images(&manifest(checkout, "measured-clients.yaml")?);
    let quiet = clients.split("\n---\n").find(|document| document.contains("name: quiet,"));
    stage.kubectl.apply(quiet.context("measured-clients.yaml has no quiet client")?).map(drop)
}

/// The expression that the documentation gives for `proxyStatsMatcher`.
fn least_matcher(page: &str) -> Result<String> {
    let mut lines = page.lines().map(str::trim).skip_while(|line| *line != "inclusionRegexps:");
    let expression = lines.nth(1).and_then(|line| line.strip_prefix("- "));
    expression.map(str::to_owned).context("docs/monitoring.md has no inclusionRegexps with an expression")
}

/// The client's proxy exports what the documentation calls the least, and nothing else of its clusters.
fn exports_only(stage: &Stage<'_>, expression: &str) -> Result<()> {
    let annotations = json!({
        "sidecar.istio.io/statsInclusionPrefixes": null,
        "sidecar.istio.io/statsInclusionRegexps": expression,
    });
    let patch = json!({"spec": {"template": {"metadata": {"annotations": annotations}}}}).to_string();
    stage.kubectl.run(&["patch", "deployment", "fortio", "--type=merge", "-p", &patch])?;
    stage.kubectl.rolled_out("deployment/fortio", SOON)?;
    // `exec` takes any pod of the Deployment, also one that is on its way out.
    stage.kubectl.until("only the new client is left", SOON, |kubectl| {
        let pods = kubectl.run(&["get", "pods", "-l", "app=fortio", "-o", "name"])?;
        Ok(if pods.lines().count() == 1 { Seen::Done(()) } else { Seen::NotYet(pods) })
    })
}

/// The proxies of the stage, each at its own port for that.
fn proxies(stage: &Stage<'_>) -> Result<Vec<Target>> {
    pods(&stage.kubectl.json(&["get", "pods", "--field-selector=status.phase=Running"])?, |ip| {
        vec![("proxies", "/stats/prometheus", format!("{ip}:15090"))]
    })
}

/// What the operator serves, by job and path.
const METRICS: (&str, &str) = ("operator", "/metrics");
const LIMITS: (&str, &str) = ("policies", "/metrics/policies");

fn operators(lab: &Lab, paths: &[(&'static str, &'static str)]) -> Result<Vec<Target>> {
    let list = lab.namespace(operator::NAMESPACE).json(&[
        "get",
        "pods",
        "-l",
        "app.kubernetes.io/name=resilience-operator",
        "--field-selector=status.phase=Running",
    ])?;
    let targets = pods(&list, |ip| paths.iter().map(|(job, path)| (*job, *path, format!("{ip}:8080"))).collect())?;
    ensure!(!targets.is_empty(), "no pod of the operator runs");
    Ok(targets)
}

fn pods(list: &Value, of: impl Fn(&str) -> Vec<(&'static str, &'static str, String)>) -> Result<Vec<Target>> {
    let items = list["items"].as_array().context("kubectl lists no pods")?;
    // Those that are going still run.
    let living = items.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let targets = living.filter_map(|pod| Some((pod, pod["status"]["podIP"].as_str()?))).flat_map(|(pod, ip)| {
        of(ip).into_iter().map(|(job, path, address)| Target {
            job,
            path,
            address,
            namespace: text(&pod["metadata"]["namespace"]),
            pod: text(&pod["metadata"]["name"]),
        })
    });
    Ok(targets.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_matcher_is_found_and_its_absence_is_a_fault() {
        assert_eq!(least_matcher("a\n  inclusionRegexps:\n  - b[.]c\n").unwrap(), "b[.]c");
        assert!(least_matcher("inclusionPrefixes:\n- b").is_err());
    }
}
