//! Rows as a plain table.

use super::measure::Row;

/// A column: its head, and what it says of a row.
type Column = (&'static str, fn(&Row) -> String);

const COLUMNS: &[Column] = &[
    ("step", |row| row.step.clone()),
    ("requests", |row| row.requests.to_string()),
    ("200", |row| row.ok.to_string()),
    ("503", |row| row.refused.to_string()),
    ("by client", |row| row.client_refused.to_string()),
    ("by server", |row| row.server_refused.to_string()),
    ("other", |row| row.failed.to_string()),
    ("retries", |row| row.retries.to_string()),
    ("ejected", |row| row.ejected.to_string()),
    ("cx full", |row| row.connections_full.to_string()),
    ("p50 ms", |row| millis(row, 0)),
    ("p90 ms", |row| millis(row, 1)),
    ("p99 ms", |row| millis(row, 2)),
];

fn millis(row: &Row, index: usize) -> String {
    row.latency.map_or_else(|| "-".to_owned(), |latency| format!("{:.1}", latency[index]))
}

/// The table of these rows.
pub(super) fn whole(rows: &[Row]) -> String {
    let cells: Vec<Vec<String>> = rows.iter().map(|row| COLUMNS.iter().map(|(_, say)| say(row)).collect()).collect();
    let width = |index: usize, head: &str| {
        cells.iter().map(|row| row[index].chars().count()).chain([head.chars().count()]).max().unwrap_or(0)
    };
    let line = |row: Vec<String>| {
        let padded = row.iter().enumerate().map(|(index, cell)| {
            let width = width(index, COLUMNS[index].0);
            if index == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        format!("  {}", padded.collect::<Vec<_>>().join("  ")).trim_end().to_owned()
    };
    let head = line(COLUMNS.iter().map(|(head, _)| (*head).to_owned()).collect());
    std::iter::once(head).chain(cells.iter().cloned().map(line)).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_their_heads() {
        let row = Row { step: "limits".to_owned(), requests: 1000, latency: Some([1.0, 2.0, 33.25]), ..Row::default() };
        let table = whole(&[row]);
        let (head, line) = table.split_once('\n').unwrap();
        assert_eq!(head.find("requests").map(|at| at + "requests".len()), line.find("1000").map(|at| at + 4));
        assert!(line.ends_with("33.2"), "{line}");
    }
}
