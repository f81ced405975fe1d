//! A path inside a generation, checked once, at the door.

use std::ffi::OsStr;
use std::fmt;
use std::path::Path;

/// A relative path beneath a generation's root: UTF-8, `/` between its parts, no empty part, no `.`
/// or `..`, no leading slash, no control character, at most [`RelPath::LONGEST`] bytes. Ordered
/// bytewise. The root itself is not a `RelPath`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct RelPath(String);

/// Why a path is not a [`RelPath`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// no bytes at all, or an empty part (`a//b`, a trailing slash)
    #[error("it has an empty part")]
    Empty,
    /// begins with a slash
    #[error("it is absolute")]
    Absolute,
    /// has a `.` or `..` part
    #[error("it has a `.` or `..` part")]
    Dots,
    /// has a control character
    #[error("it has a control character")]
    Control,
    /// is not UTF-8
    #[error("it is not UTF-8")]
    NotUtf8,
    /// is too long, or a part of it is
    #[error("it is longer than {} bytes, or a part of it than 255", RelPath::LONGEST)]
    TooLong,
}

impl RelPath {
    /// The longest path in bytes: `PATH_MAX` less room for the store's own path before it.
    pub const LONGEST: usize = 3000;

    /// Reads a path; see the type for what is refused.
    pub fn new(text: &str) -> Result<RelPath, PathError> {
        if text.starts_with('/') {
            return Err(PathError::Absolute);
        }
        if text.len() > RelPath::LONGEST {
            return Err(PathError::TooLong);
        }
        text.split('/').try_for_each(check_part)?;
        Ok(RelPath(text.to_owned()))
    }

    /// The path of `name` in the directory `parent` (`None`: the root).
    pub fn join(parent: Option<&RelPath>, name: &OsStr) -> Result<RelPath, PathError> {
        let name = name.to_str().ok_or(PathError::NotUtf8)?;
        let Some(parent) = parent else { return RelPath::new(name) };
        let length = parent.0.len() + 1 + name.len();
        if length > RelPath::LONGEST {
            return Err(PathError::TooLong);
        }
        name.split('/').try_for_each(check_part)?;
        let mut path = String::with_capacity(length);
        path.extend([parent.0.as_str(), "/", name]);
        Ok(RelPath(path))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The directory it is in; `None`: the root.
    pub fn parent(&self) -> Option<RelPath> {
        self.split().0.map(|parent| RelPath(parent.to_owned()))
    }

    /// The text of the directory it is in (`None`: the root), and its name there.
    pub fn split(&self) -> (Option<&str>, &str) {
        match self.0.rsplit_once('/') {
            Some((parent, name)) => (Some(parent), name),
            None => (None, &self.0),
        }
    }
}

fn check_part(part: &str) -> Result<(), PathError> {
    match part {
        "" => Err(PathError::Empty),
        "." | ".." => Err(PathError::Dots),
        _ if part.len() > 255 => Err(PathError::TooLong),
        // most names are ASCII, where looking at the bytes is enough
        _ if part.bytes().all(|byte| (b' '..=b'~').contains(&byte)) => Ok(()),
        _ if part.chars().any(char::is_control) => Err(PathError::Control),
        _ => Ok(()),
    }
}

impl AsRef<Path> for RelPath {
    fn as_ref(&self) -> &Path {
        Path::new(&self.0)
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_leave_the_root_is_no_path() {
        let long = "a".repeat(256);
        for (text, error) in [
            ("", PathError::Empty),
            ("/etc", PathError::Absolute),
            ("a//b", PathError::Empty),
            ("a/", PathError::Empty),
            (".", PathError::Dots),
            ("a/../b", PathError::Dots),
            ("a\nb", PathError::Control),
            ("a/\u{7f}", PathError::Control),
            (long.as_str(), PathError::TooLong),
        ] {
            assert_eq!(RelPath::new(text), Err(error), "{text:?}");
        }
        assert_eq!(RelPath::new("sites enabled/ä.conf").unwrap().parent().unwrap().as_str(), "sites enabled");
        assert!(RelPath::new("...").is_ok());
    }
}
