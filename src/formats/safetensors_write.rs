//! Safetensors files out: tensors whose values are fetched one at a time. Files in, and the layout: [`super::safetensors`].

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::atomic_write::replace_file;
use super::file_system::Disk;
use super::safetensors::METADATA_KEY;
use crate::error::{Error, Result};

/// One tensor in host memory: what a reader hands over and a writer takes.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    /// Its name in the file.
    pub name: String,
    /// Row-major shape.
    pub shape: Vec<usize>,
    /// As many values as the shape says.
    pub values: Vec<f32>,
}

/// A tensor to be written: its values are fetched when their turn comes and dropped afterwards, so that writing a model
/// needs memory for one tensor, not for a second model.
pub struct TensorToWrite<'a> {
    name: String,
    shape: Vec<usize>,
    values: Box<dyn FnOnce() -> Result<Vec<f32>> + 'a>,
}

impl<'a> TensorToWrite<'a> {
    /// `values` is called once, while the file is being written.
    pub fn new(name: impl Into<String>, shape: &[usize], values: impl FnOnce() -> Result<Vec<f32>> + 'a) -> Self {
        Self { name: name.into(), shape: shape.to_owned(), values: Box::new(values) }
    }

    /// The product of its shape.
    pub fn num_values(&self) -> usize {
        self.shape.iter().product()
    }

    /// The same tensor, whose values are shown to `check` before they are written.
    pub fn checked(self, check: impl FnOnce(&str, &[f32]) -> Result<()> + 'a) -> Self {
        let TensorToWrite { name, shape, values } = self;
        let checked_name = name.clone();
        let values = Box::new(move || {
            let values = values()?;
            check(&checked_name, &values).map(|()| values)
        });
        TensorToWrite { name, shape, values }
    }

    /// Fetches the values.
    ///
    /// # Errors
    /// Of the device that they lie on.
    pub fn into_host(self) -> Result<HostTensor> {
        Ok(HostTensor { name: self.name, shape: self.shape, values: (self.values)()? })
    }
}

impl From<HostTensor> for TensorToWrite<'_> {
    fn from(tensor: HostTensor) -> Self {
        Self { name: tensor.name, shape: tensor.shape, values: Box::new(move || Ok(tensor.values)) }
    }
}

/// Writes tensors as F32, sorted by name, so that equal content gives equal bytes. The file at `path` is replaced only
/// once the new one is complete and on disk. See [`write_tensors`].
///
/// # Errors
/// [`Error::Disk`] if writing fails, and any error of a tensor's `values`.
pub fn write_safetensors(path: &Path, tensors: Vec<TensorToWrite>, metadata: &BTreeMap<String, String>) -> Result<()> {
    replace_file(&Disk, path, |file| write_tensors(file, path, tensors, metadata))
}

/// The bytes of a safetensors file, into whatever `file` is; errors call it `path`.
///
/// `metadata` is written with `format: "pt"` added, which `transformers` insists on, unless it has a `format` of its
/// own.
///
/// # Errors
/// [`Error::Disk`] if writing fails, and any error of a tensor's `values`.
/// # Panics
/// If two tensors have one name, or a tensor's values do not fit its shape: bugs of the caller.
pub fn write_tensors(
    file: &mut dyn Write,
    path: &Path,
    mut tensors: Vec<TensorToWrite>,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    let header = header_bytes(&tensors, metadata);
    let prefix = (header.len() as u64).to_le_bytes();
    file.write_all(&prefix).and_then(|()| file.write_all(&header)).map_err(Error::writing("write", path))?;
    for tensor in tensors {
        let (num_values, shape) = (tensor.num_values(), tensor.shape);
        let values = (tensor.values)()?;
        assert_eq!(values.len(), num_values, "`{}`: number of values for shape {shape:?}", tensor.name);
        write_values(file, &values).map_err(Error::writing("write", path))?;
    }
    Ok(())
}

fn header_bytes(tensors: &[TensorToWrite], metadata: &BTreeMap<String, String>) -> Vec<u8> {
    let mut strings = metadata.clone();
    strings.entry("format".into()).or_insert_with(|| "pt".into());
    let mut header = Map::from_iter([(METADATA_KEY.to_owned(), json!(strings))]);
    let mut start = 0;
    for tensor in tensors {
        let end = start + 4 * tensor.num_values();
        let info = json!({"dtype": "F32", "shape": tensor.shape, "data_offsets": [start, end]});
        assert!(header.insert(tensor.name.clone(), info).is_none(), "two tensors named `{}`", tensor.name);
        start = end;
    }
    let mut bytes = Value::Object(header).to_string().into_bytes();
    bytes.resize(bytes.len().next_multiple_of(8), b' '); // so that the values are aligned in the file
    bytes
}

fn write_values(file: &mut dyn Write, values: &[f32]) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    for piece in values.chunks(1 << 14) {
        bytes.clear();
        bytes.extend(piece.iter().flat_map(|value| value.to_le_bytes()));
        file.write_all(&bytes)?;
    }
    Ok(())
}
