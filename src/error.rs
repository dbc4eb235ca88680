//! What can go wrong in the outside world, said so that a person can act on it.
//!
//! Every variant names the place (file and line, tensor, key), has an exit code and may carry a hint. Our own bugs are
//! `assert!`s, not errors. Next: [`crate::config`].

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// What helps where writing fails, whatever is written.
const FREE_SPACE: &str = "free some space, or use another disk; what was saved before is intact";

/// What helps where a text is not UTF-8.
pub(crate) const NEEDS_UTF8: &str = "save it as UTF-8; what `>` of Windows PowerShell 5 wrote (UTF-16, letters that are not \
                                     English spoilt), write again from cmd or PowerShell 7.4";

/// `Result` with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// An error that a user can cause and mend. See [`Error::exit_code`] for what each means to a shell.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line asks for something that cannot be done.
    #[error("{message}")]
    Usage { message: String, hint: Option<String> },
    /// A configuration value is unknown, misspelt or impossible. `place` is `file:line:column` or the override itself.
    #[error("{place}: {message}")]
    Config { place: String, message: String, hint: Option<String> },
    /// An input file is missing, damaged or does not fit. `place` is a line, a tensor or a field in it.
    #[error("{}{}: {message}", path.display(), place.as_deref().map(|p| format!(", {p}")).unwrap_or_default())]
    Input { path: PathBuf, place: Option<String>, message: String, hint: Option<String> },
    /// The device is missing, lost, out of memory, or not compiled in.
    #[error("device `{device}`: {message}")]
    Device { device: String, message: String, hint: Option<String> },
    /// A server (of responses, of models) does not answer, answers nonsense, or serves something else.
    #[error("server {url}: {message}")]
    Server { url: String, message: String, hint: Option<String> },
    /// Training produced numbers that must not be trained on or saved.
    #[error("{message}")]
    Training { message: String, hint: Option<String> },
    /// Writing failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Disk { path: PathBuf, action: &'static str, source: std::io::Error, hint: Option<String> },
    /// There is too little space to write what has to be written.
    #[error("{}: the disk is full: {} needed, {}", path.display(), bytes(*needed_bytes), match free_bytes {
        Some(free_bytes) => format!("{} free", bytes(*free_bytes)),
        None => "too little free".to_owned(),
    })]
    DiskFull { path: PathBuf, needed_bytes: u64, free_bytes: Option<u64>, hint: Option<String> },
    /// Another process works in this folder.
    #[error("{}: {message}", path.display())]
    Locked { path: PathBuf, message: String },
    /// A signal asked the program to stop; everything is saved.
    #[error("stopped by signal {signal} after saving")]
    Stopped { signal: i32, hint: Option<String> },
}

impl Error {
    /// A bad command line.
    pub fn usage(message: impl Into<String>) -> Self {
        Error::Usage { message: message.into(), hint: None }
    }

    /// A bad configuration value at `place`.
    pub fn config(place: impl Into<String>, message: impl Into<String>) -> Self {
        Error::Config { place: place.into(), message: message.into(), hint: None }
    }

    /// A bad input file.
    pub fn input(path: impl AsRef<Path>, message: impl Into<String>) -> Self {
        Error::Input { path: path.as_ref().to_owned(), place: None, message: message.into(), hint: None }
    }

    /// A device that cannot do what is asked.
    pub fn device(device: impl Into<String>, message: impl Into<String>) -> Self {
        Error::Device { device: device.into(), message: message.into(), hint: None }
    }

    /// A server that does not do what it is for.
    pub fn server(url: impl Into<String>, message: impl Into<String>) -> Self {
        Error::Server { url: url.into(), message: message.into(), hint: None }
    }

    /// Non-finite or collapsed training.
    pub fn training(message: impl Into<String>) -> Self {
        Error::Training { message: message.into(), hint: None }
    }

    /// For `map_err` on reads: a missing or unreadable input file.
    pub fn reading(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| {
            let hint = match source.kind() {
                ErrorKind::NotFound => where_it_may_be(&path),
                // The standard library's words for a text that is no UTF-8.
                ErrorKind::InvalidData if source.to_string().contains("UTF-8") => Some(NEEDS_UTF8.to_owned()),
                _ => None,
            };
            Error::Input { message: format!("cannot read: {source}"), path, place: None, hint }
        }
    }

    /// For `map_err` on writes.
    pub fn writing(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Error::Disk { path, action, source, hint: None }
    }

    /// Names the line, tensor or field of an [`Error::Input`]; other errors already name their place.
    pub fn at(mut self, place_in_file: impl Into<String>) -> Self {
        if let Error::Input { place, .. } = &mut self {
            *place = Some(place_in_file.into());
        }
        self
    }

    /// Takes over the advice of the error that this one tells of in other words or at another place.
    pub fn with_hint_of(self, other: &Error) -> Self {
        match other.hint() {
            Some(hint) => self.with_hint(hint),
            None => self,
        }
    }

    /// Adds advice, printed on a line of its own after the error.
    pub fn with_hint(mut self, advice: impl Into<String>) -> Self {
        match &mut self {
            Error::Usage { hint, .. }
            | Error::Config { hint, .. }
            | Error::Input { hint, .. }
            | Error::Device { hint, .. }
            | Error::Server { hint, .. }
            | Error::Training { hint, .. }
            | Error::Disk { hint, .. }
            | Error::DiskFull { hint, .. }
            | Error::Stopped { hint, .. } => *hint = Some(advice.into()),
            Error::Locked { .. } => {}
        }
        self
    }

    /// Says how to go on where nothing is lost: after a stop, and after a failure of a server that nothing else is known to
    /// help against.
    pub fn with_way_on(self, way: &str) -> Self {
        match self {
            Error::Stopped { .. } => self.with_hint(way),
            Error::Server { hint: None, .. } => {
                self.with_hint(format!("answers so far are kept: see to the server, then {way}"))
            }
            other => other,
        }
    }

    /// The advice, if there is any.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Error::Usage { hint, .. }
            | Error::Config { hint, .. }
            | Error::Input { hint, .. }
            | Error::Device { hint, .. }
            | Error::Server { hint, .. }
            | Error::Training { hint, .. } => hint.as_deref(),
            Error::Disk { source, hint, .. } => hint.as_deref().or(Some(advice_on_writing(source.kind()))),
            Error::DiskFull { hint, .. } => hint.as_deref().or(Some(FREE_SPACE)),
            Error::Locked { .. } => Some("wait for the other process, or end it"),
            Error::Stopped { hint, .. } => {
                hint.as_deref().or(Some("where results are kept in a folder, the same command goes on"))
            }
        }
    }

    /// 2 usage or config, 3 bad input file, 4 memory, device or server, 5 non-finite or collapsed training, 6 disk,
    /// 7 run folder locked, 128 + n stopped by signal n after saving.
    pub fn exit_code(&self) -> i32 {
        match self {
            Error::Usage { .. } | Error::Config { .. } => 2,
            Error::Input { .. } => 3,
            Error::Device { .. } | Error::Server { .. } => 4,
            Error::Training { .. } => 5,
            Error::Disk { .. } | Error::DiskFull { .. } => 6,
            Error::Locked { .. } => 7,
            Error::Stopped { signal, .. } => 128 + signal,
        }
    }
}

/// Whether what was to be written is a person's to read alone.
pub(crate) fn is_not_allowed(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem)
}

/// What helps where writing fails in this way.
fn advice_on_writing(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NotFound => {
            "the folder is not there: has it been removed, renamed or unmounted? Make it again, or choose another place"
        }
        kind if is_not_allowed(kind) => "this may not be written: change its permissions, or choose another place",
        ErrorKind::AlreadyExists | ErrorKind::NotADirectory | ErrorKind::IsADirectory => {
            "a file stands where a folder is wanted, or a folder where a file is: choose another place"
        }
        ErrorKind::Unsupported => "this file system cannot do that: choose another place, on another one",
        _ => FREE_SPACE,
    }
}

/// Advice about a file that is not there: where its link leads, a name beside it that is nearly the same, or the folder that
/// lacks.
fn where_it_may_be(path: &Path) -> Option<String> {
    /// Names that are looked at.
    const MAX_NAMES: usize = 1000;
    if let Ok(target) = std::fs::read_link(path) {
        return Some(format!("it is a symbolic link to {}, which is not there", target.display()));
    }
    let name = path.file_name()?.to_str()?;
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        return Some(format!("there is no folder {}", folder.display()));
    }
    let names =
        std::fs::read_dir(folder).ok()?.take(MAX_NAMES).filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let (distance, nearest) = names.map(|other| (strsim::osa_distance(name, &other), other)).min()?;
    (distance * 3 <= name.len()).then(|| format!("did you mean {}?", path.with_file_name(nearest).display()))
}

/// `517 bytes`, `12.3 MB`.
fn bytes(count: u64) -> String {
    match count {
        0..100_000 => format!("{count} bytes"),
        _ => format!("{:.1} MB", count as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_space_is_advised_only_where_space_may_be_what_lacks() {
        let hint = |kind: ErrorKind| {
            let error = Error::writing("write", "runs/night/latest")(kind.into());
            error.hint().map(str::to_owned).unwrap_or_default()
        };
        assert!(hint(ErrorKind::NotFound).starts_with("the folder is not there"));
        assert!(hint(ErrorKind::PermissionDenied).starts_with("this may not be written"));
        for kind in [ErrorKind::AlreadyExists, ErrorKind::NotADirectory, ErrorKind::IsADirectory] {
            assert!(hint(kind).starts_with("a file stands where a folder is wanted"), "{kind}");
        }
        assert!(hint(ErrorKind::Unsupported).starts_with("this file system cannot do that"));
        assert!(hint(ErrorKind::StorageFull).starts_with("free some space"));
        assert!(hint(ErrorKind::Other).starts_with("free some space"));
    }

    #[test]
    fn advice_holds_for_commands_without_an_output() {
        let path = PathBuf::from("runs/night");
        for error in [
            Error::writing("write", &path)(ErrorKind::StorageFull.into()),
            Error::DiskFull { path: path.clone(), needed_bytes: 2, free_bytes: Some(1), hint: None },
            Error::Locked { path, message: "another process works here".to_owned() },
        ] {
            assert!(!error.hint().unwrap().contains("--output"), "{error:?}");
        }
    }

    #[test]
    fn the_way_on_is_said_after_a_stop_and_after_a_server_failed_unless_other_advice_is_known() {
        let hint = |error: Error| error.with_way_on("run it again").hint().map(str::to_owned);
        assert_eq!(hint(Error::Stopped { signal: 2, hint: None }).unwrap(), "run it again");
        assert!(hint(Error::server("http://s", "is gone")).unwrap().ends_with(", then run it again"));
        assert_eq!(hint(Error::server("http://s", "is gone").with_hint("start it")).unwrap(), "start it");
        assert_eq!(hint(Error::training("diverged")), None);
    }

    #[test]
    fn a_text_in_another_encoding_is_to_be_saved_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gsil.ron");
        std::fs::write(&path, b"\xff\xfe(\0)\0").unwrap();
        let error = std::fs::read_to_string(&path).map_err(Error::reading(&path)).unwrap_err();
        assert_eq!(error.hint(), Some(NEEDS_UTF8), "{error}");
    }

    #[test]
    fn a_file_that_is_not_there_is_looked_for_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("rows.jsonl"), "").unwrap();
        let hint = |name: &str| {
            let path = folder.path().join(name);
            let error = std::fs::read(&path).map_err(Error::reading(&path)).unwrap_err();
            error.hint().map(str::to_owned)
        };
        let right = folder.path().join("rows.jsonl").display().to_string();
        assert_eq!(hint("row.jsonl"), Some(format!("did you mean {right}?")));
        assert_eq!(hint("demonstrations.json"), None);
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("gone.jsonl", folder.path().join("linked.jsonl")).unwrap();
            assert_eq!(hint("linked.jsonl").unwrap(), "it is a symbolic link to gone.jsonl, which is not there");
        }
        assert_eq!(
            hint("data/rows.jsonl"),
            Some(format!("there is no folder {}", folder.path().join("data").display()))
        );
    }
}
