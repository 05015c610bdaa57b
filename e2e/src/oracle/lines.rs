//! In: the oracle's program and questions. Out: its answers, in order. The root package's `tests/judged`
//! speaks to it through this file too, so it needs nothing else of the lab.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// The oracle, running. It ends when this is dropped.
#[derive(Debug)]
pub struct Oracle {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Oracle {
    /// Starts the program.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(program: &Path) -> Result<Self> {
        let mut child = Command::new(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("the oracle {} cannot be started", program.display()))?;
        let questions = child.stdin.take().context("the oracle has no standard input")?;
        let answers = BufReader::new(child.stdout.take().context("the oracle has no standard output")?);
        Ok(Self { child, questions, answers })
    }

    /// Puts questions; thousands at a time are fine.
    ///
    /// # Errors
    /// When the oracle ended, or when something is no question.
    pub fn ask(&mut self, questions: &[Value]) -> Result<Vec<Value>> {
        let mut text = String::new();
        for question in questions {
            text.push_str(&question.to_string());
            text.push('\n');
        }
        // Beside each other: with both pipes full nobody would go on.
        std::thread::scope(|scope| {
            let to = &mut self.questions;
            let written = scope.spawn(move || to.write_all(text.as_bytes()).and_then(|()| to.flush()));
            let mut answers = Vec::with_capacity(questions.len());
            for question in questions {
                let mut line = String::new();
                self.answers.read_line(&mut line)?;
                ensure!(!line.is_empty(), "the oracle ended at the question {question}");
                let answer: Value = serde_json::from_str(&line).with_context(|| format!("no answer: {line}"))?;
                ensure!(answer.get("error").is_none(), "the oracle has no answer to {question}: {}", answer["error"]);
                answers.push(answer);
            }
            written.join().map_err(|_| anyhow::anyhow!("writing questions panicked"))??;
            Ok(answers)
        })
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        // Its input ends with us, but whoever waits for it should not wait for its last answer.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
