//! Whether files are the ones they were: a hash of what is in them, wherever they lie.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// BLAKE3 over the contents of files, in hexadecimal digits.
///
/// # Errors
/// [`Error::Input`] for what cannot be read.
pub fn fingerprint(paths: &[PathBuf]) -> Result<String> {
    let mut hash = blake3::Hasher::new();
    paths.iter().try_for_each(|path| add_file(&mut hash, path))?;
    Ok(hash.finalize().to_hex().to_string())
}

/// Length first: the bytes of one file must not count as the next one's.
fn add_file(hash: &mut blake3::Hasher, path: &Path) -> Result<()> {
    let mut file = File::open(path).map_err(Error::reading(path))?;
    hash.update(&file.metadata().map_err(Error::reading(path))?.len().to_le_bytes());
    let mut bytes = vec![0; 1 << 20];
    loop {
        match file.read(&mut bytes).map_err(Error::reading(path))? {
            0 => return Ok(()),
            num_bytes => {
                hash.update(&bytes[..num_bytes]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_fingerprint_is_of_the_content_and_not_of_the_place() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for folder in [&a, &b] {
            fs::write(folder.path().join("x"), "one").unwrap();
            fs::write(folder.path().join("y"), "two").unwrap();
        }
        let of = |folder: &tempfile::TempDir| fingerprint(&["x", "y"].map(|name| folder.path().join(name))).unwrap();
        assert_eq!(of(&a), of(&b));
        fs::write(b.path().join("x"), "onet").unwrap();
        fs::write(b.path().join("y"), "wo").unwrap();
        assert_ne!(of(&a), of(&b));
        assert_eq!(fingerprint(&[a.path().join("none")]).unwrap_err().exit_code(), 3);
    }
}
