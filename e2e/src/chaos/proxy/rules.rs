//! What the proxy does to which calls: plain data that goes through a pipe, and how a call is told.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Which calls a rule is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Calls {
    /// By what they do.
    pub what: What,
    /// By the resource in their path, as `destinationrules`; `None`: every one.
    pub resource: Option<String>,
    /// By the pod that they come from; `None`: every one.
    pub from: Option<IpAddr>,
}

/// What a call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// Whatever it does.
    All,
    /// It changes something, and is not about the lease.
    Writes,
    /// It follows a kind.
    Watches,
    /// It lists a kind.
    Lists,
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Act {
    /// It never reaches the API server, and is answered so.
    Answer {
        /// The status code.
        code: u16,
        /// The seconds of `Retry-After`.
        retry_after: Option<u32>,
    },
    /// It takes effect, and is answered as if it had not.
    AnswerAfter {
        /// The status code.
        code: u16,
    },
    /// It never reaches the API server, and its connection ends.
    Cut,
    /// It takes effect, and its connection ends without an answer.
    CutAfter,
    /// It never reaches the API server, and nothing is said. Held back and delivered later it is never:
    /// there is no fencing, and that fault would be ours.
    Hang,
    /// It takes effect, and nothing is said.
    HangAfter,
    /// Its answer comes in small pieces, and breaks off after so many of them.
    Trickle {
        /// Pieces of 512 bytes.
        pieces: u32,
    },
    /// To a stream of lines.
    Lines(Lines),
}

/// What becomes of the lines of a watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lines {
    /// Nothing comes any more, and the connection stays: also of those that run.
    Silence,
    /// What comes together comes this much later.
    Lag {
        /// Milliseconds.
        ms: u64,
    },
    /// Each comes twice, and of two that are about different objects the second one comes first.
    Repeat,
    /// They are lost; see [`Lines::Gone`] for how a client learns of it.
    Lose,
    /// The stream says 410 and ends, as after a compaction; also those that run.
    Gone,
    /// It ends, as by a timeout of the server; also those that run.
    End,
    /// It breaks off within a line, and the connection with it; also those that run.
    Break,
}

/// One fault at the proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// To which calls.
    pub calls: Calls,
    /// To each n-th of them; 1 is every one.
    pub every: u64,
    /// What.
    pub act: Act,
}

impl Rule {
    /// For every such call of everybody.
    #[must_use]
    pub fn new(what: What, act: Act) -> Self {
        Self { calls: Calls { what, resource: None, from: None }, every: 1, act }
    }

    /// For each n-th only.
    #[must_use]
    pub fn every(self, every: u64) -> Self {
        Self { every: every.max(1), ..self }
    }

    /// Only for calls about this resource.
    #[must_use]
    pub fn of(mut self, resource: &str) -> Self {
        self.calls.resource = Some(resource.to_owned());
        self
    }

    /// Only for calls from this address.
    #[must_use]
    pub fn from(mut self, address: IpAddr) -> Self {
        self.calls.from = Some(address);
        self
    }
}

/// A call, as rules see it.
#[derive(Debug, Clone)]
pub struct Call {
    /// It changes something.
    pub writes: bool,
    /// It asks for a stream.
    pub watches: bool,
    /// The path without its question mark.
    pub path: String,
    /// Whose it is.
    pub from: IpAddr,
}

impl Call {
    /// From a request's line.
    #[must_use]
    pub fn new(method: &str, path: &str, query: &str, from: IpAddr) -> Self {
        let watches = query.split('&').any(|pair| matches!(pair, "watch=true" | "watch=1" | "watch"));
        Self { writes: method != "GET", watches, path: path.to_owned(), from }
    }

    fn is_about(&self, resource: &str) -> bool {
        self.path.split('/').any(|word| word == resource)
    }

    /// Whether these are such calls.
    #[must_use]
    pub fn is_of(&self, calls: &Calls) -> bool {
        // A list ends with the plural of its kind; discovery and single objects do not.
        let lists = || !self.writes && !self.watches && is_collection(&self.path);
        let what = match calls.what {
            What::All => true,
            What::Writes => self.writes && !self.is_about("leases"),
            What::Watches => self.watches,
            What::Lists => lists(),
        };
        what && calls.resource.as_deref().is_none_or(|resource| self.is_about(resource))
            && calls.from.is_none_or(|from| from == self.from)
    }
}

/// `/api/v1/PLURAL`, `/apis/GROUP/VERSION/PLURAL`, and the same below `namespaces/NAME`.
fn is_collection(path: &str) -> bool {
    let words: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (["api", _, rest @ ..] | ["apis", _, _, rest @ ..]) = words.as_slice() else { return false };
    matches!(rest, [_] | ["namespaces", _, _])
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 244, 0, 7));

    fn calls(what: What) -> Calls {
        Calls { what, resource: None, from: None }
    }

    #[test]
    fn a_call_is_told_by_what_it_does() {
        let rules = "/apis/networking.istio.io/v1/destinationrules";
        let watch = Call::new("GET", rules, "allowWatchBookmarks=true&watch=true", POD);
        let list = Call::new("GET", rules, "limit=500", POD);
        let apply = Call::new("PATCH", "/apis/networking.istio.io/v1/namespaces/a/destinationrules/b", "", POD);
        let renewal = Call::new("PUT", "/apis/coordination.k8s.io/v1/namespaces/a/leases/b", "", POD);
        let discovery = Call::new("GET", "/apis/networking.istio.io/v1", "", POD);
        let told = |what| [&watch, &list, &apply, &renewal, &discovery].map(|call| call.is_of(&calls(what)));
        assert_eq!(told(What::All), [true; 5]);
        assert_eq!(told(What::Watches), [true, false, false, false, false]);
        assert_eq!(told(What::Lists), [false, true, false, false, false]);
        assert_eq!(told(What::Writes), [false, false, true, false, false]);
    }

    #[test]
    fn a_rule_for_a_pod_and_a_resource_is_for_no_other() {
        let rule = Rule::new(What::All, Act::Cut).of("destinationrules").from(POD);
        let call = |path, from| Call::new("GET", path, "", from);
        assert!(call("/apis/networking.istio.io/v1/destinationrules", POD).is_of(&rule.calls));
        assert!(!call("/apis/networking.istio.io/v1/virtualservices", POD).is_of(&rule.calls));
        let other = IpAddr::V4(std::net::Ipv4Addr::new(10, 244, 0, 8));
        assert!(!call("/apis/networking.istio.io/v1/destinationrules", other).is_of(&rule.calls));
    }
}
