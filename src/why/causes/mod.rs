//! The causes, by where they are seen. Each look gives causes with their evidence, or what it looked at in vain.

mod client_side;
mod configuration;
mod endpoints;
mod server_side;

use super::{calls::Calls, judge::Found};

type Search = fn(&Calls<'_>) -> Found;

/// Every cause is looked for.
pub(super) const ALL: &[Search] = &[
    endpoints::none_or_ejected,
    configuration::routes,
    configuration::encryption,
    client_side::limits,
    server_side::limits,
    client_side::timeouts,
    client_side::retries,
    server_side::connections,
    server_side::answers,
    configuration::policy,
];
