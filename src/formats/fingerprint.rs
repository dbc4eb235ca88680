//! Whether files are the ones they were: a hash of what is in them, wherever they lie.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// SHA-256 over names and contents, in hexadecimal digits. Of a folder the files in it count, those in its own folders do
/// not; of a file its content alone.
///
/// # Errors
/// [`Error::Input`] for what cannot be read.
pub fn fingerprint(paths: &[PathBuf]) -> Result<String> {
    let mut hash = Sha256::new();
    for path in paths {
        if !path.is_dir() {
            add_file(&mut hash, path)?;
            continue;
        }
        let entries = std::fs::read_dir(path).map_err(Error::reading(path))?;
        let inner: std::io::Result<Vec<PathBuf>> = entries.map(|entry| Ok(entry?.path())).collect();
        let mut inner = inner.map_err(Error::reading(path))?;
        inner.retain(|path| path.is_file());
        inner.sort_unstable();
        for path in &inner {
            hash.update(path.file_name().unwrap_or_default().as_encoded_bytes());
            add_file(&mut hash, path)?;
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Length first: the bytes of one file must not count as the next one's.
fn add_file(hash: &mut Sha256, path: &Path) -> Result<()> {
    let mut file = File::open(path).map_err(Error::reading(path))?;
    hash.update(file.metadata().map_err(Error::reading(path))?.len().to_le_bytes());
    let mut bytes = vec![0; 1 << 20];
    loop {
        match file.read(&mut bytes).map_err(Error::reading(path))? {
            0 => return Ok(()),
            num_bytes => hash.update(&bytes[..num_bytes]),
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
        let of = |folder: &tempfile::TempDir| fingerprint(&[folder.path().to_owned()]).unwrap();
        assert_eq!(of(&a), of(&b));
        fs::write(b.path().join("x"), "onet").unwrap();
        fs::write(b.path().join("y"), "wo").unwrap();
        assert_ne!(of(&a), of(&b));
        assert_eq!(fingerprint(&[a.path().join("none")]).unwrap_err().exit_code(), 3);
    }
}
