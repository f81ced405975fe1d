use super::*;

fn slot(instance: u32) -> Slot {
    Slot { group: "web".to_owned(), instance }
}

fn id(name: &str) -> GenerationId {
    GenerationId::of(name.as_bytes())
}

const LIMIT: Duration = Duration::from_secs(90);

/// Every way a slot can be: which generation, how it is, whether an event has named that.
fn seats(instance: u32) -> Vec<Option<Seat>> {
    let mut seats = vec![None];
    for generation in ["good", "new", "old"].map(id) {
        for health in
            [Health::Well, Health::Ended, Health::Ill(LIMIT - Duration::from_secs(1)), Health::Ill(LIMIT)]
        {
            for known in [true, false] {
                // the good one is known
                if known || generation != id("good") {
                    seats.push(Some(Seat { slot: slot(instance), generation, health, known }));
                }
            }
        }
    }
    seats
}

/// Calls `each` with everything that two slots of the good generation, and one beside them, can look like.
fn everything(mut each: impl FnMut(&Seen)) {
    let pointers = [(None, false), (Some("good"), true), (Some("new"), false), (Some("old"), true)];
    let open = |tried| Some(Unconfirmed { target: id("new"), tried });
    let beside = [None, Some((Health::Well, true)), Some((Health::Well, false)), Some((Health::Ended, true))];
    for (current, current_proven) in pointers {
        for unconfirmed in [None, open(false), open(true)] {
            for flags in 0..16u8 {
                let flag = |bit: u8| flags & (1 << bit) != 0;
                for first in seats(1) {
                    for second in seats(2) {
                        for beside in beside {
                            let third = beside.map(|(health, known)| {
                                let (slot, generation) = (slot(3), id("old"));
                                Seat { slot, generation, health, known }
                            });
                            let seats =
                                [first.clone(), second.clone(), third].into_iter().flatten().collect();
                            each(&Seen {
                                busy: flag(0),
                                good: Some(id("good")),
                                current: current.map(id),
                                current_proven,
                                unconfirmed,
                                settled: flag(1),
                                told: flag(2),
                                slots: [(slot(1), Some(LIMIT)), (slot(2), Some(LIMIT))].into(),
                                seats,
                                lost: flag(3).then(|| LoadedKey::of(b"key")),
                            });
                        }
                    }
                }
            }
        }
    }
}

/// Whether the slot has something in it that is none of the watchdog's business.
fn fine(seen: &Seen, slot: &Slot) -> bool {
    let ill = |seat: &Seat| matches!(seat.health, Health::Ill(time) if time >= LIMIT);
    seen.seats.iter().any(|seat| seat.slot == *slot && !ill(seat))
}

#[test]
fn a29_a_repair_leads_to_the_last_good_and_touches_nothing_that_is_well() {
    let (mut looks, mut repairs, mut stays, mut moves) = (0, 0, 0, 0);
    everything(|seen| {
        looks += 1;
        let waits = seen.unconfirmed.filter(|open| seen.current == Some(open.target));
        let all_fine = seen.slots.keys().all(|slot| fine(seen, slot)) && seen.lost.is_none();
        let well = |seat: &Seat| seat.health == Health::Well;
        match look(seen) {
            Next::Restore(target, repair) => {
                repairs += 1;
                assert!(!seen.busy && waits.is_none() && !all_fine, "{seen:?}");
                assert_eq!(target, id("good"));
                assert!(repair.slots.iter().all(|slot| seen.slots.contains_key(slot) && !fine(seen, slot)));
                let drifted = seen.current != Some(target);
                if drifted && !repair.pointer_stays {
                    moves += 1;
                    assert!(!seen.current_proven && !seen.seats.iter().any(well), "{seen:?}");
                }
                stays += usize::from(repair.pointer_stays);
                // done, it is enough
                let mut after = seen.clone();
                after.lost = None;
                after.seats.retain(|seat| !repair.slots.contains(&seat.slot));
                after.seats.extend(repair.slots.iter().map(|slot| Seat {
                    slot: slot.clone(),
                    generation: target,
                    health: Health::Well,
                    known: true,
                }));
                if !repair.pointer_stays {
                    after.current = Some(target);
                }
                assert!(!matches!(look(&after), Next::Restore(..) | Next::GoBack(..)), "{seen:?}");
            }
            Next::GoBack(target, _) => {
                assert_eq!(target, id("good"));
                assert!(!seen.busy && !all_fine && waits.is_some_and(|open| !open.tried), "{seen:?}");
            }
            Next::Settle(keep) => {
                assert!(!seen.busy && all_fine && seen.settled && waits.is_none(), "{seen:?}");
                assert_eq!(seen.current, seen.good);
                assert!(keep.iter().eq(seen.slots.keys()));
                let stopped = seen.seats.iter().filter(|seat| !keep.contains(&seat.slot));
                assert!(stopped.clone().all(|seat| seat.known), "somebody else's: {seen:?}");
                let kept = seen.seats.iter().filter(|seat| keep.contains(&seat.slot));
                assert!(kept.clone().all(|seat| seat.generation == id("good")), "{seen:?}");
                assert!(stopped.count() > 0 || !seen.told, "once is enough: {seen:?}");
            }
            // what is in force by all accounts lacks something: that is seen
            Next::Nothing => {
                let agreed = seen.current == seen.good && waits.is_none() && !seen.busy;
                assert!(!agreed || all_fine, "{seen:?}");
            }
        }
    });
    assert!(looks > 100_000 && repairs > 0 && stays > 0 && moves > 0, "{looks} {repairs} {stays} {moves}");
}

#[test]
fn a29_where_nothing_was_ever_good_nothing_is_held() {
    let seen = Seen { slots: [(slot(1), Some(LIMIT))].into(), current: Some(id("new")), ..Seen::default() };
    assert_eq!((seen.held(), look(&seen)), (None, Next::Nothing));
}

#[test]
fn a29_what_the_pipeline_has_no_more_is_neither_missed_nor_stopped() {
    let seat = |instance| {
        let (slot, generation) = (slot(instance), id("good"));
        Seat { slot, generation, health: Health::Well, known: true }
    };
    let seen = Seen {
        good: Some(id("good")),
        current: Some(id("good")),
        settled: true,
        slots: [(slot(1), Some(LIMIT)), (slot(2), None)].into(),
        seats: vec![seat(1), seat(2)],
        ..Seen::default()
    };
    assert_eq!(look(&seen), Next::Settle(vec![slot(1), slot(2)]));
    assert_eq!(look(&Seen { told: true, seats: vec![seat(1)], ..seen }), Next::Nothing);
}

#[test]
fn a28_an_error_is_forgiven_after_each_decay() {
    let decay = Duration::from_millis(10);
    // against one that is kept by hand, each millisecond
    for errors_at in [vec![0], vec![5, 5, 5], vec![0, 9, 10, 11, 35], vec![3, 14, 15, 16, 17, 80]] {
        let (mut tally, mut errors, mut waits) = (Tally::default(), 0u32, 0);
        for now in 0..120 {
            if errors > 0 {
                waits += 1;
            }
            if errors > 0 && waits == 10 {
                (errors, waits) = (errors - 1, 0);
            }
            for _ in errors_at.iter().filter(|at| **at == now) {
                tally = tally.add(now, decay);
                waits = if errors == 0 { 0 } else { waits };
                errors += 1;
            }
            assert_eq!(tally.at(now, decay).errors, errors, "{errors_at:?} at {now}");
        }
        assert_eq!(errors, 0);
    }
    assert_eq!(Tally::default().add(u64::MAX, Duration::ZERO).at(0, decay).errors, 1);
}
