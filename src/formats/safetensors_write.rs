//! Safetensors files out: tensors whose values are fetched one at a time. Files in, and the layout: [`super::safetensors`].

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::atomic_write::replace_file;
use super::file_system::Disk;
use super::quantize::Precision;
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

    /// The same tensor under another name.
    pub fn renamed(self, name: String) -> Self {
        TensorToWrite { name, ..self }
    }

    /// Its name in the file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Row-major shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Fetches the values.
    ///
    /// # Errors
    /// Of the device that they lie on.
    /// # Panics
    /// If they are not as many as the shape says: a bug of the caller.
    pub fn into_host(self) -> Result<HostTensor> {
        let values = (self.values)()?;
        let num_values: usize = self.shape.iter().product();
        assert_eq!(values.len(), num_values, "`{}`: number of values for shape {:?}", self.name, self.shape);
        Ok(HostTensor { name: self.name, shape: self.shape, values })
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

/// The bytes of a safetensors file of F32 tensors: see [`write_tensors_as`].
///
/// # Errors
/// As there.
pub fn write_tensors(
    file: &mut dyn Write,
    path: &Path,
    tensors: Vec<TensorToWrite>,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    write_tensors_as(file, path, tensors, metadata, Precision::F32)
}

/// The bytes of a safetensors file, into whatever `file` is; errors call it `path`.
///
/// `metadata` is written with `format: "pt"` added, which `transformers` insists on, unless it has a `format` of its
/// own.
///
/// # Errors
/// [`Error::Disk`] if writing fails, [`Error::Usage`] for a value beyond the type's range, and any error of a tensor's
/// `values`.
/// # Panics
/// If two tensors have one name, a tensor's values do not fit its shape, or `precision` is Q8_0: bugs of the caller.
pub fn write_tensors_as(
    file: &mut dyn Write,
    path: &Path,
    mut tensors: Vec<TensorToWrite>,
    metadata: &BTreeMap<String, String>,
    precision: Precision,
) -> Result<()> {
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    let header = header_bytes(&tensors, metadata, precision);
    let prefix = (header.len() as u64).to_le_bytes();
    file.write_all(&prefix).and_then(|()| file.write_all(&header)).map_err(Error::writing("write", path))?;
    for tensor in tensors {
        let tensor = tensor.into_host()?;
        if precision != Precision::F32 {
            precision.check(&tensor.name, &tensor.values)?;
        }
        precision.write(file, &tensor.values).map_err(Error::writing("write", path))?;
    }
    Ok(())
}

fn header_bytes(tensors: &[TensorToWrite], metadata: &BTreeMap<String, String>, precision: Precision) -> Vec<u8> {
    assert!(precision != Precision::Q8_0, "safetensors has no Q8_0");
    let mut strings = metadata.clone();
    strings.entry("format".into()).or_insert_with(|| "pt".into());
    let mut header = Map::from_iter([(METADATA_KEY.to_owned(), json!(strings))]);
    let mut start = 0;
    for tensor in tensors {
        let end = start + precision.num_bytes(tensor.num_values());
        let dtype = format!("{precision:?}"); // F32, F16 and BF16 are called so there
        let info = json!({"dtype": dtype, "shape": tensor.shape, "data_offsets": [start, end]});
        assert!(header.insert(tensor.name.clone(), info).is_none(), "two tensors named `{}`", tensor.name);
        start = end;
    }
    let mut bytes = Value::Object(header).to_string().into_bytes();
    bytes.resize(bytes.len().next_multiple_of(8), b' '); // so that the values are aligned in the file
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::safetensors::open_safetensors;

    #[test]
    fn half_precision_takes_half_the_bytes_and_is_rounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("half.safetensors");
        let tensor = HostTensor { name: "t".into(), shape: vec![2], values: vec![1.0, 1.0 + 2f32.powi(-10)] };
        for (precision, second) in [(Precision::F16, 1.0 + 2f32.powi(-10)), (Precision::BF16, 1.0)] {
            let mut file = std::fs::File::create(&path).unwrap();
            let tensors = vec![tensor.clone().into()];
            write_tensors_as(&mut file, &path, tensors, &BTreeMap::new(), precision).unwrap();
            let file = open_safetensors(&path).unwrap();
            assert_eq!((file.num_bytes("t"), file.read_f32("t").unwrap()), (4, vec![1.0, second]), "{precision:?}");
        }
    }
}
