//! `top` tells an incident as the client's own Envoy counts it: in the terminal's words, as JSON, and on the page
//! as a real browser has it.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::incident::{ACTIVE_REQUESTS, Act, CLIENT, play};
use super::stage::{CONTAINER_PORT, PORT, SOON, Stage};
use crate::browser::Browser;
use crate::checkout::Checkout;
use crate::envoy::Stats;
use crate::operator;
use crate::report::Report;
use crate::run::{Finished, finish};
use crate::wait::Seen;

/// Where pictures of the acts are put, if anywhere: `RESILIENCE_LAB_PICTURES=FOLDER`.
const PICTURES: &str = "RESILIENCE_LAB_PICTURES";

/// Overload, a failing endpoint, recovery: `top` and its page say in each what goes on, with the numbers of Envoy.
///
/// # Errors
/// When one of them says something else.
pub fn tells_the_incident(checkout: &Checkout) -> Result<()> {
    let report = Report::new();
    let program = operator::build(checkout, &report)?;
    let browser = Browser::get(&report)?;
    let mut page = None;
    play(checkout, "top", |act, stage| {
        let top = Top { stage, program: &program };
        if page.is_none() {
            page = Some(Page::serve(&top)?);
            names_the_missing_right(checkout, &top)?;
        }
        let page = page.as_ref().context("it was served just now")?;
        match act {
            Act::Calm => calm(&top, &["Closed"])?,
            Act::Overload => overload(&top)?,
            Act::FailingEndpoint => failing_endpoint(&top)?,
            Act::Recovery => recovery(&top)?,
        }
        on_the_page(&top, &browser, page, act)
    })
}

/// Our program on the lab's network.
struct Top<'a> {
    stage: &'a Stage<'a>,
    program: &'a Path,
}

impl Top<'_> {
    fn run(&self, args: &[&str]) -> Result<Finished> {
        let kubectl = self.stage.kubectl;
        let mut command = kubectl.inside(self.program.to_str().context("the path is no text")?)?;
        finish(command.arg("top").args(args).args(["--namespace", kubectl.current_namespace()]))
    }

    /// What it says of fortio's calls of `httpbin`, and what Envoy had counted before and after.
    fn row(&self) -> Result<(Value, Stats, Stats)> {
        let before = Stats::of(self.stage.kubectl, CLIENT)?;
        let said = self.run(&["httpbin", "--once", "-o", "json"])?;
        let after = Stats::of(self.stage.kubectl, CLIENT)?;
        ensure!(said.status.success(), "top failed: {}", said.all());
        let top: Value = serde_json::from_str(&said.stdout).with_context(|| format!("no JSON: {}", said.all()))?;
        let rows = top["rows"].as_array().into_iter().flatten();
        let row = rows.filter(|row| row["client"]["workload"] == "fortio").collect::<Vec<_>>();
        let [row] = row.as_slice() else { bail!("there should be one row of fortio: {top}") };
        ensure!(row["host"] == self.stage.host() && row["port"] == PORT, "another target: {row}");
        Ok(((*row).clone(), before, after))
    }

    /// Looks until a row is right: proxies and rates of two seconds follow a change, and a look may straddle it.
    fn until(&self, what: &str, right: impl Fn(&Value) -> bool) -> Result<(Value, Stats, Stats)> {
        self.stage.kubectl.until(what, SOON, |_| {
            Ok(match self.row() {
                Ok((row, before, after)) if right(&row) => Seen::Done((row, before, after)),
                Ok((row, ..)) => Seen::NotYet(row.to_string()),
                // On a busy machine a proxy may not answer in time.
                Err(error) => Seen::NotYet(format!("{error:#}")),
            })
        })
    }
}

fn states(row: &Value) -> Vec<&str> {
    row["states"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn number(row: &Value, pointer: &str) -> f64 {
    row.pointer(pointer).and_then(Value::as_f64).unwrap_or(f64::NAN)
}

fn total(row: &Value, cause: &str) -> Option<u64> {
    let causes = row.pointer("/refused/byCause").and_then(Value::as_array).into_iter().flatten();
    causes.filter(|line| line["cause"] == cause).find_map(|line| line["total"].as_u64())
}

/// A total that `top` read between two looks at the counter.
fn agrees(top: &Top<'_>, row: &Value, cause: &str, counter: &str, before: &Stats, after: &Stats) -> Result<()> {
    let host = top.stage.host();
    let (least, most) = (before.outbound(&host, PORT, counter), after.outbound(&host, PORT, counter));
    let told = total(row, cause).with_context(|| format!("{cause} is not told: {row}"))?;
    ensure!((least..=most).contains(&told), "{counter} was {least}, then {most}; top says {told}");
    Ok(())
}

fn calm(top: &Top<'_>, wanted: &[&str]) -> Result<()> {
    let (row, before, after) =
        top.until("top says that nothing happens", |row| states(row) == wanted && number(row, "/requestsPerS") > 0.0)?;
    ensure!(number(&row, "/refused/perS") == 0.0 && row["ejected"] == json!([]), "something is refused or out: {row}");
    ensure!(row.pointer("/activeRequests/allowed") == Some(&json!(ACTIVE_REQUESTS)), "another limit: {row}");
    ensure!(row.pointer("/pendingRequests/allowed") == Some(&Value::Null), "no limit is declared: {row}");
    agrees(top, &row, "ActiveRequests", "upstream_rq_active_overflow", &before, &after)
}

fn overload(top: &Top<'_>) -> Result<()> {
    let (row, before, after) = top.until("top says that fortio is limited", |row| {
        states(row) == ["Limiting"] && number(row, "/requestsPerS") > 0.0
    })?;
    ensure!(number(&row, "/refused/perS") > 0.0, "nothing is refused: {row}");
    let percent = number(&row, "/refused/percent");
    ensure!(percent > 0.0 && percent < 100.0, "some calls pass, some do not: {row}");
    ensure!(row.pointer("/activeRequests/used").and_then(Value::as_u64).is_some(), "what is under way is told: {row}");
    agrees(top, &row, "ActiveRequests", "upstream_rq_active_overflow", &before, &after)?;
    agrees(top, &row, "PendingRequests", "upstream_rq_pending_overflow", &before, &after)?;
    top.stage.kubectl.until("the table says that fortio is limited, and by what", SOON, |_| {
        let said = top.run(&["svc/httpbin", "--once"])?;
        let right = said.stdout.contains("limiting") && said.stdout.contains("refused: activeRequests");
        Ok(if said.status.success() && right { Seen::Done(()) } else { Seen::NotYet(said.all()) })
    })
}

/// The address of the replica that fails.
fn failing(stage: &Stage<'_>) -> Result<String> {
    let pods = stage.kubectl.json(&["get", "pods", "-l", "version=failing"])?;
    let address = pods.pointer("/items/0/status/podIP").and_then(Value::as_str);
    Ok(format!("{}:{CONTAINER_PORT}", address.with_context(|| format!("it has no address: {pods}"))?))
}

fn failing_endpoint(top: &Top<'_>) -> Result<()> {
    let (row, ..) = top.until("top says that an endpoint is ejected", |row| states(row) == ["Ejecting"])?;
    let out = row["ejected"].as_array().into_iter().flatten().collect::<Vec<_>>();
    let [out] = out.as_slice() else { bail!("one endpoint should be out: {row}") };
    ensure!(out["endpoint"] == failing(top.stage)?, "another endpoint is out: {row}");
    // One ejection of 300 s, looked at each second.
    let within = out["returnsWithinS"].as_u64().with_context(|| format!("when it is back is not told: {row}"))?;
    ensure!((1..=301).contains(&within), "the bound is {within} s: {row}");
    ensure!(row["endpoints"] == 3, "there are three endpoints: {row}");
    Ok(())
}

fn recovery(top: &Top<'_>) -> Result<()> {
    calm(top, &["Closed"])
}

/// Who may not forward a port is told which right is missing.
fn names_the_missing_right(checkout: &Checkout, top: &Top<'_>) -> Result<()> {
    let kubectl = top.stage.kubectl;
    let namespace = kubectl.current_namespace();
    kubectl.run(&["create", "serviceaccount", "onlooker"])?;
    kubectl.run(&["create", "role", "onlooker", "--verb=list", "--resource=pods"])?;
    let account = format!("--serviceaccount={namespace}:onlooker");
    kubectl.run(&["create", "rolebinding", "onlooker", "--role=onlooker", &account])?;
    let token = kubectl.run(&["create", "token", "onlooker"])?;
    let config = kubectl.run(&["config", "view", "--raw", "--flatten", "-o", "json"])?;
    let mut config: Value = serde_json::from_str(&config).context("the kubeconfig is no JSON")?;
    config["users"][0]["user"] = json!({"token": token.trim()});
    let file = checkout.state().join("onlooker.kubeconfig");
    fs::write(&file, config.to_string()).with_context(|| format!("{} cannot be written", file.display()))?;
    let path = file.display().to_string();
    let said = top.run(&["httpbin", "--once", "--from", namespace, "--kubeconfig", &path])?;
    ensure!(
        said.status.code() == Some(2) && said.stderr.contains("get and create pods/portforward"),
        "the missing right is not named: {}",
        said.all()
    );
    let said = top.run(&["httpbin", "--once", "--from", "default", "--kubeconfig", &path])?;
    ensure!(
        said.status.code() == Some(2) && said.stderr.contains("list pods in namespace default"),
        "the missing right is not named: {}",
        said.all()
    );
    Ok(())
}

/// `top --web`, until it is dropped.
struct Page {
    process: Child,
    address: String,
}

impl Page {
    fn serve(top: &Top<'_>) -> Result<Self> {
        let kubectl = top.stage.kubectl;
        let mut command = kubectl.beside(top.program.to_str().context("the path is no text")?)?;
        command.args(["top", "httpbin", "--web", "--interval", "1s", "--namespace", kubectl.current_namespace()]);
        let mut process =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("top --web does not start")?;
        let out = process.stdout.take();
        let mut page = Self { process, address: String::new() };
        BufReader::new(out.context("it is piped")?).read_line(&mut page.address)?;
        page.address = page.address.trim().to_owned();
        ensure!(page.address.starts_with("http://127.0.0.1:"), "it printed no address but: {}", page.address);
        Ok(page)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // One that has ended by itself cannot be killed, and that is well.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// The browser shows what `top` says.
fn on_the_page(top: &Top<'_>, browser: &Browser, page: &Page, act: Act) -> Result<()> {
    let (word, more) = match act {
        Act::Calm | Act::Recovery => ("closed", "of 3".to_owned()),
        Act::Overload => ("limiting", "activeRequests: ".to_owned()),
        Act::FailingEndpoint => ("ejecting", failing(top.stage)?),
    };
    let state = format!("class=\"state {word}\">{word}<");
    let kubectl = top.stage.kubectl;
    kubectl.until(&format!("the page says {word}"), SOON, |kubectl| {
        // On a busy machine a browser may not come up in time.
        let shown = match browser.dom(kubectl, &page.address) {
            Ok(shown) => shown,
            Err(error) => return Ok(Seen::NotYet(format!("{error:#}"))),
        };
        let there = shown.contains(&state) && shown.contains(&more) && shown.contains("fortio-");
        Ok(if there { Seen::Done(()) } else { Seen::NotYet(body(&shown).to_owned()) })
    })?;
    if let Some(folder) = std::env::var_os(PICTURES).map(PathBuf::from) {
        let file = folder.join(format!("top-{act:?}.png").to_lowercase());
        browser.picture(kubectl, &page.address, (1280, 330), &file)?;
    }
    Ok(())
}

/// What a page shows, without its style and script.
fn body(page: &str) -> &str {
    let from = page.find("<header").unwrap_or_default();
    let to = page.find("<script").unwrap_or(page.len());
    page.get(from..to).unwrap_or(page)
}
