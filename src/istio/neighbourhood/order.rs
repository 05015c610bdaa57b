//! Who is older: by the second, then by name, then by namespace (istio `pilot/pkg/model/config.go`,
//! `configCompareByCreationTime`; trap 20).

use jiff::Timestamp;

/// Smaller is older.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Age<'a> {
    /// What has no age was never in a cluster, as in a file, and so is younger than all that was.
    is_new: bool,
    second: Option<i64>,
    name: &'a str,
    namespace: &'a str,
}

impl<'a> Age<'a> {
    pub(super) fn new(created: Option<Timestamp>, name: &'a str, namespace: &'a str) -> Self {
        Self { is_new: created.is_none(), second: created.map(Timestamp::as_second), name, namespace }
    }
}
