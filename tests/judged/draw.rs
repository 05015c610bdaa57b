//! Ten thousand cases from one seed, judged many at a time, and the smallest of those that fail.

use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

/// How many cases each sentence is held to.
pub const COUNT: usize = 10_000;
/// How many are judged together: enough to keep both sides busy, few enough to hold their trees.
const BATCH: usize = 250;
/// Steps towards a smaller case; each is a question of its own.
const STEPS: usize = 2_000;

/// Draws [`COUNT`] cases and judges them. `JUDGED_SEED` draws the same again.
///
/// # Panics
/// With the smallest case found, when one fails.
pub fn each<S: Strategy>(strategy: &S, judge: impl FnMut(&[S::Value]) -> Vec<Result<(), String>>) {
    some(COUNT, strategy, judge);
}

/// The same with so many cases.
///
/// # Panics
/// With the smallest case found, when one fails.
pub fn some<S: Strategy>(count: usize, strategy: &S, mut judge: impl FnMut(&[S::Value]) -> Vec<Result<(), String>>) {
    let seed = seed();
    let mut runner = runner(seed);
    for first in (0..count).step_by(BATCH) {
        let mut trees: Vec<S::Tree> = (first..count.min(first + BATCH))
            .map(|_| strategy.new_tree(&mut runner).expect("a case can be drawn"))
            .collect();
        let cases: Vec<S::Value> = trees.iter().map(ValueTree::current).collect();
        let verdicts = judge(&cases);
        assert_eq!(verdicts.len(), cases.len(), "a verdict for each case");
        let Some((index, why)) =
            verdicts.into_iter().enumerate().find_map(|(index, verdict)| Some((index, verdict.err()?)))
        else {
            continue;
        };
        let why = smallest(&mut trees[index], why, &mut judge);
        panic!("case {} of JUDGED_SEED={seed}, made as small as it gets:\n{why}", first + index);
    }
}

/// So many cases that nobody judges here.
pub fn drawn<S: Strategy>(count: usize, strategy: &S) -> Vec<S::Value> {
    let mut runner = runner(seed());
    (0..count).map(|_| strategy.new_tree(&mut runner).expect("a case can be drawn").current()).collect()
}

fn runner(seed: u64) -> TestRunner {
    println!("JUDGED_SEED={seed} draws these cases again");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

fn seed() -> u64 {
    match std::env::var("JUDGED_SEED") {
        Ok(text) => text.parse().expect("JUDGED_SEED is a number"),
        Err(_) => rand_seed(),
    }
}

/// Another one each time: what ten thousand cases do not show, the next ten thousand may.
fn rand_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

/// What is said of the smallest case that still fails.
fn smallest<T: ValueTree>(
    tree: &mut T,
    mut why: String,
    judge: &mut impl FnMut(&[T::Value]) -> Vec<Result<(), String>>,
) -> String {
    let mut more = tree.simplify();
    for _ in 0..STEPS {
        if !more {
            break;
        }
        more = match judge(&[tree.current()]).pop() {
            Some(Err(found)) => {
                why = found;
                tree.simplify()
            }
            _ => tree.complicate(),
        };
    }
    why
}
