//! `{config}`, `{loaded}`, `{run}`, `{fd:NAME}`, `{addr:NAME}` in commands, environments and paths.

/// Why a text cannot be expanded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceholderError {
    /// looks like a placeholder, and is none
    #[error(
        "`{{{0}}}` is no placeholder: {{config}}, {{loaded}}, {{run}}, {{fd:NAME}} and {{addr:NAME}} are \
         (put literal braces into a script of the generation)"
    )]
    Unknown(String),
    /// a placeholder that has no value here
    #[error("`{{{0}}}` has no value here")]
    NoValue(String),
}

/// Replaces every placeholder by what `lookup` says for `config`, `loaded`, `run`, `fd:NAME` or
/// `addr:NAME`. Values are not looked through again; other braces stay as they are.
///
/// # Errors
/// Something that looks like a placeholder and is none, or one for which `lookup` has nothing.
pub fn expand(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, PlaceholderError> {
    let mut expanded = String::with_capacity(text.len());
    for piece in pieces(text) {
        match piece? {
            Piece::Text(text) => expanded.push_str(text),
            Piece::Name(name) => {
                let value = lookup(name).ok_or_else(|| PlaceholderError::NoValue(name.to_owned()))?;
                expanded.push_str(&value);
            }
        }
    }
    Ok(expanded)
}

/// The placeholders in a text, without their braces, in order.
pub fn names(text: &str) -> Result<Vec<&str>, PlaceholderError> {
    let names = pieces(text).filter_map(|piece| match piece {
        Ok(Piece::Text(_)) => None,
        Ok(Piece::Name(name)) => Some(Ok(name)),
        Err(error) => Some(Err(error)),
    });
    names.collect()
}

enum Piece<'t> {
    Text(&'t str),
    Name(&'t str),
}

fn pieces(text: &str) -> impl Iterator<Item = Result<Piece<'_>, PlaceholderError>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        if let Some(name) = candidate(rest) {
            rest = &rest[name.len() + 2..];
            let known = matches!(name, "config" | "loaded" | "run")
                || name.strip_prefix("fd:").or(name.strip_prefix("addr:")).is_some();
            return Some(if known {
                Ok(Piece::Name(name))
            } else {
                Err(PlaceholderError::Unknown(name.to_owned()))
            });
        }
        let first = rest.chars().next().map_or(0, char::len_utf8);
        let end = rest[first..].find('{').map_or(rest.len(), |at| first + at);
        let (text, after) = rest.split_at(end);
        rest = after;
        Some(Ok(Piece::Text(text)))
    })
}

// `word` or `word:name` of a `{word}` or `{word:name}` that the text begins with
fn candidate(text: &str) -> Option<&str> {
    let inside = text.strip_prefix('{')?.split_once('}')?.0;
    let (word, name) = inside.split_once(':').map_or((inside, None), |(word, name)| (word, Some(name)));
    let is_word = !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase());
    let is_name = name.is_none_or(|name| !name.is_empty() && name.bytes().all(is_name_byte));
    (is_word && is_name).then_some(inside)
}

/// Whether a listening socket can have this name: 1 to 32 of `a-z 0-9 -`.
pub(super) fn is_socket_name(name: &str) -> bool {
    (1..=32).contains(&name.len()) && name.bytes().all(is_name_byte)
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(name: &str) -> Option<String> {
        (name != "loaded").then(|| format!("<{name}>"))
    }

    #[test]
    fn p9_placeholders_are_replaced_and_other_braces_stay() {
        for (text, want) in [
            ("{config}/a -x {run}{run}", "<config>/a -x <run><run>"),
            ("{fd:dns} {addr:a-1}", "<fd:dns> <addr:a-1>"),
            (
                "{} {{ {1} {a b} { run } {Run} ${X} {a,b} {run",
                "{} {{ {1} {a b} { run } {Run} ${X} {a,b} {run",
            ),
            ("{{run}}", "{<run>}"),
            ("é{run}é", "é<run>é"),
            ("{fd:} {fd:A} {run:}", "{fd:} {fd:A} {run:}"),
            ("", ""),
        ] {
            assert_eq!(expand(text, &shown).unwrap(), want, "{text}");
        }
        for bad in ["{conf}", "{fd}", "{run:x}", "x {port:80}", "{{x}}"] {
            assert!(matches!(expand(bad, &shown), Err(PlaceholderError::Unknown(_))), "{bad}");
        }
        assert_eq!(expand("{loaded}", &shown), Err(PlaceholderError::NoValue("loaded".to_owned())));
        assert_eq!(names("{run} x {fd:a}{run}").unwrap(), ["run", "fd:a", "run"]);
        assert_eq!(
            names("{conf}").unwrap_err().to_string(),
            "`{conf}` is no placeholder: {config}, {loaded}, {run}, {fd:NAME} and {addr:NAME} are \
             (put literal braces into a script of the generation)"
        );
    }

    proptest! {
        #[test]
        fn p9_what_expands_to_itself_is_the_same_text(text in "[{}a:é1]{0,12}|(\\{run\\}|\\{fd:a\\}|\\{|\\}|é){0,6}") {
            if let Ok(expanded) = expand(&text, &|name| Some(format!("{{{name}}}"))) {
                prop_assert_eq!(expanded, text);
            }
        }
    }
}
