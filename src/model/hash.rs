//! The BLAKE3 hashes that name things. An id is made or parsed, never assembled.

use std::fmt;
use std::str::FromStr;

/// Text that is not 64 lowercase hex digits.
#[derive(Debug, thiserror::Error)]
#[error("`{text}` is not 64 lowercase hex digits")]
pub struct HashParseError {
    text: String,
}

/// What each byte is worth as a lowercase hex digit; [`NO_DIGIT`]: it is none.
static DIGITS: [u8; 256] = {
    let mut digits = [NO_DIGIT; 256];
    let mut value = 0;
    while value < 16 {
        digits[b"0123456789abcdef"[value as usize] as usize] = value;
        value += 1;
    }
    digits
};
const NO_DIGIT: u8 = 0xff;

/// Reads 64 lowercase hex digits. By a table, without a branch: a manifest has one for each file.
fn from_hex(text: &str) -> Option<[u8; 32]> {
    let text: &[u8; 64] = text.as_bytes().try_into().ok()?;
    let mut seen = 0;
    let hash = std::array::from_fn(|at| {
        let (high, low) = (DIGITS[text[2 * at] as usize], DIGITS[text[2 * at + 1] as usize]);
        seen |= high | low;
        high << 4 | low & 0xf
    });
    (seen < 16).then_some(hash)
}

macro_rules! hash_name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// The first 8 of the 64 digits: for people, never for lookup.
            pub fn short(&self) -> String {
                self.to_string()[..8].to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(blake3::Hash::from_bytes(self.0).to_hex().as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }

        impl FromStr for $name {
            type Err = HashParseError;

            fn from_str(text: &str) -> Result<$name, HashParseError> {
                let hash = from_hex(text);
                hash.map($name).ok_or_else(|| HashParseError { text: text.chars().take(80).collect() })
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

hash_name! {
    /// Names one generation by its content: the BLAKE3-256 of its manifest bytes.
    ///
    /// Written as 64 lowercase hex digits wherever it appears: paths, logs, reports. Equal ids mean
    /// byte-equal generations. An id says nothing about age: order comes from the events.
    GenerationId
}

hash_name! {
    /// The BLAKE3-256 of one file's content, or of a section's value.
    ContentHash
}

hash_name! {
    /// Names one loader output by what went into it: the digests of the loader's sections, its
    /// unexpanded command and the program it runs. Says nothing about what came out.
    LoadedKey
}

impl GenerationId {
    /// The id of the generation that has this manifest.
    pub fn of(manifest: &[u8]) -> GenerationId {
        GenerationId(*blake3::hash(manifest).as_bytes())
    }

    /// The id that a streaming hasher of a manifest has come to.
    pub fn finish(hasher: &blake3::Hasher) -> GenerationId {
        GenerationId(*hasher.finalize().as_bytes())
    }
}

impl ContentHash {
    /// The hash of `bytes`.
    pub fn of(bytes: &[u8]) -> ContentHash {
        ContentHash(*blake3::hash(bytes).as_bytes())
    }

    /// Appends the 64 digits.
    pub(super) fn print(&self, text: &mut String) {
        text.push_str(blake3::Hash::from_bytes(self.0).to_hex().as_str());
    }

    /// The hash a streaming hasher has come to.
    pub fn finish(hasher: &blake3::Hasher) -> ContentHash {
        ContentHash(*hasher.finalize().as_bytes())
    }
}

impl LoadedKey {
    /// The key of a loader run, from the canonical text of everything that went into it.
    pub fn of(inputs: &[u8]) -> LoadedKey {
        LoadedKey(*blake3::hash(inputs).as_bytes())
    }
}

/// What a person typed for an id: 4 to 63 lowercase hex digits. Never an id itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdPrefix(String);

impl IdPrefix {
    /// The fewest digits that count as a prefix.
    pub const SHORTEST: usize = 4;

    /// Reads a prefix; `None` where `text` is none.
    pub fn parse(text: &str) -> Option<IdPrefix> {
        let hex = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        (hex && (IdPrefix::SHORTEST..64).contains(&text.len())).then(|| IdPrefix(text.to_owned()))
    }

    /// Whether `id` begins with these digits.
    pub fn matches(&self, id: GenerationId) -> bool {
        id.to_string().starts_with(&self.0)
    }
}

impl fmt::Display for IdPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_64_lowercase_hex_digits_and_nothing_else() {
        let id = GenerationId::of(b"manifest");
        assert_eq!(id.to_string().parse::<GenerationId>().unwrap(), id);
        for bad in
            ["", "abc", &"A".repeat(64), &"g".repeat(64), &"0".repeat(63), &"0".repeat(65), &"é".repeat(32)]
        {
            assert!(bad.parse::<GenerationId>().is_err(), "{bad}");
        }
        assert_eq!(format!("{id:?}").len(), "GenerationId(12345678)".len());
    }

    #[test]
    fn a_prefix_is_never_an_id() {
        assert!(IdPrefix::parse("abc").is_none());
        assert!(IdPrefix::parse(&"a".repeat(64)).is_none());
        assert!(IdPrefix::parse("ABCD").is_none());
        let id = GenerationId::of(b"x");
        assert!(IdPrefix::parse(&id.short()).unwrap().matches(id));
    }
}
