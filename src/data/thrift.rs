//! Thrift's compact protocol, as far as the headers of Parquet files need it: walked, checked and never copied.
//!
//! The Parquet library reads the same bytes and believes the sizes in them. Here they are looked at first
//! (`parquet_limits.rs`).

/// Structures inside each other; a Parquet header has 6.
const MAX_DEPTH: usize = 24;

/// A walk through bytes.
pub(super) struct Thrift<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
}

/// What a field holds; what is no number or structure was skipped.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Int,
    Struct,
    List,
    Other(u8),
}

/// The bytes end too early, or make no sense. `None` everywhere in this file.
type Walked<T> = Option<T>;

impl<'a> Thrift<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Thrift { bytes, at: 0, depth: 0 }
    }

    /// How many bytes were walked over.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// Walks over a structure. `field` is told each field's number and kind and consumes it: an integer by
    /// [`Self::int`], a structure by this function, a list by [`Self::list`], anything by [`Self::skip`].
    pub(super) fn fields(&mut self, mut field: impl FnMut(&mut Self, i64, Kind) -> Walked<()>) -> Walked<()> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let mut id: i64 = 0;
        loop {
            let byte = self.byte()?;
            if byte == 0 {
                break;
            }
            id = match byte >> 4 {
                0 => self.int()?,
                delta => id.checked_add(i64::from(delta))?,
            };
            field(self, id, kind(byte & 15))?;
        }
        self.depth -= 1;
        Some(())
    }

    /// The head of a list: its length, which is at most the number of bytes left, and the kind of its items.
    pub(super) fn list(&mut self) -> Walked<(usize, Kind)> {
        let byte = self.byte()?;
        let len = match byte >> 4 {
            15 => usize::try_from(self.varint()?).ok()?,
            len => usize::from(len),
        };
        (len <= self.bytes.len() - self.at).then_some((len, kind(byte & 15)))
    }

    /// A signed number (zigzag).
    pub(super) fn int(&mut self) -> Walked<i64> {
        let value = self.varint()?;
        Some((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// Walks over a value.
    pub(super) fn skip(&mut self, kind: Kind) -> Walked<()> {
        match kind {
            Kind::Int => self.int().map(|_| ()),
            Kind::Struct => self.fields(|thrift, _, kind| thrift.skip(kind)),
            Kind::List => {
                let (len, kind) = self.list()?;
                (0..len).try_for_each(|_| match kind {
                    // In a list a truth value takes a byte.
                    Kind::Other(1 | 2) => self.byte().map(|_| ()),
                    kind => self.nested(kind),
                })
            }
            Kind::Other(1 | 2) => Some(()),
            Kind::Other(3) => self.byte().map(|_| ()),
            Kind::Other(7) => self.advance(8),
            Kind::Other(8) => {
                let len = usize::try_from(self.varint()?).ok()?;
                self.advance(len)
            }
            Kind::Other(_) => None,
        }
    }

    fn nested(&mut self, kind: Kind) -> Walked<()> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        self.skip(kind)?;
        self.depth -= 1;
        Some(())
    }

    fn advance(&mut self, len: usize) -> Walked<()> {
        self.at = self.at.checked_add(len).filter(|at| *at <= self.bytes.len())?;
        Some(())
    }

    fn byte(&mut self) -> Walked<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn varint(&mut self) -> Walked<u64> {
        let mut value = 0;
        for shift in (0..70).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 127).checked_shl(shift)?;
            if byte < 128 {
                return Some(value);
            }
        }
        None
    }
}

fn kind(code: u8) -> Kind {
    match code {
        4..=6 => Kind::Int,
        9 | 10 => Kind::List,
        12 => Kind::Struct,
        other => Kind::Other(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers by field, of a structure of numbers, texts and lists.
    fn numbers(bytes: &[u8]) -> Option<(Vec<(i64, i64)>, usize)> {
        let mut found = Vec::new();
        let mut thrift = Thrift::new(bytes);
        thrift.fields(|thrift, id, kind| match kind {
            Kind::Int => {
                found.push((id, thrift.int()?));
                Some(())
            }
            kind => thrift.skip(kind),
        })?;
        Some((found, thrift.position()))
    }

    /// Bytes by hand from the specification: a field's head is delta and kind; 150 is zigzag 300, varint ac 02.
    #[test]
    fn numbers_are_found_behind_texts_lists_and_long_field_heads() {
        let bytes = [0x15, 0xac, 0x02, 0x18, 2, b'h', b'i', 0x19, 0x25, 2, 4, 0x05, 20, 3, 0x11, 0, 99];
        assert_eq!(numbers(&bytes), Some((vec![(1, 150), (10, -2)], 16)));
    }

    #[test]
    fn what_ends_early_or_lies_about_its_length_is_refused() {
        for bytes in [&[][..], &[0x15], &[0x18, 5, 1], &[0x19, 0xf5, 0xff, 0xff, 0x7f], &[0x1b, 0], &[0x15; 12]] {
            assert_eq!(numbers(bytes), None, "{bytes:?}");
        }
        // The field of the largest number, written out, and one that is one further.
        let furthest: Vec<u8> = [&[0x05, 0xfe][..], &[0xff; 8], &[0x01, 0]].concat();
        assert_eq!(numbers(&[&furthest[..], &[0]].concat()), Some((vec![(i64::MAX, 0)], 13)));
        assert_eq!(numbers(&[&furthest[..], &[0x15, 0, 0]].concat()), None, "no number is further");
        assert_eq!(numbers(&[0x1c; 100_000]), None, "deep nesting");
        assert_eq!(numbers(&[0x19].repeat(100_000)), None, "deep nesting");
    }
}
