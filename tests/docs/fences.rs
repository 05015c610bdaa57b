//! What pages in Markdown hold between their words: blocks of code, commands in them, links and headings.
//!
//! Also read by the lab: its tests judge its commands, and `cargo lab first-hour` runs them.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A block of code.
pub struct Fence {
    /// What stands behind its backticks.
    pub language: String,
    /// The line of the page that it begins at, from 1.
    pub line: usize,
    /// What is in it, without what all of it is indented by.
    pub text: String,
}

/// Every page for people: those of the root, the book, and those beside samples and the lab.
#[allow(
    clippy::expect_used,
    reason = "a page that cannot be read must not be passed over; only tests ask for all of them"
)]
pub fn pages(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in ["", "docs", "docs/warnings", "docs/adr", "istio-samples", "e2e"] {
        let entries = fs::read_dir(root.join(folder)).into_iter().flatten();
        let files = entries.map(|entry| entry.expect("it can be read").path());
        found.extend(files.filter(|path| path.extension().is_some_and(|end| end == "md")));
    }
    found.sort();
    assert!(found.len() > 50, "only {} pages were found", found.len());
    found
}

/// The blocks of a page.
pub fn fences(page: &str) -> Vec<Fence> {
    let (mut found, mut open): (Vec<Fence>, Option<(Fence, usize)>) = (Vec::new(), None);
    for (number, line) in page.lines().enumerate() {
        let is_fence = line.trim_start().starts_with("```");
        match open.take() {
            Some((fence, _)) if is_fence => found.push(fence),
            Some((mut fence, indent)) => {
                fence.text.push_str(line.get(indent..).unwrap_or_else(|| line.trim_start()));
                fence.text.push('\n');
                open = Some((fence, indent));
            }
            None if is_fence => {
                let language = line.trim().trim_start_matches('`').to_owned();
                let fence = Fence { language, line: number + 1, text: String::new() };
                open = Some((fence, line.len() - line.trim_start().len()));
            }
            None => {}
        }
    }
    assert!(open.is_none(), "a block has no end");
    found
}

/// A page without its blocks of code, line by line as it stands.
pub fn prose(page: &str) -> String {
    let mut inside = false;
    let mut text = String::new();
    for line in page.lines() {
        let is_fence = line.trim_start().starts_with("```");
        if !inside && !is_fence {
            text.push_str(line);
        }
        text.push('\n');
        inside ^= is_fence;
    }
    text
}

/// Pieces of code within sentences, with their lines; a piece may go on on the next line.
pub fn spans(page: &str) -> Vec<(usize, String)> {
    let text = prose(page);
    let mut line = 1;
    let mut found = Vec::new();
    for paragraph in text.split("\n\n") {
        let mut at = line;
        for (number, piece) in paragraph.split('`').enumerate() {
            if number % 2 == 1 {
                found.push((at, piece.split_whitespace().collect::<Vec<_>>().join(" ")));
            }
            at += piece.matches('\n').count();
        }
        line += paragraph.matches('\n').count() + 2;
    }
    found
}

/// What stands for the reader's own word.
pub const PLACES: [&str; 6] = ["FILE", "NAME", "NAMESPACE", "SERVICE", "URL", "WORKLOAD"];

/// A word with the reader's own in its places; a single capital is a number.
pub fn filled(word: &str) -> String {
    let parts = word.split('/').map(|part| match part {
        "URL" => "http://shop:8000".to_owned(),
        part if part.len() == 1 && part.chars().all(|letter| letter.is_ascii_uppercase()) => "7".to_owned(),
        part if PLACES.contains(&part) => part.to_lowercase(),
        part => part.to_owned(),
    });
    parts.collect::<Vec<_>>().join("/")
}

/// A command, and the line that it stands in.
pub struct Command {
    /// The line of the page, from 1.
    pub line: usize,
    /// Its words; the first is the program.
    pub words: Vec<String>,
}

/// Commands of a page that begin with one of these programs, whether they stand in a block that is for a shell
/// or within a sentence. What has a place for the reader's own words (`NAME`, `…`) is a command too, but for `…`.
pub fn commands(page: &str, programs: &[&str]) -> Vec<Command> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    for fence in fences(page).iter().filter(|fence| ["", "console", "sh"].contains(&fence.language.as_str())) {
        let mut whole = String::new();
        for (number, line) in fence.text.lines().enumerate() {
            whole.push_str(line.strip_prefix("$ ").unwrap_or(line));
            if whole.ends_with('\\') {
                whole.pop();
            } else {
                lines.push((fence.line + 1 + number, std::mem::take(&mut whole)));
            }
        }
    }
    lines.extend(spans(page));
    let mut found = Vec::new();
    for (line, text) in lines {
        let head = text.split(" && ").next().unwrap_or_default();
        let is_command = |text: &str| programs.iter().any(|program| text.starts_with(&format!("{program} ")));
        let starts = is_command(&text) || head.starts_with("cd ");
        if !starts || text.contains('…') {
            continue;
        }
        let mut lexer = shlex::Shlex::new(&text);
        let mut words: Vec<String> = Vec::new();
        let mut all = Vec::new();
        for word in &mut lexer {
            if ["&&", "|", ">"].contains(&word.as_str()) || word.starts_with('<') && !word.ends_with('>') {
                all.push(std::mem::take(&mut words));
                // What a stream comes from or goes to is no command.
                if word.starts_with(['>', '<']) {
                    break;
                }
            } else {
                words.push(word);
            }
        }
        assert!(!lexer.had_error, "line {line}: quotes do not match in {text}");
        all.push(words);
        let ours = all.into_iter().filter(|words| is_command(&(words.join(" ") + " ")));
        found.extend(ours.map(|words| Command { line, words }));
    }
    found
}
