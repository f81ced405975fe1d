//! A glob for the paths of a generation.

use std::sync::{Arc, OnceLock};

use globset::{GlobBuilder, GlobMatcher};

use super::RelPath;

/// A glob: `*`, `?` and `[..]` stay within one part of a path, `**` does not.
///
/// Compiled when something is first compared with it, once for all its clones: most commands read pipelines and
/// need few of their globs.
#[derive(Clone)]
pub(super) struct Glob {
    glob: globset::Glob,
    // `DIR/**`: everything in it, and no more has to be known
    inside: Option<String>,
    compiled: Arc<OnceLock<GlobMatcher>>,
}

impl Glob {
    /// Reads a glob.
    pub(super) fn parse(text: &str) -> Result<Glob, globset::Error> {
        let glob = GlobBuilder::new(text).literal_separator(true).backslash_escape(true).build()?;
        let plain = |dir: &&str| !dir.contains(['*', '?', '[', ']', '{', '}', '\\']);
        let inside = text.strip_suffix("/**").filter(plain).map(|dir| format!("{dir}/"));
        Ok(Glob { glob, inside, compiled: Arc::default() })
    }

    /// Whether it matches all of `path`.
    pub(super) fn is_match(&self, path: &RelPath) -> bool {
        match &self.inside {
            Some(inside) => path.as_str().starts_with(inside),
            None => self.compiled.get_or_init(|| self.glob.compile_matcher()).is_match(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_a_directory_is_what_the_matcher_says() {
        for text in ["a/**", "a/b/**", "ä b/**", "a/**/**", "**/a/**", "a*/**", "a/\\*/**"] {
            let glob = Glob::parse(text).unwrap();
            let matcher = glob.glob.compile_matcher();
            for path in
                ["a", "a/b", "a/b/c", "a/.b", "a/.b/c", "ab", "ab/c", "b/a", "b/a/c", "ä b/c", "a/*/c"]
            {
                let path = RelPath::new(path).unwrap();
                assert_eq!(glob.is_match(&path), matcher.is_match(&path), "{text} {path}");
            }
        }
        assert!(Glob::parse("a/**").unwrap().inside.is_some());
        assert!(Glob::parse("a*/**").unwrap().inside.is_none());
    }
}
