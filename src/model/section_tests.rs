use std::convert::Infallible;

use super::*;
use crate::model::{Class, Entry};

/// A generation: `name` is a file with that text, `name/` a directory, `name -> target` a link.
struct Tree(Vec<(&'static str, &'static str)>);

impl Tree {
    fn manifest(&self) -> Manifest {
        let entry = |(name, text): &(&str, &str)| {
            if let Some((name, target)) = name.split_once(" -> ") {
                return (name.to_owned(), Node::Link { target: target.to_owned() });
            }
            if let Some(name) = name.strip_suffix('/') {
                return (name.to_owned(), Node::Dir);
            }
            let (name, executable) = name.strip_suffix('*').map_or((*name, false), |name| (name, true));
            let hash = ContentHash::of(text.as_bytes());
            (name.to_owned(), Node::File { class: Class::Public, executable, len: text.len() as u64, hash })
        };
        let entries = self.0.iter().map(entry);
        Manifest::new(entries.map(|(path, node)| Entry { path: RelPath::new(&path).unwrap(), node })).unwrap()
    }

    fn with(&self, name: &'static str, text: &'static str) -> Tree {
        let key = |name: &str| name.split(" -> ").next().unwrap().trim_end_matches('*').to_owned();
        let mut entries: Vec<_> = self.0.iter().filter(|(n, _)| key(n) != key(name)).copied().collect();
        entries.push((name, text));
        Tree(entries)
    }

    fn digest(&self, section: &str) -> String {
        let mut read = |path: &RelPath| {
            let text = self
                .0
                .iter()
                .find(|(name, _)| name.trim_end_matches('*') == path.as_str())
                .expect("only files are read")
                .1;
            Ok::<_, Infallible>(text.as_bytes().to_vec())
        };
        match Section::parse(section).unwrap().digest(&self.manifest(), &mut read) {
            Ok(digest) => digest.to_string(),
            Err(SectionError::Document { section, source }) => format!("{section}: {source}"),
            Err(error) => error.to_string(),
        }
    }
}

fn tree() -> Tree {
    Tree(vec![
        ("rules/", ""),
        ("rules/a.rpz", "1"),
        ("rules/deep/", ""),
        ("rules/deep/b.rpz", "2"),
        ("resolver.yaml", "views: [{a: 1}]\nlog: debug\n"),
        ("shared/", ""),
        ("shared/c.rpz", "3"),
        ("link -> shared", ""),
        ("one.rpz -> shared/c.rpz", ""),
        ("bin*", "x"),
    ])
}

#[test]
fn p12_a_section_changes_with_what_it_names_and_nothing_else() {
    let tree = tree();
    let cases: &[(&str, &str, &str, bool)] = &[
        ("rules/**", "rules/a.rpz", "9", true),
        ("rules/**", "rules/deep/b.rpz", "9", true),
        ("rules/**", "rules/new", "", true),
        ("rules/**", "rules/empty/", "", true),
        ("rules/**", "rules/a.rpz*", "1", true),
        ("rules/**", "resolver.yaml", "", false),
        ("rules/*", "rules/deep/b.rpz", "9", false),
        ("rules/*.rpz", "rules/a.rpz", "9", true),
        ("**/*.rpz", "rules/deep/b.rpz", "9", true),
        ("rules/a.rpz", "rules/a.rpz", "9", true),
        ("rules/a.rpz", "rules/deep/b.rpz", "9", false),
        ("absent", "rules/a.rpz", "9", false),
        ("absent", "absent", "", true),
        // links: the link itself, what it leads to, and paths through it
        ("one.rpz", "shared/c.rpz", "9", true),
        ("one.rpz", "one.rpz -> rules/a.rpz", "", true),
        ("*.rpz", "shared/c.rpz", "9", true),
        ("link", "shared/c.rpz", "9", true),
        ("link/**", "shared/c.rpz", "9", true),
        ("link/**", "shared/new", "9", true),
        ("link/**", "rules/a.rpz", "9", false),
        ("link/c.rpz", "shared/c.rpz", "9", true),
        ("link/c.rpz", "shared/new", "9", false),
        ("link/c.rpz", "link -> rules", "", true),
        ("{link,x/y}/*", "shared/c.rpz", "9", true),
    ];
    for (section, name, text, differs) in cases {
        let changed = tree.with(name, text);
        assert_eq!(tree.digest(section) != changed.digest(section), *differs, "{section}: {name} = {text}");
    }
}

#[test]
fn p12_a_pointer_looks_at_the_value_only() {
    let tree = tree();
    let cases: &[(&str, &str, &str, bool)] = &[
        ("resolver.yaml#/views", "resolver.yaml", "# new\nlog: info\nviews:\n- a: 0x1\n", false),
        ("resolver.yaml#/views/0/a", "resolver.yaml", "views: [{a: 1, b: 2}]\n", false),
        ("resolver.yaml#/views", "resolver.yaml", "views: [{a: \"1\"}]\n", true),
        ("resolver.yaml#/views", "resolver.yaml", "log: debug\n", true),
        ("resolver.yaml#/absent", "resolver.yaml", "log: debug\n", false),
        ("resolver.yaml#/absent", "resolver.yaml", "absent: ~\n", true),
        ("resolver.yaml#", "resolver.yaml", "log: debug # why\nviews: [{a: 1}]\n", false),
        ("resolver.yaml#", "resolver.yaml", "log: info\nviews: [{a: 1}]\n", true),
        ("*.yaml#/views", "other.yaml", "x: y", true),
        ("*.yaml#/views", "rules/other.yaml", "x: y", false),
    ];
    for (section, name, text, differs) in cases {
        let changed = tree.with(name, text);
        assert_eq!(tree.digest(section) != changed.digest(section), *differs, "{section}: {name} = {text}");
    }
    let linked = |target, text| tree.with(target, "").with("shared/r.yaml", text);
    let section = "r.yaml#/views";
    let one = linked("r.yaml -> shared/r.yaml", "views: 1").digest(section);
    assert_eq!(one, linked("r.yaml -> shared/r.yaml", "views: 1 # same").digest(section));
    assert_ne!(one, linked("r.yaml -> shared/r.yaml", "views: 2").digest(section));
    let through = |text| tree.with("shared/r.yaml", text).digest("link/r.yaml#/views");
    assert_eq!(through("views: 1"), through("views: 1 # same"));
    assert_ne!(through("views: 1"), through("views: 2"));
    assert_ne!(through("views: 1"), through("x: 2"));
}

#[test]
fn p12_a_file_that_cannot_be_parsed_is_an_error() {
    let tree = tree().with("resolver.yaml", "views: [\n");
    let want = "resolver.yaml#/views: resolver.yaml:2:1: not YAML: did not find expected node content, while parsing a flow node";
    assert_eq!(tree.digest("resolver.yaml#/views"), want);
    let want = "*#/x: bin:1:1: expected a name that ends in .yaml, .yml, .json or .toml";
    assert_eq!(tree.digest("*#/x"), want);
}

#[test]
fn p12_what_is_no_section() {
    for (text, want) in [
        ("", "expected a glob for paths of the generation, found ``: it has an empty part"),
        ("/etc/x", "expected a glob for paths of the generation, found `/etc/x`: it is absolute"),
        ("../x", "expected a glob for paths of the generation, found `../x`: it has a `.` or `..` part"),
        ("a[", "expected a glob, found `a[`: unclosed character class; missing ']'"),
        ("a.yaml#/~2", "expected a JSON pointer, found `/~2`: after ~ comes 0 or 1"),
        ("a.conf#/x", "a pointer needs a file that ends in .yaml, .yml, .json or .toml, found `a.conf`"),
    ] {
        assert_eq!(Section::parse(text).unwrap_err().to_string(), want, "{text:?}");
    }
    for text in ["**", "a b/*.conf", "a#b", "x.json#/a~1b/~0", "x.toml#", "*.d/**#/x"] {
        assert_eq!(Section::parse(text).unwrap().as_str(), text);
    }
}

#[test]
fn p12_links_that_lead_nowhere_or_in_circles_end() {
    let tree = Tree(vec![
        ("a -> b", ""),
        ("b -> a", ""),
        ("c -> nowhere", ""),
        ("d -> ../../x", ""),
        ("e -> .", ""),
    ]);
    for section in ["**", "a", "a/b", "*/x", "c", "d", "e", "e/a"] {
        tree.digest(section);
    }
    assert_ne!(tree.digest("a"), tree.digest("c"));
    let with = |text| Tree(vec![("e -> .", ""), ("x", text)]).digest("e/**");
    assert_ne!(with("1"), with("2"), "a link to the root leads to everything");
}

/// Generations of every shape of `a`, `a/b`, `a/b/c` and `d`: nothing, a file, a directory, a link somewhere.
fn shapes() -> impl Iterator<Item = Tree> {
    const TARGETS: [&str; 5] = ["", "d", ".", "../d", "../a"];
    let node = |name: &'static str, shape: usize| -> (&'static str, &'static str) {
        match shape {
            0 => (Box::leak(format!("{name}/").into_boxed_str()), ""),
            1 => (name, "x: 1"),
            n => (Box::leak(format!("{name} -> {}", TARGETS[n - 1]).into_boxed_str()), ""),
        }
    };
    (0..6_usize.pow(4)).filter_map(move |mut number| {
        let mut entries = Vec::new();
        for (name, parent) in [("a", None), ("a/b", Some("a/")), ("a/b/c", Some("a/b/")), ("d", None)] {
            let shape = number % 6;
            number /= 6;
            if shape == 5 {
                continue;
            }
            if parent.is_some_and(|parent| !entries.iter().any(|(name, _)| *name == parent)) {
                return None;
            }
            entries.push(node(name, shape));
        }
        Some(Tree(entries))
    })
}

/// What a match may be reached through, as globs: everything before a slash.
fn glob_prefixes(glob: &str) -> Vec<Glob> {
    glob.match_indices('/').map(|(at, _)| Glob::parse(&glob[..at]).unwrap()).collect()
}

#[test]
fn p12_looking_only_where_a_match_can_be_finds_the_same() {
    let globs =
        ["a/*", "a/**", "a/b/*", "a/b/**", "a/**/c", "a/?/c", "*/c", "**", "a/b*", "d/*", "a/b/c/*", "a/*/c"];
    let mut looked = 0;
    for tree in shapes() {
        let manifest = tree.manifest();
        for glob in globs {
            let narrow = Section::parse(glob).unwrap();
            let wide = Section { base: None, ancestors: glob_prefixes(glob), ..narrow.clone() };
            looked += usize::from(narrow.base.is_some());
            assert_eq!(narrow.matching(&manifest), wide.matching(&manifest), "{glob} in {:?}", tree.0);
            for (path, _) in manifest.iter() {
                assert_eq!(narrow.covers(path), wide.covers(path), "{glob} {path}");
            }
        }
    }
    assert!(looked > 500, "only {looked}");
    for (glob, want) in
        [("a/b/*.c", Some("a/b")), ("a*", None), ("a/{b,c}/d", None), ("a/b[c]", None), ("a/b\\*", Some("a"))]
    {
        assert_eq!(base(glob).as_ref().map(RelPath::as_str), want, "{glob}");
    }
}

#[test]
fn p12_a_document_is_parsed_once_for_all_sections() {
    let tree = Tree(vec![("a.yaml", "x: 1\ny: 2"), ("b.yaml", "x: 3")]);
    let mut reads = 0;
    let mut parsed = Parsed::default();
    for section in ["a.yaml#/x", "a.yaml#/y", "*.yaml#/x", "b.yaml#"] {
        let mut read = |path: &RelPath| {
            reads += 1;
            let text = tree.0.iter().find(|(name, _)| *name == path.as_str()).unwrap().1;
            Ok::<_, Infallible>(text.as_bytes().to_vec())
        };
        let section = Section::parse(section).unwrap();
        let digest = section.digest_among(&tree.manifest(), &mut read, &mut parsed).unwrap();
        assert_eq!(digest.to_string(), tree.digest(section.as_str()));
    }
    assert_eq!(reads, 2);
    // what is kept has a limit: then it is read again
    parsed.keep(&RelPath::new("c.yaml").unwrap(), Parsed::MOST, Value::Null);
    assert_eq!(parsed.documents.len(), 1);
}
