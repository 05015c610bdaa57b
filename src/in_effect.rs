//! Whether proxies have what was programmed.
//!
//! In: what a policy wants of the proxies that call its target, and what istiod says of each. Out: a
//! [`Verdict`], which the condition `InEffect` says. Never True without an answer: what could not be asked
//! makes it Unknown.
#![deny(clippy::disallowed_types, clippy::disallowed_methods)]

mod expectation;
mod standing;
#[cfg(test)]
mod tests;
mod verdict;

pub use expectation::Expectation;
pub use standing::{Standing, standing};
pub use verdict::{Findings, Proof, Sighting, Truth, Verdict};

/// Names of a list, a handful of them.
fn some(names: &[&str]) -> String {
    const HANDFUL: usize = 5;
    let more = names.len().saturating_sub(HANDFUL);
    let list = names[..names.len() - more].join(", ");
    if more == 0 { list } else { format!("{list} and {more} more") }
}

/// Cuts on a character.
fn cut(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let end = (0..=limit.saturating_sub('…'.len_utf8())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}…", &text[..end])
}
