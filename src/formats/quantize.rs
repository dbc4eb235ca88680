//! From `f32` to stored bytes: the types that exports are written in. The inverse of [`super::dequantize`], up to
//! rounding, and in its layouts.
//!
//! | type | largest error of a value `x` |
//! |---|---|
//! | F16 | `2^-11 abs(x)`, or `2^-25` for the smallest |
//! | BF16 | `2^-8 abs(x)` |
//! | Q8_0 | `(1/2 + 127/2048) d`, `d` being 1/127 of the largest magnitude in the block of 32 values |
//!
//! Half a step of Q8_0 is rounding of the value, the rest that of `d` to f16.

use std::io::Write;

use half::{bf16, f16};

use super::dequantize::StorageType;
use crate::error::{Error, Result};

/// Values are encoded in pieces of this many: whole blocks, and little memory.
const PIECE_LEN: usize = 1 << 14;

/// A type that tensors can be written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    F32,
    F16,
    BF16,
    Q8_0,
}

impl Precision {
    /// How such values are read.
    pub fn storage(self) -> StorageType {
        match self {
            Self::F32 => StorageType::F32,
            Self::F16 => StorageType::F16,
            Self::BF16 => StorageType::BF16,
            Self::Q8_0 => StorageType::Q8_0,
        }
    }

    /// Bytes of so many values, which are whole blocks.
    pub fn num_bytes(self, num_values: usize) -> usize {
        num_values / self.storage().block_len() * self.storage().block_bytes()
    }

    /// Refuses values that would become infinite or are not finite to begin with. `tensor` is what the error names.
    ///
    /// # Errors
    /// [`Error::Usage`] with the first such value.
    pub fn check(self, tensor: &str, values: &[f32]) -> Result<()> {
        let fits = |value: f32| match self {
            Self::F32 => value.is_finite(),
            Self::F16 => f16::from_f32(value).is_finite(),
            Self::BF16 => bf16::from_f32(value).is_finite(),
            Self::Q8_0 => f16::from_f32(value / 127.0).is_finite(),
        };
        let Some(value) = values.iter().find(|value| !fits(**value)) else { return Ok(()) };
        let error = Error::usage(format!("tensor `{tensor}` has the value {value}, which {self:?} cannot hold"));
        Err(error.with_hint(match value.is_finite() {
            true => "choose --dtype bf16 or f32",
            false => "the training has diverged: export an earlier checkpoint, the same command with --checkpoint NAME",
        }))
    }

    /// Writes values, rounding to the nearest.
    ///
    /// # Panics
    /// If the values are not whole blocks: a bug of the caller.
    pub fn write(self, file: &mut (impl Write + ?Sized), values: &[f32]) -> std::io::Result<()> {
        assert!(
            values.len().is_multiple_of(self.storage().block_len()),
            "{} values are not whole blocks",
            values.len()
        );
        let mut bytes = Vec::new();
        for piece in values.chunks(PIECE_LEN) {
            bytes.clear();
            match self {
                Self::F32 => bytes.extend(piece.iter().flat_map(|value| value.to_le_bytes())),
                Self::F16 => bytes.extend(piece.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes())),
                Self::BF16 => bytes.extend(piece.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes())),
                Self::Q8_0 => bytes.extend(piece.as_chunks().0.iter().flat_map(q8_0)),
            }
            file.write_all(&bytes)?;
        }
        Ok(())
    }
}

/// `d` is rounded only where it is stored, as in ggml: the integers are those of the exact scale.
fn q8_0(values: &[f32; 32]) -> [u8; 34] {
    let largest = values.iter().fold(0.0, |largest: f32, value| largest.max(value.abs()));
    let d = largest / 127.0;
    let inverse = if d > 0.0 { 1.0 / d } else { 0.0 };
    let mut block = [0; 34];
    block[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    for (byte, value) in block[2..].iter_mut().zip(values) {
        *byte = (value * inverse).round() as i8 as u8;
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(precision: Precision, values: &[f32]) -> Vec<f32> {
        let mut bytes = Vec::new();
        precision.write(&mut bytes, values).unwrap();
        assert_eq!(bytes.len(), precision.num_bytes(values.len()));
        let mut read = vec![0.0; values.len()];
        precision.storage().decode(&bytes, &mut read);
        read
    }

    /// Values of many sizes, more than one piece of them.
    fn values() -> Vec<f32> {
        (0..PIECE_LEN + 64).map(|i| (i as f32 * 0.7).sin() * f32::exp2((i * 7 % 20) as f32 - 16.0)).collect()
    }

    #[test]
    fn f32_is_exact_and_the_others_stay_within_their_bounds() {
        let values = values();
        assert_eq!(round_trip(Precision::F32, &values), values);
        for (precision, relative, absolute) in
            [(Precision::F16, 2f32.powi(-11), 2f32.powi(-25)), (Precision::BF16, 2f32.powi(-8), 0.0)]
        {
            for (value, read) in values.iter().zip(round_trip(precision, &values)) {
                assert!(
                    (value - read).abs() <= (relative * value.abs()).max(absolute),
                    "{precision:?}: {value}, {read}"
                );
            }
        }
        let read = round_trip(Precision::Q8_0, &values);
        for (values, read) in values.chunks(32).zip(read.chunks(32)) {
            let d = values.iter().fold(0.0, |largest: f32, value| largest.max(value.abs())) / 127.0;
            for (value, read) in values.iter().zip(read) {
                let bound = (0.5 + 127.0 / 2048.0) * d * (1.0 + 1e-5) + 127.0 * 2f32.powi(-25);
                assert!((value - read).abs() <= bound, "{value}, {read}, {d}");
            }
        }
    }

    /// By hand: the largest magnitude 127 makes d = 1, so that every value is rounded to a whole number, halves away from 0.
    #[test]
    fn a_block_of_q8_0_is_a_scale_and_rounded_values() {
        let mut values = [0.0; 32];
        values[..5].copy_from_slice(&[-127.0, 1.4, 2.5, -2.5, 0.49]);
        let block = q8_0(&values);
        assert_eq!(block[..2], [0x00, 0x3c], "1.0 in f16");
        assert_eq!(block[2..8].iter().map(|byte| *byte as i8).collect::<Vec<_>>(), [-127, 1, 3, -3, 0, 0]);
        assert_eq!(q8_0(&[0.0; 32]), [0; 34]);
    }

    #[test]
    fn a_value_beyond_a_types_range_is_refused_by_name() {
        let refused = |precision: Precision, values: &[f32]| precision.check("t", values).unwrap_err();
        let error = refused(Precision::F16, &[1.0, -70_000.0, f32::NAN]);
        assert_eq!(error.to_string(), "tensor `t` has the value -70000, which F16 cannot hold");
        assert_eq!(error.hint(), Some("choose --dtype bf16 or f32"));
        Precision::BF16.check("t", &[1.0, -70_000.0]).unwrap();
        assert!(refused(Precision::F32, &[f32::NAN]).hint().unwrap().contains("diverged"));
        Precision::Q8_0.check("t", &[8e6]).unwrap();
        assert!(refused(Precision::Q8_0, &[9e6]).to_string().contains("9000000"), "127 * 65520 is 8.3e6");
    }
}
