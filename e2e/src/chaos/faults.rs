//! What can go wrong, each with what it is for in the table of faults. A fault begins, waits until it has bitten, and ends;
//! what it leaves behind if it fails half-way, [`heal`] takes away.

use std::time::Duration;

use anyhow::Result;

use super::proxy::webhook::Verdict;
use super::stage::Stage;

mod calls;
mod cluster;
mod hands;
mod leaders;
mod servers;

/// What a fault does. Gives how often it bit.
pub type Play = fn(&Stage, &mut fastrand::Rng) -> Result<u64>;

/// One fault.
#[derive(Debug)]
pub struct Fault {
    /// A sentence in snake case.
    pub name: &'static str,
    /// Its numbers in docs/faults.md; none for what is not in that table.
    pub covers: &'static [&'static str],
    /// Over in a quarter of a minute: drawn by the short run in `cargo lab test`.
    pub quick: bool,
    /// How long it may take until everything is as wanted again.
    pub limit: Duration,
    /// What it does.
    pub play: Play,
}

/// A backoff of some tries, and the lease of a leader that has gone.
const USUAL: Duration = Duration::from_mins(2);

/// A watch that fell silent is found out when it should have ended, or when its connection was idle for too long.
const SILENCE: Duration = Duration::from_mins(4);

/// What failed for want of rights, 401 included, is tried again every five minutes: no watch tells when they are back.
const SLOW: Duration = Duration::from_mins(7);

const fn quick(name: &'static str, covers: &'static [&'static str], play: Play) -> Fault {
    Fault { name, covers, quick: true, limit: USUAL, play }
}

const fn heavy(name: &'static str, covers: &'static [&'static str], limit: Duration, play: Play) -> Fault {
    Fault { name, covers, quick: false, limit, play }
}

/// The one that needs another build of the operator.
pub const DOWNGRADE: &str = "the_version_before_is_rolled_out_and_back";

/// All of them.
pub const FAULTS: &[Fault] = &[
    quick("answers_are_lost", &["F2"], calls::answers_are_lost),
    quick("writes_fail", &["F16"], calls::writes_fail),
    quick("there_are_too_many_requests", &["F15"], calls::too_many_requests),
    quick("watches_lag", &["F5"], calls::watches_lag),
    quick("watch_lines_come_twice_and_out_of_order", &["F9"], calls::lines_repeat),
    quick("watch_lines_are_lost_and_then_history", &["F6"], calls::lines_are_lost),
    quick("watches_end", &["F10"], calls::watches_end),
    quick("history_is_gone", &["F10"], calls::history_is_gone),
    heavy("writes_hang", &["F16"], USUAL, calls::writes_hang),
    heavy("lists_trickle_and_break", &["F11"], USUAL, calls::lists_trickle),
    heavy("watches_fall_silent", &["F12"], SILENCE, calls::watches_fall_silent),
    heavy("tokens_are_refused", &["F41"], USUAL, calls::tokens_are_refused),
    quick("the_leader_is_told_to_stop", &["F40"], leaders::told_to_stop),
    heavy("the_leader_is_killed", &["F3"], USUAL, leaders::killed),
    heavy("the_leader_is_stopped_and_woken", &["F30"], USUAL, leaders::stopped_and_woken),
    heavy("the_leader_is_cut_off", &["F31"], USUAL, leaders::cut_off),
    heavy("a_hand_on_the_lease", &["F32", "F33"], USUAL, leaders::hand_on_the_lease),
    heavy("two_versions_differ", &["F34"], USUAL, leaders::two_versions_differ),
    heavy(DOWNGRADE, &["F34"], USUAL, leaders::downgraded_and_upgraded),
    heavy("the_operator_is_away_while_policies_go", &["F29"], USUAL, leaders::away_while_policies_go),
    heavy("the_api_server_is_killed", &["F13"], USUAL, servers::api_server_is_killed),
    heavy("the_api_server_hangs", &["F13"], USUAL, servers::api_server_hangs),
    heavy("etcd_is_killed", &["F14"], USUAL, servers::etcd_is_killed),
    heavy("etcd_hangs", &["F14"], USUAL, servers::etcd_hangs),
    heavy("etcd_is_full", &["F14"], USUAL, servers::etcd_is_full),
    quick("a_hand_on_what_we_generated", &["F20", "F21"], hands::on_what_we_generated),
    quick("a_rule_of_somebody_else_comes_and_goes", &["F22"], hands::rule_of_somebody_else),
    quick("policies_are_made_anew_under_their_names", &["F8"], hands::made_anew),
    quick("a_namespace_goes_in_mid_write", &["F28"], hands::namespace_goes),
    heavy("everything_is_restored_from_a_backup", &[], USUAL, hands::restored_from_a_backup),
    heavy("istios_crds_are_deleted", &["F25"], USUAL, cluster::istios_crds_are_deleted),
    heavy("our_crd_is_deleted", &["F26"], USUAL, cluster::our_crd_is_deleted),
    heavy("rights_are_withdrawn", &["F18"], SLOW, cluster::rights_are_withdrawn),
    heavy("a_webhook_refuses", &["F19"], USUAL, cluster::webhook_refuses),
    heavy("a_webhook_hangs", &["F19"], USUAL, cluster::webhook_hangs),
    heavy("istiod_is_away", &["F19"], USUAL, cluster::istiod_is_away),
];

/// Takes away whatever a fault that failed may have left, the most needed first.
///
/// # Errors
/// When something cannot be brought back.
pub fn heal(stage: &Stage) -> Result<()> {
    stage.daemons.heal(&stage.lab)?;
    stage.set_rules(Vec::new())?;
    stage.set_webhook(Verdict::Allow)?;
    leaders::heal(stage)?;
    cluster::heal(stage)?;
    hands::heal(stage)?;
    stage.install_crds()?;
    stage.make_namespaces()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_faults_have_the_same_name() {
        assert_eq!(FAULTS.iter().map(|fault| fault.name).collect::<BTreeSet<_>>().len(), FAULTS.len());
    }
}
