//! Safetensors files: named tensors in one file, opened without reading the values, written without holding them.
//!
//! Layout: `u64` header length, a JSON header (`name -> dtype, shape, data_offsets`, and `__metadata__`, a map of
//! strings), then the values, without gaps. Checkpoints and adapters use these functions too; a whole model is in
//! [`super::hf_folder`]. Source: <https://github.com/huggingface/safetensors>, whose crate checks the header here.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::path::Path;

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};

use super::dequantize::StorageType;
use super::file_bytes::FileBytes;
pub use super::safetensors_write::{HostTensor, TensorToWrite, write_safetensors, write_tensors, write_tensors_as};
use crate::error::{Error, Result};

/// The format's own limit.
const MAX_HEADER_BYTES: u64 = 100_000_000;
const MAX_TENSORS: usize = 100_000;
const MAX_NAME_BYTES: usize = 1_000;
const MAX_RANK: usize = 8;
pub(super) const METADATA_KEY: &str = "__metadata__";

/// An open safetensors file: its header checked, its values unread.
#[derive(Debug)]
pub struct SafetensorsFile {
    bytes: FileBytes,
    data_start: u64,
    tensors: BTreeMap<String, TensorInfo>,
    metadata: BTreeMap<String, String>,
}

/// Opens a safetensors file and checks its header against the file's size.
///
/// # Errors
/// [`Error::Input`] if the file is missing, cut short, or its header is not one: bad JSON, a tensor twice, overlapping
/// or missing ranges, sizes that do not fit the shapes, or more than anyone needs (100,000 tensors, 8 dimensions).
pub fn open_safetensors(path: &Path) -> Result<SafetensorsFile> {
    let bytes = FileBytes::open(path)?;
    if bytes.len() < 8 {
        return Err(Error::input(path, format!("is not a safetensors file: it has {} bytes", bytes.len())));
    }
    let mut prefix = [0; 8];
    bytes.read_exact_at(0, &mut prefix)?;
    let header_len = u64::from_le_bytes(prefix);
    if header_len > MAX_HEADER_BYTES {
        let message = format!("is not a safetensors file: its header would be {header_len} bytes long");
        return Err(Error::input(path, message));
    }
    if 8 + header_len > bytes.len() {
        return Err(cut_short(path, 8 + header_len, bytes.len(), "for its header alone"));
    }
    let header: Header = serde_json::from_slice(&bytes.read(8, header_len)?)
        .map_err(|error| Error::input(path, format!("the header is damaged: {error}")).at("header"))?;
    let data_start = 8 + header_len;
    let (tensors, data_len) = check_tensors(path, header.tensors)?;
    let expected = data_start.saturating_add(data_len as u64);
    if bytes.len() < expected {
        return Err(cut_short(path, expected, bytes.len(), "by its header"));
    }
    if bytes.len() > expected {
        let message = format!("has {} bytes, but its header accounts for {expected}", bytes.len());
        return Err(Error::input(path, message));
    }
    Ok(SafetensorsFile { bytes, data_start, tensors, metadata: header.metadata.into_iter().collect() })
}

fn cut_short(path: &Path, expected: u64, actual: u64, why: &str) -> Error {
    Error::input(path, format!("is cut short: it should have {expected} bytes {why}, but has {actual}"))
        .with_hint("copy or download the file again")
}

/// Lets the safetensors crate check that sizes fit shapes and that the ranges neither overlap nor leave gaps.
/// Returns the tensors and the length of the data in bytes.
fn check_tensors(path: &Path, mut tensors: Vec<(String, TensorInfo)>) -> Result<(BTreeMap<String, TensorInfo>, usize)> {
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    let checked = Metadata::new(None, tensors.clone())
        .map_err(|error| Error::input(path, format!("the header is damaged: {error}")).at("header"))?;
    Ok((tensors.into_iter().collect(), checked.data_len()))
}

impl SafetensorsFile {
    /// The path that was opened.
    pub fn path(&self) -> &Path {
        self.bytes.path()
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The shape of a tensor, or `None` if there is none of this name.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|info| info.shape.as_slice())
    }

    /// The strings that the writer of the file attached to it.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The bytes that a tensor takes in the file; 0 if there is none of this name.
    pub fn num_bytes(&self, name: &str) -> u64 {
        self.tensors.get(name).map_or(0, |info| (info.data_offsets.1 - info.data_offsets.0) as u64)
    }

    /// Reads one tensor's values, row-major. F16, BF16 and F64 become `f32`.
    ///
    /// # Errors
    /// [`Error::Input`] if the name is unknown, the type is not one of these, or reading fails.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        let path = self.bytes.path();
        let info = self.tensors.get(name).ok_or_else(|| Error::input(path, format!("has no tensor `{name}`")))?;
        let storage = match info.dtype {
            Dtype::F32 => StorageType::F32,
            Dtype::F16 => StorageType::F16,
            Dtype::BF16 => StorageType::BF16,
            Dtype::F64 => StorageType::F64,
            other => {
                return Err(Error::input(path, format!("has type {other}; expected F32, F16, BF16 or F64"))
                    .at(format!("tensor `{name}`")));
            }
        };
        self.bytes.read_f32(self.data_start + info.data_offsets.0 as u64, self.num_bytes(name), storage)
    }
}

/// The JSON header. Unlike a plain map it refuses a name that comes twice.
struct Header {
    metadata: HashMap<String, String>,
    tensors: Vec<(String, TensorInfo)>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a map from tensor names to their dtype, shape and data_offsets")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Header, A::Error> {
        let mut header = Header { metadata: HashMap::new(), tensors: Vec::new() };
        let mut seen = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if name.len() > MAX_NAME_BYTES {
                return Err(de::Error::custom(format!("a tensor's name is {} bytes long", name.len())));
            }
            if name.chars().any(char::is_control) {
                return Err(de::Error::custom(format!("the name {name:?} has control characters")));
            }
            if !seen.insert(name.clone()) {
                return Err(de::Error::custom(format!("`{name}` is there twice")));
            }
            if name == METADATA_KEY {
                header.metadata = map.next_value()?;
                continue;
            }
            let info: TensorInfo = map.next_value()?;
            if info.shape.len() > MAX_RANK {
                return Err(de::Error::custom(format!("tensor `{name}` has {} dimensions", info.shape.len())));
            }
            if header.tensors.len() == MAX_TENSORS {
                return Err(de::Error::custom(format!("more than {MAX_TENSORS} tensors")));
            }
            header.tensors.push((name, info));
        }
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use std::path::PathBuf;

    fn tensor(name: &str, shape: &[usize]) -> HostTensor {
        let len: usize = shape.iter().product();
        HostTensor { name: name.into(), shape: shape.into(), values: (0..len).map(|i| i as f32 / 4.0).collect() }
    }

    fn small_file(folder: &Path) -> PathBuf {
        let path = folder.join("small.safetensors");
        let tensors = ["b", "a"].map(|name| tensor(name, &[2, 3]).into());
        let metadata = BTreeMap::from([("step".to_owned(), "7".to_owned())]);
        write_safetensors(&path, tensors.into(), &metadata).unwrap();
        path
    }

    /// A file of `header` and `data_len` zero bytes.
    fn crafted(folder: &Path, header: &str, data_len: usize) -> Result<SafetensorsFile> {
        let path = folder.join("crafted.safetensors");
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data_len, 0);
        std::fs::write(&path, bytes).unwrap();
        open_safetensors(&path)
    }

    #[test]
    fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let file = open_safetensors(&small_file(folder.path())).unwrap();
        assert_eq!(file.names().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!((file.shape("a"), file.num_bytes("a")), (Some(&[2, 3][..]), 24));
        assert_eq!(file.read_f32("b").unwrap(), [0.0, 0.25, 0.5, 0.75, 1.0, 1.25]);
        assert_eq!((file.metadata()["step"].as_str(), file.metadata()["format"].as_str()), ("7", "pt"));
        assert_eq!(file.read_f32("c").unwrap_err().exit_code(), 3);
    }

    #[test]
    fn the_official_crate_reads_what_is_written_and_equal_content_gives_equal_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = std::fs::read(small_file(folder.path())).unwrap();
        let official = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(official.tensor("b").unwrap().shape(), [2, 3]);
        assert_eq!(official.tensor("b").unwrap().data()[4..8], 0.25f32.to_le_bytes());
        assert_eq!(bytes, std::fs::read(small_file(folder.path())).unwrap());
    }

    #[test]
    fn half_a_file_is_refused_with_both_sizes() {
        let folder = tempfile::tempdir().unwrap();
        let path = small_file(folder.path());
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 20]).unwrap();
        let error = open_safetensors(&path).unwrap_err().to_string();
        let expected = format!("should have {} bytes by its header, but has {}", bytes.len(), bytes.len() - 20);
        assert!(error.contains(&expected), "{error}");
    }

    #[test]
    fn half_precision_is_widened_and_integers_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let header = json!({
            "h": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]},
            "ids": {"dtype": "I64", "shape": [1], "data_offsets": [4, 12]},
        });
        let file = crafted(folder.path(), &header.to_string(), 12).unwrap();
        assert_eq!(file.read_f32("h").unwrap(), [0.0, 0.0]);
        let error = file.read_f32("ids").unwrap_err().to_string();
        assert!(error.contains("tensor `ids`: has type I64"), "{error}");
    }
}
