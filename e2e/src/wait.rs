//! In: a condition and how long it may take. Out: its value, or an error with what was seen last.
//! Nothing in the lab waits for a time to pass; everything waits for something to be so.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// What one look at the world gave.
#[derive(Debug)]
pub enum Seen<T> {
    /// The condition holds.
    Done(T),
    /// It does not yet; this is what there is instead.
    NotYet(String),
}

/// Looks again and again until the condition holds. A look that fails ends the waiting: what may heal is
/// `NotYet`, what cannot is an error.
///
/// # Errors
/// What the look said, or that the limit passed, with what was seen last.
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<Seen<T>>) -> Result<T> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(20);
    loop {
        let last = match look()? {
            Seen::Done(value) => return Ok(value),
            Seen::NotYet(last) => last,
        };
        if start.elapsed() >= limit {
            bail!("{what}: not so after {} s; seen last: {last}", limit.as_secs());
        }
        std::thread::sleep(pause);
        pause = (pause * 3 / 2).min(Duration::from_millis(250));
    }
}

/// As [`until`], for a look that is only true or false.
///
/// # Errors
/// As [`until`].
pub fn until_true(what: &str, limit: Duration, mut look: impl FnMut() -> Result<bool>) -> Result<()> {
    until(what, limit, || Ok(if look()? { Seen::Done(()) } else { Seen::NotYet("no".to_owned()) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_gives_the_value_of_the_first_look_that_holds() {
        let mut looks = 0;
        let value = until("three looks", Duration::from_secs(5), || {
            looks += 1;
            Ok(if looks == 3 { Seen::Done(looks) } else { Seen::NotYet(format!("{looks} looks")) })
        });
        assert_eq!(value.unwrap(), 3);
    }

    #[test]
    fn it_says_what_it_saw_last() {
        let error = until::<()>("the moon", Duration::ZERO, || Ok(Seen::NotYet("only clouds".to_owned()))).unwrap_err();
        assert_eq!(error.to_string(), "the moon: not so after 0 s; seen last: only clouds");
    }
}
