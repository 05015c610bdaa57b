//! Counters of a cluster (Envoy, `upstream_rq_…`), by what they tell.

/// Calls that would have been one too many under way.
pub const ACTIVE: &str = "upstream_rq_active_overflow";
/// Calls that would have been one too many waiting.
pub const PENDING: &str = "upstream_rq_pending_overflow";
/// Connections that were wanted and not opened. Refuses nothing: what wants one waits.
pub const CONNECTIONS: &str = "upstream_cx_overflow";
/// Connections that were closed since they had carried their number.
pub const SPENT: &str = "upstream_cx_max_requests";
/// Retries that were not made, since too many were under way.
pub const RETRIES: &str = "upstream_rq_retry_overflow";
/// Retries.
pub const RETRY: &str = "upstream_rq_retry";
/// Retries that went well.
pub const RETRY_SUCCESS: &str = "upstream_rq_retry_success";
/// Calls, tries counted each.
pub const CALLS: &str = "upstream_rq_total";
/// Calls that took longer than they may.
pub const TIMEOUT: &str = "upstream_rq_timeout";
/// Tries that did.
pub const PER_TRY_TIMEOUT: &str = "upstream_rq_per_try_timeout";
/// Endpoints that were ejected.
pub const EJECTED: &str = "outlier_detection.ejections_enforced_total";
/// Endpoints that are out now: a gauge.
pub const OUT: &str = "outlier_detection.ejections_active";
/// Endpoints that would have been, were it not too many.
pub const NOT_EJECTED: &str = "outlier_detection.ejections_overflow";
/// Ejections for answers 500 to 599 in a row.
pub const EJECTED_5XX: &str = "outlier_detection.ejections_enforced_consecutive_5xx";
/// Ejections for answers 502 to 504 in a row.
pub const EJECTED_GATEWAY: &str = "outlier_detection.ejections_enforced_consecutive_gateway_failure";

/// Those that only grow.
pub const ALL: [&str; 14] = [
    ACTIVE,
    PENDING,
    CONNECTIONS,
    SPENT,
    RETRIES,
    RETRY,
    RETRY_SUCCESS,
    CALLS,
    TIMEOUT,
    PER_TRY_TIMEOUT,
    EJECTED,
    NOT_EJECTED,
    EJECTED_5XX,
    EJECTED_GATEWAY,
];
