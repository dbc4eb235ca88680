//! A file opened once and read in pieces, by offset, from any thread.
//!
//! Reads go through `seek` and `read` rather than a memory map: a map needs `unsafe`, and turns a file that is
//! truncated meanwhile into a crash. It would not help either: the mapped pages count as memory beside the values that are
//! made of them (measured: twice the memory of this reader, hardly less time).
//! Next: [`super::dequantize`], which makes numbers of the bytes.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

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
    /// Opens a regular file for reading. Anything else is refused before it is opened: opening a named pipe waits for a
    /// writer that may never come.
    pub fn open(path: &Path) -> Result<Self> {
        if !std::fs::metadata(path).map_err(Error::reading(path))?.is_file() {
            return Err(Error::input(path, "is not a file"));
        }
        let file = File::open(path).map_err(Error::reading(path))?;
        let metadata = file.metadata().map_err(Error::reading(path))?;
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

    /// Decodes `num_bytes` of values from `offset` on, in parallel. The caller has checked that they lie inside the file and
    /// are whole blocks of `storage`.
    pub fn read_f32(&self, offset: u64, num_bytes: u64, storage: StorageType) -> Result<Vec<f32>> {
        let (block_bytes, block_len) = (storage.block_bytes(), storage.block_len());
        let blocks_per_piece = PIECE_BYTES / block_bytes;
        let piece_bytes = blocks_per_piece * block_bytes;
        // Zeroed memory is untouched memory: the threads that decode touch it first, which is most of the time here.
        let mut values = vec![0.0; num_bytes as usize / block_bytes * block_len];
        let pieces = values.par_chunks_mut(blocks_per_piece * block_len).enumerate();
        pieces.try_for_each_init(Vec::new, |bytes, (i, values)| {
            bytes.resize(values.len() / block_len * block_bytes, 0);
            self.read_exact_at(offset + (i * piece_bytes) as u64, bytes)?;
            storage.decode(bytes, values);
            Ok(())
        })?;
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
        assert_eq!(file.read_f32(4, 8, StorageType::F32).unwrap(), expected[1..3]);
    }

    #[test]
    fn blocks_that_do_not_divide_a_piece_come_whole_and_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("blocks");
        let num_blocks = 2 * PIECE_BYTES / StorageType::Q8_0.block_bytes() + 5;
        // Scale 1 (f16 0x3c00), 32 times the number of the block, which repeats after 127.
        let block = |i: usize| [&[0x00, 0x3c][..], &[(i % 127) as u8; 32]].concat();
        let bytes: Vec<u8> = (0..num_blocks).flat_map(block).collect();
        std::fs::write(&path, &bytes).unwrap();
        let values = FileBytes::open(&path).unwrap().read_f32(0, bytes.len() as u64, StorageType::Q8_0).unwrap();
        let expected: Vec<f32> = (0..num_blocks).flat_map(|i| [(i % 127) as f32; 32]).collect();
        assert!(values == expected, "{} values, {} expected, or another order", values.len(), expected.len());
    }

    #[test]
    fn a_file_that_shrinks_after_it_was_opened_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shrinks");
        std::fs::write(&path, vec![0; 3 * PIECE_BYTES]).unwrap();
        let file = FileBytes::open(&path).unwrap();
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(PIECE_BYTES as u64).unwrap();
        assert_eq!(file.read_f32(0, 3 * PIECE_BYTES as u64, StorageType::F32).unwrap_err().exit_code(), 3);
    }
}
