//! The rules for symlinks in a generation: none may lead out of it. Pure.

use crate::model::{Manifest, Node, RelPath};

/// The most links followed on one way, as the kernel's `MAXSYMLINKS`.
const HOPS: usize = 40;

/// What becomes of a link, from its text alone.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// stays inside: this is its text
    Keep(String),
    /// leads out
    Out,
}

/// Judges the link text `target` found at `at`. Relative texts must not climb above `floor` (`None`: the
/// root of the generation); absolute ones must lie under one of `bases`, which all mean the root, and
/// become relative.
pub(super) fn judge(at: &RelPath, floor: Option<&RelPath>, target: &str, bases: &[String]) -> Judgement {
    let depth = at.as_str().matches('/').count();
    if !target.starts_with('/') {
        let above = floor.map_or(0, |floor| floor.as_str().split('/').count());
        let inside = climbs_at_most(parts(target), depth.saturating_sub(above));
        return if inside { Judgement::Keep(target.to_owned()) } else { Judgement::Out };
    }
    for base in bases {
        let mut rest = parts(target);
        if parts(base).all(|part| rest.next() == Some(part)) && climbs_at_most(rest.clone(), 0) {
            let text: Vec<&str> = std::iter::repeat_n("..", depth).chain(rest).collect();
            return Judgement::Keep(if text.is_empty() { ".".to_owned() } else { text.join("/") });
        }
    }
    Judgement::Out
}

fn parts(path: &str) -> impl DoubleEndedIterator<Item = &str> + Clone {
    path.split('/').filter(|part| !part.is_empty() && *part != ".")
}

fn climbs_at_most<'a>(parts: impl Iterator<Item = &'a str>, levels: usize) -> bool {
    let mut depth = levels;
    for part in parts {
        if part != ".." {
            depth += 1;
        } else if depth == 0 {
            return false;
        } else {
            depth -= 1;
        }
    }
    true
}

/// Where a path leads inside a manifest.
enum Way {
    /// to this path, there or not; the root is empty
    Inside(Vec<String>),
    /// out of the generation
    Out,
    /// nowhere: round in a circle
    Circle,
}

/// The first link of `manifest` that leads out of it, through whatever other links.
pub(super) fn first_leaving(manifest: &Manifest) -> Option<(&RelPath, &str)> {
    manifest.iter().find_map(|(path, node)| match node {
        Node::Link { target } if matches!(walk(manifest, path), Way::Out) => Some((path, target.as_str())),
        _ => None,
    })
}

/// The path that `path` leads to, every link followed; `None` where it leads nowhere.
pub(super) fn follow(manifest: &Manifest, path: &RelPath) -> Option<RelPath> {
    match walk(manifest, path) {
        Way::Inside(parts) => RelPath::new(&parts.join("/")).ok(),
        Way::Out | Way::Circle => None,
    }
}

fn walk(manifest: &Manifest, path: &RelPath) -> Way {
    let mut ahead: Vec<String> = parts(path.as_str()).rev().map(str::to_owned).collect();
    let mut at: Vec<String> = Vec::new();
    let mut hops = 0;
    while let Some(part) = ahead.pop() {
        if part == ".." {
            // what is not there, or is a file, would stop the kernel here: climbing is judged all the same
            if at.pop().is_none() {
                return Way::Out;
            }
            continue;
        }
        at.push(part);
        let here = RelPath::new(&at.join("/"));
        if let Some(Node::Link { target }) = here.ok().and_then(|here| manifest.get(&here)) {
            hops += 1;
            if hops > HOPS {
                return Way::Circle;
            }
            if target.starts_with('/') {
                return Way::Out;
            }
            at.pop();
            ahead.extend(parts(target).rev().map(str::to_owned));
        }
    }
    Way::Inside(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Entry;

    fn path(text: &str) -> RelPath {
        RelPath::new(text).unwrap()
    }

    #[test]
    fn s6_a_link_text_stays_inside_or_is_out() {
        let bases = ["/srv/conf".to_owned(), "/etc/nginx/".to_owned()];
        for (at, target, expected) in [
            ("a", "b", Some("b")),
            ("a", "..", None),
            ("d/a", "../b", Some("../b")),
            ("d/a", "../../b", None),
            ("d/a", "x/../../../b", None),
            ("d/a", "/etc/nginx/mime.types", Some("../mime.types")),
            ("a", "/etc/nginx", Some(".")),
            ("d/e/a", "//srv/./conf//", Some("../..")),
            ("a", "/etc/nginx/../passwd", None),
            ("a", "/etc/nginxx/b", None),
            ("a", "/etc/passwd", None),
        ] {
            let expected = expected.map_or(Judgement::Out, |text| Judgement::Keep(text.to_owned()));
            assert_eq!(judge(&path(at), None, target, &bases), expected, "{at} -> {target}");
        }
        assert_eq!(judge(&path("out/a"), Some(&path("out")), "../b", &[]), Judgement::Out);
        assert_eq!(judge(&path("out/d/a"), Some(&path("out")), "../b", &[]), Judgement::Keep("../b".into()));
    }

    #[test]
    fn s6_links_through_links_do_not_leave() {
        let link =
            |at: &str, target: &str| Entry { path: path(at), node: Node::Link { target: target.to_owned() } };
        let dir = |at: &str| Entry { path: path(at), node: Node::Dir };
        let manifest = |entries: Vec<Entry>| Manifest::new(entries).unwrap();
        // each alone climbs nowhere: together they do
        let leaving = manifest(vec![dir("a"), dir("a/b"), link("a/b/up", "../.."), link("x", "a/b/up/../f")]);
        assert_eq!(first_leaving(&leaving), Some((&path("x"), "a/b/up/../f")));
        let fine = manifest(vec![
            dir("a"),
            link("a/up", ".."),
            link("x", "a/up/a/up/y"),
            link("loop", "loop"),
            link("dangling", "a/none"),
        ]);
        assert_eq!(first_leaving(&fine), None);
        assert_eq!(follow(&fine, &path("x")), Some(path("y")));
        assert_eq!(follow(&fine, &path("loop")), None);
    }
}
