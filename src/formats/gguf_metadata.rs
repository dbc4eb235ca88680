//! The metadata of a GGUF file: typed values under keys such as `llama.block_count`.
//!
//! The readers below say which key has the wrong type. Next: `gguf_model`, which knows what the keys mean.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::gguf_write::{MetadataEntries, MetadataToWrite};
use crate::error::{Error, Result};

/// One metadata value. Integers of all widths are widened.
#[derive(Clone, Debug, PartialEq)]
pub enum GgufValue {
    Unsigned(u64),
    Signed(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    String(String),
    Array(Vec<GgufValue>),
}

impl GgufValue {
    fn kind(&self) -> &'static str {
        match self {
            Self::Unsigned(_) | Self::Signed(_) => "an integer",
            Self::F32(_) | Self::F64(_) => "a number",
            Self::Bool(_) => "a truth value",
            Self::String(_) => "a string",
            Self::Array(_) => "an array",
        }
    }

    /// The value in the type that converters give to such values.
    fn to_write(&self) -> Option<MetadataToWrite> {
        Some(match self {
            Self::Unsigned(_) | Self::Signed(_) => MetadataToWrite::U32(self.as_u64()?.try_into().ok()?),
            Self::F32(value) => MetadataToWrite::F32(*value),
            Self::F64(_) => return None,
            Self::Bool(value) => MetadataToWrite::Bool(*value),
            Self::String(value) => MetadataToWrite::String(value.clone()),
            Self::Array(values) => match values.first() {
                None | Some(Self::String(_)) => MetadataToWrite::Strings(
                    values.iter().map(|v| Some(v.as_str()?.to_owned())).collect::<Option<_>>()?,
                ),
                Some(Self::F32(_)) => {
                    let number = |value: &Self| if let Self::F32(value) = value { Some(*value) } else { None };
                    MetadataToWrite::F32s(values.iter().map(number).collect::<Option<_>>()?)
                }
                Some(_) => {
                    let number = |value: &Self| value.as_u64()?.try_into().ok();
                    MetadataToWrite::I32s(values.iter().map(number).collect::<Option<_>>()?)
                }
            },
        })
    }

    fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Unsigned(value) => Some(*value),
            Self::Signed(value) => u64::try_from(*value).ok(),
            _ => None,
        }
    }

    /// An `f32` becomes the shortest decimal that denotes it: 0.00001 stays 0.00001, not 0.000009999999747.
    fn as_f64(&self) -> Option<f64> {
        match self {
            Self::F32(value) => value.to_string().parse().ok(),
            Self::F64(value) => Some(*value),
            _ => None,
        }
    }

    fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(value) => Some(value),
            _ => None,
        }
    }
}

/// All metadata of one file.
#[derive(Debug)]
pub struct GgufMetadata {
    path: PathBuf,
    values: HashMap<String, GgufValue>,
}

impl GgufMetadata {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), values: HashMap::new() }
    }

    pub(super) fn insert(&mut self, key: String, value: GgufValue) -> Result<()> {
        match self.values.insert(key.clone(), value) {
            Some(_) => Err(Error::input(&self.path, "is there twice").at(key)),
            None => Ok(()),
        }
    }

    /// The value of `key` as `read` sees it: `None` if the key is absent, an error if it is of another type.
    fn get<'a, T>(&'a self, key: &str, expected: &str, read: impl Fn(&'a GgufValue) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.values.get(key) else { return Ok(None) };
        match read(value) {
            Some(value) => Ok(Some(value)),
            None => Err(Error::input(&self.path, format!("expected {expected}, found {}", value.kind())).at(key)),
        }
    }

    /// An integer that is not negative.
    pub fn u64(&self, key: &str) -> Result<Option<u64>> {
        self.get(key, "an integer of at least 0", GgufValue::as_u64)
    }

    /// A finite number.
    pub fn f64(&self, key: &str) -> Result<Option<f64>> {
        self.get(key, "a finite number", |value| value.as_f64().filter(|number| number.is_finite()))
    }

    /// A truth value.
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.get(key, "a truth value", |value| match value {
            GgufValue::Bool(value) => Some(*value),
            _ => None,
        })
    }

    /// A string.
    pub fn string(&self, key: &str) -> Result<Option<&str>> {
        self.get(key, "a string", GgufValue::as_str)
    }

    /// An array of strings.
    pub fn strings(&self, key: &str) -> Result<Option<Vec<&str>>> {
        self.array(key, "an array of strings", GgufValue::as_str)
    }

    /// An array of integers that are not negative.
    pub fn u64s(&self, key: &str) -> Result<Option<Vec<u64>>> {
        self.array(key, "an array of integers of at least 0", GgufValue::as_u64)
    }

    /// An array of numbers that are not NaN.
    pub fn f64s(&self, key: &str) -> Result<Option<Vec<f64>>> {
        self.array(key, "an array of numbers", |value| value.as_f64().filter(|number| !number.is_nan()))
    }

    fn array<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        read: impl Fn(&'a GgufValue) -> Option<T>,
    ) -> Result<Option<Vec<T>>> {
        self.get(key, expected, |value| match value {
            GgufValue::Array(values) => values.iter().map(&read).collect(),
            _ => None,
        })
    }

    /// The entries whose keys begin with `prefix`, by key, as they can be written again.
    ///
    /// # Errors
    /// [`Error::Input`] for a value of a type that is not written.
    pub fn to_write(&self, prefix: &str) -> Result<MetadataEntries> {
        let mut found: Vec<_> = self.values.iter().filter(|(key, _)| key.starts_with(prefix)).collect();
        found.sort_by_key(|(key, _)| *key);
        let entry = |(key, value): (&String, &GgufValue)| match value.to_write() {
            Some(value) => Ok((key.clone(), value)),
            None => Err(Error::input(&self.path, format!("{} that cannot be written again", value.kind())).at(key)),
        };
        found.into_iter().map(entry).collect()
    }

    /// The error for a key that must be there.
    pub fn missing(&self, key: &str) -> Error {
        Error::input(&self.path, "is missing from the metadata").at(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(value: GgufValue) -> GgufMetadata {
        let mut metadata = GgufMetadata::new(Path::new("m.gguf"));
        metadata.insert("k".into(), value).unwrap();
        metadata
    }

    #[test]
    fn a_value_of_the_wrong_type_is_an_error_that_names_the_key() {
        let error = metadata(GgufValue::String("8".into())).u64("k").unwrap_err();
        assert_eq!(error.to_string(), "m.gguf, k: expected an integer of at least 0, found a string");
        assert!(metadata(GgufValue::Signed(-1)).u64("k").is_err());
        assert!(metadata(GgufValue::F32(f32::NAN)).f64("k").is_err());
        assert_eq!(metadata(GgufValue::Signed(3)).u64("k").unwrap(), Some(3));
        assert_eq!(metadata(GgufValue::Signed(3)).u64("absent").unwrap(), None);
    }

    #[test]
    fn a_single_precision_number_keeps_its_short_decimal_form() {
        assert_eq!(metadata(GgufValue::F32(1e-5)).f64("k").unwrap(), Some(1e-5));
    }

    #[test]
    fn entries_of_a_prefix_are_written_again_in_the_types_of_converters() {
        let mut metadata = metadata(GgufValue::Bool(true));
        let array = GgufValue::Array;
        for (key, value) in [
            ("t.types", array(vec![GgufValue::Signed(3), GgufValue::Signed(1)])),
            ("t.scores", array(vec![GgufValue::F32(-0.5)])),
            ("t.merges", array(Vec::new())),
            ("t.eos", GgufValue::Unsigned(2)),
        ] {
            metadata.insert(key.into(), value).unwrap();
        }
        let expected = [
            ("t.eos", MetadataToWrite::U32(2)),
            ("t.merges", MetadataToWrite::Strings(Vec::new())),
            ("t.scores", MetadataToWrite::F32s(vec![-0.5])),
            ("t.types", MetadataToWrite::I32s(vec![3, 1])),
        ];
        assert_eq!(metadata.to_write("t.").unwrap(), expected.map(|(key, value)| (key.to_owned(), value)));
        metadata.insert("t.odd".into(), array(vec![GgufValue::Bool(true)])).unwrap();
        let error = metadata.to_write("t.").unwrap_err().to_string();
        assert_eq!(error, "m.gguf, t.odd: an array that cannot be written again");
    }

    #[test]
    fn a_key_that_comes_twice_is_refused() {
        let mut metadata = metadata(GgufValue::Bool(true));
        assert_eq!(metadata.insert("k".into(), GgufValue::Bool(true)).unwrap_err().exit_code(), 3);
    }
}
