//! What all pictures of the lab have in common: a white sheet with a title, and a legend.

use std::fmt::Write as _;

/// How wide a sheet is.
pub const WIDTH: f64 = 860.0;

/// A sheet with a title, and what is drawn on it. `says` is for who does not see it.
#[must_use]
pub fn sheet(title: &str, says: &str, height: f64, drawn: &str) -> String {
    let (title, says) = (escape(title), escape(says));
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"14\" role=\"img\" \
         aria-label=\"{says}\">\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"20\" y=\"28\" font-size=\"17\" font-weight=\"bold\">{title}</text>\n{drawn}</svg>\n"
    )
}

/// Names with their colours, in a line.
#[must_use]
pub fn legend<'a>(names: impl IntoIterator<Item = (&'a str, &'a str)>, (mut x, y): (f64, f64)) -> String {
    let mut drawn = String::new();
    for (name, colour) in names {
        let _ = writeln!(
            drawn,
            "<rect x=\"{x}\" y=\"{y}\" width=\"14\" height=\"14\" fill=\"{colour}\"/><text x=\"{}\" y=\"{}\">{}</text>",
            x + 20.0,
            y + 12.0,
            escape(name)
        );
        x += 48.0 + 7.4 * length(name);
    }
    drawn
}

#[expect(clippy::cast_precision_loss, reason = "a few words")]
fn length(text: &str) -> f64 {
    text.chars().count() as f64
}

/// Text, as it may stand between tags and in quotes.
#[must_use]
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_cannot_end_what_they_stand_in() {
        let sheet = sheet("a & b", "\"quoted\"", 10.0, &legend([("<x>", "#000000")], (20.0, 42.0)));
        assert!(sheet.contains("a &amp; b") && sheet.contains("&quot;quoted&quot;") && sheet.contains("&lt;x&gt;"));
    }
}
