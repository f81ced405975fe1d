use super::*;
use crate::model::{Command, GenerationId, Listen, Ready, Replace, Restart, RestartOn, Tell};
use crate::supervise::{Launch, WorkerState};

pub(in crate::supervise) fn spec(generation: u8) -> WorkerSpec {
    let generation: GenerationId = format!("{generation:02x}").repeat(32).parse().unwrap();
    WorkerSpec {
        slot: Slot { group: "web".into(), instance: 1 },
        generation,
        loaded: None,
        launch: Launch {
            command: Command(vec!["true".into()]),
            env: BTreeMap::new(),
            config: "/".into(),
            loaded: None,
            mount: None,
            read_only: Vec::new(),
            surroundings: Default::default(),
        },
        copies_loaded: false,
        leases: Vec::new(),
        listen: Listen::Sockets(BTreeMap::new()),
        ready: Ready::Notify,
        start_timeout: Duration::from_secs(1),
        grace_shutdown_time: Duration::from_secs(1),
        stop_signal: "TERM".into(),
        replace: Replace::OneByOne,
        tell: None,
        restart: Restart::default(),
        watchdog: None,
    }
}

pub(in crate::supervise) fn running(event: u64, generation: u8) -> (Table, u64) {
    let mut table = Table::default();
    let acts = table.ensure(event, spec(generation), false);
    let [Act::Start(n)] = acts[..] else { panic!("{acts:?}") };
    assert!(matches!(table.ready(n, Vec::new())[..], [Act::Tell(News::Ready { .. })]));
    (table, n)
}

#[test]
fn w9_asking_twice_starts_one_process() {
    let mut table = Table::default();
    assert_eq!(table.ensure(1, spec(1), false), [Act::Start(1)]);
    assert_eq!(table.ensure(1, spec(1), false), []);
    table.ready(1, Vec::new());
    assert!(matches!(table.ensure(2, spec(1), false)[..], [Act::Tell(News::Ready { event: 2, .. })]));
}

#[test]
fn w9_force_replaces_once_for_each_event() {
    let (mut table, old) = running(1, 1);
    assert_eq!(table.ensure(2, spec(1), true), [Act::Start(2)]);
    let acts = table.ready(2, Vec::new());
    assert!(matches!(acts[..], [Act::Tell(_), Act::Drain(n)] if n == old), "{acts:?}");
    assert!(matches!(table.ensure(2, spec(1), true)[..], [Act::Tell(_)]));
    assert_eq!(table.ensure(3, spec(1), true), [Act::Start(3)]);
}

#[test]
fn w10_a_failing_candidate_leaves_the_accepted_one_alone() {
    let (mut table, old) = running(1, 1);
    table.ensure(2, spec(2), false);
    let acts = table.gone(2, "no".into(), Duration::ZERO);
    assert!(matches!(&acts[..], [Act::Tell(News::Failed { event: 2, .. })]), "{acts:?}");
    assert!(table.worker(old).unwrap().ready);
    assert_eq!(table.report().len(), 1);
}

#[test]
fn w10_another_wish_replaces_a_candidate() {
    let (mut table, old) = running(1, 1);
    table.ensure(2, spec(2), false);
    let acts = table.ensure(2, spec(1), false);
    assert!(matches!(acts[..], [Act::Kill(2), Act::Tell(News::Ready { event: 2, .. })]), "{acts:?}");
    assert_eq!(table.gone(2, String::new(), Duration::ZERO), []);
    assert_eq!(table.worker(old).unwrap().role, Role::Accepted);
}

#[test]
fn w12_crashes_are_answered_at_once_then_slower_up_to_thirty_seconds() {
    let (mut table, mut n) = running(1, 1);
    let mut delays = Vec::new();
    for _ in 0..8 {
        let acts = table.gone(n, "x".into(), Duration::from_secs(1));
        let [Act::Tell(News::Exited { .. }), Act::Restart(slot, delay)] = &acts[..] else {
            panic!("{acts:?}")
        };
        delays.push(delay.as_secs());
        let acts = table.restart(slot);
        let [Act::Start(next)] = acts[..] else { panic!("{acts:?}") };
        n = next;
        table.ready(n, Vec::new());
    }
    assert_eq!(delays, [0, 1, 2, 4, 8, 16, 30, 30]);
    assert_eq!(table.report()[0].exits, 8);
    let acts = table.gone(n, "x".into(), QUIET_LIFE);
    assert!(matches!(acts[1], Act::Restart(_, Duration::ZERO)));
}

#[test]
fn w12_ensure_starts_a_waiting_slot_now_and_says_how_it_went() {
    let (mut table, n) = running(1, 1);
    table.gone(n, "x".into(), Duration::ZERO);
    assert_eq!(table.ensure(2, spec(1), false), [Act::Start(2)]);
    let acts = table.gone(2, "y".into(), Duration::ZERO);
    assert!(matches!(acts[..], [Act::Tell(News::Failed { event: 2, .. }), Act::Restart(..)]), "{acts:?}");
    assert_eq!(table.report()[0].state, WorkerState::Failed);
}

#[test]
fn w13_adoption_goes_on_where_the_record_ends() {
    let (mut table, ready) = running(1, 1);
    table.ensure(2, spec(2), false);
    let text = serde_json::to_string(&table).unwrap();
    let mut again: Table = serde_json::from_str(&text).unwrap();
    assert_eq!(again.adopt(&[ready, 2].into()), [Act::Kill(2), Act::Start(3)]);
    let mut again: Table = serde_json::from_str(&text).unwrap();
    let acts = again.adopt(&BTreeSet::new());
    let [Act::Tell(News::Exited { .. }), Act::Restart(_, Duration::ZERO), Act::Start(3)] = &acts[..] else {
        panic!("{acts:?}")
    };
}

#[test]
fn w11_settle_takes_away_what_is_not_listed() {
    let (mut table, n) = running(1, 1);
    assert_eq!(table.settle(&[spec(1).slot]), []);
    assert_eq!(table.settle(&[]), [Act::Drain(n)]);
    assert_eq!(table.gone(n, String::new(), Duration::ZERO), []);
    assert!(table.report().is_empty());
}

#[test]
fn w11_abandon_kills_candidates_without_news() {
    let (mut table, old) = running(1, 1);
    table.ensure(2, spec(2), false);
    assert_eq!(table.abandon(2), [Act::Kill(2)]);
    assert_eq!(table.gone(2, String::new(), Duration::ZERO), []);
    assert!(table.worker(old).unwrap().ready);
}

#[test]
fn w9_a_slot_that_is_not_ready_is_started_the_way_it_is_asked_for_now() {
    let (mut table, old) = running(1, 1);
    let mut other = spec(1);
    other.stop_signal = "QUIT".into();
    assert!(matches!(table.ensure(2, other.clone(), false)[..], [Act::Tell(_)]), "a ready one is left alone");
    table.gone(old, "crash".into(), Duration::ZERO);
    assert_eq!(table.ensure(3, other.clone(), false), [Act::Start(2)]);
    assert_eq!(table.restart(&other.slot), [], "not both ways at once");
    let acts = table.gone(2, "bad".into(), Duration::ZERO);
    assert!(matches!(&acts[..], [Act::Tell(News::Failed { .. }), Act::Restart(..)]), "{acts:?}");
    assert_eq!(table.restart(&other.slot), [Act::Start(3)]);
    // a candidate of another generation keeps nobody from serving meanwhile
    table.gone(3, "crash".into(), Duration::ZERO);
    assert_eq!(table.ensure(4, spec(2), false), [Act::Start(4)]);
    assert_eq!(table.restart(&other.slot), [Act::Start(5)]);
}

#[test]
fn w5_a_slot_that_waits_for_its_next_start_keeps_its_sockets() {
    let mut table = Table::default();
    table.ensure(1, spec(1), false);
    table.ready(1, vec!["inherit:web:tcp://127.0.0.1:80".into()]);
    table.gone(1, "crash".into(), Duration::ZERO);
    assert!(table.needed_sockets().contains("inherit:web:tcp://127.0.0.1:80"));
    table.settle(&[]);
    assert!(table.needed_sockets().is_empty());
}

fn alone(generation: u8) -> WorkerSpec {
    WorkerSpec { replace: Replace::StopFirst, ..spec(generation) }
}

#[test]
fn w17_the_old_process_has_ended_before_the_new_one_is_started() {
    // whichever of the two says so
    for (old, new) in [(alone(1), alone(2)), (spec(1), alone(2)), (alone(1), spec(2))] {
        let mut table = Table::default();
        table.ensure(1, old, false);
        table.ready(1, Vec::new());
        assert_eq!(table.ensure(2, new.clone(), false), [Act::Drain(1)]);
        assert_eq!(table.ensure(2, new.clone(), false), [], "on its way");
        let states: Vec<_> = table.report().iter().map(|worker| (worker.state, worker.accepted)).collect();
        let want =
            [(WorkerState::Stopped, true), (WorkerState::Draining, false), (WorkerState::Starting, false)];
        assert_eq!(states, want);
        assert_eq!(table.gone(1, String::new(), Duration::ZERO), [Act::Start(2)]);
        assert!(matches!(table.ready(2, Vec::new())[..], [Act::Tell(News::Ready { event: 2, .. })]));
        assert_eq!(table.report().len(), 1);
    }
}

#[test]
fn w17_the_old_one_comes_back_where_the_new_one_fails_or_is_given_up() {
    let begun = || {
        let mut table = Table::default();
        table.ensure(1, alone(1), false);
        table.ready(1, Vec::new());
        table.ensure(2, alone(2), false);
        table
    };
    let slot = alone(1).slot;
    let back = |mut table: Table| {
        assert_eq!(table.restart(&slot), [Act::Start(3)]);
        assert!(table.worker(3).is_some_and(|worker| worker.spec == alone(1)));
    };
    let zero = Act::Restart(slot.clone(), Duration::ZERO);
    let mut failed = begun();
    failed.gone(1, String::new(), Duration::ZERO);
    let acts = failed.gone(2, "no".into(), Duration::ZERO);
    assert!(matches!(&acts[..], [Act::Tell(News::Failed { .. }), restart] if *restart == zero), "{acts:?}");
    back(failed);

    let mut given_up = begun();
    assert_eq!(given_up.abandon(2), [], "the old one still drains");
    assert_eq!(given_up.restart(&slot), []);
    assert_eq!(given_up.gone(1, String::new(), Duration::ZERO), std::slice::from_ref(&zero));
    back(given_up);

    // and whoever asks for it hears of it
    let mut undone = begun();
    assert_eq!(undone.ensure(2, alone(1), false), []);
    assert_eq!(undone.gone(1, String::new(), Duration::ZERO), std::slice::from_ref(&zero));
    assert_eq!(undone.restart(&slot), [Act::Start(3)]);
    assert!(matches!(undone.ready(3, Vec::new())[..], [Act::Tell(News::Ready { event: 2, .. })]));

    let mut killed = begun();
    killed.gone(1, String::new(), Duration::ZERO);
    assert_eq!(killed.abandon(2), [Act::Kill(2)]);
    assert_eq!(killed.restart(&slot), [], "not while the other is there");
    assert_eq!(killed.gone(2, String::new(), Duration::ZERO), [zero]);
    back(killed);
}

#[test]
fn w17_the_next_supervisor_goes_on_waiting() {
    let mut table = Table::default();
    table.ensure(1, alone(1), false);
    table.ready(1, Vec::new());
    table.ensure(2, alone(2), false);
    let text = serde_json::to_string(&table).unwrap();
    let mut again: Table = serde_json::from_str(&text).unwrap();
    let acts = again.adopt(&[1].into());
    assert!(
        acts.contains(&Act::Drain(1)) && !acts.iter().any(|act| matches!(act, Act::Start(_))),
        "{acts:?}"
    );
    assert_eq!(again.restart(&alone(1).slot), []);
    assert_eq!(again.gone(1, String::new(), Duration::ZERO), [Act::Start(3)]);
    let mut again: Table = serde_json::from_str(&text).unwrap();
    assert!(again.adopt(&BTreeSet::new()).contains(&Act::Start(3)));
}

fn told(generation: u8) -> WorkerSpec {
    WorkerSpec { tell: Some(Tell::Command(Command(vec!["tell".into()]))), ..spec(generation) }
}

fn telling() -> Table {
    let mut table = Table::default();
    table.ensure(1, told(1), false);
    table.ready(1, Vec::new());
    assert_eq!(table.ensure_in_place(2, told(2)), [Act::Inform(1)]);
    assert_eq!(table.ensure_in_place(2, told(2)), [], "on its way");
    assert!(!table.report()[0].is_well(), "nobody knows what it runs");
    table
}

#[test]
fn w18_a_process_that_takes_it_stays_and_has_accepted_it() {
    let mut table = telling();
    assert!(matches!(table.told(1)[..], [Act::Tell(News::Ready { event: 2, .. })]));
    let report = table.report();
    assert!(report.len() == 1 && report[0].is_well() && report[0].generation == told(2).generation);
    // what it has accepted is what it is started on again
    table.gone(1, "crash".into(), Duration::ZERO);
    assert_eq!(table.restart(&told(2).slot), [Act::Start(2)]);
    assert_eq!(table.worker(2).unwrap().spec, told(2));
}

#[test]
fn w18_a_process_that_does_not_take_it_is_replaced_and_it_is_said() {
    let mut table = telling();
    assert_eq!(table.not_told(1, "no thanks".into()), [Act::Hush(1), Act::Start(2)]);
    let acts = table.ready(2, Vec::new());
    let [Act::Tell(News::Ready { note, .. }), Act::Drain(1)] = &acts[..] else { panic!("{acts:?}") };
    assert!(note.contains("no thanks"), "{note}");

    // the new one fails, too: what the old one runs is not known until it is told back, or replaced
    let mut table = telling();
    table.not_told(1, "no thanks".into());
    let acts = table.gone(2, "bad".into(), Duration::ZERO);
    assert!(
        matches!(&acts[..], [Act::Tell(News::Failed { why, .. })] if why.contains("no thanks")),
        "{acts:?}"
    );
    let text = serde_json::to_string(&table).unwrap();
    assert_eq!(table.ensure_in_place(2, told(1)), [Act::Inform(1)]);
    table.told(1);
    assert!(table.report()[0].is_well());
    let mut table: Table = serde_json::from_str(&text).unwrap();
    assert_eq!(table.ensure(2, told(1), false), [Act::Start(3)]);
    assert!(matches!(table.ready(3, Vec::new())[..], [Act::Tell(_), Act::Drain(1)]));
}

#[test]
fn w18_what_is_being_told_can_be_called_off_and_told_back() {
    let mut table = telling();
    assert_eq!(table.abandon(2), [Act::Hush(1)]);
    assert_eq!(table.told(1), [], "too late");
    assert_eq!(table.ensure_in_place(2, told(1)), [Act::Inform(1)]);
    let mut table = telling();
    assert_eq!(table.ensure_in_place(2, told(1)), [Act::Hush(1), Act::Inform(1)]);
    let mut table = telling();
    assert_eq!(table.settle(&[]), [Act::Drain(1)]);
    assert_eq!(table.told(1), []);
}

#[test]
fn w18_who_ends_while_it_is_told_is_replaced() {
    let mut table = telling();
    let acts = table.gone(1, "x".into(), Duration::ZERO);
    let [Act::Tell(News::Exited { .. }), Act::Restart(..), Act::Start(2)] = &acts[..] else {
        panic!("{acts:?}")
    };
    let mut table = telling();
    assert_eq!(table.adopt(&[1].into()), [Act::Hush(1), Act::Start(2)]);
}

#[test]
fn w18_only_what_was_started_the_same_way_can_be_told() {
    let mut other = told(2);
    other.launch.env.insert("A".into(), "b".into());
    for (old, new) in [(told(1), other), (spec(1), told(2)), (told(1), spec(2))] {
        let mut table = Table::default();
        table.ensure(1, old, false);
        table.ready(1, Vec::new());
        assert_eq!(table.ensure_in_place(2, new), [Act::Start(2)]);
        let acts = table.ready(2, Vec::new());
        assert!(
            matches!(&acts[0], Act::Tell(News::Ready { note, .. }) if note.contains("another way")),
            "{acts:?}"
        );
    }
}

#[test]
fn w12_which_ends_are_answered_and_how_soon_can_be_said() {
    let end = |on: RestartOn, well: bool| {
        let first = Duration::from_millis(100);
        let restart = Restart { on, first, longest: Duration::from_millis(300) };
        let mut table = Table::default();
        table.ensure(1, WorkerSpec { restart, ..spec(1) }, false);
        table.ready(1, Vec::new());
        let acts = table.ended(1, "x".into(), Duration::ZERO, well);
        assert!(matches!(acts[0], Act::Tell(News::Exited { .. })), "{acts:?}");
        (table, acts.len() == 2)
    };
    for (on, well, again) in [
        (RestartOn::Failure, false, true),
        (RestartOn::Failure, true, false),
        (RestartOn::Always, true, true),
        (RestartOn::Never, false, false),
    ] {
        let (mut table, answered) = end(on, well);
        assert_eq!(answered, again, "{on:?} {well}");
        let state = table.report()[0].state;
        assert_eq!(state, if again { WorkerState::Failed } else { WorkerState::Ended });
        assert_eq!(table.adopt(&BTreeSet::new()).len(), usize::from(again), "nor by the next supervisor");
        if !again {
            // by whoever asks for it
            assert_eq!(
                table.ensure(
                    2,
                    table.places.values().next().unwrap().accepted.as_ref().unwrap().spec.clone(),
                    false
                ),
                [Act::Start(2)]
            );
        }
    }
    let (mut table, _) = end(RestartOn::Failure, false);
    let mut delays = Vec::new();
    for n in 2..6 {
        table.restart(&spec(1).slot);
        table.ready(n, Vec::new());
        let acts = table.gone(n, "x".into(), Duration::ZERO);
        let [_, Act::Restart(_, delay)] = &acts[..] else { panic!("{acts:?}") };
        delays.push(delay.as_millis());
    }
    assert_eq!(delays, [100, 200, 300, 300]);
}
