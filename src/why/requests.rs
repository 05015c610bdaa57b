//! What Istio's own metric says: `istio_requests_total`, which proxies export by default, with Envoy's response flags.

/// Calls of one kind, as one proxy counts them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requests {
    /// Which side of the call counted.
    pub reporter: Reporter,
    /// Status of the answer; 0: there was none.
    pub code: u16,
    /// Why Envoy gave it by itself, as `UO` or `URX,UF`; empty: it did not.
    pub flags: String,
    /// How many since the proxy began.
    pub number: u64,
}

/// Which side of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reporter {
    /// The client's proxy.
    Source,
    /// The server's proxy.
    Destination,
}

/// Of what `/stats/prometheus` says that metric, of `host`, summed up over what does not matter here.
#[must_use]
pub fn requests(text: &str, host: &str) -> Vec<Requests> {
    let mut all: Vec<Requests> = Vec::new();
    for one in text.lines().filter_map(|line| line_of(line, host)) {
        let same = all
            .iter_mut()
            .find(|other| (other.reporter, other.code, &other.flags) == (one.reporter, one.code, &one.flags));
        match same {
            Some(same) => same.number += one.number,
            None => all.push(one),
        }
    }
    all
}

fn line_of(line: &str, host: &str) -> Option<Requests> {
    let rest = line.strip_prefix("istio_requests_total{")?;
    let (labels, number) = rest.rsplit_once("} ")?;
    // Flags are joined by commas as labels are, and no value here has a quote in it.
    let label = |name: &str| {
        let key = format!("{name}=\"");
        let mut places = labels.match_indices(&key).map(|(at, _)| at);
        let at = places.find(|at| *at == 0 || labels.get(..*at).is_some_and(|before| before.ends_with(',')))?;
        labels.get(at + key.len()..)?.split_once('"').map(|(value, _)| value)
    };
    if label("destination_service")? != host {
        return None;
    }
    let reporter = match label("reporter")? {
        "source" => Reporter::Source,
        "destination" => Reporter::Destination,
        _ => return None,
    };
    let flags = label("response_flags").unwrap_or_default();
    Some(Requests {
        reporter,
        code: label("response_code")?.parse().ok()?,
        flags: if flags == "-" { String::new() } else { flags.to_owned() },
        number: number.trim().parse().ok()?,
    })
}
