//! In: a lab. Out: whether one behaviour holds, judged at traffic, at Envoys' counters, or at what is left
//! on the host. `cargo lab scenario` lists and runs them; `cargo lab test` runs them all.

use std::process::ExitCode;

use anyhow::Result;

use crate::chaos;
use crate::checkout::Checkout;
use crate::report::Report;

pub mod at_rest;
pub mod authors;
pub mod calls;
pub mod chart;
pub mod command_line;
pub mod corpus;
pub mod drift;
pub mod ejection;
pub mod enforced;
pub mod footprint;
pub mod gateway_api;
pub mod gitops;
pub mod helm;
pub mod import;
pub mod in_effect;
pub mod incident;
pub mod judged;
pub mod leadership;
pub mod leaves_nothing;
pub mod leaving;
pub mod lifecycle;
pub mod limits;
pub mod load;
pub mod log_level;
pub mod merge;
pub mod monitoring;
pub mod namespaced;
pub mod neighbours;
pub mod raw_sample;
pub mod reach;
pub mod rights;
pub mod server_side;
pub mod side_by_side;
pub mod stage;
pub mod top;
pub mod verify;
pub mod versions;
pub mod what_clients_get;
pub mod why;
pub mod write_economy;

/// One behaviour.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// A sentence in snake case.
    pub name: &'static str,
    /// Judges it. Starts the labs that it needs; one that stands in this checkout it may use.
    pub run: fn(&Checkout) -> Result<()>,
}

/// Those that need the lab of this checkout, with our operator in it.
pub const ON_THE_LAB: &[Scenario] = &[
    Scenario { name: "istio_raw_sample_trips", run: raw_sample::trips },
    Scenario { name: "every_yaml_of_the_repository_is_taken_by_kubectl", run: corpus::every_yaml },
    Scenario { name: "the_api_server_and_offline_validate_agree", run: corpus::agrees },
    Scenario { name: "trips_by_pending_requests_and_heals", run: limits::trip_by_pending_requests },
    Scenario { name: "trips_by_active_requests", run: limits::trip_by_active_requests },
    Scenario { name: "nothing_is_limited_without_a_policy", run: limits::nothing_is_limited_without_a_policy },
    Scenario { name: "our_load_gets_the_split_of_answers_that_fortio_gets", run: load::splits_as_fortio_does },
    Scenario { name: "a_failing_endpoint_is_ejected_and_returns", run: ejection::ejects_and_returns },
    Scenario { name: "a_slow_call_is_cut_off", run: calls::times_out },
    Scenario { name: "a_failed_call_is_tried_again_as_often_as_declared", run: calls::retries },
    Scenario { name: "a_limit_for_each_client_is_no_outage_with_the_servers_side", run: server_side::is_no_outage },
    Scenario { name: "the_servers_sidecar_changes_nothing_else_or_is_refused", run: server_side::changes_nothing_else },
    Scenario { name: "a_servers_own_limits_hold", run: server_side::limits_hold },
    Scenario { name: "each_kind_of_drift_is_undone", run: drift::is_undone },
    Scenario { name: "deleting_the_policy_restores", run: lifecycle::delete_restores },
    Scenario { name: "a_refused_policy_does_not_stop_a_good_one", run: lifecycle::refused_beside_good },
    Scenario { name: "of_two_policies_for_one_service_the_older_has_it", run: lifecycle::two_for_one_service },
    Scenario { name: "a_policy_waits_for_its_service", run: lifecycle::waits_for_its_service },
    Scenario { name: "killed_between_two_writes_it_ends_right", run: lifecycle::killed_between_two_writes },
    Scenario { name: "a_neighbour_is_named_and_the_policy_heals_when_it_goes", run: neighbours::are_named },
    Scenario { name: "routes_of_the_gateway_api_are_named_and_the_policy_heals", run: neighbours::gateway_api },
    Scenario { name: "no_hand_over_loses_a_call", run: neighbours::lose_no_call },
    Scenario { name: "a_rule_is_shared_byte_for_byte_and_given_back", run: merge::shares_and_gives_back },
    Scenario { name: "a_field_that_somebody_has_is_told_and_not_forced", run: merge::forces_nothing },
    Scenario { name: "a_shared_rule_is_given_back_in_every_case", run: merge::gives_back_in_every_case },
    Scenario { name: "a_shared_rule_is_handed_over_without_a_lost_call", run: merge::hands_over_without_a_loss },
    Scenario { name: "import_hands_over_without_a_gap", run: import::hands_over_without_a_gap },
    Scenario { name: "who_applies_from_git_judges_each_state_rightly", run: gitops::judges_agree },
    Scenario { name: "what_is_applied_from_git_is_let_alone", run: gitops::is_let_alone },
    Scenario { name: "argo_rollouts_shares_and_flagger_does_not", run: merge::beside_release_tools },
    Scenario { name: "at_rest_nothing_is_written", run: at_rest::nothing_is_written },
    Scenario { name: "no_policy_costs_a_write_more_than_it_takes", run: write_economy::is_kept },
    Scenario { name: "a_leader_that_is_told_to_stop_is_followed_within_a_retry", run: leadership::told_to_stop },
    Scenario { name: "a_killed_leader_is_followed_when_its_lease_is_over", run: leadership::killed },
    Scenario { name: "a_stopped_leader_that_wakes_up_writes_nothing", run: leadership::stopped_and_woken },
    Scenario { name: "a_leader_that_is_cut_off_ends_before_another_begins", run: leadership::cut_off },
    Scenario { name: "proxies_of_two_istiods_are_counted_and_laggards_named", run: in_effect::counts },
    Scenario { name: "what_counts_instead_and_what_a_proxy_refuses_is_told", run: in_effect::names },
    Scenario { name: "chaos_guards_see_what_they_are_there_for", run: chaos::guards_see },
    Scenario { name: "all_is_as_wanted_after_each_quick_fault", run: chaos::quick },
    Scenario { name: "every_right_is_used_and_none_is_missing", run: rights::are_all_used },
    Scenario { name: "without_any_right_something_breaks", run: rights::without::each_breaks_something },
    Scenario {
        name: "an_operator_for_some_namespaces_works_with_roles_alone",
        run: namespaced::works_with_roles_alone,
    },
    Scenario { name: "a_policy_reaches_nobody_elses_host", run: reach::is_its_own_namespace },
    Scenario { name: "only_who_may_write_what_is_generated_writes_a_policy", run: authors::need_the_rights },
    Scenario {
        name: "a_pod_that_is_worse_than_the_operators_is_not_admitted",
        run: authors::pods_beside_the_operator_are_restricted,
    },
    Scenario { name: "diff_and_explain_say_what_the_operator_does", run: command_line::tells },
    Scenario { name: "the_log_level_changes_while_it_runs", run: log_level::changes_while_it_runs },
    Scenario { name: "top_and_its_page_tell_an_incident_as_the_counters_do", run: top::tells_the_incident },
    Scenario { name: "why_is_right_for_ten_causes", run: why::is_right },
    Scenario { name: "verify_passes_where_limits_act", run: verify::passes_where_limits_act },
    Scenario { name: "verify_passes_on_the_other_samples", run: verify::passes_on_the_other_samples },
    Scenario { name: "verify_fails_with_the_right_sentence", run: verify::fails_with_the_right_sentence },
    Scenario { name: "verify_stops_on_each_guard_and_leaves_nothing", run: verify::stops_on_each_guard },
    Scenario { name: "rules_and_metrics_stand_before_promtool", run: monitoring::stands_before_promtool },
    Scenario { name: "an_incident_is_told_by_rules_alerts_and_dashboard", run: monitoring::tells_the_incident },
    Scenario { name: "the_chart_gives_what_kustomize_gives", run: chart::gives_what_kustomize_gives },
    Scenario { name: "helm_upgrades_and_uninstalls_without_a_lost_call", run: helm::upgrades_and_uninstalls },
    Scenario { name: "who_leaves_keeps_the_rules_or_has_them_removed", run: leaving::keeps_or_removes },
    Scenario { name: "two_labs_live_side_by_side", run: side_by_side::live },
    // While its hundreds of namespaces go, which takes minutes, new pods start slowly: what comes next needs none.
    Scenario { name: "what_is_declared_is_what_envoy_enforces", run: enforced::is_declared },
    Scenario { name: "the_oracle_refuses_what_a_cluster_refused", run: judged::documents },
    Scenario { name: "the_oracle_resolves_as_a_cluster_does", run: judged::resolution },
    Scenario { name: "ten_thousand_legal_policies_are_taken_by_istios_own_validators", run: judged::legal_policies },
    Scenario {
        name: "ten_thousand_nearly_legal_policies_get_the_api_servers_verdict_from_us",
        run: judged::near_legal_policies,
    },
    Scenario {
        name: "ten_thousand_nearly_legal_istio_objects_get_istios_verdict_from_our_rules",
        run: judged::near_legal_objects,
    },
    Scenario { name: "import_then_render_changes_nothing_on_istios_own_objects", run: judged::imports },
    Scenario { name: "five_thousand_neighbourhoods_get_istios_answer_from_us", run: judged::neighbourhoods },
    Scenario { name: "explain_says_of_a_client_what_its_envoy_has", run: what_clients_get::explain_and_envoys_agree },
    Scenario { name: "each_istio_takes_what_we_render_for_it", run: versions::each_istio_takes_what_we_render_for_it },
];

/// Those that judge the lab itself, in a second checkout beside this one.
pub const OF_THE_LAB: &[Scenario] = &[
    Scenario { name: "footprint_sees_each_kind_of_thing", run: leaves_nothing::footprint_sees },
    Scenario { name: "down_leaves_nothing", run: leaves_nothing::after_down },
    Scenario { name: "down_after_up_was_killed_early_leaves_nothing", run: leaves_nothing::after_early_kill },
    Scenario { name: "down_after_up_was_killed_late_leaves_nothing", run: leaves_nothing::after_late_kill },
    Scenario { name: "down_after_the_sandbox_was_killed_leaves_nothing", run: leaves_nothing::after_keeper_kill },
];

/// Those that need nothing of the lab's own, and can be played on any cluster with Istio and the operator in it.
pub const ANYWHERE: &[&str] = &[
    "trips_by_pending_requests_and_heals",
    "trips_by_active_requests",
    "nothing_is_limited_without_a_policy",
    "our_load_gets_the_split_of_answers_that_fortio_gets",
    "a_failing_endpoint_is_ejected_and_returns",
    "a_slow_call_is_cut_off",
    "a_failed_call_is_tried_again_as_often_as_declared",
    "each_kind_of_drift_is_undone",
    "deleting_the_policy_restores",
    "a_refused_policy_does_not_stop_a_good_one",
    "of_two_policies_for_one_service_the_older_has_it",
    "a_policy_waits_for_its_service",
];

fn all() -> impl Iterator<Item = &'static Scenario> {
    ON_THE_LAB.iter().chain(OF_THE_LAB)
}

/// Runs the named scenarios, or lists all when none is named.
///
/// # Errors
/// When a name is not known; a scenario that fails is an exit code.
pub fn run(checkout: &Checkout, names: &[String]) -> Result<ExitCode> {
    if names.is_empty() {
        for scenario in all() {
            println!("{}", scenario.name);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let report = Report::new();
    let mut failed = 0;
    for name in names {
        let Some(scenario) = all().find(|scenario| scenario.name == name) else {
            anyhow::bail!("no scenario is called {name}; `cargo lab scenario` lists them");
        };
        if let Err(error) = report.step(name, || (scenario.run)(checkout)) {
            report.failed(name, &error);
            failed += 1;
        }
    }
    println!("{} passed, {failed} failed", names.len() - failed);
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_played_anywhere_is_among_the_scenarios() {
        for name in ANYWHERE {
            assert!(ON_THE_LAB.iter().any(|scenario| scenario.name == *name), "no scenario is called {name}");
        }
    }
}
