use super::*;
use proptest::prelude::*;

fn id(name: u8) -> GenerationId {
    GenerationId::of(&[name])
}

fn key(name: u8) -> LoadedKey {
    LoadedKey::of(&[name])
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

const NOW: i64 = 1_000_000_000;
const HOUR: i64 = 3600;

fn days(number: i64) -> i64 {
    number * 24 * HOUR
}

/// Generations `a` to `z` of `there`, pushed a year ago; nothing else is known, and nothing is kept unasked.
fn facts(there: &str) -> Facts {
    Facts {
        generations: there.bytes().map(|name| (id(name), at(NOW - days(365)))).collect(),
        current: None,
        tags: BTreeMap::new(),
        pending: BTreeMap::new(),
        running: Vec::new(),
        ended: Vec::new(),
        stack: Vec::new(),
        retention: Retention { keep: 0, keep_days: 0, keep_pushed: Duration::ZERO, automatic: false },
        now: at(NOW),
    }
}

fn ended(name: u8, good: bool, ago: i64) -> Ended {
    Ended { target: id(name), good, loaded: None, at: at(NOW - ago) }
}

/// What stays, by name: `a: current, tag x`.
fn kept(facts: &Facts) -> Vec<String> {
    let kept = generations(facts);
    let named = (b'a'..=b'z').filter_map(|name| {
        let why: Vec<String> = kept.get(&id(name))?.iter().map(ToString::to_string).collect();
        Some(format!("{}: {}", char::from(name), why.join(", ")))
    });
    named.collect()
}

#[test]
fn s21_nothing_stays_without_a_reason() {
    assert_eq!(kept(&facts("abc")), [""; 0]);
}

#[test]
fn s21_what_is_used_stays_whatever_is_kept() {
    let mut facts = facts("abcdefg");
    facts.current = Some(id(b'a'));
    facts.tags = [("v1", b'b'), ("v2", b'b'), ("gone", b'x')]
        .map(|(tag, name)| (tag.parse().unwrap(), id(name)))
        .into();
    facts.pending = [(7, [id(b'c'), id(b'd')].into()), (8, [id(b'c')].into())].into();
    facts.running = vec![Running { name: "web/1".into(), generation: id(b'e'), loaded: None }];
    assert_eq!(
        kept(&facts),
        [
            "a: current",
            "b: tag v1, tag v2",
            "c: event 7 is not finished, event 8 is not finished",
            "d: event 7 is not finished",
            "e: worker web/1"
        ]
    );
}

#[test]
fn s21_the_way_back_stays() {
    let mut facts = facts("abcd");
    facts.stack = vec![id(b'a'), id(b'b'), id(b'c')];
    assert_eq!(kept(&facts), ["b: rollback goes there", "c: last good"]);
}

#[test]
fn s21_the_last_good_ones_stay_and_failures_do_not_count() {
    let mut facts = facts("abcde");
    facts.retention.keep = 2;
    // of the last two good ones that are there: `c` twice, `x` gone, `e` never good
    facts.ended =
        vec![ended(b'a', true, 9), ended(b'b', true, 8), ended(b'c', true, 7), ended(b'x', true, 6)];
    facts.ended.extend([ended(b'c', true, 5), ended(b'e', false, 4), ended(b'd', false, 3)]);
    assert_eq!(kept(&facts), ["b: keep 2", "c: keep 2"]);
    // a rollback makes an old one the latest
    facts.ended.push(ended(b'a', true, 2));
    assert_eq!(kept(&facts), ["a: keep 2", "c: keep 2"]);
}

#[test]
fn s21_days_add_to_the_number() {
    let mut facts = facts("abcd");
    facts.retention = Retention { keep: 1, keep_days: 30, ..facts.retention };
    facts.ended = vec![ended(b'a', true, days(31)), ended(b'b', true, days(30)), ended(b'c', true, days(29))];
    facts.ended.push(ended(b'd', false, days(1)));
    assert_eq!(kept(&facts), ["c: keep 1, keep_days 30"]);
    facts.retention.keep = 2;
    assert_eq!(kept(&facts), ["b: keep 2", "c: keep 2, keep_days 30"]);
    // a clock that was put back takes nothing away
    facts.ended.push(ended(b'a', true, -days(1)));
    assert_eq!(kept(&facts), ["a: keep 2, keep_days 30", "c: keep 2, keep_days 30"]);
}

#[test]
fn s21_what_was_just_pushed_stays_until_its_verdict() {
    let mut facts = facts("abcd");
    facts.retention.keep_pushed = Duration::from_secs(24 * 3600);
    let pushed = |facts: &mut Facts, name: u8, ago: i64| facts.generations.insert(id(name), at(NOW - ago));
    pushed(&mut facts, b'a', 25 * HOUR);
    pushed(&mut facts, b'b', 23 * HOUR);
    pushed(&mut facts, b'c', 23 * HOUR);
    pushed(&mut facts, b'd', HOUR);
    facts.ended = vec![ended(b'c', false, 22 * HOUR), ended(b'd', true, 2 * HOUR)];
    // `d` was pushed again after its last verdict
    assert_eq!(kept(&facts), ["b: keep_pushed 1d", "d: keep_pushed 1d"]);
    facts.retention.keep_pushed = Duration::ZERO;
    assert_eq!(kept(&facts), [""; 0]);
}

#[test]
fn s21_a_loader_output_stays_with_the_generation_that_ran_with_it() {
    let mut facts = facts("ab");
    let with = |name, good, made| Ended { loaded: Some(key(made)), ..ended(name, good, 1) };
    // `a`: 1 is outdated, 2 was good, 3 was made since, by another program; 4 is of `b`; nobody names 5
    facts.ended = vec![with(b'a', true, 1), with(b'a', true, 2), with(b'a', false, 3), with(b'b', true, 4)];
    let there: BTreeSet<LoadedKey> = (1..=6).map(key).collect();
    let named = |facts: &Facts, stay: &str| {
        let kept = outputs(facts, &stay.bytes().map(id).collect(), &there);
        (1..=6_u8).filter(|name| kept.contains_key(&key(*name))).collect::<Vec<_>>()
    };
    assert_eq!(named(&facts, "ab"), [2, 3, 4]);
    assert_eq!(named(&facts, "b"), [4]);
    facts.running = vec![Running { name: "web/1".into(), generation: id(b'a'), loaded: Some(key(6)) }];
    assert_eq!(named(&facts, "b"), [4, 6]);
    facts.pending = [(9, BTreeSet::new())].into();
    assert_eq!(named(&facts, ""), [1, 2, 3, 4, 5, 6], "what an event needs is not known before its verdict");
}

prop_compose! {
    /// Any facts about generations `a` to `h`, of which some are there.
    fn any_facts()(
        there in prop::collection::btree_map(b'a'..b'i', 0_i64..days(60), 0..8),
        current in prop::option::of(b'a'..b'i'),
        tags in prop::collection::vec(b'a'..b'i', 0..3),
        pending in prop::collection::vec(b'a'..b'i', 0..2),
        running in prop::collection::vec(b'a'..b'i', 0..2),
        events in prop::collection::vec((b'a'..b'i', any::<bool>(), 0..days(60)), 0..12),
        (keep, keep_days, hours) in (0_u32..5, 0_u32..40, 0_u64..48),
    ) -> Facts {
        let mut ended: Vec<Ended> = events.into_iter().map(|(name, good, ago)| ended(name, good, ago)).collect();
        ended.sort_by_key(|ended| ended.at);
        let generations: BTreeMap<_, _> = there.into_iter().map(|(name, ago)| (id(name), at(NOW - ago))).collect();
        let mut stack: Vec<GenerationId> = ended.iter().filter(|e| e.good).map(|e| e.target).collect();
        stack.retain(|id| generations.contains_key(id));
        stack.dedup();
        let tag = |(number, name): (usize, u8)| (format!("t-{number}").parse().unwrap(), id(name));
        Facts {
            generations,
            current: current.map(id),
            tags: tags.into_iter().enumerate().map(tag).collect(),
            pending: pending.into_iter().enumerate().map(|(n, name)| (n as u64, [id(name)].into())).collect(),
            running: running
                .into_iter()
                .map(|name| Running { name: "w".into(), generation: id(name), loaded: None })
                .collect(),
            ended,
            stack,
            retention: Retention {
                keep,
                keep_days,
                keep_pushed: Duration::from_secs(hours * 3600),
                automatic: false,
            },
            now: at(NOW),
        }
    }
}

/// The same decision, asked of one generation at a time, in the words of the rule.
fn stays(facts: &Facts, id: GenerationId) -> bool {
    let good: Vec<&Ended> = facts.ended.iter().filter(|ended| ended.good).collect();
    let there = |ended: &&&Ended| facts.generations.contains_key(&ended.target);
    let age = |at: Timestamp| facts.now.as_second() - at.as_second();
    // how many other good ones that are there are later than its own last time
    let rank = good.iter().rposition(|ended| ended.target == id).map(|last| {
        good[last..]
            .iter()
            .filter(there)
            .map(|e| e.target)
            .filter(|t| *t != id)
            .collect::<BTreeSet<_>>()
            .len()
    });
    let recent =
        good.iter().any(|e| e.target == id && age(e.at) < days(i64::from(facts.retention.keep_days)));
    let verdict = facts.ended.iter().filter(|ended| ended.target == id).map(|ended| ended.at).max();
    let pushed = facts.generations[&id];
    facts.current == Some(id)
        || facts.tags.values().any(|tagged| *tagged == id)
        || facts.pending.values().any(|named| named.contains(&id))
        || facts.running.iter().any(|running| running.generation == id)
        || facts.stack.iter().rev().take(2).any(|good| *good == id)
        || rank.is_some_and(|rank| rank < facts.retention.keep as usize)
        || recent
        || (verdict.is_none_or(|verdict| pushed > verdict)
            && age(pushed) < i64::try_from(facts.retention.keep_pushed.as_secs()).unwrap())
}

proptest! {
    #[test]
    fn s21_the_decision_is_the_rule(facts in any_facts()) {
        let kept = generations(&facts);
        for id in facts.generations.keys() {
            prop_assert_eq!(kept.contains_key(id), stays(&facts, *id), "{:?}: {:?}", id, kept.get(id));
        }
        prop_assert!(kept.iter().all(|(id, why)| facts.generations.contains_key(id) && !why.is_empty()));
    }

    #[test]
    fn s21_keeping_more_takes_nothing_away(facts in any_facts(), more in 0_u32..3, day in 0_u32..3, hour in 0_u64..3) {
        let before: BTreeSet<GenerationId> = generations(&facts).into_keys().collect();
        let mut facts = facts;
        facts.retention.keep += more;
        facts.retention.keep_days += day;
        facts.retention.keep_pushed += Duration::from_secs(hour * 3600);
        let after: BTreeSet<GenerationId> = generations(&facts).into_keys().collect();
        prop_assert!(before.is_subset(&after));
    }
}
