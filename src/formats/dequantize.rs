//! From stored bytes to `f32`: plain floats and the block formats of GGUF. Not here: where the bytes are (see
//! [`super::gguf`]).
//!
//! A block format stores a run of values as small integers `q` with a shared scale `d` (f16) and, in some, a shared
//! offset. Blocks lie one after another; a tensor's row is a whole number of them. All numbers are little-endian.
//!
//! | type | values | bytes of a block, in order | value |
//! |---|---|---|---|
//! | Q8_0 | 32 | `d`, 32 x i8 `q` | `d q` |
//! | Q4_0 | 32 | `d`, 16 nibble pairs | `d (q - 8)` |
//! | Q4_1 | 32 | `d`, `m`, 16 nibble pairs | `d q + m` |
//! | Q5_0 | 32 | `d`, u32 high bits, 16 nibble pairs | `d (q - 16)` |
//! | Q5_1 | 32 | `d`, `m`, u32 high bits, 16 nibble pairs | `d q + m` |
//! | Q4_K | 256 | `d`, `dmin`, 12 bytes of `s` and `o`, 128 nibble pairs | `d s q - dmin o` |
//! | Q5_K | 256 | `d`, `dmin`, 12 bytes of `s` and `o`, 32 bytes of high bits, 128 nibble pairs | `d s q - dmin o` |
//! | Q6_K | 256 | 128 nibble pairs, 64 bytes of high bit pairs, 16 x i8 `s`, `d` | `d s (q - 32)` |
//!
//! In blocks of 32, byte `i` holds value `i` in its low nibble and value `i + 16` in its high one; bit `i` of the high
//! bits belongs to value `i`. Q4_K and Q5_K have 8 groups of 32 values, each with a 6-bit scale `s` and offset `o`; 32
//! bytes hold two groups, low nibbles first. Q6_K has 16 groups of 16 values with an 8-bit scale.
//!
//! Source: the GGML format, as in `ggml-quants.c` of llama.cpp.

use half::{bf16, f16};

/// How values are stored in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(non_camel_case_types, reason = "the formats are known by these names")]
pub enum StorageType {
    F32,
    F16,
    BF16,
    F64,
    Q8_0,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q4_K,
    Q5_K,
    Q6_K,
}

impl StorageType {
    /// Values in a block.
    pub fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 | Self::F64 => 1,
            Self::Q8_0 | Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 => 32,
            Self::Q4_K | Self::Q5_K | Self::Q6_K => 256,
        }
    }

    /// Bytes in a block.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::F64 => 8,
            Self::Q8_0 => 34,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q4_K => 144,
            Self::Q5_K => 176,
            Self::Q6_K => 210,
        }
    }

    /// Writes the values of `bytes` to `values`. Bytes after the last whole block are ignored.
    ///
    /// # Panics
    /// If `values` has not exactly the length of the whole blocks' values.
    pub fn decode(self, bytes: &[u8], values: &mut [f32]) {
        match self {
            Self::F32 => decode_blocks(bytes, values, |block| [f32::from_le_bytes(*block)]),
            Self::F16 => decode_blocks(bytes, values, |block| [f16::from_le_bytes(*block).to_f32()]),
            Self::BF16 => decode_blocks(bytes, values, |block| [bf16::from_le_bytes(*block).to_f32()]),
            Self::F64 => decode_blocks(bytes, values, |block| [f64::from_le_bytes(*block) as f32]),
            Self::Q8_0 => decode_blocks(bytes, values, q8_0),
            Self::Q4_0 => decode_blocks(bytes, values, q4_0),
            Self::Q4_1 => decode_blocks(bytes, values, q4_1),
            Self::Q5_0 => decode_blocks(bytes, values, q5_0),
            Self::Q5_1 => decode_blocks(bytes, values, q5_1),
            Self::Q4_K => decode_blocks(bytes, values, q4_k),
            Self::Q5_K => decode_blocks(bytes, values, q5_k),
            Self::Q6_K => decode_blocks(bytes, values, q6_k),
        }
    }
}

fn decode_blocks<const BYTES: usize, const LEN: usize>(
    bytes: &[u8],
    values: &mut [f32],
    decode: impl Fn(&[u8; BYTES]) -> [f32; LEN],
) {
    let (blocks, _) = bytes.as_chunks::<BYTES>();
    assert_eq!(blocks.len() * LEN, values.len(), "values of {} blocks", blocks.len());
    let (decoded, _) = values.as_chunks_mut::<LEN>();
    for (block, values) in blocks.iter().zip(decoded) {
        *values = decode(block);
    }
}

/// The f16 number at byte `at`.
fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Value `i` of 16 nibble pairs: 0..=15.
fn nibble(pairs: &[u8], i: usize) -> u8 {
    if i < 16 { pairs[i] & 15 } else { pairs[i - 16] >> 4 }
}

fn q8_0(block: &[u8; 34]) -> [f32; 32] {
    let d = half_at(block, 0);
    std::array::from_fn(|i| d * f32::from(block[2 + i] as i8))
}

fn q4_0(block: &[u8; 18]) -> [f32; 32] {
    let d = half_at(block, 0);
    std::array::from_fn(|i| d * (f32::from(nibble(&block[2..], i)) - 8.0))
}

fn q4_1(block: &[u8; 20]) -> [f32; 32] {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    std::array::from_fn(|i| d * f32::from(nibble(&block[4..], i)) + m)
}

/// Value `i` of 32 whose fifth bits are the 4 bytes before the nibble pairs: 0..=31.
fn five_bits(high_bits_and_pairs: &[u8], i: usize) -> f32 {
    let (high, pairs) = high_bits_and_pairs.split_at(4);
    f32::from(nibble(pairs, i) | ((high[i / 8] >> (i % 8)) & 1) << 4)
}

fn q5_0(block: &[u8; 22]) -> [f32; 32] {
    let d = half_at(block, 0);
    std::array::from_fn(|i| d * (five_bits(&block[2..], i) - 16.0))
}

fn q5_1(block: &[u8; 24]) -> [f32; 32] {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    std::array::from_fn(|i| d * five_bits(&block[4..], i) + m)
}

/// The 6-bit scale and offset of group `group` (0..8) of a Q4_K or Q5_K block, from their 12 bytes.
///
/// Groups 0..4 keep them in the low six bits of bytes `group` and `group + 4`. Groups 4..8 have their low four bits in
/// the nibbles of byte `group + 4`, and their high two bits at the top of the bytes that groups 0..4 use.
fn scale_and_offset(packed: &[u8], group: usize) -> (f32, f32) {
    let (scale, offset) = if group < 4 {
        (packed[group] & 63, packed[group + 4] & 63)
    } else {
        let low = packed[group + 4];
        ((low & 15) | ((packed[group - 4] >> 6) << 4), (low >> 4) | ((packed[group] >> 6) << 4))
    };
    (f32::from(scale), f32::from(offset))
}

/// The four low bits of value `i` in 128 nibble pairs laid out as in Q4_K and Q5_K.
fn grouped_nibble(pairs: &[u8], i: usize) -> u8 {
    let (group, within) = (i / 32, i % 32);
    let pair = pairs[group / 2 * 32 + within];
    if group.is_multiple_of(2) { pair & 15 } else { pair >> 4 }
}

fn q4_k(block: &[u8; 144]) -> [f32; 256] {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    std::array::from_fn(|i| {
        let (scale, offset) = scale_and_offset(&block[4..16], i / 32);
        d * scale * f32::from(grouped_nibble(&block[16..], i)) - dmin * offset
    })
}

fn q5_k(block: &[u8; 176]) -> [f32; 256] {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    std::array::from_fn(|i| {
        let (scale, offset) = scale_and_offset(&block[4..16], i / 32);
        let high_bit = (block[16 + i % 32] >> (i / 32)) & 1; // byte = place in the group, bit = group
        d * scale * f32::from(grouped_nibble(&block[48..], i) | high_bit << 4) - dmin * offset
    })
}

fn q6_k(block: &[u8; 210]) -> [f32; 256] {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half_at(block, 208);
    std::array::from_fn(|i| {
        // Each half of 128 values has 64 low and 32 high bytes; its four quarters of 32 share them.
        let (half, quarter, within) = (i / 128, i / 32 % 4, i % 32);
        let pair = low[half * 64 + quarter % 2 * 32 + within];
        let low_bits = if quarter < 2 { pair & 15 } else { pair >> 4 };
        let high_bits = (high[half * 32 + within] >> (2 * quarter)) & 3;
        d * f32::from(scales[i / 16] as i8) * (f32::from(low_bits | high_bits << 4) - 32.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(storage: StorageType, bytes: &[u8]) -> Vec<f32> {
        let mut values = vec![f32::NAN; bytes.len() / storage.block_bytes() * storage.block_len()];
        storage.decode(bytes, &mut values);
        values
    }

    #[test]
    fn plain_floats_are_read_little_endian() {
        assert_eq!(decoded(StorageType::F32, &1.5f32.to_le_bytes()), [1.5]);
        assert_eq!(decoded(StorageType::F16, &[0x00, 0xc0]), [-2.0], "f16 -2 is 0xc000");
        assert_eq!(decoded(StorageType::BF16, &[0x80, 0x3f]), [1.0], "bf16 1 is the upper half of f32 0x3f800000");
        assert_eq!(decoded(StorageType::F64, &0.25f64.to_le_bytes()), [0.25]);
    }

    #[test]
    fn a_q4_1_block_worked_by_hand() {
        // d = 0.5 (0x3800), m = -1 (0xbc00); byte 0 is 0xf3: value 0 is 0.5 * 3 - 1, value 16 is 0.5 * 15 - 1.
        let mut block = [0; 20];
        block[..5].copy_from_slice(&[0x00, 0x38, 0x00, 0xbc, 0xf3]);
        let values = decoded(StorageType::Q4_1, &block);
        assert_eq!((values[0], values[16], values[1]), (0.5, 6.5, -1.0));
    }

    /// A block whose byte `i` is `(37 i + 11) mod 256`, its f16 fields overwritten so that every value is exact.
    fn patterned_block(storage: StorageType, halves: &[(usize, f32)]) -> Vec<u8> {
        let mut block: Vec<u8> = (0..storage.block_bytes()).map(|i| (37 * i + 11) as u8).collect();
        for &(at, value) in halves {
            block[at..at + 2].copy_from_slice(&f16::from_f32(value).to_le_bytes());
        }
        block
    }

    /// Expected: `v = gguf.quants.dequantize(block, type)` of the PyPI package gguf 0.19.0 with numpy 2.4.6 on the same
    /// bytes, then `v[:4]`, `v[16:20]`, `v[-4:]` and `sum((i + 1) * v[i])`, which sees every value and its place.
    #[test]
    fn block_formats_equal_the_reference_package() {
        use StorageType::*;
        type Fixture = (StorageType, &'static [(usize, f32)], [f32; 4], [f32; 4], [f32; 4], f64);
        let fixtures: [Fixture; 8] = [
            (
                Q8_0,
                &[(0, 0.25)],
                [21.25, 30.5, -24.25, -15.0],
                [-22.75, -13.5, -4.25, 5.0],
                [24.25, -30.5, -21.25, -12.0],
                -2020.0,
            ),
            (
                Q4_0,
                &[(0, 0.25)],
                [-0.75, 0.5, 1.75, -1.0],
                [-0.75, -0.25, 0.25, 1.0],
                [-1.75, -1.25, -0.75, 0.0],
                -129.5,
            ),
            (
                Q4_1,
                &[(0, 0.25), (2, -1.5)],
                [2.25, -0.5, 0.75, 2.0],
                [0.75, 1.5, 2.0, -1.5],
                [-0.25, 0.5, 1.0, 1.5],
                203.75,
            ),
            (Q5_0, &[(0, 0.25)], [2.25, -0.5, 0.75, -2.0], [3.5, 0.0, 0.75, 1.25], [-1.5, -1.0, 3.5, 0.25], 28.0),
            (
                Q5_1,
                &[(0, 0.25), (2, -1.5)],
                [3.25, 4.5, 5.75, 3.0],
                [3.25, -0.25, 0.25, 5.0],
                [2.0, -1.25, -0.75, -0.25],
                1183.25,
            ),
            (
                Q4_K,
                &[(0, 0.25), (2, 0.5)],
                [59.75, -25.5, 13.25, 52.0],
                [59.75, -25.5, 13.25, 52.0],
                [-11.5, -8.5, -4.0, -1.0],
                1536426.0,
            ),
            (
                Q5_K,
                &[(0, 0.25), (2, 0.5)],
                [183.75, -25.5, 137.25, 52.0],
                [183.75, -25.5, 137.25, 52.0],
                [3.5, 6.5, 11.0, 14.0],
                3650078.0,
            ),
            (
                Q6_K,
                &[(208, 0.0625)],
                [-89.4375, 106.0, 36.4375, -33.125],
                [-27.0, 32.0, 11.0, -10.0],
                [10.625, 9.375, -2.5, -3.75],
                49026.25,
            ),
        ];
        for (storage, halves, first, middle, last, weighted_sum) in fixtures {
            let values = decoded(storage, &patterned_block(storage, halves));
            assert_eq!(values.len(), storage.block_len(), "{storage:?}");
            assert_eq!((&values[..4], &values[16..20]), (&first[..], &middle[..]), "{storage:?}");
            assert_eq!(values[values.len() - 4..], last, "{storage:?}");
            let sum: f64 = values.iter().enumerate().map(|(i, &value)| (i + 1) as f64 * f64::from(value)).sum();
            assert_eq!(sum, weighted_sum, "{storage:?}");
        }
    }

    #[test]
    fn an_incomplete_last_block_is_ignored() {
        assert!(decoded(StorageType::Q8_0, &[0; 33]).is_empty());
        assert_eq!(decoded(StorageType::F32, &[0; 7]), [0.0]);
    }
}
