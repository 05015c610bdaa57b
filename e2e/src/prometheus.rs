//! In: rules and what is to be scraped. Out: a Prometheus in the lab's network, and what it answers; promtool's
//! verdict on rules and metrics. No lab needs it, only those who ask.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::cache::Cache;
use crate::checkout::Checkout;
use crate::lab::Lab;
use crate::parts;
use crate::report::Report;
use crate::run::{check, tail};
use crate::wait::{self, Seen};

/// Where it listens, inside the sandbox.
const ADDRESS: &str = "127.0.0.1:9090";
/// Between two scrapes, and between two evaluations of rules.
pub const INTERVAL: Duration = Duration::from_secs(2);

/// The programs.
#[derive(Debug, Clone)]
pub struct Programs(PathBuf);

impl Programs {
    /// Finds or builds them.
    ///
    /// # Errors
    /// What Go says.
    pub fn get(checkout: &Checkout, report: &Report) -> Result<Self> {
        Ok(Self(parts::prometheus(checkout, &Cache::open()?, report)?.join("bin")))
    }

    /// promtool, to be given its words.
    #[must_use]
    pub fn promtool(&self) -> Command {
        Command::new(self.0.join("promtool"))
    }
}

/// What is scraped: one endpoint, and what is said of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Scrapes of one kind share a path.
    pub job: &'static str,
    /// `/metrics` or another.
    pub path: &'static str,
    /// Address and port.
    pub address: String,
    /// As a cluster's Prometheus labels it.
    pub namespace: String,
    /// Likewise.
    pub pod: String,
}

/// A Prometheus that runs until this is dropped.
#[derive(Debug)]
pub struct Prometheus {
    lab: Lab,
    folder: tempfile::TempDir,
    child: Child,
}

/// What a series is told apart by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels(serde_json::Map<String, Value>);

impl Labels {
    /// Those of one series of an answer.
    fn of(series: &Value) -> Self {
        Self(series["metric"].as_object().cloned().unwrap_or_default())
    }

    /// One label; empty where it is not there.
    #[must_use]
    pub fn get(&self, name: &str) -> &str {
        self.0.get(name).and_then(Value::as_str).unwrap_or_default()
    }
}

/// One series with its value at the moment of the question.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Its labels.
    pub labels: Labels,
    /// Its value.
    pub value: f64,
}

impl Sample {
    /// As [`Labels::get`].
    #[must_use]
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name)
    }
}

/// One series over a time: seconds since 1970, and the value then. Where it was not there, no point is.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Its labels.
    pub labels: Labels,
    /// In the order of time.
    pub points: Vec<(f64, f64)>,
}

/// A rule as Prometheus has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What it records, or the alert's name.
    pub name: String,
    /// Whether it is an alert.
    pub is_alert: bool,
    /// What its last evaluation failed with.
    pub fault: Option<String>,
}

impl Prometheus {
    /// Starts it with these rules, as text; it scrapes nothing yet.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn start(lab: &Lab, programs: &Programs, rules: &str) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("resilience-prometheus-").tempdir()?;
        fs::write(folder.path().join("rules.yaml"), rules)?;
        fs::write(folder.path().join("prometheus.yaml"), config(&[]))?;
        let log = fs::File::create(folder.path().join("log"))?;
        let mut command = lab.sandbox().enter_network(programs.0.join("prometheus"))?;
        command.arg(format!("--config.file={}", folder.path().join("prometheus.yaml").display()));
        command.arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()));
        command.arg(format!("--web.listen-address={ADDRESS}"));
        command.args(["--web.enable-lifecycle", "--storage.tsdb.retention.time=1h", "--log.level=warn"]);
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let mut prometheus = Self { lab: lab.clone(), folder, child };
        wait::until("Prometheus answers", Duration::from_mins(1), || {
            if let Some(status) = prometheus.child.try_wait()? {
                anyhow::bail!("Prometheus ended with {status}: {}", prometheus.log());
            }
            let answer = get(lab, &format!("http://{ADDRESS}/-/ready"));
            Ok(answer.map_or_else(|error| Seen::NotYet(format!("{error:#}")), |_| Seen::Done(())))
        })?;
        Ok(prometheus)
    }

    fn log(&self) -> String {
        tail(&fs::read_to_string(self.folder.path().join("log")).unwrap_or_default(), 5)
    }

    /// Scrapes these from now on, and waits until each has been.
    ///
    /// # Errors
    /// When one cannot be scraped in time.
    pub fn scrape(&self, targets: &[Target]) -> Result<()> {
        fs::write(self.folder.path().join("prometheus.yaml"), config(targets))?;
        kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGHUP)?;
        wait::until("everything is scraped", Duration::from_mins(2), || {
            let up = self.query("up")?;
            let is_up = |target: &&Target| {
                up.iter().any(|one| one.label("pod") == target.pod && one.label("job") == target.job && one.value > 0.0)
            };
            let missing: Vec<&Target> = targets.iter().filter(|target| !is_up(target)).collect();
            Ok(if missing.is_empty() { Seen::Done(()) } else { Seen::NotYet(format!("{missing:?}")) })
        })
    }

    /// What an expression gives now.
    ///
    /// # Errors
    /// When it is none, or Prometheus does not answer.
    pub fn query(&self, expression: &str) -> Result<Vec<Sample>> {
        let data = self.ask("query", &[("query", expression)])?;
        list(&data["result"], expression)?
            .iter()
            .map(|one| {
                let value = one.pointer("/value/1").and_then(number);
                let value = value.with_context(|| format!("{expression} gives no value: {one}"))?;
                Ok(Sample { labels: Labels::of(one), value })
            })
            .collect()
    }

    /// What an expression gave between two moments, in seconds since 1970, at each step.
    ///
    /// # Errors
    /// As [`Prometheus::query`].
    pub fn range(&self, expression: &str, (from, to): (f64, f64), step: Duration) -> Result<Vec<Series>> {
        let (from, to, step) = (from.to_string(), to.to_string(), step.as_secs_f64().to_string());
        let data =
            self.ask("query_range", &[("query", expression), ("start", &from), ("end", &to), ("step", &step)])?;
        list(&data["result"], expression)?
            .iter()
            .map(|one| {
                let points = list(&one["values"], expression)?.iter().map(|point| {
                    let pair = point[0].as_f64().zip(number(&point[1]));
                    pair.with_context(|| format!("{expression} gives no point: {point}"))
                });
                Ok(Series { labels: Labels::of(one), points: points.collect::<Result<_>>()? })
            })
            .collect()
    }

    /// The values of a label among series, as Grafana asks for them: `label_values(SERIES, LABEL)`.
    ///
    /// # Errors
    /// As [`Prometheus::query`].
    pub fn label_values(&self, series: &str, label: &str) -> Result<Vec<String>> {
        let values = self.ask(&format!("label/{label}/values"), &[("match[]", series)])?;
        Ok(list(&values, series)?.iter().filter_map(Value::as_str).map(str::to_owned).collect())
    }

    /// All rules.
    ///
    /// # Errors
    /// When Prometheus does not answer.
    pub fn rules(&self) -> Result<Vec<Rule>> {
        let data = self.ask("rules", &[])?;
        let groups = list(&data["groups"], "rules")?;
        let rules = groups.iter().flat_map(|group| group["rules"].as_array().into_iter().flatten());
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let all = rules.map(|rule| Rule {
            name: text(&rule["name"]),
            is_alert: rule["type"] == "alerting",
            fault: rule["lastError"].as_str().filter(|error| !error.is_empty()).map(str::to_owned),
        });
        Ok(all.collect())
    }

    /// The data of an answer of its API.
    fn ask(&self, what: &str, parameters: &[(&str, &str)]) -> Result<Value> {
        let parameters: Vec<String> =
            parameters.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect();
        let url = format!("http://{ADDRESS}/api/v1/{what}?{}", parameters.join("&"));
        // A busy machine may take too long for one answer.
        let text = wait::until("Prometheus answers", Duration::from_mins(1), || {
            Ok(get(&self.lab, &url).map_or_else(|error| Seen::NotYet(format!("{error:#}")), Seen::Done))
        })?;
        let mut answer: Value =
            serde_json::from_str(&text).with_context(|| format!("Prometheus answered no JSON but: {text}"))?;
        ensure!(answer["status"] == "success", "Prometheus refuses {what} {}: {text}", parameters.join(" "));
        Ok(answer["data"].take())
    }
}

fn list<'a>(value: &'a Value, of: &str) -> Result<&'a Vec<Value>> {
    value.as_array().with_context(|| format!("{of} gives no list but: {value}"))
}

/// Numbers are text, so that NaN can be said.
fn number(value: &Value) -> Option<f64> {
    value.as_str()?.parse().ok()
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The body of an answer to a program inside the lab.
///
/// # Errors
/// When there is none.
pub fn get(lab: &Lab, url: &str) -> Result<String> {
    check(lab.inside("fortio")?.args(["curl", "-quiet", "-stdclient", "-timeout", "10s", url]))
}

/// For a URL.
fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() {
            encoded.push(byte.into());
        } else {
            encoded.push('%');
            encoded.push_str(&hex::encode_upper([byte]));
        }
    }
    encoded
}

/// In JSON, which is YAML.
fn config(targets: &[Target]) -> String {
    let interval = format!("{}s", INTERVAL.as_secs());
    let mut jobs: Vec<(&str, &str)> = targets.iter().map(|target| (target.job, target.path)).collect();
    jobs.sort_unstable();
    jobs.dedup();
    let jobs: Vec<Value> = jobs
        .into_iter()
        .map(|(job, path)| {
            let of_job = targets.iter().filter(|target| target.job == job);
            let of_job: Vec<Value> = of_job
                .map(|target| {
                    json!({"targets": [target.address],
                        "labels": {"namespace": target.namespace, "pod": target.pod}})
                })
                .collect();
            json!({"job_name": job, "metrics_path": path, "static_configs": of_job})
        })
        .collect();
    json!({
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        "rule_files": ["rules.yaml"],
        "scrape_configs": jobs,
    })
    .to_string()
}

/// What is shorter in rules for who cannot wait: windows of rates and counts, how long an alert waits, and how long a
/// policy may wait for its status.
const HASTE: [(&str, &str); 3] = [("[2m]", "[12s]"), ("[10m]", "[12s]"), ("age_seconds) > 120", "age_seconds) > 3")];
const HASTY_FOR: &str = "    for: 3s";

/// Rules for who cannot wait.
///
/// # Errors
/// When the rules have other times than those that are replaced.
pub fn hasty(rules: &str) -> Result<String> {
    for (times, _) in HASTE {
        ensure!(rules.contains(times), "the rules have no {times}");
    }
    let lines = rules
        .lines()
        .map(|line| if line.starts_with("    for: ") { HASTY_FOR.to_owned() } else { hasty_expression(line) });
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

/// An expression that goes with such rules.
#[must_use]
pub fn hasty_expression(expression: &str) -> String {
    HASTE.iter().fold(expression.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// Runs promtool in a folder; it must succeed.
///
/// # Errors
/// What it says.
pub fn promtool(programs: &Programs, folder: &Path, args: &[&str]) -> Result<String> {
    check(programs.promtool().current_dir(folder).args(args))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_is_one_word_of_a_url() {
        assert_eq!(encoded("a{b=\"c\"} + 1"), "a%7Bb%3D%22c%22%7D%20%2B%201");
    }

    #[test]
    fn rules_for_who_cannot_wait_differ_in_their_times_alone() {
        let rules = "  - expr: rate(a[2m])\n    for: 15m\n  - expr: b[10m] + age_seconds) > 120\n";
        let wanted = "  - expr: rate(a[12s])\n    for: 3s\n  - expr: b[12s] + age_seconds) > 3";
        assert_eq!(hasty(rules).unwrap(), wanted);
        assert!(hasty("  - expr: rate(a[5m])").is_err());
    }

    #[test]
    fn numbers_are_read_also_where_they_are_none() {
        assert_eq!(number(&json!("1.5")), Some(1.5));
        assert!(number(&json!("NaN")).is_some_and(f64::is_nan));
        assert_eq!(number(&json!(1.5)), None);
    }
}
