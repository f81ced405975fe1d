//! Durations as they are written: a whole number and its unit.

use std::time::Duration;

/// The longest that can be written: a week. Longer is a mistake, and sums of a few never overflow.
pub const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// Text that is no duration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// a number with no unit
    #[error("write a unit: {0}s")]
    NoUnit(String),
    /// more than [`LONGEST`]
    #[error("at most 7d")]
    TooLong,
    /// anything else
    #[error("write a whole number and one of ms, s, m, h, d")]
    Malformed,
}

/// Reads `500ms`, `30s`, `5m`, `1h`, `1d`, `0s`: a whole number and one unit, nothing between.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(DurationError::Malformed);
    }
    let millis = match unit {
        "" => return Err(DurationError::NoUnit(number.to_owned())),
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(DurationError::Malformed),
    };
    let millis = number.parse::<u64>().ok().and_then(|number| number.checked_mul(millis));
    let duration = millis.map(Duration::from_millis).filter(|duration| *duration <= LONGEST);
    duration.ok_or(DurationError::TooLong)
}

/// The duration in its largest whole unit; parts of a millisecond are dropped.
pub fn show(duration: Duration) -> String {
    let millis = duration.as_millis();
    match millis {
        0 => "0s".to_owned(),
        _ if millis.is_multiple_of(86_400_000) => format!("{}d", millis / 86_400_000),
        _ if millis.is_multiple_of(3_600_000) => format!("{}h", millis / 3_600_000),
        _ if millis.is_multiple_of(60_000) => format!("{}m", millis / 60_000),
        _ if millis.is_multiple_of(1_000) => format!("{}s", millis / 1_000),
        _ => format!("{millis}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn p7_a_duration_has_a_unit() {
        for (text, millis) in [
            ("0s", 0),
            ("500ms", 500),
            ("30s", 30_000),
            ("5m", 300_000),
            ("168h", 604_800_000),
            ("7d", 604_800_000),
        ] {
            assert_eq!(parse(text).unwrap(), Duration::from_millis(millis), "{text}");
        }
        assert_eq!(parse("30").unwrap_err().to_string(), "write a unit: 30s");
        for bad in ["", "s", "-1s", "+1s", "1.5s", "1 s", "1S", "1m30s", "1w", "1s ", "٣s"] {
            assert_eq!(parse(bad), Err(DurationError::Malformed), "{bad}");
        }
        for long in ["169h", "8d", "99999999999999999999s", "18446744073709551615h"] {
            assert_eq!(parse(long), Err(DurationError::TooLong), "{long}");
        }
    }

    proptest! {
        #[test]
        fn p7_shown_durations_read_the_same(millis in 0_u64..=604_800_000) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse(&show(duration)), Ok(duration));
        }
    }
}
