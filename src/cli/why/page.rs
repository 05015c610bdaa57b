//! Why, for people.

use std::fmt::Write as _;

use super::super::{
    Paint, Tone,
    output::{ago, columns, count},
};
use crate::why::{Cause, Class, Evidence, Why};

/// Lines of evidence for one cause, and of changes, that people are shown.
const SHOWN: usize = 5;

/// The page. Writing to a String cannot fail.
#[must_use]
pub fn text(why: &Why, paint: Paint) -> String {
    let tone = if why.failing { Tone::Error } else { Tone::Good };
    let mut text = format!("{}\n", paint.word(tone, &why.headline));
    let read = format!("{} and {}", count(why.clients, "client"), count(why.servers, "server"));
    let _ = match why.looked_for_s {
        0 => writeln!(text, "What the proxies of {read} counted since they began"),
        seconds => writeln!(text, "Looked {seconds} s at the proxies of {read}"),
    };
    for (index, cause) in why.causes.iter().enumerate() {
        let _ = writeln!(text, "\n{}. {}: {}", index + 1, title(cause, paint), cause.summary);
        for evidence in cause.evidence.iter().take(SHOWN) {
            let _ = writeln!(text, "   - {}", line(evidence, why.looked_for_s));
        }
        if cause.evidence.len() > SHOWN {
            let _ = writeln!(text, "   - and {} more: -o json has them all", cause.evidence.len() - SHOWN);
        }
        for next in &cause.next {
            let _ = writeln!(text, "   > {next}");
        }
    }
    if !why.changes.is_empty() {
        let _ = writeln!(text, "\nChanged last");
        let rows =
            why.changes.iter().take(SHOWN * 2).map(|change| {
                vec![format!("{} ago", ago(why.at, change.at)), change.object.clone(), change.what.clone()]
            });
        text.push_str(&columns(2, &rows.collect::<Vec<_>>()));
    }
    if !why.looked_at.is_empty() {
        let _ = writeln!(text, "\nLooked at, and no cause");
        let rows = why.looked_at.iter().map(|look| vec![look.what.clone(), look.says.clone()]);
        text.push_str(&columns(2, &rows.collect::<Vec<_>>()));
    }
    if !why.not_seen.is_empty() {
        let _ = writeln!(text, "\nNot seen");
        text.push_str(&columns(2, &why.not_seen.iter().map(|line| vec![line.clone()]).collect::<Vec<_>>()));
    }
    text
}

fn title(cause: &Cause, paint: Paint) -> String {
    let tone = match cause.class {
        Class::SeenNow | Class::MustFail => Tone::Error,
        Class::SeenBefore | Class::Possible => Tone::Warning,
    };
    paint.word(tone, &format!("{} ({})", cause.cause.words(), cause.class.words()))
}

fn line(evidence: &Evidence, seconds: u64) -> String {
    let Evidence { seen_at, says, added, total, counter } = evidence;
    let (Some(total), Some(counter)) = (total, counter) else { return format!("{seen_at}: {says}") };
    match added {
        Some(added) if *added > 0 => {
            format!("{seen_at}: {added} {says} in {seconds} s ({counter}: {total} since it began)")
        }
        _ => format!("{seen_at}: {total} {says} since it began ({counter})"),
    }
}
