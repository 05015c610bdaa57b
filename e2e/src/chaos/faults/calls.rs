//! Calls that go wrong between the operator and the API server: at the proxy.

use anyhow::Result;

use crate::chaos::proxy::rules::{Act, Lines, Rule, What};
use crate::chaos::stage::Stage;

/// These rules, until they have bitten so often and the user is through.
fn under(stage: &Stage, rules: Vec<Rule>, at_least: u64) -> Result<u64> {
    stage.set_rules(rules)?;
    let bites = stage.until_bitten(at_least);
    stage.set_rules(Vec::new())?;
    bites
}

fn answer(code: u16, retry_after: Option<u32>) -> Act {
    Act::Answer { code, retry_after }
}

fn watches(lines: Lines) -> Rule {
    Rule::new(What::Watches, Act::Lines(lines))
}

/// Writes take effect, and their connections end without an answer.
pub fn answers_are_lost(stage: &Stage, random: &mut fastrand::Rng) -> Result<u64> {
    under(stage, vec![Rule::new(What::Writes, Act::CutAfter).every(random.u64(1..=3))], 3)
}

/// Writes are answered with errors, some of them although they took effect.
pub fn writes_fail(stage: &Stage, random: &mut fastrand::Rng) -> Result<u64> {
    let mut rules = vec![
        Rule::new(What::Writes, Act::AnswerAfter { code: 504 }).every(3),
        Rule::new(What::Writes, answer(500, None)).every(3),
        Rule::new(What::Writes, Act::AnswerAfter { code: 500 }).every(2),
        Rule::new(What::Writes, answer(503, None)).every(2),
    ];
    random.shuffle(&mut rules);
    under(stage, rules, 4)
}

/// 429, with and without a word how long to wait: of writes, or of everything, the lease included.
pub fn too_many_requests(stage: &Stage, random: &mut fastrand::Rng) -> Result<u64> {
    let word = random.bool().then_some(1);
    let rule = if random.bool() {
        Rule::new(What::Writes, answer(429, word))
    } else {
        Rule::new(What::All, answer(429, word)).every(2)
    };
    under(stage, vec![rule], 3)
}

/// Writes are never answered, whether they took effect or never arrived.
pub fn writes_hang(stage: &Stage, random: &mut fastrand::Rng) -> Result<u64> {
    let mut rules = vec![Rule::new(What::Writes, Act::Hang).every(3), Rule::new(What::Writes, Act::HangAfter).every(2)];
    random.shuffle(&mut rules);
    under(stage, rules, 2)
}

/// The operator sees everything late, its own writes included.
pub fn watches_lag(stage: &Stage, random: &mut fastrand::Rng) -> Result<u64> {
    let rule = watches(Lines::Lag { ms: random.u64(1000..4000) });
    let rule = if random.bool() { rule.of("destinationrules") } else { rule };
    under(stage, vec![rule], 2)
}

/// Each line comes twice; of two about different objects, the second first.
pub fn lines_repeat(stage: &Stage, _: &mut fastrand::Rng) -> Result<u64> {
    under(stage, vec![watches(Lines::Repeat)], 4)
}

/// Lines are lost, and at the end the API server says that it does not have them any more.
pub fn lines_are_lost(stage: &Stage, _: &mut fastrand::Rng) -> Result<u64> {
    let lost = under(stage, vec![watches(Lines::Lose)], 3)?;
    stage.set_rules(vec![watches(Lines::Gone)])?;
    let told = stage.until_bitten(6);
    stage.set_rules(Vec::new())?;
    Ok(lost + told?)
}

/// Watches end, cleanly or within a line, again and again.
pub fn watches_end(stage: &Stage, random: &mut fastrand::Rng) -> Result<u64> {
    let how = if random.bool() { Lines::End } else { Lines::Break };
    under(stage, vec![watches(how)], 6)
}

/// 410: in the stream, or as the answer to a watch.
pub fn history_is_gone(stage: &Stage, random: &mut fastrand::Rng) -> Result<u64> {
    if random.bool() {
        return under(stage, vec![watches(Lines::Gone)], 6);
    }
    // Only a watch that begins is answered so.
    stage.set_rules(vec![watches(Lines::End)])?;
    let ended = stage.until_bitten(6);
    ended.and_then(|_| under(stage, vec![Rule::new(What::Watches, answer(410, None))], 3))
}

/// Lists come slowly and break off, while watches send the operator back to them.
pub fn lists_trickle(stage: &Stage, random: &mut fastrand::Rng) -> Result<u64> {
    let pieces = random.u32(1..30);
    under(stage, vec![Rule::new(What::Lists, Act::Trickle { pieces }), watches(Lines::Gone)], 12)
}

/// Nothing comes any more on any watch, and no connection ends, until the operator ends them all by itself.
pub fn watches_fall_silent(stage: &Stage, random: &mut fastrand::Rng) -> Result<u64> {
    let rule = watches(Lines::Silence);
    // All of them, or one kind while the others live.
    let (rule, at_least) = if random.bool() { (rule.of("destinationrules"), 1) } else { (rule, 6) };
    let bites = under(stage, vec![rule], at_least)?;
    stage.until_nothing_is_silent()?;
    Ok(bites)
}

/// 401 to everything.
pub fn tokens_are_refused(stage: &Stage, _: &mut fastrand::Rng) -> Result<u64> {
    under(stage, vec![Rule::new(What::All, answer(401, None))], 4)
}
