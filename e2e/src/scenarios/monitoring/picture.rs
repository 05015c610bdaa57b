//! The incident, drawn from what Prometheus answers to the dashboard's own queries over its time. Grafana takes no part.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use jiff::Timestamp;

use super::dashboard::Panel;
use super::watch::Watch;
use crate::prometheus::{INTERVAL, Series};
use crate::svg::{WIDTH, escape, legend, sheet};

/// Panels that are drawn as bars of states.
const STATES: &str = "State";
/// Panels that are drawn as lines.
const LINES: [&str; 4] = ["Requests", "Refused share by cause", "Saturation", "Ejected endpoints"];

/// Left of it stand names.
const LEFT: f64 = 300.0;
const RIGHT: f64 = WIDTH - 16.0;
/// Between two bars.
const STEP: f64 = 20.0;
/// Of a panel of lines.
const HEIGHT: f64 = 78.0;
/// Colours that also colour-blind people tell apart.
const COLOURS: [&str; 5] = ["#0072b2", "#e69f00", "#cc79a7", "#009e73", "#555555"];
const ALERT: &str = "#d55e00";
/// For shares of one.
const PERCENT: &str = " %";

/// What was told from the beginning to the end.
#[derive(Debug, Default)]
pub struct Story {
    acts: Vec<(f64, &'static str)>,
    to: f64,
    states: Vec<Bar>,
    alerts: Vec<Bar>,
    lines: Vec<Lines>,
}

/// Something that is so, then so.
#[derive(Debug, Clone, PartialEq)]
struct Bar {
    name: String,
    /// From, to, what, colour.
    parts: Vec<(f64, f64, String, String)>,
}

/// A panel of lines.
#[derive(Debug, Clone, PartialEq)]
struct Lines {
    title: String,
    unit: &'static str,
    series: Vec<(String, Vec<(f64, f64)>)>,
}

impl Story {
    /// An act begins now.
    pub fn begins(&mut self, act: &'static str) {
        self.acts.push((now(), act));
    }

    /// The story is over: asks what was told.
    ///
    /// # Errors
    /// When Prometheus does not answer, or the dashboard lacks a panel.
    pub fn ends(&mut self, watch: &Watch<'_>) -> Result<()> {
        self.to = now();
        let times = (self.from(), self.to);
        let asked = |expression: &str| watch.prometheus.range(&watch.filled_in(expression), times, INTERVAL);
        let of_panel = |panel: &Panel| -> Result<Vec<(String, Series)>> {
            let mut all = Vec::new();
            for query in &panel.queries {
                let series = asked(&query.expression)?;
                all.extend(series.into_iter().map(|series| (query.name(&series.labels), series)));
            }
            Ok(all)
        };
        let panel = watch.dashboard.panel(STATES)?;
        let states = of_panel(panel)?.into_iter().map(|(name, series)| Bar { name, parts: parts(&series, panel) });
        self.states = states.collect();
        for title in LINES {
            let panel = watch.dashboard.panel(title)?;
            let series = of_panel(panel)?.into_iter().map(|(name, series)| (name, series.points)).collect();
            self.lines.push(Lines { title: title.to_owned(), unit: unit(&panel.unit), series });
        }
        self.alerts = alerts(asked(&watch.dashboard.annotation)?);
        Ok(())
    }

    /// Draws it into a file.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn draw(&self, file: &Path) -> Result<()> {
        fs::write(file, self.drawn()).with_context(|| format!("{} cannot be written", file.display()))
    }

    fn from(&self) -> f64 {
        self.acts.first().map_or(self.to, |(at, _)| *at)
    }

    fn x(&self, at: f64) -> f64 {
        let whole = (self.to - self.from()).max(1.0);
        LEFT + (RIGHT - LEFT) * ((at - self.from()) / whole).clamp(0.0, 1.0)
    }

    fn drawn(&self) -> String {
        let mut svg = String::new();
        let mut y = 78.0;
        for (title, bars) in [("State of each client", &self.states), ("Alerts that fire", &self.alerts)] {
            heading(&mut svg, title, y);
            for bar in bars {
                y += STEP;
                self.bar(&mut svg, bar, y);
            }
            y += STEP * 2.0;
        }
        for lines in &self.lines {
            self.lines(&mut svg, lines, y);
            y += HEIGHT + STEP;
        }
        let under = y;
        let mut ends = self.acts.iter().skip(1).map(|(at, _)| *at).chain([self.to]);
        let mut behind = String::new();
        // Acts may be short: the name of each second one stands higher.
        for ((at, name), height) in self.acts.iter().zip([60, 46].into_iter().cycle()) {
            let (from, to) = (self.x(*at), self.x(ends.next().unwrap_or(self.to)));
            let _ = writeln!(
                behind,
                "<path d=\"M{from:.1} {}V{under:.0}\" stroke=\"#bbbbbb\"/><text x=\"{:.1}\" y=\"{height}\" font-size=\"12\" text-anchor=\"middle\">{}</text>",
                height + 4,
                f64::midpoint(from, to),
                escape(name)
            );
        }
        let mut seconds = 0.0;
        while self.from() + seconds <= self.to {
            let _ = writeln!(
                behind,
                "<text x=\"{:.1}\" y=\"{:.0}\" font-size=\"11\" text-anchor=\"middle\">{seconds} s</text>",
                self.x(self.from() + seconds),
                under + 12.0
            );
            seconds += 20.0;
        }
        sheet(
            "The incident, as the dashboard's queries tell it",
            "State of each client, alerts, requests, refused share, saturation and ejected endpoints over the time of an incident",
            under + 48.0,
            &format!("{behind}{svg}{}", legend(self.told_states(), (20.0, under + 24.0))),
        )
    }

    /// Each state that a client was in, with its colour: some last too short for their word to stand in them.
    fn told_states(&self) -> BTreeMap<&str, &str> {
        let parts = self.states.iter().flat_map(|bar| &bar.parts);
        parts.map(|(_, _, what, colour)| (what.as_str(), colour.as_str())).collect()
    }

    fn bar(&self, svg: &mut String, bar: &Bar, y: f64) {
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{:.0}\" font-size=\"11\" text-anchor=\"end\">{}</text>",
            LEFT - 8.0,
            y + 3.0,
            escape(&bar.name)
        );
        for (from, to, what, colour) in &bar.parts {
            let (from, to) = (self.x(*from), self.x(*to));
            let _ = writeln!(
                svg,
                "<rect x=\"{from:.1}\" y=\"{:.0}\" width=\"{:.1}\" height=\"15\" fill=\"{}\"><title>{}</title></rect>",
                y - 8.0,
                to - from,
                escape(colour),
                escape(what)
            );
            if to - from > 60.0 {
                let _ = writeln!(
                    svg,
                    "<text x=\"{:.1}\" y=\"{:.0}\" font-size=\"11\" fill=\"#ffffff\" text-anchor=\"middle\">{}</text>",
                    f64::midpoint(from, to),
                    y + 3.0,
                    escape(what)
                );
            }
        }
    }

    fn lines(&self, svg: &mut String, lines: &Lines, y: f64) {
        heading(svg, &lines.title, y);
        let values = lines.series.iter().flat_map(|(_, points)| points).map(|(_, value)| *value);
        let most = values.fold(1.0_f64, f64::max);
        let (top, bottom) = (y - 8.0, y - 8.0 + HEIGHT);
        for (at, value) in [(top, most), (bottom, 0.0)] {
            let value = if lines.unit == PERCENT { value * 100.0 } else { value };
            let _ = writeln!(
                svg,
                "<path d=\"M{LEFT} {at}H{RIGHT}\" stroke=\"#dddddd\"/><text x=\"{}\" y=\"{:.0}\" font-size=\"11\" text-anchor=\"end\">{value:.0}{}</text>",
                LEFT - 8.0,
                at + 4.0,
                lines.unit
            );
        }
        let mut under = y + 16.0;
        for ((name, points), colour) in lines.series.iter().zip(COLOURS.iter().cycle()) {
            let _ = writeln!(
                svg,
                "<rect x=\"20\" y=\"{:.0}\" width=\"10\" height=\"3\" fill=\"{colour}\"/><text x=\"36\" y=\"{under:.0}\" font-size=\"11\">{}</text>",
                under - 5.0,
                escape(name)
            );
            under += 14.0;
            let mut path = String::new();
            let mut before: Option<f64> = None;
            for (at, value) in points {
                // What was not there is not drawn.
                let goes_on = before.is_some_and(|before| at - before < INTERVAL.as_secs_f64() * 1.5);
                let height = bottom - (bottom - top) * (value / most).clamp(0.0, 1.0);
                let _ = write!(path, "{}{:.1} {height:.1}", if goes_on { "L" } else { "M" }, self.x(*at));
                before = Some(*at);
            }
            let _ = writeln!(svg, "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>");
        }
    }
}

fn heading(svg: &mut String, title: &str, y: f64) {
    let _ = writeln!(
        svg,
        "<text x=\"20\" y=\"{:.0}\" font-size=\"12\" font-weight=\"bold\">{}</text>",
        y + 2.0,
        escape(title)
    );
}

/// A series of states.
fn parts(series: &Series, panel: &Panel) -> Vec<(f64, f64, String, String)> {
    let points = series.points.iter().map(|(at, value)| {
        let value = value.to_string();
        let (_, what, colour) = panel.mappings.iter().find(|(of, ..)| *of == value).cloned().unwrap_or_default();
        (*at, what, colour)
    });
    as_long_as_it_lasts(points)
}

/// One bar for each alert, whatever its labels.
fn alerts(series: Vec<Series>) -> Vec<Bar> {
    let mut times: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for one in series {
        let name = one.labels.get("alertname").to_owned();
        times.entry(name).or_default().extend(one.points.iter().map(|(at, _)| *at));
    }
    let bar = |(name, mut times): (String, Vec<f64>)| {
        times.sort_by(f64::total_cmp);
        let points = times.into_iter().map(|at| (at, "fires".to_owned(), ALERT.to_owned()));
        Bar { name, parts: as_long_as_it_lasts(points) }
    };
    times.into_iter().map(bar).collect()
}

/// Points that say the same, one step after another, are one part.
fn as_long_as_it_lasts(points: impl Iterator<Item = (f64, String, String)>) -> Vec<(f64, f64, String, String)> {
    let mut parts: Vec<(f64, f64, String, String)> = Vec::new();
    for (at, what, colour) in points {
        let to = at + INTERVAL.as_secs_f64();
        match parts.last_mut() {
            Some(last) if last.2 == what && at - last.1 < 0.1 => last.1 = to,
            _ => parts.push((at, to, what, colour)),
        }
    }
    parts
}

/// What stands behind a number, for a unit of Grafana.
fn unit(unit: &str) -> &'static str {
    match unit {
        "percentunit" => PERCENT,
        "reqps" => "/s",
        _ => "",
    }
}

/// Seconds since 1970, as Prometheus has it.
#[allow(clippy::cast_precision_loss, reason = "milliseconds since 1970 are far below 2^52")]
fn now() -> f64 {
    Timestamp::now().as_millisecond() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn story() -> Story {
        let part = |from: f64, to: f64, what: &str, colour: &str| (from, to, what.to_owned(), colour.to_owned());
        Story {
            acts: vec![(100.0, "calm"), (150.0, "over & out")],
            to: 200.0,
            states: vec![Bar { name: "a".to_owned(), parts: vec![part(150.0, 200.0, "limiting", "orange")] }],
            alerts: Vec::new(),
            lines: vec![Lines {
                title: "Saturation".to_owned(),
                unit: PERCENT,
                series: vec![("used".to_owned(), vec![(100.0, 0.0), (102.0, 1.0), (150.0, 1.0)])],
            }],
        }
    }

    #[test]
    fn a_state_is_as_long_as_it_lasts_and_a_gap_stays_one() {
        let svg = story().drawn();
        let half = (RIGHT - LEFT) / 2.0;
        assert!(svg.contains(&format!("width=\"{half:.1}\" height=\"15\" fill=\"orange\"")), "{svg}");
        assert!(svg.contains("over &amp; out") && svg.contains("100 %"), "{svg}");
        let line = svg.lines().find(|line| line.contains("stroke-width")).unwrap();
        assert_eq!((line.matches('M').count(), line.matches('L').count()), (2, 1), "{line}");
    }
}
