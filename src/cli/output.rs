//! The formats that commands print in: for people, or for programs.

use jiff::Timestamp;
use serde::Serialize;

use super::yaml;

/// How to print an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    #[value(alias = "text")]
    Table,
    /// One object, for programs; docs/output.md names its fields.
    Json,
    /// The same object as YAML.
    Yaml,
}

/// How to print manifests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Manifests {
    /// As kubectl takes it; several documents with a line of --- between them.
    #[default]
    Yaml,
    /// One object, or one List.
    Json,
}

impl Output {
    /// The answer in this format; for people it is what `table` makes of it.
    ///
    /// # Errors
    /// If the value cannot be written so, which no value of ours is.
    pub fn text<T: Serialize>(self, value: &T, table: impl FnOnce(&T) -> String) -> anyhow::Result<String> {
        Ok(match self {
            Self::Table => table(value),
            Self::Json => serde_json::to_string_pretty(value)? + "\n",
            Self::Yaml => yaml::print(value)?,
        })
    }
}

/// Rows as columns, two blanks between them, none at the end of a line.
#[must_use]
pub fn columns(indent: usize, rows: &[Vec<String>]) -> String {
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let mut text = String::new();
    for row in rows {
        let mut line = " ".repeat(indent);
        for (column, cell) in row.iter().enumerate() {
            let padding = width(column).unwrap_or(0).saturating_sub(cell.chars().count()) + 2;
            line.push_str(cell);
            line.push_str(&" ".repeat(padding));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// `1 fault`, `2 faults`.
#[must_use]
pub fn count(number: usize, one: &str) -> String {
    format!("{number} {one}{}", if number == 1 { "" } else { "s" })
}

/// How long ago, in one unit, rounded down.
#[must_use]
pub fn ago(now: Timestamp, then: Timestamp) -> String {
    let seconds = now.duration_since(then).as_secs().max(0);
    let (number, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..86400 => (seconds / 3600, "hour"),
        _ => (seconds / 86400, "day"),
    };
    count(usize::try_from(number).unwrap_or(0), unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other_and_lines_end_with_their_last_word() {
        let rows = [vec!["a".to_owned(), "bb".to_owned()], vec!["ccc".to_owned(), String::new()]];
        assert_eq!(columns(1, &rows), " a    bb\n ccc\n");
    }

    #[test]
    fn a_time_is_told_in_its_largest_unit() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let before = |seconds: i64| ago(now, Timestamp::from_second(1_000_000 - seconds).unwrap());
        assert_eq!(
            [0, 1, 59, 60, 7_199, 86_400, 200_000].map(before),
            ["0 seconds", "1 second", "59 seconds", "1 minute", "1 hour", "1 day", "2 days"]
        );
        // Clocks differ.
        assert_eq!(before(-5), "0 seconds");
    }
}
