//! Rows as a picture: one bar a step, split by what callers got.

use std::fmt::Write as _;

use super::measure::{Row, percent};
use crate::svg;

const LEFT: f64 = 190.0;
const BAR: f64 = 560.0;
const STEP: f64 = 44.0;
const TOP: f64 = 74.0;

/// Kinds of answers: a name, a colour that also colour-blind people tell apart, and the count.
type Kind = (&'static str, &'static str, fn(&Row) -> u64);

const KINDS: [Kind; 4] = [
    ("200", "#0072b2", |row| row.ok),
    ("503 by the client's Envoy", "#e69f00", |row| row.client_refused.min(row.refused)),
    ("503 by the server's Envoy", "#cc79a7", |row| row.refused - row.client_refused.min(row.refused)),
    ("500", "#555555", |row| row.failed),
];

/// An SVG of these rows.
#[expect(clippy::cast_precision_loss, reason = "a handful of rows")]
pub(super) fn draw(rows: &[Row]) -> String {
    let height = TOP + STEP * rows.len() as f64 + 16.0;
    let mut drawn = svg::legend(KINDS.map(|(name, colour, _)| (name, colour)), (20.0, 42.0));
    for (index, row) in rows.iter().enumerate() {
        bar(&mut drawn, row, TOP + STEP * index as f64);
    }
    svg::sheet(
        "What callers got, step by step (from a real run of cargo lab demo)",
        "What callers got at each step of the demo",
        height,
        &drawn,
    )
}

fn bar(drawn: &mut String, row: &Row, y: f64) {
    let _ = writeln!(
        drawn,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
        LEFT - 12.0,
        y + 20.0,
        svg::escape(&row.step)
    );
    let mut x = LEFT;
    for (name, colour, count) in KINDS {
        let share = percent(count(row), row.requests);
        let width = BAR * share / 100.0;
        if share > 0.0 {
            let _ = writeln!(
                drawn,
                "<rect x=\"{x:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"30\" fill=\"{colour}\"><title>{name}: {share:.1} %</title></rect>"
            );
        }
        if share >= 7.0 {
            let _ = writeln!(
                drawn,
                "<text x=\"{:.1}\" y=\"{}\" fill=\"#ffffff\" text-anchor=\"middle\">{share:.0} %</text>",
                x + width / 2.0,
                y + 20.0
            );
        }
        x += width;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_share() {
        let row = Row { step: "a & b".to_owned(), requests: 4, ok: 3, refused: 1, client_refused: 1, ..Row::default() };
        let svg = draw(&[row]);
        assert!(svg.contains("width=\"420.0\"") && svg.contains("width=\"140.0\""), "{svg}");
        assert!(svg.contains("a &amp; b") && svg.contains("75 %"), "{svg}");
    }
}
