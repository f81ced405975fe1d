use super::*;
use proptest::prelude::*;

fn found(text: &str) -> Option<(&'static str, (usize, usize))> {
    scan(text).indirection
}

#[test]
fn p3_text_that_only_looks_like_an_anchor_is_none() {
    for text in [
        "a: \"x & y\"",
        "a: 'it''s *x'",
        "cmd: nginx -g \"daemon off;\"",
        "cmd: sh -c 'a && b' & c",
        "- a && b",
        "- a &b *c !d",
        "url: http://x/#y",
        "a: b # &c *d !e",
        "# &a\na: b",
        "globs: [\"rules/**\", 'x/*']",
        "a: x*y",
        "a: b\n  &c d\n  *e !f",
        "a: |\n  &x *y\n\n  !z\nb: c",
        "a: >-\n\n  &x\n   *y\nb: c",
        "a: |2\n    &x\n  &y\nb: c",
        "a:\n- |\n &x\n- b",
        "a:\n  - b: |\n      &x\n    c: d",
        "- - |\n   &x\n  - b",
        "? |\n  &x\n: |\n  &y\n",
        "a: \"\\\"&b\"",
        "a: \"x\n  &y\n  *z\"",
        "{a: b&c, d: e*f}",
        "a: {b: c}\nd: e! f",
    ] {
        assert_eq!(found(text), None, "{text:?}");
    }
}

#[test]
fn p3_every_anchor_alias_and_tag_is_found() {
    for (text, what, place) in [
        ("&a b", "an anchor", (1, 1)),
        ("a: &b c", "an anchor", (1, 4)),
        ("x: [a, *b]", "an alias", (1, 8)),
        ("x: [a,*b]", "an alias", (1, 7)),
        ("x: {a: *b}", "an alias", (1, 8)),
        ("{a: b,\n &c d: e}", "an anchor", (2, 2)),
        ("é: *b", "an alias", (1, 4)),
        ("a: b\n*c : d", "an alias", (2, 1)),
        ("a: |\n  x\n&b c: d", "an anchor", (3, 1)),
        ("a:\n  - |\n    x\n  - *b", "an alias", (4, 5)),
        ("a: 'x'\nb: !include c", "a tag", (2, 4)),
        ("a: !", "a tag", (1, 4)),
        ("a: !!str b", "a tag", (1, 4)),
        ("- - &a", "an anchor", (1, 5)),
        ("? &a b", "an anchor", (1, 3)),
        ("--- &a\nb: c", "an anchor", (1, 5)),
        ("a: \"x\" #\n\nb:\n  *c", "an alias", (4, 3)),
        ("%TAG ! tag:x,2000:\n---\na: b", "a tag directive", (1, 1)),
        ("a: b\r\nc: *d\r\n", "an alias", (2, 4)),
        ("a: |1\n x\n*b : c", "an alias", (3, 1)),
        ("a: |\n\n&b c: d", "an anchor", (3, 1)),
    ] {
        assert_eq!(found(text), Some((what, place)), "{text:?}");
    }
}

#[test]
fn p2_a_second_document_is_seen() {
    for (text, place) in [
        ("a: b\n---\nc: d", Some((2, 1))),
        ("---\na: b\n---\nc: d", Some((3, 1))),
        ("a: b\n...\nc: d", Some((3, 1))),
        ("---\na: b\n...\n", None),
        ("a: |\n  ---\n  x\n", None),
        ("a: '---'\n", None),
    ] {
        assert_eq!(scan(text).second, place, "{text:?}");
    }
}

#[derive(Debug)]
struct Shape {
    depth: usize,
    nodes: usize,
}

fn shape(value: &serde_yaml::Value) -> Shape {
    use serde_yaml::Value;
    let inner: Vec<Shape> = match value {
        Value::Sequence(items) => items.iter().map(shape).collect(),
        Value::Mapping(map) => map.iter().flat_map(|(k, v)| [shape(k), shape(v)]).collect(),
        _ => return Shape { depth: 0, nodes: 1 },
    };
    let depth = 1 + inner.iter().map(|s| s.depth).max().unwrap_or(0);
    Shape { depth, nodes: 1 + inner.iter().map(|s| s.nodes).sum::<usize>() }
}

fn soup(pieces: &'static [&'static str], most: usize) -> impl Strategy<Value = String> {
    proptest::collection::vec(proptest::sample::select(pieces), 0..most).prop_map(|v| v.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    // the parser refuses an alias without an anchor, so every alias that it sees can be told
    #[test]
    fn p3_no_alias_gets_past_the_scan(text in soup(
        &["*x", "a", "b: ", "- ", ": ", "? ", "\n", "\n  ", "\n    ", "|", ">", "|2", "-", " ", "\"", "'", "#", " #",
          "[", "]", "{", "}", ", ", ",", ":", "\t", "é", "\r\n", "---\n", "...\n", "\u{85}", "\\", "%"], 18)) {
        let seen = serde_yaml::from_str::<serde_yaml::Value>(&text)
            .is_err_and(|error| error.to_string().contains("unknown anchor"));
        if seen {
            prop_assert!(found(&text).is_some(), "{:?}", text);
        }
    }

    // and nothing is taken for one in a text that parses without any
    #[test]
    fn p3_no_text_is_taken_for_an_alias(text in soup(
        &["*x", "a", "b: ", "c: ", "- ", "\n", "\n  ", "\n    ", "|\n", ">\n", " ", "\"", "'", " #", "[", "]", ", "], 14)) {
        let anchored = format!("- &x 1\n- {}\n", text.replace('\n', "\n  "));
        let Ok(value) = serde_yaml::from_str::<serde_yaml::Value>(&anchored) else { return Ok(()) };
        let stars = serde_yaml::to_string(&value).unwrap_or_default().matches("*x").count();
        let written = anchored.split('\n').map(|line| line.split(" #").next().unwrap_or_default()).collect::<String>();
        if stars == written.matches("*x").count() && !anchored.contains('#') {
            let plain = anchored.replacen("&x", "zz", 1);
            prop_assert_eq!(found(&plain), None, "{:?}", plain);
        }
    }

    // what the guards count is never less than what the parser makes of it
    #[test]
    fn p2_depth_and_tokens_bound_what_the_parser_builds(text in soup(
        &["a", "b: ", "c: ", "- ", "? ", "\n", "\n  ", "[", "]", "{", "}", ", ", "\"x\"", "'y'", "|\n", " "], 24)) {
        let Ok(value) = serde_yaml::from_str::<serde_yaml::Value>(&text) else { return Ok(()) };
        let (shape, scan) = (shape(&value), scan(&text));
        prop_assert!(shape.nodes <= 3 * scan.tokens + 1, "{:?} {:?} {:?}", text, shape, scan);
        prop_assert!(scan.deepest.0 <= shape.depth, "{:?} {:?} {:?}", text, shape, scan);
        if !text.contains(['-', ':', '?', '"', '\'', '|']) {
            prop_assert!(shape.depth <= scan.deepest.0, "{:?}", text);
        }
    }
}
