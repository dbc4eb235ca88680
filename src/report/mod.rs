//! What a person sees: progress while work goes on, tables when it is done, and the report of a run. What is said goes
//! to stderr except what a caller prints itself.
//!
//! [`write_report`] reads a run folder and leaves `report.html` and `tb/` in it; training calls it as it goes.

mod chart;
pub mod comparison;
pub mod console;
mod ended;
mod figures;
mod health;
mod html;
mod interval_chart;
mod page;
pub mod plot;
mod responses;
mod run_files;
mod series;
pub mod shell;
pub mod table;
mod tensorboard;
mod training_charts;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
pub use ended::Ended;
pub use page::{objective, samples, training};
use run_files::RunFiles;
pub use run_files::{check_holds_run, to_go_on_with_comparison};

/// The page inside the run folder.
pub const REPORT_FILE: &str = "report.html";
/// The same scalars for TensorBoard, inside the run folder.
pub const TENSORBOARD_FOLDER: &str = "tb";

/// Writes the report of the run in `folder` into it, for browsers and for TensorBoard, and returns the page's path. The
/// run may still be going on; `others` are drawn beside it.
///
/// # Errors
/// [`Error::Input`] if a folder holds no run or a file of it is missing or damaged; [`Error::Disk`].
pub fn write_report(folder: &Path, others: &[PathBuf]) -> Result<PathBuf> {
    let runs = read_runs(folder, others)?;
    write_events(&runs[0], &folder.join(TENSORBOARD_FOLDER))?;
    let path = folder.join(REPORT_FILE);
    write_page(&runs, &path)?;
    Ok(path)
}

/// Writes the page alone to `path`; the run folder is only read.
///
/// # Errors
/// As [`write_report`].
pub fn write_report_to(path: &Path, folder: &Path, others: &[PathBuf]) -> Result<()> {
    write_page(&read_runs(folder, others)?, path)
}

/// Runs of the same name are told apart by their paths.
fn read_runs(folder: &Path, others: &[PathBuf]) -> Result<Vec<RunFiles>> {
    let paths: Vec<&Path> = std::iter::once(folder).chain(others.iter().map(PathBuf::as_path)).collect();
    let mut runs: Vec<RunFiles> = paths.iter().map(|path| RunFiles::read(path)).collect::<Result<_>>()?;
    let names: Vec<String> = runs.iter().map(|run| run.name.clone()).collect();
    for (run, path) in runs.iter_mut().zip(paths) {
        if names.iter().filter(|name| **name == run.name).count() > 1 {
            run.name = path.display().to_string();
        }
    }
    Ok(runs)
}

/// Under another name first, so that a browser never sees half a page; what a crash leaves of it goes when the run resumes. A
/// device or a pipe is written to: a file must not take the place of `/dev/null`.
fn write_page(runs: &[RunFiles], path: &Path) -> Result<()> {
    if path.metadata().is_ok_and(|there| !there.is_file() && !there.is_dir()) {
        return fs::write(path, page::html(runs)).map_err(Error::writing("write", path));
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.tmp-{}", std::process::id()));
    let written = fs::write(&temporary, page::html(runs))
        .map_err(Error::writing("write", path))
        .and_then(|()| fs::rename(&temporary, path).map_err(Error::writing("put in place", path)));
    if written.is_err() {
        // The first error is the one to report; a leftover temporary file is only untidy.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Lengthens the events file where it only grew, so that a TensorBoard that has it open sees what is new; writes it
/// anew after a resumed run that repeats updates.
fn write_events(run: &RunFiles, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(Error::writing("create", folder))?;
    let path = folder.join(tensorboard::FILE_NAME);
    let events = tensorboard::event_file(run);
    let written = fs::read(&path).unwrap_or_default();
    match events.strip_prefix(written.as_slice()) {
        Some(new) => {
            let file = fs::OpenOptions::new().create(true).append(true).open(&path);
            file.and_then(|mut file| file.write_all(new)).map_err(Error::writing("write", &path))
        }
        None => {
            // A new file under the old name: what TensorBoard has read of the old one stays whole.
            let _ = fs::remove_file(&path); // if this fails, so does the next line
            fs::write(&path, events).map_err(Error::writing("write", &path))
        }
    }
}
