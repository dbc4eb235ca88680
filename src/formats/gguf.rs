//! GGUF files, versions 2 and 3: metadata and a table of tensors, opened without reading the values.
//!
//! Layout, little-endian: `GGUF`, `u32` version, `u64` number of tensors, `u64` number of metadata entries; the
//! entries (key, type, value); per tensor its name, dimensions (the fastest first, so reversed here), type and offset;
//! padding; the values. A string is a `u64` length and UTF-8. Not here: what keys and names mean (see `gguf_model`)
//! and what the bytes of a tensor mean (see [`super::dequantize`]). Source:
//! <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::collections::BTreeMap;
use std::path::Path;

use super::dequantize::StorageType;
use super::file_bytes::FileBytes;
use super::gguf_header::{HeaderReader, MAX_HEADER_BYTES};
use super::gguf_metadata::GgufMetadata;
use crate::error::{Error, Result};

const MAX_RANK: u32 = 4;
const DEFAULT_ALIGNMENT: u64 = 32;

/// An open GGUF file: its header checked, its values unread.
#[derive(Debug)]
pub struct GgufFile {
    /// The metadata entries.
    pub metadata: GgufMetadata,
    bytes: FileBytes,
    tensors: BTreeMap<String, TensorInfo>,
}

#[derive(Debug)]
struct TensorInfo {
    /// Row-major: the file's dimensions reversed.
    shape: Vec<usize>,
    storage: StorageType,
    /// From the start of the file.
    offset: u64,
    num_bytes: u64,
}

/// Opens a GGUF file and checks its header against the file's size.
///
/// # Errors
/// [`Error::Input`] if the file is missing, cut short, of another kind or version, or its header is damaged; if a
/// tensor is there twice, has a type that is not supported, or lies outside the file or over another one.
pub fn open_gguf(path: &Path) -> Result<GgufFile> {
    let bytes = FileBytes::open(path)?;
    let header_len = bytes.len().min(MAX_HEADER_BYTES);
    let mut header = HeaderReader::new(&bytes, header_len);
    let (num_tensors, num_entries) = header.start()?;
    let metadata = read_metadata(&mut header, num_entries)?;
    let alignment = metadata.u64("general.alignment")?.unwrap_or(DEFAULT_ALIGNMENT);
    if !alignment.is_power_of_two() || alignment > 1 << 20 {
        return Err(Error::input(path, format!("{alignment} is not a usable power of two")).at("general.alignment"));
    }
    let mut tensors = BTreeMap::new();
    for _ in 0..num_tensors {
        let (name, info) = read_tensor_info(&mut header, alignment)?;
        if tensors.insert(name.clone(), info).is_some() {
            return Err(Error::input(path, "is there twice").at(format!("tensor `{name}`")));
        }
    }
    let data_start = header.position.next_multiple_of(alignment);
    place_tensors(&bytes, &mut tensors, data_start)?;
    Ok(GgufFile { metadata, bytes, tensors })
}

fn read_metadata(header: &mut HeaderReader, num_entries: u64) -> Result<GgufMetadata> {
    let mut metadata = GgufMetadata::new(header.file.path());
    for _ in 0..num_entries {
        let key = header.name("a metadata key")?;
        let kind = header.u32(&key)?;
        let value = header.value(&key, kind, 0)?;
        metadata.insert(key, value)?;
    }
    Ok(metadata)
}

/// Reads one row of the tensor table. The offset is still relative to the start of the values.
fn read_tensor_info(header: &mut HeaderReader, alignment: u64) -> Result<(String, TensorInfo)> {
    let name = header.name("a tensor's name")?;
    let place = format!("tensor `{name}`");
    let path = header.file.path();
    let refuse = |message: String| Err(Error::input(path, message).at(&place));
    let rank = header.u32(&place)?;
    if rank == 0 || rank > MAX_RANK {
        return refuse(format!("has {rank} dimensions; expected 1 to {MAX_RANK}"));
    }
    let mut dimensions = Vec::new();
    for _ in 0..rank {
        dimensions.push(header.u64(&place)?);
    }
    let code = header.u32(&place)?;
    let offset = header.u64(&place)?;
    let Some(storage) = storage_type(code) else {
        return Err(Error::input(path, format!("has type {}, which cannot be read", type_name(code)))
            .at(&place)
            .with_hint("supported: F32, F16, BF16, F64, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K"));
    };
    let block_len = storage.block_len() as u64;
    if dimensions[0] == 0 || !dimensions[0].is_multiple_of(block_len) {
        return refuse(format!("has rows of {} values; {storage:?} needs a multiple of {block_len}", dimensions[0]));
    }
    let num_values = dimensions.iter().try_fold(1u64, |product, &dimension| product.checked_mul(dimension));
    let num_bytes = num_values.and_then(|n| (n / block_len).checked_mul(storage.block_bytes() as u64));
    let Some(num_bytes) = num_bytes.filter(|&bytes| bytes > 0) else {
        return refuse(format!("has the impossible dimensions {dimensions:?}"));
    };
    if !offset.is_multiple_of(alignment) {
        return refuse(format!("starts at {offset}, which is not a multiple of the alignment, {alignment}"));
    }
    let shape = dimensions.iter().rev().map(|&dimension| dimension as usize).collect();
    Ok((name, TensorInfo { shape, storage, offset, num_bytes }))
}

/// Makes the offsets absolute; checks that every tensor lies inside the file and that none overlap.
fn place_tensors(bytes: &FileBytes, tensors: &mut BTreeMap<String, TensorInfo>, data_start: u64) -> Result<()> {
    let mut in_file_order: Vec<_> = tensors.iter_mut().collect();
    in_file_order.sort_by_key(|(_, info)| info.offset);
    let mut previous_end = data_start;
    for (name, info) in in_file_order {
        let refuse = |message: String| Err(Error::input(bytes.path(), message).at(format!("tensor `{name}`")));
        let start = data_start.checked_add(info.offset);
        let Some((start, end)) = start.and_then(|start| Some((start, start.checked_add(info.num_bytes)?))) else {
            return refuse(format!("has the impossible offset {}", info.offset));
        };
        if start < previous_end {
            return refuse("overlaps another tensor".into());
        }
        if end > bytes.len() {
            let message = format!("ends at byte {end}, but the file has {}: it is cut short or damaged", bytes.len());
            return refuse(message);
        }
        info.offset = start;
        previous_end = end;
    }
    Ok(())
}

impl GgufFile {
    /// The path that was opened.
    pub fn path(&self) -> &Path {
        self.bytes.path()
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The row-major shape of a tensor (GGUF's dimensions reversed), or `None` if there is none of this name.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|info| info.shape.as_slice())
    }

    /// The bytes that a tensor takes in the file; 0 if there is none of this name.
    pub fn num_bytes(&self, name: &str) -> u64 {
        self.tensors.get(name).map_or(0, |info| info.num_bytes)
    }

    /// Reads and dequantises one tensor's values, row-major, rows in the file's order.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        let info = self.tensors.get(name);
        let info = info.ok_or_else(|| Error::input(self.path(), format!("has no tensor `{name}`")))?;
        self.bytes.read_f32(info.offset, info.num_bytes, info.storage)
    }
}

/// The codes of `ggml_type` that can be read.
fn storage_type(code: u32) -> Option<StorageType> {
    Some(match code {
        0 => StorageType::F32,
        1 => StorageType::F16,
        2 => StorageType::Q4_0,
        3 => StorageType::Q4_1,
        6 => StorageType::Q5_0,
        7 => StorageType::Q5_1,
        8 => StorageType::Q8_0,
        12 => StorageType::Q4_K,
        13 => StorageType::Q5_K,
        14 => StorageType::Q6_K,
        28 => StorageType::F64,
        30 => StorageType::BF16,
        _ => return None,
    })
}

/// What to call a type that cannot be read.
fn type_name(code: u32) -> String {
    let names = [
        (10, "Q2_K"),
        (11, "Q3_K"),
        (16, "IQ2_XXS"),
        (17, "IQ2_XS"),
        (18, "IQ3_XXS"),
        (19, "IQ1_S"),
        (20, "IQ4_NL"),
        (21, "IQ3_S"),
        (22, "IQ2_S"),
        (23, "IQ4_XS"),
        (29, "IQ1_M"),
        (34, "TQ1_0"),
        (35, "TQ2_0"),
        (39, "MXFP4"),
    ];
    let known = names.iter().find(|(known, _)| *known == code);
    known.map_or_else(|| format!("number {code}"), |(_, name)| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::gguf_builder::GgufBuilder;

    fn opened(bytes: &[u8]) -> Result<GgufFile> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        std::fs::write(&path, bytes).unwrap();
        open_gguf(&path)
    }

    #[test]
    fn dimensions_are_reversed_and_values_dequantised() {
        let mut block = vec![0x00, 0x38]; // d = 0.5 in f16, then 32 numbers 0..32
        block.extend(0..32u8);
        let file = opened(&GgufBuilder::default().tensor("t", &[32, 1], 8, block).build()).unwrap();
        assert_eq!((file.shape("t"), file.num_bytes("t")), (Some(&[1, 32][..]), 34));
        assert_eq!(file.read_f32("t").unwrap()[30..], [15.0, 15.5]);
        assert_eq!(file.read_f32("u").unwrap_err().exit_code(), 3);
    }
}
