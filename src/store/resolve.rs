//! From what a person wrote to the one generation it means.

use super::error::{Kind, StoreError};
use super::open::Store;
use crate::model::{GenerationId, Reference, Tag};

/// Why a reference names no generation.
#[derive(Debug, thiserror::Error)]
pub enum RefError {
    /// nothing in the store goes by it
    #[error("`{reference}` is not in the store; `pointsman list` shows what is")]
    NotFound {
        /// what was written
        reference: Reference,
    },
    /// more than one generation begins so
    #[error("`{reference}` could be {}; write more digits", candidates.join(" or "))]
    Ambiguous {
        /// what was written
        reference: Reference,
        /// the beginnings of the ids it could be, long enough to tell them apart
        candidates: Vec<String>,
    },
    /// `@` before the first activation
    #[error("nothing is in force yet; `pointsman activate REF` puts a generation in force")]
    NothingInForce,
    /// too few digits for a beginning of an id, and no such tag
    #[error(
        "no tag `{tag}`, and the beginning of an id has 4 digits or more; `pointsman list` shows what there is"
    )]
    Short {
        /// what was written
        tag: Tag,
    },
    /// `@-N` with fewer good ones than that
    #[error(
        "there is no `@-{back}`: the stack of good generations has {have}; `pointsman history` shows them"
    )]
    NoOlderGood {
        /// N
        back: usize,
        /// how many there are
        have: usize,
    },
    /// the store could not be read
    #[error(transparent)]
    Store(StoreError),
}

impl RefError {
    /// What it means for whoever asked.
    pub fn kind(&self) -> Kind {
        match self {
            RefError::Store(error) => error.kind(),
            _ => Kind::NoSuch,
        }
    }
}

impl Store {
    /// The generation `reference` names: one that is in the store.
    pub fn resolve(&self, reference: &Reference) -> Result<GenerationId, RefError> {
        let not_found = || RefError::NotFound { reference: reference.clone() };
        let id = match reference {
            Reference::Back(0) => {
                let current = self.current().map_err(|e| RefError::Store(e.into()))?;
                return current.ok_or(RefError::NothingInForce);
            }
            Reference::Back(back) => {
                let stack = self.good_stack().map_err(RefError::Store)?;
                let error = RefError::NoOlderGood { back: *back, have: stack.len() };
                let at = stack.len().checked_sub(1).and_then(|top| top.checked_sub(*back));
                at.map(|at| stack[at]).ok_or(error)?
            }
            Reference::Id(id) => *id,
            Reference::Tag(tag) => match self.tagged(tag).map_err(RefError::Store)? {
                Some(id) => id,
                None if tag.as_str().bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) => {
                    return Err(RefError::Short { tag: tag.clone() });
                }
                None => return Err(not_found()),
            },
            Reference::Prefix(prefix) => {
                let mut ids = self.generation_ids().map_err(RefError::Store)?;
                ids.retain(|id| prefix.matches(*id));
                match ids.as_slice() {
                    [] => return Err(not_found()),
                    [id] => *id,
                    _ => {
                        let candidates = distinct(&ids);
                        return Err(RefError::Ambiguous { reference: reference.clone(), candidates });
                    }
                }
            }
        };
        if self.has(id).map_err(RefError::Store)? { Ok(id) } else { Err(not_found()) }
    }
}

/// The shortest beginnings, of 8 digits or more, that tell `ids` apart.
fn distinct(ids: &[GenerationId]) -> Vec<String> {
    let texts: Vec<String> = ids.iter().map(ToString::to_string).collect();
    let cut = |len: usize| texts.iter().map(|text| text[..len].to_owned()).collect::<Vec<_>>();
    let unlike = |short: &Vec<String>| {
        let mut sorted = short.clone();
        sorted.sort_unstable();
        sorted.windows(2).all(|pair| pair[0] != pair[1])
    };
    (8..=64).map(cut).find(unlike).unwrap_or(texts.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_can_be_told_apart() {
        let id = |end: &str| format!("{end:0<64}").parse().unwrap();
        assert_eq!(distinct(&[id("00000000a"), id("00000000b")]), ["00000000a", "00000000b"]);
        assert_eq!(distinct(&[id("a"), id("b")]), ["a0000000", "b0000000"]);
    }
}
