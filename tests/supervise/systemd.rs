//! The same tests with systemd in the supervisor's place.

use crate::systemd_of_tests::{Scope, passes_under};

/// What is only about our own supervisor: its socket, its holder's death, its own process. And what systemd does
/// otherwise (D8, D11): what workers say beside that they are ready.
const OTHERS: &[&str] = &[
    "lost::",
    "w40_a_reload_that_had_begun_before_by_its_own_word",
    "w43_",
    "w44_",
    "w1_",
    "w3_",
    "w7_ready_counts_only_from_the_worker_itself",
    "w8_",
    "w13_the_workers_serve_on_when_the_supervisor_is_told_to_quit",
    "w14_",
];

#[test]
fn d1_the_users_systemd_passes_the_contract() {
    passes_under(Scope::User, OTHERS, 20);
}

#[test]
fn d1_the_systems_systemd_passes_the_contract() {
    passes_under(Scope::System, OTHERS, 20);
}
