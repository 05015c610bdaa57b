//! Where output goes, and in which colours.

use std::io::{self, BufWriter, IsTerminal, Write};

use anyhow::{Context as _, bail};

/// What a word stands for, hence its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// Green.
    Good,
    /// Yellow.
    Warning,
    /// Red.
    Error,
}

/// Colours words, or leaves them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paint {
    on: bool,
}

impl Paint {
    /// No colours.
    pub const PLAIN: Self = Self { on: false };

    /// Colours on a terminal, unless `NO_COLOR` is set to anything (no-color.org) or the terminal is
    /// a dumb one.
    fn of(terminal: bool) -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { on: terminal && !set("NO_COLOR") && !dumb }
    }

    /// Whether there are colours.
    #[must_use]
    pub const fn is_on(self) -> bool {
        self.on
    }

    /// The word, in the colour of its tone.
    #[must_use]
    pub fn word(self, tone: Tone, word: &str) -> String {
        let code = match tone {
            Tone::Good => 32,
            Tone::Warning => 33,
            Tone::Error => 31,
        };
        if self.on { format!("\x1b[1;{code}m{word}\x1b[0m") } else { word.to_owned() }
    }
}

/// The two streams of a command.
pub struct Io {
    /// What was asked for.
    pub out: BufWriter<io::Stdout>,
    /// Colours of `out`.
    pub paint: Paint,
    err_paint: Paint,
    verbose: bool,
}

impl Io {
    /// The streams of this process.
    #[must_use]
    pub fn of_process(verbose: bool) -> Self {
        Self {
            out: BufWriter::new(io::stdout()),
            paint: Paint::of(io::stdout().is_terminal()),
            err_paint: Paint::of(io::stderr().is_terminal()),
            verbose,
        }
    }

    /// Says what went wrong, on standard error.
    pub fn error(&mut self, text: &str) {
        self.say(&self.err_paint.word(Tone::Error, "error"), text);
    }

    /// Says what will surprise, on standard error.
    pub fn warning(&mut self, text: &str) {
        self.say(&self.err_paint.word(Tone::Warning, "warning"), text);
    }

    /// Says what only the curious want to know, on standard error.
    pub fn note(&mut self, text: &str) {
        if self.verbose {
            self.say("note", text);
        }
    }

    /// Whether a person goes on, asked on standard error.
    ///
    /// # Errors
    /// If nobody can be asked: the flag `--yes` must have answered.
    pub fn agreed(&mut self) -> anyhow::Result<bool> {
        if !io::stdin().is_terminal() {
            bail!("nobody can be asked, since standard input is no terminal: say --yes to go on");
        }
        self.out.flush()?;
        write!(io::stderr(), "Go on? [y/N] ")?;
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).context("standard input")?;
        Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
    }

    fn say(&mut self, word: &str, text: &str) {
        // In order with what was printed before; nobody is left to tell if it fails.
        let _lost = self.out.flush();
        let _lost = writeln!(io::stderr(), "{word}: {text}");
    }
}
