//! Resilience: circuit breaking for a Service, declared once, generated for Istio.
//!
//! ```text
//!             reads                     pure                              writes
//! Resilience ──> observe ──> Observed ─┐
//!      │                               ├─> validate ──> Valid ──> translate ──> Desired ─┐
//!      └───────────────────────────────┘       │                                         ├─> diff ──> Diff ──> apply ──> Applied
//!                                              └── Violations ──────────┐    Observed ───┘                       │
//!                                                                       v                                        v
//!                                                     Outcome ──> status(…, now) ──> ResilienceStatus ──> patch status, one event
//! ```
//!
//! `api`, `istio`, `names`, `validate`, `translate`, `diff`, `in_effect` and `status` are functions of what
//! they are given; `controller`, `proof`, `runtime`, `load` and `cli` do the I/O. ARCHITECTURE.md has the map.

/// What is timed in a test has the program's own allocator.
#[cfg(test)]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

pub mod api;
pub mod cli;
pub mod controller;
pub mod decide;
pub mod diff;
pub mod import;
pub mod in_effect;
pub mod istio;
pub mod load;
pub mod names;
pub mod observed;
pub mod proof;
pub mod report;
pub mod runtime;
pub mod status;
pub mod top;
pub mod translate;
pub mod validate;
pub mod verification;
pub mod verify;
pub mod why;
