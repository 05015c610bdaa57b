//! The lines of a watch: cut out of pieces of a body, and repeated or out of order as a rule says.

use bytes::{Bytes, BytesMut};
use serde_json::Value;

/// Cuts a body into lines, whatever pieces it comes in.
#[derive(Debug, Default)]
pub struct Cutter(BytesMut);

impl Cutter {
    /// Takes a piece, and gives the lines that are whole with it, each with its end.
    pub fn take(&mut self, piece: &[u8]) -> Vec<Bytes> {
        self.0.extend_from_slice(piece);
        let mut lines = Vec::new();
        while let Some(end) = self.0.iter().position(|byte| *byte == b'\n') {
            lines.push(self.0.split_to(end + 1).freeze());
        }
        lines
    }
}

/// Repeats each line, and lets the second of two lines go first if they are about different objects: what
/// is said of one object comes in order from any API server, and a client may rely on it.
#[derive(Debug, Default)]
pub struct Repeater {
    held: Option<Bytes>,
}

impl Repeater {
    /// Takes a line, and gives what goes out now.
    pub fn take(&mut self, line: Bytes) -> Vec<Bytes> {
        match self.held.take() {
            None => {
                self.held = Some(line);
                Vec::new()
            }
            Some(held) if object(&held) == object(&line) => vec![held.clone(), held, line.clone(), line],
            Some(held) => vec![line.clone(), line, held.clone(), held],
        }
    }

    /// What it still has.
    pub fn rest(&mut self) -> Option<Bytes> {
        self.held.take()
    }
}

fn object(line: &[u8]) -> Option<(Value, Value)> {
    let mut event: Value = serde_json::from_slice(line).ok()?;
    let metadata = event.pointer_mut("/object/metadata")?;
    Some((metadata["namespace"].take(), metadata["name"].take()))
}

/// The line by which an API server says that the history from which a client goes on is gone.
#[must_use]
pub fn gone() -> Bytes {
    let status = serde_json::json!({"type": "ERROR", "object": {
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "too old resource version (a chaos run)", "reason": "Expired", "code": 410,
    }});
    Bytes::from(format!("{status}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str, version: u32) -> Bytes {
        let event = serde_json::json!({"type": "MODIFIED", "object": {"metadata": {"namespace": "a", "name": name, "resourceVersion": version.to_string()}}});
        Bytes::from(format!("{event}\n"))
    }

    #[test]
    fn lines_are_whole_however_they_come() {
        let mut cutter = Cutter::default();
        assert!(cutter.take(b"{\"a\":").is_empty());
        assert_eq!(cutter.take(b"1}\n{}\n{"), ["{\"a\":1}\n", "{}\n"]);
        assert_eq!(cutter.take(b"}\n"), ["{}\n"]);
    }

    #[test]
    fn lines_of_different_objects_change_places_and_those_of_one_do_not() {
        let mut repeater = Repeater::default();
        assert!(repeater.take(line("b", 1)).is_empty());
        assert_eq!(repeater.take(line("c", 2)), [line("c", 2), line("c", 2), line("b", 1), line("b", 1)]);
        assert!(repeater.take(line("b", 3)).is_empty());
        assert_eq!(repeater.take(line("b", 4)), [line("b", 3), line("b", 3), line("b", 4), line("b", 4)]);
        repeater.take(line("b", 5));
        assert_eq!(repeater.rest(), Some(line("b", 5)));
    }
}
