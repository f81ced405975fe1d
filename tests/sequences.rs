//! Any sequence of push, tag, activate, rollback, gc, damage, repair, export and import does what a naive model
//! says: plain maps, and copies of every directory that was ever pushed. Rules S4, S14, S15 and S21 to S24.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use common::Sandbox;
use proptest::prelude::*;

/// What `host.yaml` says, and the model does.
const KEEP: usize = 2;

/// Path to content.
type Tree = BTreeMap<String, String>;

#[derive(Clone, Debug)]
enum Step {
    Push(Tree),
    Tag(u8, prop::sample::Index),
    Untag(u8),
    Activate(prop::sample::Index),
    Rollback,
    RollbackTo(prop::sample::Index),
    Gc,
    Damage(prop::sample::Index, prop::sample::Index),
    Repair,
    /// into an empty store, which takes the place of the one there was
    Move,
}

fn tree() -> impl Strategy<Value = Tree> {
    let path = prop::sample::select(vec!["a", "b", "d/a", "d/b", "d/e/c"]);
    let content = prop::sample::select(vec!["", "one\n", "two\n", "three\n"]);
    prop::collection::btree_map(path.prop_map(str::to_owned), content.prop_map(str::to_owned), 1..5)
}

fn step() -> impl Strategy<Value = Step> {
    let any = any::<prop::sample::Index>;
    prop_oneof![
        5 => tree().prop_map(Step::Push),
        1 => (0..3u8, any()).prop_map(|(tag, at)| Step::Tag(tag, at)),
        1 => (0..3u8).prop_map(Step::Untag),
        4 => any().prop_map(Step::Activate),
        2 => Just(Step::Rollback),
        1 => any().prop_map(Step::RollbackTo),
        2 => Just(Step::Gc),
        2 => (any(), any()).prop_map(|(at, file)| Step::Damage(at, file)),
        2 => Just(Step::Repair),
        1 => Just(Step::Move),
    ]
}

/// The naive store.
#[derive(Default)]
struct Model {
    /// what is there
    generations: BTreeMap<String, Tree>,
    /// every id that a tree ever got
    ids: BTreeMap<Tree, String>,
    tags: BTreeMap<String, String>,
    current: Option<String>,
    /// good ones, the last on top
    stack: Vec<String>,
    /// targets of good verdicts, in order
    good: Vec<String>,
    /// what was rolled back from, and not activated or rolled back to since
    rejected: BTreeSet<String>,
}

impl Model {
    fn pick(&self, at: prop::sample::Index) -> Option<String> {
        let ids: Vec<&String> = self.generations.keys().collect();
        (!ids.is_empty()).then(|| (*at.get(&ids)).clone())
    }

    /// `activate`: what it was on stays on the stack. `rollback`: what is above the target leaves.
    fn goes_to(&mut self, id: &str, back: bool) {
        if let Some(left) = self.current.replace(id.to_owned()).filter(|_| back) {
            self.rejected.insert(left);
        }
        self.rejected.remove(id);
        self.good.push(id.to_owned());
        if !back {
            if self.stack.last().is_none_or(|top| top != id) {
                self.stack.push(id.to_owned());
            }
        } else if let Some(at) = self.stack.iter().rposition(|on| on == id) {
            self.stack.truncate(at + 1);
        } else {
            self.stack.pop();
            self.stack.push(id.to_owned());
        }
    }

    /// The stack as it counts: what is gone is left out, and of equal neighbours all but one.
    fn standing(&self) -> Vec<String> {
        let mut standing = self.stack.clone();
        standing.retain(|id| self.generations.contains_key(id));
        standing.dedup();
        standing
    }

    fn collect(&mut self) {
        let roots = self.roots();
        self.generations.retain(|id, _| roots.contains(id));
    }

    /// What gc must leave.
    fn roots(&self) -> BTreeSet<String> {
        let mut roots: BTreeSet<String> = self.tags.values().cloned().collect();
        roots.extend(self.current.clone());
        // the last good one, and where a rollback goes
        roots.extend(self.standing().into_iter().rev().take(2));
        let mut last: Vec<&String> = Vec::new();
        for id in self.good.iter().rev() {
            if last.len() < KEEP && self.generations.contains_key(id) && !last.contains(&id) {
                last.push(id);
            }
        }
        roots.extend(last.into_iter().cloned());
        roots
    }
}

/// A sandbox, the store that is in use in it, and what it should be.
struct World {
    sandbox: Sandbox,
    model: Model,
    /// number of pushes and moves, for names of directories
    count: usize,
}

impl World {
    fn new() -> World {
        let world = World { sandbox: Sandbox::new(), model: Model::default(), count: 0 };
        world.configure();
        world
    }

    fn configure(&self) {
        let text = format!("pipeline: pushed\nkeep: {KEEP}\nkeep_days: 0\nkeep_pushed: 0s\n");
        self.sandbox.write("store/host.yaml", &text);
    }

    /// A directory with every tree that was ever pushed, by its id.
    fn sources(&self) -> PathBuf {
        self.sandbox.path("sources")
    }

    fn file(&self, id: &str, path: &str) -> PathBuf {
        self.sandbox.path("store/generations").join(id).join("tree").join(path)
    }

    /// Generation and path of every file that is not as it was pushed: the naive `verify`.
    fn damaged(&self) -> BTreeSet<(String, String)> {
        let files = self.model.generations.iter().flat_map(|(id, tree)| tree.iter().map(move |f| (id, f)));
        files
            .filter(|(id, (path, content))| {
                std::fs::read_to_string(self.file(id, path)).ok().as_ref() != Some(*content)
            })
            .map(|(id, (path, _))| (id.clone(), path.clone()))
            .collect()
    }

    fn is_damaged(&self, id: &str) -> bool {
        self.damaged().iter().any(|(damaged, _)| damaged == id)
    }

    fn push(&mut self, tree: Tree) {
        self.count += 1;
        let name = format!("source-{}", self.count);
        for (path, content) in &tree {
            self.sandbox.write(&format!("{name}/{path}"), content);
        }
        let pushed = self.sandbox.json(&["push", &name], 0);
        let id = pushed["id"].as_str().unwrap().to_owned();
        let is_new = !self.model.generations.contains_key(&id);
        assert_eq!(pushed["changed"], is_new, "{pushed}");
        let known = self.model.ids.entry(tree.clone()).or_insert_with(|| id.clone());
        assert_eq!(*known, id, "the same content has the same id");
        if is_new {
            let kept = self.sources().join(&id);
            let _ = std::fs::remove_dir_all(&kept);
            std::fs::create_dir_all(self.sources()).unwrap();
            std::fs::rename(self.sandbox.path(&name), kept).unwrap();
        }
        self.model.generations.insert(id, tree);
    }

    fn go(&mut self, id: &str, command: &[&str], back: bool) {
        let expected = match () {
            () if self.is_damaged(id) => ("refused", 4),
            () if self.model.current.as_deref() == Some(id) => ("unchanged", 0),
            () if !back && self.model.rejected.contains(id) => ("refused", 7),
            () => ("good", 0),
        };
        let verdict = self.sandbox.json(command, expected.1);
        assert_eq!(verdict["verdict"], expected.0, "{verdict}");
        if expected.0 == "good" {
            self.model.goes_to(id, back);
            // the host file says how much to keep: it is collected unasked
            self.model.collect();
        }
    }

    fn rollback(&mut self) {
        let target = match self.model.standing().as_slice() {
            [.., top] if self.model.current.as_ref() != Some(top) => Some(top.clone()),
            [.., under, _] => Some(under.clone()),
            _ => None,
        };
        match target {
            Some(id) => self.go(&id, &["rollback"], true),
            None => {
                self.sandbox.json(&["rollback"], 3);
            }
        }
    }

    fn gc(&mut self) {
        let roots = self.model.roots();
        let report = self.sandbox.json(&["gc"], 0);
        let removed: BTreeSet<String> =
            report["removed"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect();
        let expected: BTreeSet<String> =
            self.model.generations.keys().filter(|id| !roots.contains(*id)).cloned().collect();
        assert_eq!(removed, expected, "{report:#}");
        self.model.collect();
    }

    fn damage(&self, at: prop::sample::Index, file: prop::sample::Index) {
        let Some(id) = self.model.pick(at) else { return };
        let paths: Vec<&String> = self.model.generations[&id].keys().collect();
        let path = self.file(&id, file.get(&paths).as_str());
        // in place, through whatever other generations share: as a careless root would
        let mut text = std::fs::read_to_string(&path).unwrap();
        text.push('!');
        std::fs::write(&path, text).unwrap();
    }

    /// One after the other, each from the directory that it was pushed from.
    fn repair(&self) {
        let ids: BTreeSet<String> = self.damaged().into_iter().map(|(id, _)| id).collect();
        for id in ids {
            let from = self.sources().join(&id);
            self.sandbox.run(&["verify", &id, "--repair", "--from", from.to_str().unwrap()], 0);
        }
    }

    /// Everything into an export, that into an empty store, and this one takes the old one's place.
    fn move_out(&mut self) {
        if !self.damaged().is_empty() {
            let output = self.sandbox.command(&["export", "--all", "-o", "export.tar"]).output().unwrap();
            assert_eq!(output.status.code(), Some(4), "{output:?}");
            assert!(!self.sandbox.path("export.tar").exists());
            return;
        }
        self.count += 1;
        let old = self.sandbox.path(&format!("old-{}", self.count));
        self.sandbox.run(&["export", "--all", "-o", "export.tar"], 0);
        std::fs::rename(self.sandbox.path("store"), &old).unwrap();
        self.sandbox.run(&["init", "--pipeline", "pushed"], 0);
        self.configure();
        self.sandbox.run(&["import", "export.tar"], 0);
        // again: nothing is new
        self.sandbox.run(&["import", "export.tar"], 0);
        std::fs::remove_file(self.sandbox.path("export.tar")).unwrap();
        // what was proven there proves nothing here
        self.model.current = None;
        self.model.stack.clear();
        self.model.good.clear();
        self.model.rejected.clear();
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Push(tree) => self.push(tree),
            Step::Tag(tag, at) => {
                if let Some(id) = self.model.pick(at) {
                    self.sandbox.run(&["tag", &format!("t{tag}"), &id], 0);
                    self.model.tags.insert(format!("t{tag}"), id);
                }
            }
            Step::Untag(tag) => {
                let tag = format!("t{tag}");
                let code = if self.model.tags.remove(&tag).is_some() { 0 } else { 3 };
                self.sandbox.output(&["tag", "-d", &tag], code);
            }
            Step::Activate(at) => {
                if let Some(id) = self.model.pick(at) {
                    self.go(&id, &["activate", &id], false);
                }
            }
            Step::Rollback => self.rollback(),
            Step::RollbackTo(at) => {
                if let Some(id) = self.model.pick(at) {
                    self.go(&id, &["rollback", &id], true);
                }
            }
            Step::Gc => self.gc(),
            Step::Damage(at, file) => self.damage(at, file),
            Step::Repair => self.repair(),
            Step::Move => self.move_out(),
        }
    }

    /// Everything that can be seen is as the model says.
    fn check(&self) {
        let list = self.sandbox.json(&["list"], 0);
        let listed = list["generations"].as_array().unwrap();
        let ids: BTreeSet<&str> = listed.iter().map(|g| g["id"].as_str().unwrap()).collect();
        let expected: BTreeSet<&str> = self.model.generations.keys().map(String::as_str).collect();
        assert_eq!(ids, expected);
        for generation in listed {
            let id = generation["id"].as_str().unwrap();
            let tags: BTreeSet<&str> =
                generation["tags"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
            let expected: BTreeSet<&str> = self
                .model
                .tags
                .iter()
                .filter(|(_, named)| *named == id)
                .map(|(tag, _)| tag.as_str())
                .collect();
            assert_eq!(tags, expected, "{generation}");
            assert_eq!(generation["current"], self.model.current.as_deref() == Some(id));
            assert_eq!(generation["good"], self.model.good.iter().any(|good| good == id));
        }
        assert_eq!(self.sandbox.current(), self.model.current);
        let damaged = self.damaged();
        let verified = self.sandbox.json(&["verify"], if damaged.is_empty() { 0 } else { 4 });
        let mut named = BTreeSet::new();
        for damage in verified["damage"].as_array().unwrap() {
            let path = damage["path"].as_str().unwrap().split("/tree/").nth(1).unwrap();
            let all = damage["shared"].as_array().unwrap().iter().chain([&damage["generation"]]);
            named.extend(all.map(|id| (id.as_str().unwrap().to_owned(), path.to_owned())));
        }
        assert_eq!(named, damaged, "{verified:#}");
        let history = self.sandbox.json(&["history"], 0);
        let own = history["events"].as_array().unwrap().iter().filter(|event| event["imported"].is_null());
        assert!(own.clone().all(|event| event["end"]["verdict"].is_string()), "{history:#}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 100, ..ProptestConfig::default() })]
    #[test]
    fn s4_any_sequence_does_what_the_naive_model_says(steps in prop::collection::vec(step(), 8..28)) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
            world.check();
        }
    }
}
