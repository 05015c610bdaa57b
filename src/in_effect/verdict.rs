//! What follows of all proxies together.

use super::{Expectation, Standing, cut, some};
use crate::api::{ProxyCounts, conditions::Reason};

/// Longest text of a proxy that is repeated.
const REFUSAL_LIMIT: usize = 600;

/// One proxy that holds the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// `POD.NAMESPACE`.
    pub proxy: String,
    /// How it stands.
    pub standing: Standing,
    /// It has stood otherwise than in effect for longer than the grace.
    pub overdue: bool,
}

/// What one round of questions found for a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// The proxies that hold the host.
    pub sightings: Vec<Sighting>,
    /// How many proxies were asked about.
    pub asked: usize,
    /// How many there are; more than were asked about in a large mesh.
    pub connected: usize,
    /// What could not be asked, one line each.
    pub unasked: Vec<String>,
}

/// Whether something is so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truth {
    /// It is.
    True,
    /// It is not.
    False,
    /// That is not known.
    Unknown,
}

impl Truth {
    /// As in a condition.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// What the condition says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether proxies have it.
    pub truth: Truth,
    /// Why.
    pub reason: Reason,
    /// In words. Without a time, so that at rest it stays the same.
    pub message: String,
    /// How many proxies; `None`: nobody could be asked.
    pub proxies: Option<ProxyCounts>,
}

/// What is known of a policy's proxies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Nobody asks: no identity is set up for it.
    NotSetUp,
    /// Nobody was asked since the policy is as it is.
    NotYet,
    /// This was found last.
    Found(Verdict),
}

impl Verdict {
    /// Nothing is known, and no proxy was counted.
    #[must_use]
    pub fn unknown(reason: Reason, message: impl Into<String>) -> Self {
        Self { truth: Truth::Unknown, reason, message: message.into(), proxies: None }
    }

    /// istiod could not be asked.
    #[must_use]
    pub fn unreachable(fault: &str) -> Self {
        Self::unknown(Reason::Unreachable, format!("istiod could not be asked: {}", cut(fault, REFUSAL_LIMIT)))
    }

    /// What follows from a round.
    #[must_use]
    pub fn of(expectation: &Expectation, findings: &Findings) -> Self {
        let Findings { sightings, asked, connected, unasked } = findings;
        let is_sample = asked < connected;
        let good = sightings.iter().filter(|one| one.standing == Standing::InEffect).count();
        let counts = ProxyCounts {
            total: u32::try_from(sightings.len()).unwrap_or(u32::MAX),
            in_effect: u32::try_from(good).unwrap_or(u32::MAX),
            sampled: is_sample,
        };
        let of = if is_sample { format!(", of a sample of {asked} out of {connected},") } else { String::new() };
        let host = &expectation.host;
        let head = format!("{good} of {} proxies{of} that hold {host} have it", sightings.len());
        let say = |truth, reason, message: String| Self { truth, reason, message, proxies: Some(counts) };
        let bad = Said::of(sightings.iter().filter(|one| is_bad(one)));
        let waiting = sightings.iter().filter(|one| !is_bad(one) && one.standing != Standing::InEffect);
        let (unproven, waiting): (Vec<_>, Vec<_>) =
            waiting.partition(|one| matches!(one.standing, Standing::Unproven(_)));
        if let Some(reason) = bad.reason {
            return say(Truth::False, reason, format!("{head}: {}", bad.lines.join("; ")));
        }
        if !waiting.is_empty() {
            let waiting = Said::of(waiting.into_iter());
            return say(Truth::Unknown, Reason::Progressing, format!("{head} so far: {}", waiting.lines.join("; ")));
        }
        if !unproven.is_empty() {
            let unproven = Said::of(unproven.into_iter());
            return say(Truth::Unknown, Reason::Unproven, format!("{head}: {}", unproven.lines.join("; ")));
        }
        if !unasked.is_empty() {
            let lines: Vec<&str> = unasked.iter().map(String::as_str).collect();
            let missing = cut(&some(&lines), REFUSAL_LIMIT);
            return say(Truth::Unknown, Reason::Partial, format!("{head}, and not all could be asked: {missing}"));
        }
        if sightings.is_empty() {
            let whom = if is_sample { format!("no proxy{of}") } else { "no proxy".to_owned() };
            return say(
                Truth::Unknown,
                Reason::NoProxies,
                format!("{whom} holds {host}, so there is nobody to observe it at"),
            );
        }
        say(Truth::True, Reason::InEffect, head)
    }
}

/// A refusal does not heal by waiting.
fn is_bad(sighting: &Sighting) -> bool {
    match sighting.standing {
        Standing::InEffect | Standing::Unproven(_) => false,
        Standing::Refused(_) => true,
        Standing::Shadowed(_) | Standing::Differs(_) | Standing::Lagging => sighting.overdue,
    }
}

/// What is said of some proxies, the worst first.
#[derive(Default)]
struct Said {
    reason: Option<Reason>,
    lines: Vec<String>,
}

impl Said {
    /// Different things that are told of one kind.
    const FEW: usize = 3;

    fn of<'a>(sightings: impl Iterator<Item = &'a Sighting>) -> Self {
        let all: Vec<&Sighting> = sightings.collect();
        let mut told = Self::default();
        told.kind(&all, Reason::RefusedByProxy, |standing| match standing {
            Standing::Refused(text) => Some(text),
            _ => None,
        });
        told.kind(&all, Reason::Shadowed, |standing| match standing {
            Standing::Shadowed(by) => Some(by),
            _ => None,
        });
        told.kind(&all, Reason::Differs, |standing| match standing {
            Standing::Differs(what) => Some(what),
            _ => None,
        });
        let lagging: Vec<&str> =
            all.iter().filter(|one| one.standing == Standing::Lagging).map(|one| one.proxy.as_str()).collect();
        if !lagging.is_empty() {
            told.reason = told.reason.or(Some(Reason::Lagging));
            told.lines.push(format!("not acknowledged by {}", some(&lagging)));
        }
        told.kind(&all, Reason::Unproven, |standing| match standing {
            Standing::Unproven(why) => Some(why),
            _ => None,
        });
        told
    }

    /// Those of one kind, by what is said of them.
    fn kind(&mut self, all: &[&Sighting], reason: Reason, what: impl Fn(&Standing) -> Option<&String>) {
        let mut by_text: std::collections::BTreeMap<&str, Vec<&str>> = std::collections::BTreeMap::new();
        for one in all {
            if let Some(text) = what(&one.standing) {
                by_text.entry(text).or_default().push(&one.proxy);
            }
        }
        if by_text.is_empty() {
            return;
        }
        self.reason = self.reason.or(Some(reason));
        let more = by_text.len().saturating_sub(Self::FEW);
        self.lines.extend(by_text.iter().take(Self::FEW).map(|(text, proxies)| {
            let (text, proxies) = (cut(text, REFUSAL_LIMIT), some(proxies));
            match reason {
                Reason::RefusedByProxy => format!("refused by {proxies}: {text}"),
                Reason::Shadowed => format!("{text} is what counts for {proxies}"),
                Reason::Differs => format!("{proxies} is given {text}"),
                _ => format!("{proxies}: {text}"),
            }
        }));
        if more > 0 {
            self.lines.push(format!("and {more} more such"));
        }
    }
}
