//! The condition `Verified`, from what `verify` wrote.

use super::spec_hash;
use crate::api::{LimitResult, ResilienceSpec, Verification, VerificationResult, conditions::Reason};

/// Status, reason and message of `Verified`.
#[must_use]
pub fn verified(spec: &ResilienceSpec, verification: Option<&Verification>) -> (&'static str, Reason, String) {
    let Some(verification) = verification else {
        return ("Unknown", Reason::NeverVerified, "`kubectl resilience verify` has not been run on it".to_owned());
    };
    let Verification { spec_hash: of, result, at, from, port, limits } = verification;
    if *of != spec_hash(spec) {
        let message = format!("verified at {} with another spec: run `kubectl resilience verify` again", at.0);
        return ("Unknown", Reason::Stale, message);
    }
    let paths = |wanted: LimitResult| {
        let found = limits.iter().filter(move |limit| limit.result == wanted);
        found.map(|limit| format!("{} {}", limit.path, limit.value)).collect::<Vec<_>>().join(", ")
    };
    let told = |words: &str, wanted| match paths(wanted) {
        paths if paths.is_empty() => String::new(),
        paths => format!("; {words}: {paths}"),
    };
    let head = format!("from namespace {from}, port {port}, at {}", at.0);
    let (tripped, not, untried) = (
        told("tripped as configured", LimitResult::Tripped),
        told("did not trip", LimitResult::NotTripped),
        told("not tried", LimitResult::NotTried),
    );
    match result {
        VerificationResult::Passed => ("True", Reason::Verified, format!("{head}{tripped}{untried}")),
        VerificationResult::Failed => ("False", Reason::NotVerified, format!("{head}{not}{tripped}{untried}")),
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use serde_json::json;

    use super::*;
    use crate::api::VerifiedLimit;

    fn spec(requests: u32) -> ResilienceSpec {
        serde_json::from_value(json!({
            "targetRefs": [{"kind": "Service", "name": "a"}],
            "limits": {"perClient": {"activeRequests": requests}},
        }))
        .unwrap()
    }

    fn verification(result: VerificationResult, limit: LimitResult) -> Verification {
        let limit =
            VerifiedLimit { path: "limits.perClient.activeRequests".to_owned(), value: "5".to_owned(), result: limit };
        Verification {
            spec_hash: spec_hash(&spec(5)),
            result,
            at: Time(Timestamp::UNIX_EPOCH),
            from: "shop".to_owned(),
            port: 80,
            limits: vec![limit],
        }
    }

    #[test]
    fn it_says_what_was_found_of_this_very_spec_and_nothing_of_another() {
        let passed = verification(VerificationResult::Passed, LimitResult::Tripped);
        let failed = verification(VerificationResult::Failed, LimitResult::NotTripped);
        let short = |spec: &ResilienceSpec, of: Option<&Verification>| {
            let (status, reason, _) = verified(spec, of);
            format!("{status}/{}", reason.as_str())
        };
        assert_eq!(short(&spec(5), None), "Unknown/NeverVerified");
        assert_eq!(short(&spec(5), Some(&passed)), "True/Verified");
        assert_eq!(short(&spec(5), Some(&failed)), "False/NotVerified");
        assert_eq!(short(&spec(6), Some(&passed)), "Unknown/Stale");
        let (_, _, message) = verified(&spec(5), Some(&failed));
        assert_eq!(
            message,
            "from namespace shop, port 80, at 1970-01-01T00:00:00Z; did not trip: limits.perClient.activeRequests 5"
        );
    }
}
