//! The dashboard's queries, out of its JSON, and what each has to say at a moment. A query that is not here fails.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::moment::Moment;
use crate::prometheus::{Labels, Sample, hasty_expression};
use crate::scenarios::incident::CLIENT;

/// What the dashboard asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dashboard {
    /// Its panels that ask.
    pub panels: Vec<Panel>,
    /// What its variables can be chosen from.
    pub variables: Vec<Variable>,
    /// What it marks in all panels.
    pub annotation: String,
}

/// A panel with its queries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Panel {
    /// Its title.
    pub title: String,
    /// What it asks.
    pub queries: Vec<Query>,
    /// The unit of its values, in Grafana's words.
    pub unit: String,
    /// What a value is called, and its colour.
    pub mappings: Vec<(String, String, String)>,
}

/// One query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// As it stands in the dashboard.
    pub expression: String,
    /// What a series is called: `{{label}}` stands for a label.
    pub legend: String,
}

/// A variable: the values of a label among series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// The series.
    pub series: String,
    /// The label.
    pub label: String,
}

impl Dashboard {
    /// Reads it.
    ///
    /// # Errors
    /// When it is no dashboard, or a panel asks nothing.
    pub fn read(json: &str) -> Result<Self> {
        let dashboard: Value = serde_json::from_str(json).context("the dashboard is no JSON")?;
        let panels = dashboard["panels"].as_array().context("the dashboard has no panels")?;
        let panels = panels.iter().filter(|panel| panel["type"] != "row").map(panel).collect::<Result<_>>()?;
        let variables = dashboard["templating"]["list"].as_array().into_iter().flatten();
        let variables =
            variables.filter(|variable| variable["type"] == "query").map(variable).collect::<Result<_>>()?;
        let annotation = dashboard["annotations"]["list"][0]["expr"].as_str();
        let annotation = annotation.context("the dashboard marks no alerts")?.to_owned();
        Ok(Self { panels, variables, annotation })
    }

    /// A panel by its title.
    ///
    /// # Errors
    /// When there is none.
    pub fn panel(&self, title: &str) -> Result<&Panel> {
        let found = self.panels.iter().find(|panel| panel.title == title);
        found.with_context(|| format!("the dashboard has no panel «{title}»"))
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn panel(panel: &Value) -> Result<Panel> {
    let title = text(&panel["title"]);
    let targets = panel["targets"].as_array().into_iter().flatten();
    let queries: Vec<Query> = targets
        .map(|target| Query { expression: text(&target["expr"]), legend: text(&target["legendFormat"]) })
        .filter(|query| !query.expression.is_empty())
        .collect();
    ensure!(!queries.is_empty(), "the panel «{title}» asks nothing");
    let mappings = panel.pointer("/fieldConfig/defaults/mappings/0/options").and_then(Value::as_object);
    let mappings = mappings.into_iter().flatten();
    let mappings = mappings.map(|(value, how)| (value.clone(), text(&how["text"]), text(&how["color"]))).collect();
    let unit = panel.pointer("/fieldConfig/defaults/unit").map(text).unwrap_or_default();
    Ok(Panel { title, queries, unit, mappings })
}

fn variable(variable: &Value) -> Result<Variable> {
    let (name, query) = (text(&variable["name"]), text(&variable["query"]["query"]));
    let inside = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
    let (series, label) = inside
        .and_then(|inside| inside.rsplit_once(", "))
        .with_context(|| format!("the variable {name} asks for no label: {query}"))?;
    Ok(Variable { name, series: series.to_owned(), label: label.to_owned() })
}

impl Query {
    /// What a series of the answer is called.
    pub fn name(&self, labels: &Labels) -> String {
        let mut name = String::new();
        let mut rest = self.legend.as_str();
        while let Some((before, after)) = rest.split_once("{{") {
            let (label, behind) = after.split_once("}}").unwrap_or((after, ""));
            name += before;
            name += labels.get(label.trim());
            rest = behind;
        }
        name + rest
    }
}

/// A query as Grafana sends it, with the variables chosen for the incident and the shorter window of its rules.
pub fn filled_in(query: &str, host: &str, namespace: &str) -> String {
    let chosen = [("$destination_service", host), ("$server_namespace", namespace), ("$namespace", namespace)];
    chosen.iter().fold(hasty_expression(query), |query, (variable, value)| query.replace(variable, value))
}

/// The alerts that fire, as [`Moment::alerts`] has them.
pub fn alerts(answer: &[Sample]) -> BTreeSet<String> {
    let name = |sample: &Sample| {
        let more = ["cause", "because", "reason"].map(|label| sample.label(label)).concat();
        format!("{} {more}", sample.label("alertname")).trim_end().to_owned()
    };
    answer.iter().map(name).collect()
}

/// Whether a query says what it should.
///
/// # Errors
/// When nobody has said what that is.
#[allow(clippy::too_many_lines, reason = "a table: what each panel says, one after another")]
pub fn is_right(title: &str, query: usize, moment: &Moment, answer: &[Sample]) -> Result<bool> {
    let values = |of: &dyn Fn(&Sample) -> bool| -> Vec<f64> {
        answer.iter().filter(|sample| of(sample)).map(|sample| sample.value).collect()
    };
    let with = |label: &str, value: &str| values(&|sample| sample.label(label) == value);
    let all = values(&|_| true);
    Ok(match (title, query) {
        // The servers' own proxies know the Service as well, and nobody calls it through them.
        ("State", 0) => {
            let client = CLIENT.rsplit('/').next().unwrap_or(CLIENT);
            let is_client = |sample: &Sample| sample.label("pod").starts_with(&format!("{client}-"));
            are(&values(&is_client), moment.state)
                && values(&|sample| !is_client(sample)).iter().all(|state| is(*state, 0.0))
        }
        ("Requests" | "From generation to status", 0) => all.len() == 1 && all[0] > 0.0,
        ("Refused share by cause", 0) => {
            ["activeRequests", "pendingRequests", "noHealthyEndpoint"].iter().all(|cause| {
                let share = with("cause", cause);
                match moment.refused {
                    Some(refused) if refused == *cause => {
                        let least = if moment.refuses_all { 0.999 } else { 0.01 };
                        let most = if moment.refuses_all { 1.001 } else { 0.99 };
                        share.len() == 1 && (least..=most).contains(&share[0])
                    }
                    _ => are(&share, 0.0),
                }
            })
        }
        ("Refused share by client", 0) => match moment.refused {
            None => all.is_empty(),
            Some(cause) => answer.len() == 1 && with("cause", cause).iter().all(|share| *share > 0.0 && *share < 1.001),
        },
        ("Ejected endpoints", 0) => moment.ejected.map_or(all.is_empty(), |ejected| are(&all, ejected)),
        ("Ejected endpoints", 1) => are(&all, moment.endpoints),
        ("Saturation", 0) => match moment.allowed {
            // Only what is limited has a share of it.
            None => all.is_empty(),
            Some(allowed) => {
                let alone = with("limit", "activeRequests").len() == all.len();
                let share = moment.most / allowed;
                alone && all.len() == 1 && if is(share, 1.0) { is(all[0], 1.0) } else { all[0] <= share + 0.001 }
            }
        },
        ("Full", 0) => {
            let is_full = moment.allowed.is_some_and(|allowed| is(allowed, moment.most));
            let others = [with("limit", "connections"), with("limit", "pendingRequests")];
            are(&with("limit", "activeRequests"), if is_full { 1.0 } else { 0.0 })
                && others.iter().all(|full| are(full, 0.0))
        }
        ("Taken and allowed", 0) => {
            let taken = with("limit", "activeRequests");
            taken.len() == 1 && taken[0] <= moment.most
        }
        ("Taken and allowed", 1) => match moment.allowed {
            None => all.is_empty(),
            Some(allowed) => all.len() == 1 && are(&with("limit", "activeRequests"), allowed),
        },
        // Over HTTP/1.1 and without a limit of connections nobody waits, and nothing is tried again.
        ("Waiting for a connection, retries not made", 0 | 1) => are(&all, 0.0),
        ("Sent to unhealthy endpoints", 0) => {
            if moment.panic {
                all.len() == 1 && all[0] > 0.0
            } else {
                are(&all, 0.0)
            }
        }
        ("Refused by servers' own proxies", 0) => {
            let refused = with("cause", "activeRequests").iter().any(|rate| *rate > 0.0);
            with("cause", "pendingRequests").iter().all(|rate| is(*rate, 0.0)) && refused == moment.servers_refuse
        }
        // The lab's Envoy has no istio_requests_total: its rules are judged by promtool alone.
        ("Refused share by response flag", 0) => all.is_empty(),
        ("Proxies that tell nothing of their breakers", 0) => {
            if is(moment.uncounted, 0.0) {
                all.is_empty()
            } else {
                are(&all, moment.uncounted)
            }
        }
        // What is left of other scenarios may be among them.
        ("Policies by what is wrong with them", 0) => moment.wrong.iter().all(|(condition, reason)| {
            let is_it = |sample: &Sample| sample.label("condition") == *condition && sample.label("reason") == *reason;
            values(&is_it).iter().any(|number| *number >= 1.0)
        }),
        ("Warnings by code", 0) => all.iter().all(|number| *number >= 1.0),
        ("From generation to status", 1) | ("Queue and leader", 0) => all.len() == 1 && all[0] >= 0.0,
        ("Queue and leader", 1) => all.len() == 1 && is(all[0], 1.0),
        ("Reconciles by how they ended", 0) => !with("outcome", "programmed").is_empty(),
        ("Writes", 0) => !with("kind", "DestinationRule").is_empty(),
        _ => bail!("nobody has said what query {} of the panel «{title}» should say", query + 1),
    })
}

/// Whether there are some, and each is it.
fn are(values: &[f64], wanted: f64) -> bool {
    !values.is_empty() && values.iter().all(|value| is(*value, wanted))
}

fn is(value: f64, wanted: f64) -> bool {
    (value - wanted).abs() < 0.001
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::moment::CALM;
    use super::*;
    use crate::checkout::Checkout;

    #[test]
    fn a_panel_that_nobody_knows_is_a_fault() {
        assert!(is_right("New", 0, &CALM, &[]).is_err());
    }

    #[test]
    fn of_every_query_of_the_dashboard_it_is_known_what_it_should_say() {
        let file = Checkout::find().unwrap().root().join("deploy/monitoring/dashboard.json");
        let dashboard = Dashboard::read(&fs::read_to_string(file).unwrap()).unwrap();
        for panel in &dashboard.panels {
            for number in 0..panel.queries.len() {
                is_right(&panel.title, number, &CALM, &[]).unwrap();
            }
        }
        assert_eq!(dashboard.panel("State").unwrap().mappings.len(), 4);
        assert_eq!(dashboard.variables.len(), 3);
        assert!(dashboard.annotation.starts_with("ALERTS{"));
    }

    #[test]
    fn variables_are_filled_in_and_none_is_cut() {
        let query = r#"a{destination_service="$destination_service", namespace=~"$namespace", x="$server_namespace"}"#;
        assert_eq!(filled_in(query, "h", "n"), r#"a{destination_service="h", namespace=~"n", x="n"}"#);
    }
}
