//! The bytes of a GGUF header, read front to back as numbers, strings and values, none of them beyond the file's end.
//!
//! Every length is checked against the bytes that are left before anything is allocated. Next: [`super::gguf`].

use super::file_bytes::FileBytes;
use super::gguf_metadata::GgufValue;
use crate::error::{Error, Result};

/// Metadata and tensor table together; real ones have about 10 MiB, nearly all of it the vocabulary.
pub const MAX_HEADER_BYTES: u64 = 256 << 20;
const MAX_NAME_BYTES: u64 = 1_000;
const MAX_ENTRIES: u64 = 100_000;
/// Arrays in arrays in ...; real files have one level.
const MAX_DEPTH: usize = 4;
/// Metadata values, those in arrays included: a vocabulary needs four for each token.
const MAX_VALUES: u64 = 8_000_000;

/// Reads the header front to back, never beyond `end`.
pub struct HeaderReader<'a> {
    pub file: &'a FileBytes,
    /// Bytes from `buffer_start` on, so that small reads do not each go to the file.
    buffer: Vec<u8>,
    buffer_start: u64,
    pub position: u64,
    end: u64,
    num_values: u64,
}

impl<'a> HeaderReader<'a> {
    pub fn new(file: &'a FileBytes, end: u64) -> Self {
        Self { file, buffer: Vec::new(), buffer_start: 0, position: 0, end, num_values: 0 }
    }

    /// Reads the fixed first part; returns the numbers of tensors and of metadata entries.
    pub fn start(&mut self) -> Result<(u64, u64)> {
        let path = self.file.path();
        if self.end < 24 || self.take(4, "the start")? != *b"GGUF" {
            return Err(Error::input(path, "is not a GGUF file").with_hint(
                "give a Hugging Face model folder (config.json and model.safetensors inside) or a .gguf file",
            ));
        }
        let version = self.u32("the version")?;
        if !(2..=3).contains(&version) {
            let why = if version.swap_bytes() <= 3 { "it is big-endian" } else { "only versions 2 and 3 can be read" };
            return Err(Error::input(path, format!("is GGUF of version {version}: {why}")));
        }
        let (num_tensors, num_entries) = (self.u64("the start")?, self.u64("the start")?);
        // The smallest entry is an empty key, a type and a byte; the smallest tensor has an empty name and one
        // dimension.
        for (what, count, min_bytes) in [("tensors", num_tensors, 32), ("metadata entries", num_entries, 13)] {
            if count > MAX_ENTRIES || count > (self.end - self.position) / min_bytes {
                return Err(Error::input(path, format!("cannot have {count} {what}: the file is damaged")));
            }
        }
        Ok((num_tensors, num_entries))
    }

    /// The next `len` bytes; refused before anything is allocated if they are not there.
    fn take(&mut self, len: u64, what: &str) -> Result<Vec<u8>> {
        let left = self.end - self.position;
        if len > left {
            let message =
                format!("needs {len} bytes where the header has {left} left: the file is cut short or damaged");
            return Err(Error::input(self.file.path(), message).at(what));
        }
        let buffer_end = self.buffer_start + self.buffer.len() as u64;
        if self.position + len > buffer_end {
            let read_ahead = len.max(1 << 16).min(left);
            self.buffer = self.file.read(self.position, read_ahead)?;
            self.buffer_start = self.position;
        }
        let from = (self.position - self.buffer_start) as usize;
        self.position += len;
        Ok(self.buffer[from..from + len as usize].to_vec())
    }

    /// The next number of `N` bytes, for `from_le_bytes`.
    fn number<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.take(N as u64, what)?);
        Ok(bytes)
    }

    pub fn u32(&mut self, what: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.number(what)?))
    }

    pub fn u64(&mut self, what: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.number(what)?))
    }

    fn string(&mut self, what: &str, max_bytes: u64) -> Result<String> {
        let len = self.u64(what)?;
        if len > max_bytes {
            return Err(Error::input(self.file.path(), format!("is {len} bytes long: the file is damaged")).at(what));
        }
        String::from_utf8(self.take(len, what)?)
            .map_err(|_| Error::input(self.file.path(), "is not UTF-8: the file is damaged").at(what))
    }

    /// A key or a tensor's name: short, and safe to print.
    pub fn name(&mut self, what: &str) -> Result<String> {
        let name = self.string(what, MAX_NAME_BYTES)?;
        if name.chars().any(char::is_control) {
            return Err(Error::input(self.file.path(), format!("{name:?} has control characters")).at(what));
        }
        Ok(name)
    }

    /// A metadata value of the type numbered `kind`, inside `depth` arrays.
    pub fn value(&mut self, key: &str, kind: u32, depth: usize) -> Result<GgufValue> {
        let damaged = |message: String| Err(Error::input(self.file.path(), message).at(key));
        self.num_values += 1;
        if self.num_values > MAX_VALUES {
            return damaged(format!("is past {MAX_VALUES} metadata values: the file is damaged"));
        }
        Ok(match kind {
            0 => GgufValue::Unsigned(u8::from_le_bytes(self.number(key)?).into()),
            1 => GgufValue::Signed(i8::from_le_bytes(self.number(key)?).into()),
            2 => GgufValue::Unsigned(u16::from_le_bytes(self.number(key)?).into()),
            3 => GgufValue::Signed(i16::from_le_bytes(self.number(key)?).into()),
            4 => GgufValue::Unsigned(self.u32(key)?.into()),
            5 => GgufValue::Signed(i32::from_le_bytes(self.number(key)?).into()),
            6 => GgufValue::F32(f32::from_le_bytes(self.number(key)?)),
            7 => match self.number(key)? {
                [0] => GgufValue::Bool(false),
                [1] => GgufValue::Bool(true),
                [other] => return damaged(format!("is a truth value of {other}: the file is damaged")),
            },
            8 => GgufValue::String(self.string(key, MAX_HEADER_BYTES)?),
            9 => self.array(key, depth + 1)?,
            10 => GgufValue::Unsigned(self.u64(key)?),
            11 => GgufValue::Signed(i64::from_le_bytes(self.number(key)?)),
            12 => GgufValue::F64(f64::from_le_bytes(self.number(key)?)),
            other => return damaged(format!("has the unknown type {other}: the file is damaged or newer than known")),
        })
    }

    fn array(&mut self, key: &str, depth: usize) -> Result<GgufValue> {
        let damaged = |message: String| Err(Error::input(self.file.path(), message).at(key));
        if depth > MAX_DEPTH {
            return damaged(format!("has arrays more than {MAX_DEPTH} deep: the file is damaged"));
        }
        let kind = self.u32(key)?;
        let len = self.u64(key)?;
        // Every value has at least one byte, so this bounds the loop by the file's size.
        if len > self.end - self.position {
            return damaged(format!("has {len} values, more than the file has bytes: the file is damaged"));
        }
        let mut values = Vec::new();
        for _ in 0..len {
            values.push(self.value(key, kind, depth)?);
        }
        Ok(GgufValue::Array(values))
    }
}
