//! Writing GGUF files, version 3: metadata and tensors, one tensor in memory at a time. The layout: [`super::gguf`].
//!
//! What keys and names mean is in `gguf_model_write` and `gguf_tokenizer_write`.

use std::path::Path;

use super::atomic_write::write_synced;
use super::file_system::FileSystem;
use super::quantize::Precision;
use super::safetensors::TensorToWrite;
use crate::error::{Error, Result};

/// What readers assume where the file does not say.
const ALIGNMENT: usize = 32;

/// A metadata value, in the types that files of language models use.
#[derive(Clone, Debug, PartialEq)]
pub enum MetadataToWrite {
    U32(u32),
    F32(f32),
    Bool(bool),
    String(String),
    Strings(Vec<String>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
}

impl MetadataToWrite {
    /// Type numbers and little-endian values; an array has its elements' type and their number first.
    fn bytes(&self) -> Vec<u8> {
        const ARRAY: u32 = 9;
        let scalar = |kind: u32, value: &[u8]| [&kind.to_le_bytes(), value].concat();
        let array = |kind: u32, len: usize, values: Vec<u8>| {
            [&ARRAY.to_le_bytes()[..], &kind.to_le_bytes(), &(len as u64).to_le_bytes(), &values].concat()
        };
        match self {
            Self::U32(value) => scalar(4, &value.to_le_bytes()),
            Self::F32(value) => scalar(6, &value.to_le_bytes()),
            Self::Bool(value) => scalar(7, &[u8::from(*value)]),
            Self::String(value) => scalar(8, &string_bytes(value)),
            Self::Strings(values) => array(8, values.len(), values.iter().flat_map(|v| string_bytes(v)).collect()),
            Self::I32s(values) => array(5, values.len(), values.iter().flat_map(|v| v.to_le_bytes()).collect()),
            Self::F32s(values) => array(6, values.len(), values.iter().flat_map(|v| v.to_le_bytes()).collect()),
        }
    }
}

/// Metadata in the order of the file.
pub type MetadataEntries = Vec<(String, MetadataToWrite)>;

/// A tensor and the type to write it in. The precision's blocks must divide its rows.
pub struct GgufTensor<'a> {
    pub tensor: TensorToWrite<'a>,
    pub precision: Precision,
}

fn string_bytes(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// Writes a new GGUF file, tensors in the given order, and makes its content durable.
///
/// # Errors
/// [`Error::Disk`] if writing fails; [`Error::Usage`] for a value that a tensor's type cannot hold; any error of a
/// tensor's values.
/// # Panics
/// If a row of a tensor is not whole blocks of its precision: a bug of the caller.
pub fn write_gguf(
    files: &dyn FileSystem,
    path: &Path,
    metadata: &MetadataEntries,
    tensors: Vec<GgufTensor<'_>>,
) -> Result<()> {
    let header = header_bytes(metadata, &tensors);
    write_synced(files, path, |file| {
        file.write_all(&header).map_err(Error::writing("write", path))?;
        for GgufTensor { tensor, precision } in tensors {
            let tensor = tensor.into_host()?;
            precision.check(&tensor.name, &tensor.values)?;
            let padding = vec![0; padding_after(precision.num_bytes(tensor.values.len()))];
            precision
                .write(file, &tensor.values)
                .and_then(|()| file.write_all(&padding))
                .map_err(Error::writing("write", path))?;
        }
        Ok(())
    })
}

fn header_bytes(metadata: &MetadataEntries, tensors: &[GgufTensor<'_>]) -> Vec<u8> {
    let mut header = [&b"GGUF"[..], &3u32.to_le_bytes(), &(tensors.len() as u64).to_le_bytes()].concat();
    header.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        header.extend(string_bytes(key));
        header.extend(value.bytes());
    }
    let mut offset = 0;
    for GgufTensor { tensor, precision } in tensors {
        let (name, shape) = (tensor.name(), tensor.shape());
        let row_len = shape.last().copied().unwrap_or_default();
        assert!(
            row_len.is_multiple_of(precision.storage().block_len()),
            "`{name}`: rows of {row_len} in {precision:?}"
        );
        header.extend(string_bytes(name));
        header.extend((shape.len() as u32).to_le_bytes());
        header.extend(shape.iter().rev().flat_map(|dimension| (*dimension as u64).to_le_bytes()));
        header.extend(type_number(*precision).to_le_bytes());
        header.extend((offset as u64).to_le_bytes());
        let num_bytes = precision.num_bytes(tensor.num_values());
        offset += num_bytes + padding_after(num_bytes);
    }
    header.resize(header.len() + padding_after(header.len()), 0);
    header
}

fn padding_after(num_bytes: usize) -> usize {
    num_bytes.next_multiple_of(ALIGNMENT) - num_bytes
}

/// `ggml_type`.
fn type_number(precision: Precision) -> u32 {
    match precision {
        Precision::F32 => 0,
        Precision::F16 => 1,
        Precision::Q8_0 => 8,
        Precision::BF16 => 30,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::file_system::Disk;
    use crate::formats::gguf::open_gguf;
    use crate::formats::safetensors::HostTensor;

    fn tensor(name: &str, shape: &[usize], precision: Precision) -> GgufTensor<'static> {
        let len: usize = shape.iter().product();
        let values = (0..len).map(|i| i as f32).collect();
        GgufTensor { tensor: HostTensor { name: name.into(), shape: shape.into(), values }.into(), precision }
    }

    #[test]
    fn every_type_of_metadata_and_of_tensor_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        let entry = |key: &str, value| (key.to_owned(), value);
        let metadata = vec![
            entry("u32", MetadataToWrite::U32(7)),
            entry("f32", MetadataToWrite::F32(1e-5)),
            entry("bool", MetadataToWrite::Bool(true)),
            entry("string", MetadataToWrite::String("Ġé".into())),
            entry("strings", MetadataToWrite::Strings(vec!["a".into(), String::new()])),
            entry("i32s", MetadataToWrite::I32s(vec![1, 3])),
            entry("f32s", MetadataToWrite::F32s(vec![-0.5])),
        ];
        // Sizes that are not multiples of the alignment, so that padding matters.
        let tensors = vec![
            tensor("a", &[3], Precision::F32),
            tensor("b", &[2, 3], Precision::F16),
            tensor("c", &[3, 32], Precision::Q8_0),
            tensor("d", &[5, 1], Precision::BF16),
        ];
        write_gguf(&Disk, &path, &metadata, tensors).unwrap();
        let file = open_gguf(&path).unwrap();
        let read = &file.metadata;
        assert_eq!((read.u64("u32").unwrap(), read.f64("f32").unwrap()), (Some(7), Some(1e-5)));
        assert_eq!((read.bool("bool").unwrap(), read.string("string").unwrap()), (Some(true), Some("Ġé")));
        assert_eq!(read.strings("strings").unwrap(), Some(vec!["a", ""]));
        assert_eq!((read.u64s("i32s").unwrap(), read.f64s("f32s").unwrap()), (Some(vec![1, 3]), Some(vec![-0.5])));
        assert_eq!(file.read_f32("a").unwrap(), [0.0, 1.0, 2.0]);
        assert_eq!((file.shape("b"), file.num_bytes("b")), (Some(&[2, 3][..]), 12));
        assert_eq!(file.read_f32("b").unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        let worst =
            file.read_f32("c").unwrap().iter().enumerate().map(|(i, v)| (i as f32 - v).abs()).fold(0.0, f32::max);
        assert!(worst > 0.0 && worst <= 0.5625 * 95.0 / 127.0, "rounded, within the bound of Q8_0: {worst}");
        assert_eq!(file.read_f32("d").unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0]);
    }

    #[test]
    fn a_value_that_does_not_fit_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        let tensor = HostTensor { name: "t".into(), shape: vec![1], values: vec![1e6] };
        let tensors = vec![GgufTensor { tensor: tensor.into(), precision: Precision::F16 }];
        assert_eq!(write_gguf(&Disk, &path, &Vec::new(), tensors).unwrap_err().exit_code(), 2);
    }
}
