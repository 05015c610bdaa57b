//! What a failure of the transport means, from the innermost cause that says something. Pure.

use std::error::Error as StdError;
use std::io;

use super::outcome::{ConnectionError, Outcome};

/// The host's name has no address.
#[derive(Debug, thiserror::Error)]
#[error("name not found: {0}")]
pub(super) struct LookupFailed(pub(super) String);

/// What came of a request that failed like this.
pub(super) fn outcome_of(error: &(dyn StdError + 'static)) -> Outcome {
    let mut found = ConnectionError::Other;
    let mut source = Some(error);
    while let Some(cause) = source {
        if cause.is::<LookupFailed>() {
            return Outcome::Failed(ConnectionError::Lookup);
        } else if let Some(io) = cause.downcast_ref::<io::Error>() {
            match of_io(io) {
                // The kernel's own patience ended before ours.
                None => return Outcome::Timeout,
                Some(ConnectionError::Other) => {}
                Some(kind) => found = kind,
            }
        } else if let Some(h2) = cause.downcast_ref::<h2::Error>() {
            match h2.get_io().map(of_io) {
                Some(None) => return Outcome::Timeout,
                Some(Some(kind)) => found = kind,
                None if h2.is_reset() || h2.is_go_away() => found = ConnectionError::StreamReset,
                None => found = ConnectionError::Protocol,
            }
        } else if let Some(hyper) = cause.downcast_ref::<hyper::Error>() {
            if hyper.is_parse() {
                found = ConnectionError::Protocol;
            } else if hyper.is_incomplete_message() || hyper.is_closed() || hyper.is_canceled() {
                found = ConnectionError::Closed;
            }
        }
        source = cause.source();
    }
    Outcome::Failed(found)
}

/// The kind of an I/O error; `None` for a timeout.
fn of_io(error: &io::Error) -> Option<ConnectionError> {
    use io::ErrorKind as Kind;
    // ENFILE and EMFILE have no stable kind. The numbers are the same on every Unix.
    if matches!(error.raw_os_error(), Some(23 | 24)) {
        return Some(ConnectionError::LocalResources);
    }
    Some(match error.kind() {
        Kind::TimedOut => return None,
        Kind::ConnectionRefused => ConnectionError::Refused,
        Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe => ConnectionError::Reset,
        Kind::UnexpectedEof => ConnectionError::Closed,
        Kind::HostUnreachable | Kind::NetworkUnreachable => ConnectionError::Unreachable,
        Kind::AddrNotAvailable | Kind::AddrInUse => ConnectionError::LocalResources,
        _ => ConnectionError::Other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_errors_are_told_apart() {
        use io::ErrorKind as Kind;
        for (kind, expected) in [
            (Kind::ConnectionRefused, Some(ConnectionError::Refused)),
            (Kind::ConnectionReset, Some(ConnectionError::Reset)),
            (Kind::BrokenPipe, Some(ConnectionError::Reset)),
            (Kind::UnexpectedEof, Some(ConnectionError::Closed)),
            (Kind::NetworkUnreachable, Some(ConnectionError::Unreachable)),
            (Kind::AddrNotAvailable, Some(ConnectionError::LocalResources)),
            (Kind::PermissionDenied, Some(ConnectionError::Other)),
            (Kind::TimedOut, None),
        ] {
            assert_eq!(of_io(&kind.into()), expected, "{kind:?}");
        }
        let too_many_files = io::Error::from_raw_os_error(24);
        assert_eq!(of_io(&too_many_files), Some(ConnectionError::LocalResources));
    }
}
