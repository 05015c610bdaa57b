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

/// Waits until what a look counts has stayed the same for so long, and gives the count.
///
/// # Errors
/// As [`until`].
pub fn until_unchanged(
    what: &str,
    limit: Duration,
    still: Duration,
    mut count: impl FnMut() -> Result<usize>,
) -> Result<usize> {
    let first = count()?;
    let mut last = (first, Instant::now());
    until(&format!("{what} stay the same for {} s", still.as_secs()), limit, || {
        let now = count()?;
        if now != last.0 {
            last = (now, Instant::now());
        }
        Ok(if last.1.elapsed() >= still { Seen::Done(now) } else { Seen::NotYet(format!("{first}, then {now}")) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_waits_until_a_count_rests_and_gives_up_on_one_that_does_not() {
        let mut looks = 0;
        let mut grows_to_three = || {
            looks += 1;
            Ok(looks.min(3))
        };
        let still = Duration::from_millis(100);
        assert_eq!(until_unchanged("counts", Duration::from_secs(5), still, &mut grows_to_three).unwrap(), 3);
        let mut looks = 0;
        let mut grows = || {
            looks += 1;
            Ok(looks)
        };
        assert!(until_unchanged("counts", Duration::from_millis(10), Duration::from_mins(1), &mut grows).is_err());
    }

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
