//! Sizes of memory as people write them.

use crate::error::{Error, Result};

/// What a byte count may be followed by, and how many bytes that is.
const UNITS: [(&str, f64); 9] = [
    ("kib", 1024.0),
    ("mib", 1024.0 * 1024.0),
    ("gib", 1024.0 * 1024.0 * 1024.0),
    ("tib", 1024.0 * 1024.0 * 1024.0 * 1024.0),
    ("kb", 1e3),
    ("mb", 1e6),
    ("gb", 1e9),
    ("tb", 1e12),
    ("b", 1.0),
];

/// `8GiB`, `6.5 GB`, `900mb` or a plain number of bytes; None for anything else, and for less than one byte.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let unit = UNITS.iter().find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, *bytes)));
    let (number, bytes_per_unit) = unit.unwrap_or((&text, 1.0));
    let bytes = number.trim().parse::<f64>().ok()? * bytes_per_unit;
    (bytes.is_finite() && (1.0..1e18).contains(&bytes)).then_some(bytes as u64)
}

/// Refuses a `memory_limit` that is no size.
pub(super) fn check_limit(limit: Option<&str>) -> Result<()> {
    match limit.filter(|limit| parse_bytes(limit).is_none()) {
        None => Ok(()),
        Some(limit) => Err(Error::config("memory_limit", format!("`{limit}` is no size"))
            .with_hint("a number with its unit, such as 8GiB, 6.5GB or 900MB")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_and_without_a_unit() {
        for (text, bytes) in [
            ("8GiB", 8 << 30),
            ("6.5 GB", 6_500_000_000),
            (" 900mb ", 900_000_000),
            ("1TiB", 1 << 40),
            ("512b", 512),
            ("4096", 4096),
        ] {
            assert_eq!(parse_bytes(text), Some(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_none() {
        for text in ["", "GiB", "8 gigs", "-1GB", "nan", "inf", "0", "1e30 TB", "8 GiB free"] {
            assert_eq!(parse_bytes(text), None, "{text}");
        }
    }
}
