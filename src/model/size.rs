//! Byte sizes as they are written: a whole number and its unit, powers of 1024.

/// Text that is no size.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// a number with no unit
    #[error("write a unit: {0}MiB")]
    NoUnit(String),
    /// more than a file system holds
    #[error("at most 1024TiB")]
    TooLarge,
    /// anything else
    #[error("write a whole number and one of B, KiB, MiB, GiB, TiB")]
    Malformed,
}

const UNITS: [(&str, u32); 5] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10), ("B", 0)];

/// The largest that can be written.
const LARGEST: u64 = 1024 << 40;

/// Reads `512B`, `64KiB`, `256MiB`, `16GiB`: a whole number and one unit, nothing between.
pub fn parse(text: &str) -> Result<u64, SizeError> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(SizeError::Malformed);
    }
    if unit.is_empty() {
        return Err(SizeError::NoUnit(number.to_owned()));
    }
    let (_, bits) = UNITS.iter().find(|(name, _)| *name == unit).ok_or(SizeError::Malformed)?;
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << bits));
    bytes.filter(|bytes| *bytes <= LARGEST).ok_or(SizeError::TooLarge)
}

/// The size in its largest whole unit.
pub fn show(bytes: u64) -> String {
    let whole = |(_, bits): &&(&str, u32)| bytes != 0 && bytes.is_multiple_of(1 << bits);
    let (name, bits) = UNITS.iter().find(whole).unwrap_or(&UNITS[4]);
    format!("{}{name}", bytes >> bits)
}

/// The size to the nearest MiB, for people: `300 MiB`; what is less in KiB.
pub fn about(bytes: u64) -> String {
    let (unit, bits) = if bytes < 1 << 20 { ("KiB", 10) } else { ("MiB", 20) };
    format!("{} {unit}", bytes.saturating_add(1 << (bits - 1)) >> bits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn s22_a_size_has_a_unit() {
        for (text, bytes) in [
            ("0B", 0),
            ("1B", 1),
            ("64KiB", 65_536),
            ("256MiB", 256 << 20),
            ("16GiB", 16 << 30),
            ("2TiB", 2 << 40),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
            assert_eq!(show(bytes), text);
        }
        assert_eq!(parse("30").unwrap_err().to_string(), "write a unit: 30MiB");
        for bad in ["", "B", "-1B", "1.5GiB", "1 GiB", "1GB", "1G", "1gib", "1GiB ", "٣B"] {
            assert_eq!(parse(bad), Err(SizeError::Malformed), "{bad}");
        }
        for large in ["1025TiB", "99999999999999999999B", "18446744073709551615KiB"] {
            assert_eq!(parse(large), Err(SizeError::TooLarge), "{large}");
        }
    }

    #[test]
    fn a24_a_size_is_told_to_the_nearest_mib() {
        for (bytes, text) in [
            (0, "0 KiB"),
            (300 << 20, "300 MiB"),
            ((300 << 20) + (600 << 10), "301 MiB"),
            (64 << 10, "64 KiB"),
            (8 << 30, "8192 MiB"),
        ] {
            assert_eq!(about(bytes), text);
        }
        assert!(!about(u64::MAX).is_empty());
    }

    proptest! {
        #[test]
        fn s22_shown_sizes_read_the_same(bytes in 0_u64..=LARGEST) {
            prop_assert_eq!(parse(&show(bytes)), Ok(bytes));
        }
    }
}
