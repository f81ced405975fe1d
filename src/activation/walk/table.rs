#![allow(clippy::disallowed_methods, reason = "tests stand outside of the rooms")]
//! The failure table of `spec/activation.md`, as the walks have seen it; and that what the page names exists.
//!
//! `POINTSMAN_WRITE_SPEC=1 cargo test --locked --lib walk::` writes the table and the picture anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::super::*;
use super::news::{News, Place};
use super::walks::*;
use super::world::{Budget, World, from};
use super::{Leads, Walk};

pub(super) type Cells = BTreeMap<(Place, News), BTreeSet<Leads>>;

/// What may happen, what is asked, and where it begins.
type Kind = (Budget, fn(&World) -> Facts, World);

/// What walks of every kind of request have seen.
pub(super) fn cells() -> &'static Cells {
    static CELLS: OnceLock<Cells> = OnceLock::new();
    CELLS.get_or_init(|| {
        let heard = Budget { deaths: 1, signals: 1, stale: 1, crashes: 0, full: 0 };
        let killed = Budget { deaths: 1, crashes: 1, ..Budget::default() };
        let twice = Budget { crashes: 2, ..Budget::default() };
        let one = World::new(Some(from()), 1);
        let is_cold = |world| World { cold: true, ..world };
        let walks: [Kind; 15] = [
            (heard, facts, running()),
            (heard, facts, World::new(None, 0)),
            (heard, cold, down()),
            (heard, cold_and_only, down()),
            (heard, confirmed, running()),
            (heard, pointer_only, running()),
            (heard, restart, in_force()),
            (heard, facts, is_cold(running())),
            (heard, facts, is_cold(World::new(None, 0))),
            (heard, forced, is_cold(in_force())),
            (heard, repair, one_gone()),
            (killed, facts, running()),
            (killed, small, one.clone()),
            (killed, small, is_cold(one.clone())),
            (twice, small, one),
        ];
        let mut all = Cells::new();
        for (budget, facts, world) in walks {
            for (cell, leads) in Walk::all(facts, World { budget, ..world }).cells {
                all.entry(cell).or_default().extend(leads);
            }
        }
        all
    })
}

/// The text between two marks of a file of `spec/`, or the whole file, is `made`; or is written so.
pub(super) fn is_written(file: &str, marks: Option<(&str, &str)>, made: &str) {
    let path = root().join("spec").join(file);
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    let (before, now, after) = match marks {
        None => ("", there.as_str(), ""),
        Some((begin, end)) => {
            let (before, rest) = there.split_once(begin).expect("the mark begins the block");
            let (now, _) = rest.split_once(end).expect("the mark ends the block");
            let (first, last) = (before.len() + begin.len(), before.len() + begin.len() + now.len());
            (&there[..first], now, &there[last..])
        }
    };
    if now != made && std::env::var_os("POINTSMAN_WRITE_SPEC").is_some() {
        std::fs::write(&path, format!("{before}{made}{after}")).unwrap();
        return;
    }
    assert!(
        now == made,
        "spec/{file} is not what the code does: POINTSMAN_WRITE_SPEC=1 cargo test --locked --lib walk::"
    );
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The rule of `spec/activation.md` that a cell follows.
fn rule(place: Place, news: News) -> &'static str {
    match (news, place) {
        (News::Killed | News::KilledWithWorker | News::MachineDown, _) => "A10",
        (News::Withdrawn, _) => "A11",
        (News::Preempted, _) => "A17",
        (News::Overdue, Place::Probation) => "A8",
        (News::Overdue, _) => "A37",
        (News::Unwell, _) => "A25",
        (_, Place::Preflight) => "A6",
        (_, Place::Load | Place::Check) => "A7",
        (_, Place::Canary) => "A20",
        (_, Place::Stop | Place::StopBack) => "A34",
        (
            _,
            Place::Swing
            | Place::Replace
            | Place::Probation
            | Place::SwingBack
            | Place::PutBack
            | Place::Finished,
        ) => "A8",
    }
}

fn cell(cells: &Cells, place: Place, news: News) -> String {
    let Some(leads) = cells.get(&(place, news)) else {
        let rule = if place == Place::Finished { "A1" } else { "A37" };
        let never = news.is_never_heard_in(place);
        assert!(never, "{}: nobody has heard in {} what is listed", news.name(), place.name());
        return format!("not asked {rule}");
    };
    assert!(!news.is_never_heard_in(place), "{} in {}", news.name(), place.name());
    let words: Vec<String> = leads
        .iter()
        .map(|leads| match leads {
            Leads::Stays => "stays".to_owned(),
            Leads::To(place) => format!("→ {}", place.name()),
            Leads::Ends(verdict) => format!("**{verdict}**"),
            Leads::Again => "begin again".to_owned(),
            Leads::Finishes => "finish".to_owned(),
            Leads::Undoes => "undo".to_owned(),
            Leads::GivesUp => "**failed**".to_owned(),
        })
        .collect();
    let only_stays = leads.iter().all(|leads| *leads == Leads::Stays);
    let rule = if only_stays { "A37" } else { rule(place, news) };
    format!("{} {rule}", words.join(", "))
}

#[test]
fn a38_the_failure_table_is_what_the_code_does() {
    let cells = cells();
    let mut table = String::from("\n\n| heard \\ where |");
    for place in Place::ALL {
        let _ = write!(table, " {} |", place.name());
    }
    let _ = write!(table, "\n|---|{}\n", "---|".repeat(Place::ALL.len()));
    for news in News::ALL {
        let _ = write!(table, "| {} |", news.name());
        for place in Place::ALL {
            let _ = write!(table, " {} |", cell(cells, place, news));
        }
        table.push('\n');
    }
    table.push('\n');
    is_written("activation.md", Some(("<!-- table: begin -->", "<!-- table: end -->")), &table);
}

#[test]
fn a38_every_test_that_the_page_names_exists_and_no_cell_is_empty() {
    let page = std::fs::read_to_string(root().join("spec/activation.md")).unwrap();
    let mut sources = String::new();
    for dir in ["tests", "src"] {
        read_all(&root().join(dir), &mut sources);
    }
    let quoted = page.split('`').skip(1).step_by(2);
    let named: BTreeSet<&str> = quoted.filter(|word| is_test_name(word)).collect();
    assert!(named.len() > 20, "the page names only {} tests", named.len());
    let missing: Vec<_> = named.iter().filter(|name| !sources.contains(&format!("fn {name}()"))).collect();
    assert!(missing.is_empty(), "spec/activation.md names tests that are not there: {missing:?}");
    for row in page.lines().filter(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        assert!(cells.iter().all(|cell| !cell.trim().is_empty()), "an empty cell: {row}");
    }
}

/// `a10_what_it_shows`: a room's letter, the number of the rule, and words.
fn is_test_name(word: &str) -> bool {
    let Some((rule, words)) = word.split_once('_') else { return false };
    let Some(number) = rule.strip_prefix(['a', 'c', 'k', 'p', 's', 'w', 'x']) else { return false };
    number.parse::<u8>().is_ok() && words.contains('_')
}

fn read_all(dir: &Path, all: &mut String) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_all(&path, all);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            all.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}
