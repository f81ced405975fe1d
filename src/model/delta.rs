//! What differs between two generations.

use std::fmt;

use super::{Manifest, Node, RelPath};

/// The paths that differ between two generations, each list sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// only in the newer one
    pub added: Vec<RelPath>,
    /// only in the older one
    pub removed: Vec<RelPath>,
    /// in both, but not the same: content, kind, class, executable bit or link target
    pub changed: Vec<RelPath>,
    // without directories: what people call files
    files: [usize; 3],
}

impl Delta {
    /// What leads from `old` to `new`.
    pub fn between(old: &Manifest, new: &Manifest) -> Delta {
        Delta::beside(old, new, &|_| false)
    }

    // what leads from `old` to `new`, without the paths that are `claimed`
    fn beside(old: &Manifest, new: &Manifest, claimed: &dyn Fn(&RelPath) -> bool) -> Delta {
        let mut delta = Delta::default();
        for (path, node) in old.iter() {
            match new.get(path) {
                None if !claimed(path) => delta.note(1, path, node),
                Some(now) if now != node && !claimed(path) => delta.note(2, path, now),
                None | Some(_) => {}
            }
        }
        for (path, node) in new.iter().filter(|(path, _)| old.get(path).is_none() && !claimed(path)) {
            delta.note(0, path, node);
        }
        delta
    }

    fn note(&mut self, list: usize, path: &RelPath, node: &Node) {
        [&mut self.added, &mut self.removed, &mut self.changed][list].push(path.clone());
        self.files[list] += usize::from(*node != Node::Dir);
    }

    /// What leads from `old` to `new` and means for the workers, in words: `nginx.conf changed and nothing
    /// claims it`. `claimed` tells the paths that the loader reads.
    pub fn in_words(old: &Manifest, new: &Manifest, claimed: &dyn Fn(&RelPath) -> bool) -> String {
        let left = Delta::beside(old, new, claimed);
        match left.files.iter().sum() {
            // a directory that came with what was claimed is nothing of its own
            0 => match Delta::between(old, new) {
                all if all.files == [0, 0, 0] => format!("{all} and nothing claims it"),
                all => format!("{all}, which the loader reads"),
            },
            1 => format!("{left} and nothing claims it"),
            2.. => format!("{left} and nothing claims them"),
        }
    }

    /// Whether the two are the same.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

impl fmt::Display for Delta {
    /// One line for people: `nginx.conf changed, 2 added`. Directories count only where nothing else does.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("nothing changed");
        }
        let directories = self.files == [0, 0, 0];
        let mut comma = "";
        for (list, paths, verb) in
            [(2, &self.changed, "changed"), (0, &self.added, "added"), (1, &self.removed, "removed")]
        {
            let count = if directories { paths.len() } else { self.files[list] };
            match (count, paths.as_slice()) {
                (0, _) => continue,
                (1, [path]) => write!(f, "{comma}{path} {verb}")?,
                (count, _) => write!(f, "{comma}{count} {verb}")?,
            }
            comma = ", ";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Class, ContentHash, Entry};

    fn manifest(files: &[(&str, &str)]) -> Manifest {
        let entry = |(name, text): &(&str, &str)| {
            let hash = ContentHash::of(text.as_bytes());
            let file = Node::File { class: Class::Public, executable: false, len: text.len() as u64, hash };
            let (name, node) = name.strip_suffix('/').map_or((*name, file), |name| (name, Node::Dir));
            Entry { path: RelPath::new(name).unwrap(), node }
        };
        Manifest::new(files.iter().map(entry)).unwrap()
    }

    #[test]
    fn a_delta_is_told_in_one_line() {
        let old = manifest(&[("a", "1"), ("b", "1"), ("d/", "")]);
        for (new, want) in [
            (manifest(&[("a", "1"), ("b", "1"), ("d/", "")]), "nothing changed"),
            (manifest(&[("a", "2"), ("b", "1"), ("d/", "")]), "a changed"),
            (manifest(&[("a", "2"), ("b", "2"), ("d/", ""), ("d/x", ""), ("e", "")]), "2 changed, 2 added"),
            (manifest(&[("a", "1"), ("d/", ""), ("d/x", "")]), "d/x added, b removed"),
            (manifest(&[("a", "1"), ("b", "1")]), "d removed"),
            (manifest(&[]), "2 removed"),
        ] {
            assert_eq!(Delta::between(&old, &new).to_string(), want);
        }
        let delta = Delta::between(&old, &manifest(&[("b", "2"), ("c", ""), ("d/", ""), ("d/x", "")]));
        let told = |new: &[(&str, &str)], claimed: &str| {
            Delta::in_words(&old, &manifest(new), &|path| path.as_str().starts_with(claimed))
        };
        assert_eq!(told(&[("a", "2"), ("b", "1"), ("d/", "")], "d"), "a changed and nothing claims it");
        assert_eq!(told(&[("a", "2"), ("b", "1"), ("d/", "")], "a"), "a changed, which the loader reads");
        assert_eq!(told(&[("a", "2"), ("b", "2"), ("d/", "")], "a"), "b changed and nothing claims it");
        assert_eq!(told(&[("a", "2"), ("d/", "")], "x"), "a changed, b removed and nothing claims them");
        assert_eq!(told(&[("a", "1"), ("b", "1")], "x"), "d removed and nothing claims it");
        let shown = |paths: &[RelPath]| paths.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(shown(&delta.added), ["c", "d/x"]);
        assert_eq!(shown(&delta.removed), ["a"]);
        assert_eq!(shown(&delta.changed), ["b"]);
    }
}
