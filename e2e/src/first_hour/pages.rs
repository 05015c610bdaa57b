//! What a page says to do. In: its text. Out: commands to run, files to save, and blocks that the page itself says are
//! not run here.

use anyhow::{Result, bail, ensure};

use crate::fences::{Fence, fences};

/// What the first line of a block says that is not run here; behind it is why.
const MARK: &str = "# Not in the first hour: ";

/// What is said before a block that is to be saved.
const SAVE: &str = "Save this as `";

/// One thing to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) page: &'static str,
    /// The line of the page, from 1.
    pub(super) line: usize,
    pub(super) act: Act,
    /// Whether it is the first of its block.
    pub(super) is_first: bool,
    /// Lines that the page shows of the answer, in their order; there may be more between them.
    pub(super) answer: Vec<String>,
    /// The block of YAML behind the command, if there is one before the next command.
    pub(super) yaml: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// A line for a shell.
    Run(String),
    /// A file of the reader's.
    Save { file: String, text: String },
    /// A block that is not run here.
    Leave { first: String, why: String },
}

impl Act {
    /// In one line.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Run(line) => line.clone(),
            Self::Save { file, .. } => file.clone(),
            Self::Leave { first, why } => format!("{first} … ({why})"),
        }
    }
}

/// The steps of a page.
///
/// # Errors
/// When a block is neither for a shell, nor YAML, nor shown alone (`text`).
pub(super) fn steps(page: &'static str, text: &str) -> Result<Vec<Step>> {
    let lines: Vec<&str> = text.lines().collect();
    let mut steps: Vec<Step> = Vec::new();
    // The line behind the last block of commands.
    let mut end_of_commands = 0;
    for fence in fences(text) {
        let end = fence.line + fence.text.lines().count() + 1;
        let between = |from: usize| lines[from..fence.line - 1].iter().all(|line| line.trim().is_empty());
        match fence.language.as_str() {
            "" | "sh" | "console" => {
                steps.extend(commands(page, &fence)?);
                end_of_commands = end;
            }
            "text" => {
                // Right behind commands it is their answer, elsewhere a picture.
                if end_of_commands > 0
                    && between(end_of_commands)
                    && let Some(last) = steps.last_mut()
                {
                    last.answer.extend(fence.text.lines().map(str::to_owned));
                }
            }
            "yaml" => {
                let said = lines[..fence.line - 1].iter().rev().find(|line| !line.trim().is_empty());
                let file = said.and_then(|line| line.split_once(SAVE)).and_then(|(_, rest)| rest.split_once('`'));
                if let Some((file, _)) = file {
                    let act = Act::Save { file: file.to_owned(), text: fence.text };
                    let line = fence.line;
                    steps.push(Step { page, line, act, is_first: true, answer: Vec::new(), yaml: None });
                } else if let Some(last) = steps.last_mut() {
                    last.yaml.get_or_insert(fence.text);
                }
            }
            other => bail!("{page}:{}: a block of «{other}» is neither run nor marked as not run", fence.line),
        }
    }
    Ok(steps)
}

/// The commands of a block: all its lines, or, where lines begin with a prompt, these, with what stands below each as
/// its answer.
fn commands(page: &'static str, fence: &Fence) -> Result<Vec<Step>> {
    let is_prompted = fence.text.lines().any(|line| line.starts_with("$ "));
    let mut steps: Vec<Step> = Vec::new();
    let mut why = None;
    let mut half: Option<(usize, String)> = None;
    for (number, line) in fence.text.lines().enumerate() {
        let at = fence.line + 1 + number;
        if let Some(words) = line.strip_prefix(MARK) {
            ensure!(number == 0, "{page}:{at}: the mark of a block is its first line");
            why = Some(words.to_owned());
            continue;
        }
        let typed = line.strip_prefix("$ ");
        if is_prompted && typed.is_none() && half.is_none() {
            if let Some(step) = steps.last_mut() {
                step.answer.push(line.to_owned());
            }
            continue;
        }
        let (begun, mut whole) = half.take().unwrap_or((at, String::new()));
        whole.push_str(typed.unwrap_or(line));
        if whole.ends_with('\\') {
            whole.pop();
            half = Some((begun, whole));
        } else if !whole.trim().is_empty() && !whole.trim_start().starts_with('#') {
            let (is_first, act) = (steps.is_empty(), Act::Run(whole));
            steps.push(Step { page, line: begun, act, is_first, answer: Vec::new(), yaml: None });
        }
    }
    ensure!(half.is_none(), "{page}:{}: the last command goes on behind the block", fence.line);
    if let Some(why) = why {
        let first = steps.first().map(|step| step.act.shown()).unwrap_or_default();
        let act = Act::Leave { first, why };
        steps = vec![Step { page, line: fence.line, act, is_first: true, answer: Vec::new(), yaml: None }];
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: usize, command: &str, is_first: bool, answer: &[&str]) -> Step {
        let answer = answer.iter().map(|&line| line.to_owned()).collect();
        Step { page: "p.md", line, act: Act::Run(command.to_owned()), is_first, answer, yaml: None }
    }

    #[test]
    fn commands_their_answers_files_and_marked_blocks_are_told_apart() {
        let page = "\
Words.

```
one --a   # why
two \\
  --b
```

```text
two says
```

Words again. Save this as `x.yaml`:

```yaml
a: 1
```

```console
$ three
line
…
$ four
```

Gives:

```yaml
b: 2
```

```
# Not in the first hour: it needs Docker
docker build .
docker push x
```

A picture:

```text
o-o
```
";
        let mut four = run(23, "four", false, &[]);
        four.yaml = Some("b: 2\n".to_owned());
        let saved = Act::Save { file: "x.yaml".to_owned(), text: "a: 1\n".to_owned() };
        let left = Act::Leave { first: "docker build .".to_owned(), why: "it needs Docker".to_owned() };
        let step = |line, act| Step { page: "p.md", line, act, is_first: true, answer: Vec::new(), yaml: None };
        let want = vec![
            run(4, "one --a   # why", true, &[]),
            run(5, "two   --b", false, &["two says"]),
            step(15, saved),
            run(20, "three", true, &["line", "…"]),
            four,
            step(32, left),
        ];
        assert_eq!(steps("p.md", page).unwrap(), want);
    }

    #[test]
    fn a_block_that_is_neither_run_nor_marked_is_an_error_with_its_line() {
        let wrong = steps("p.md", "```python\nprint(1)\n```\n").unwrap_err().to_string();
        assert!(wrong.starts_with("p.md:1: a block of «python»"), "{wrong}");
        let wrong = steps("p.md", "```\none\n# Not in the first hour: late\n```\n").unwrap_err().to_string();
        assert!(wrong.starts_with("p.md:3: the mark"), "{wrong}");
    }
}
