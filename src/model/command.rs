//! The words of a command, and how a line is split into them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The words of a command, with placeholders unexpanded. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Command(pub Vec<String>);

/// A line that is no command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// nothing to run
    #[error("expected a command, found no word")]
    Empty,
    /// a quote with no end
    #[error("expected a closing {0}")]
    Unbalanced(char),
    /// a backslash at the end
    #[error("expected a character after the last backslash")]
    Backslash,
    /// a word that only a shell would understand
    #[error("there is no shell to read `{0}`: quote it, or put the line into a script of the generation")]
    Shell(String),
    /// a NUL character, which no command can be given
    #[error("expected text without NUL characters")]
    Nul,
}

impl Command {
    /// Checks words that came as a list.
    pub fn new(words: Vec<String>) -> Result<Command, CommandError> {
        if words.first().is_none_or(String::is_empty) {
            return Err(CommandError::Empty);
        }
        if words.iter().any(|word| word.contains('\0')) {
            return Err(CommandError::Nul);
        }
        Ok(Command(words))
    }

    /// Splits a line as a shell splits it: at blanks, with `'..'`, `".."` and backslash. Nothing is
    /// expanded; a word that is a shell's operator is refused.
    pub fn split(line: &str) -> Result<Command, CommandError> {
        let mut words = Vec::new();
        let mut word: Option<String> = None;
        let mut bare = true;
        let mut chars = line.chars();
        loop {
            let next = chars.next();
            match next {
                None | Some(' ' | '\t' | '\n') => {
                    if let Some(word) = word.take() {
                        if bare && is_operator(&word) {
                            return Err(CommandError::Shell(word));
                        }
                        words.push(word);
                    }
                    bare = true;
                    if next.is_none() {
                        return Command::new(words);
                    }
                }
                Some('\'') => {
                    bare = false;
                    let (inside, rest) =
                        chars.as_str().split_once('\'').ok_or(CommandError::Unbalanced('\''))?;
                    word.get_or_insert_default().push_str(inside);
                    chars = rest.chars();
                }
                Some('"') => {
                    bare = false;
                    let word = word.get_or_insert_default();
                    loop {
                        match chars.next().ok_or(CommandError::Unbalanced('"'))? {
                            '"' => break,
                            '\\' => match chars.next().ok_or(CommandError::Unbalanced('"'))? {
                                '\n' => {}
                                c @ ('"' | '\\' | '$' | '`') => word.push(c),
                                c => word.extend(['\\', c]),
                            },
                            c => word.push(c),
                        }
                    }
                }
                Some('\\') => {
                    bare = false;
                    match chars.next().ok_or(CommandError::Backslash)? {
                        '\n' => {}
                        c => word.get_or_insert_default().push(c),
                    }
                }
                Some(c) => word.get_or_insert_default().push(c),
            }
        }
    }
}

// what people write who think of a shell; a lone `*` or `$x` may be meant
fn is_operator(word: &str) -> bool {
    matches!(
        word,
        "|" | "||" | "|&" | "&" | "&&" | ";" | "<" | ">" | ">>" | "2>" | "2>&1" | ">&2" | ">/dev/null"
    )
}

impl fmt::Display for Command {
    /// One line that splits into the same words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, word) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(" ")?;
            }
            let plain = |c: char| c.is_alphanumeric() || "-_./:=,@%+{}".contains(c);
            if !word.is_empty() && word.chars().all(plain) {
                f.write_str(word)?;
            } else {
                write!(f, "'{}'", word.replace('\'', "'\\''"))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn p6_a_line_is_split_as_a_shell_splits_it() {
        for (line, want) in [
            (
                "nginx -g \"daemon off; pid {run}/n.pid;\"",
                vec!["nginx", "-g", "daemon off; pid {run}/n.pid;"],
            ),
            ("  a\tb  \n c ", vec!["a", "b", "c"]),
            ("a'b c'\"d e\"f", vec!["ab cd ef"]),
            ("a '' \"\"", vec!["a", "", ""]),
            (r#"a \" \\ "\"\\\$\x" '\'"#, vec!["a", "\"", "\\", "\"\\$\\x", "\\"]),
            ("a $HOME * ~ ;b '&&' \\|", vec!["a", "$HOME", "*", "~", ";b", "&&", "|"]),
            ("a \\\nb", vec!["a", "b"]),
        ] {
            assert_eq!(Command::split(line).unwrap().0, want, "{line}");
        }
        for (line, want) in [
            ("", "expected a command, found no word"),
            (" \t", "expected a command, found no word"),
            ("'' a", "expected a command, found no word"),
            ("a 'b", "expected a closing '"),
            ("a \"b\\\"", "expected a closing \""),
            ("a b\\", "expected a character after the last backslash"),
            ("a\0", "expected text without NUL characters"),
            (
                "a && b",
                "there is no shell to read `&&`: quote it, or put the line into a script of the generation",
            ),
        ] {
            assert_eq!(Command::split(line).unwrap_err().to_string(), want, "{line:?}");
        }
    }

    proptest! {
        #[test]
        fn p6_a_shown_command_splits_into_the_same_words(words in proptest::collection::vec("[a '\"\\\\|&$\n{}é-]{0,6}", 1..5)) {
            if let Ok(command) = Command::new(words) {
                prop_assert_eq!(Command::split(&command.to_string()), Ok(command));
            }
        }

        #[test]
        fn p6_no_line_makes_it_panic(line in "[ab '\"\\\\\n|&]{0,20}") {
            let _ = Command::split(&line);
        }
    }
}
