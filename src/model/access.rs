//! Which group may read the private files of a service.

use super::{RelPath, Section};

/// The group that the host file names, and which private files it may read.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupAccess {
    /// its name, or its number
    pub group: String,
    /// file globs; none: all private files
    pub files: Vec<Section>,
    /// whether workers that run as another user than the store's owner are in it
    pub workers: bool,
}

impl GroupAccess {
    /// Whether it may read the private file at `path`.
    pub fn covers(&self, path: &RelPath) -> bool {
        self.files.is_empty() || self.files.iter().any(|glob| glob.covers(path))
    }

    /// The number of the group, by the text of `/etc/group`; `None` where there is no such group.
    pub fn gid(&self, groups: &str) -> Option<u32> {
        super::surroundings::gid(groups, &self.group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s22_a_group_is_found_by_name_or_number() {
        let groups = "root:x:0:\nwww-data:x:33:a,b\nbroken\n";
        let gid =
            |group: &str| GroupAccess { group: group.to_owned(), files: vec![], workers: false }.gid(groups);
        assert_eq!(gid("www-data"), Some(33));
        assert_eq!(gid("99"), Some(99));
        assert_eq!((gid("www"), gid("broken"), gid("")), (None, None, None));
    }
}
