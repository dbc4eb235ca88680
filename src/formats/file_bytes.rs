//! A file opened once and read in pieces, by offset, from any thread.
//!
//! Reads go through `seek` and `read` rather than a memory map: a map needs `unsafe`, and turns a file that is
//! truncated meanwhile into a crash. Next: [`super::dequantize`], which makes numbers of the bytes.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::dequantize::StorageType;
use crate::error::{Error, Result};

/// Values are decoded from pieces of about this many bytes, so that a tensor's raw bytes are never all in memory.
const PIECE_BYTES: usize = 1 << 20;

/// An open file of known length.
#[derive(Debug)]
pub struct FileBytes {
    path: PathBuf,
    len: u64,
    file: Mutex<File>,
}

impl FileBytes {
    /// Opens a regular file for reading.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::reading(path))?;
        let metadata = file.metadata().map_err(Error::reading(path))?;
        if !metadata.is_file() {
            return Err(Error::input(path, "is not a file"));
        }
        Ok(Self { path: path.to_owned(), len: metadata.len(), file: Mutex::new(file) })
    }

    /// The path that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes in the file when it was opened.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Fills `buffer` from `offset` on.
    pub fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        // A poisoned lock only means that another reader stopped; the position is set anew here.
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(offset))
            .and_then(|_| file.read_exact(buffer))
            .map_err(|error| Error::reading(&self.path)(error).at(format!("byte {offset}")))
    }

    /// Reads `len` bytes from `offset` on; refuses before allocating if the file does not have them.
    pub fn read(&self, offset: u64, len: u64) -> Result<Vec<u8>> {
        if offset.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(Error::input(&self.path, format!("ends at byte {}; {len} more are needed", self.len))
                .at(format!("byte {offset}")));
        }
        let mut bytes = vec![0; len as usize];
        self.read_exact_at(offset, &mut bytes)?;
        Ok(bytes)
    }

    /// Decodes `num_bytes` of values from `offset` on. The caller has checked that they lie inside the file and are
    /// whole blocks of `storage`.
    pub fn read_f32(&self, offset: u64, num_bytes: u64, storage: StorageType) -> Result<Vec<f32>> {
        let block_bytes = storage.block_bytes();
        let num_values = num_bytes as usize / block_bytes * storage.block_len();
        let mut values = Vec::with_capacity(num_values);
        let mut piece = vec![0; (PIECE_BYTES / block_bytes * block_bytes).min(num_bytes as usize)];
        let mut at = 0;
        while at < num_bytes {
            let len = (num_bytes - at).min(piece.len() as u64);
            let part = &mut piece[..len as usize];
            self.read_exact_at(offset + at, part)?;
            storage.decode(part, &mut values);
            at += len;
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_past_the_end_is_refused_before_it_allocates() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ten");
        std::fs::write(&path, [7; 10]).unwrap();
        let file = FileBytes::open(&path).unwrap();
        assert_eq!(file.read(8, 2).unwrap(), [7, 7]);
        assert_eq!(file.read(8, 3).unwrap_err().exit_code(), 3);
        assert_eq!(file.read(u64::MAX, u64::MAX).unwrap_err().exit_code(), 3);
    }

    #[test]
    fn values_larger_than_one_piece_come_whole_and_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("floats");
        let expected: Vec<f32> = (0..PIECE_BYTES / 4 * 2 + 3).map(|i| i as f32).collect();
        let bytes: Vec<u8> = expected.iter().flat_map(|value| value.to_le_bytes()).collect();
        std::fs::write(&path, &bytes).unwrap();
        let file = FileBytes::open(&path).unwrap();
        assert_eq!(file.read_f32(0, bytes.len() as u64, StorageType::F32).unwrap(), expected);
    }
}
