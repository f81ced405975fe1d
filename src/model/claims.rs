//! Whether two generations differ in some sections only.

use std::error::Error;

use super::{Delta, Manifest, Node, RelPath, Section, SectionError, content, digest};

/// How one generation differs from another, seen from some sections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claims {
    /// in these sections at most, as they are written
    Only(Vec<String>),
    /// in something that none of them claims: this path, for one
    Else(RelPath),
}

impl Claims {
    /// Looks from `sections` at what leads from `old` to `new`. `read` gives a file's content, of the older
    /// one where it is told so; it is called only for files that a section points into.
    ///
    /// A path that no section's glob matches is claimed by none, also where a link leads to it. A file that is
    /// pointed into is claimed where all the rest of it is equal.
    ///
    /// # Errors
    /// As for [`Section::digest`].
    pub fn between<E: Error + 'static>(
        sections: &[Section],
        old: &Manifest,
        new: &Manifest,
        read: &mut impl FnMut(bool, &RelPath) -> Result<Vec<u8>, E>,
    ) -> Result<Claims, SectionError<E>> {
        let delta = Delta::between(old, new);
        for path in delta.added.iter().chain(&delta.removed).chain(&delta.changed) {
            let claiming = || sections.iter().filter(|section| section.covers(path));
            if claiming().any(|section| section.pointer().is_none()) {
                continue;
            }
            let pointers: Vec<(&Section, &str)> =
                claiming().filter_map(|section| Some((section, section.pointer()?))).collect();
            if pointers.is_empty() || !is_edited(old.get(path), new.get(path)) {
                return Ok(Claims::Else(path.clone()));
            }
            let mut rests = Vec::new();
            for is_old in [true, false] {
                let section = || pointers[0].0.to_string();
                let text = read(is_old, path).map_err(|source| SectionError::Read {
                    section: section(),
                    path: path.clone(),
                    source,
                })?;
                let mut value = content::parse(path, &text)
                    .map_err(|source| SectionError::Document { section: section(), source })?;
                pointers.iter().for_each(|(_, pointer)| value.cut(pointer));
                rests.push(digest(&value));
            }
            if rests[0] != rests[1] {
                return Ok(Claims::Else(path.clone()));
            }
        }
        let mut changed = Vec::new();
        for section in sections {
            let before = section.digest(old, &mut |path| read(true, path))?;
            if before != section.digest(new, &mut |path| read(false, path))? {
                changed.push(section.to_string());
            }
        }
        Ok(Claims::Only(changed))
    }
}

/// Whether nothing but the content of a file has changed.
fn is_edited(old: Option<&Node>, new: Option<&Node>) -> bool {
    match (old, new) {
        (
            Some(Node::File { class, executable, .. }),
            Some(Node::File { class: class_now, executable: executable_now, .. }),
        ) => class == class_now && executable == executable_now,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Class, ContentHash, Entry};

    fn claims(sections: &[&str], old: &[(&str, &str)], new: &[(&str, &str)]) -> Claims {
        let entry = |(name, text): &(&str, &str)| {
            let hash = ContentHash::of(text.as_bytes());
            if let Some(name) = name.strip_suffix('/') {
                return Entry { path: RelPath::new(name).unwrap(), node: Node::Dir };
            }
            let (name, executable) = name.strip_suffix('*').map_or((*name, false), |name| (name, true));
            let node = Node::File { class: Class::Public, executable, len: text.len() as u64, hash };
            Entry { path: RelPath::new(name).unwrap(), node }
        };
        let manifest = |files: &[(&str, &str)]| Manifest::new(files.iter().map(entry)).unwrap();
        let sections: Vec<Section> = sections.iter().map(|text| Section::parse(text).unwrap()).collect();
        let mut read = |is_old: bool, path: &RelPath| {
            let files = if is_old { old } else { new };
            let found = files.iter().find(|(name, _)| name.trim_end_matches('*') == path.as_str());
            Ok::<_, std::convert::Infallible>(found.unwrap().1.as_bytes().to_vec())
        };
        Claims::between(&sections, &manifest(old), &manifest(new), &mut read).unwrap()
    }

    #[test]
    fn p16_what_no_section_claims_is_something_else() {
        let only = |sections: &[&str]| Claims::Only(sections.iter().map(|&s| s.to_owned()).collect());
        let other = |path: &str| Claims::Else(RelPath::new(path).unwrap());
        let old = [("a.yaml", "x: 1\ny: [1, 2]\nz: {k: 1}"), ("rules/one", "1"), ("rules/", ""), ("z", "")];
        let with = |at: usize, file: (&'static str, &'static str)| {
            let mut new = old;
            new[at] = file;
            new
        };
        let sections = ["rules/**", "a.yaml#/x", "a.yaml#/z/k"];
        assert_eq!(claims(&sections, &old, &old), only(&[]));
        assert_eq!(claims(&sections, &old, &with(1, ("rules/one", "2"))), only(&["rules/**"]));
        assert_eq!(claims(&sections, &old, &with(1, ("rules/two", "1"))), only(&["rules/**"]));
        assert_eq!(claims(&sections, &old, &with(3, ("z", "1"))), other("z"));
        assert_eq!(claims(&sections, &old, &old[..3]), other("z"));
        for (text, want) in [
            ("x: 2 # new\nz: {k: 1}\ny: [1, 2]", only(&["a.yaml#/x"])),
            ("y: [1, 2]\nz: {}", only(&["a.yaml#/x", "a.yaml#/z/k"])),
            ("# only a comment\nx: 1\ny: [1, 2]\nz: {k: 1}", only(&[])),
            ("x: 2\ny: [1, 3]\nz: {k: 1}", other("a.yaml")),
            ("x: 1\ny: [1, 2]\nz: {k: 1, l: 1}", other("a.yaml")),
        ] {
            assert_eq!(claims(&sections, &old, &with(0, ("a.yaml", text))), want, "{text}");
        }
        assert_eq!(claims(&sections, &old, &with(0, ("a.yaml*", old[0].1))), other("a.yaml"));
        assert_eq!(claims(&sections, &old, &old[1..]), other("a.yaml"));
        assert_eq!(
            claims(&["a.yaml#/y/1"], &old, &with(0, ("a.yaml", "x: 1\ny: [1, 5]\nz: {k: 1}"))),
            only(&["a.yaml#/y/1"])
        );
        assert_eq!(claims(&["a.yaml#"], &old, &with(0, ("a.yaml", "nothing"))), only(&["a.yaml#"]));
    }
}
