//! Who may read what lies in the store: the permission bits of S5, and the group that the host file names.

use crate::model::{Class, GroupAccess, RelPath};

/// The group that may read private files, and which of them.
#[derive(Clone, Debug)]
pub struct Access {
    /// the group
    pub gid: u32,
    /// which files
    pub files: GroupAccess,
}

/// The permission bits of every directory in a tree: readers pass, nobody adds.
pub(super) const DIR_MODE: u32 = 0o555;

/// The permission bits of a file of this class, without a group's.
pub(super) fn file_mode(class: Class, executable: bool) -> u32 {
    match (class, executable) {
        (Class::Public, false) => 0o444,
        (Class::Public, true) => 0o555,
        (Class::Private, false) => 0o400,
        (Class::Private, true) => 0o500,
    }
}

/// The class and executability that permission bits mean.
pub(super) fn class_of(mode: u32) -> (Class, bool) {
    (if mode & 0o004 != 0 { Class::Public } else { Class::Private }, mode & 0o111 != 0)
}

/// The bits of a file at `path` that has `mode` without a group, and its group; `None`: no group in particular.
pub(super) fn shared(access: Option<&Access>, path: &RelPath, mode: u32) -> (u32, Option<u32>) {
    match access.filter(|access| mode & 0o004 == 0 && access.files.covers(path)) {
        Some(access) => (mode | (mode & 0o500) >> 3, Some(access.gid)),
        None => (mode, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Section;

    #[test]
    fn s5_a_group_reads_what_is_private_and_covered() {
        let path = |text: &str| RelPath::new(text).unwrap();
        let files = GroupAccess {
            group: "www".to_owned(),
            files: vec![Section::parse("keys/**").unwrap()],
            workers: false,
        };
        let access = Access { gid: 33, files };
        for (at, mode, expected) in [
            ("keys/a", 0o400, (0o440, Some(33))),
            ("keys/d/run", 0o500, (0o550, Some(33))),
            ("keys/a", 0o444, (0o444, None)),
            ("other", 0o400, (0o400, None)),
        ] {
            assert_eq!(shared(Some(&access), &path(at), mode), expected, "{at} {mode:o}");
        }
        let all = Access { files: GroupAccess { files: vec![], ..access.files }, gid: 33 };
        assert_eq!(shared(Some(&all), &path("x"), 0o400), (0o440, Some(33)));
        assert_eq!(shared(None, &path("keys/a"), 0o400), (0o400, None));
    }
}
