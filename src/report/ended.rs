//! What ended a run before its time and how it is gone on with, in words: for the top of the page and for the console.

use std::path::Path;

use super::html::escape;
use super::run_files::{RunFiles, read_json, to_go_on_with_comparison};
use super::shell::shell_path;
use crate::error::Result;
use crate::records::ending::{ENDING_FILE, Ending};
use crate::records::run_folder::{RESTORE_CHECKPOINTS, Reached, comparison_of, has_lost_checkpoints, reached};

/// The end of a run that is not finished, and that nobody has gone on with since.
#[derive(Debug)]
pub struct Ended {
    ending: Ending,
    /// What to do, each with a few words before it.
    ways_on: Vec<(&'static str, String)>,
}

impl Ended {
    /// None if the run in `folder` goes on, was killed, or has nothing left to do.
    ///
    /// # Errors
    /// [`crate::Error::Input`] if its record does not read.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let ending: Option<Ending> = match reached(folder) {
            Reached::End => None,
            _ => read_json(&folder.join(ENDING_FILE))?,
        };
        Ok(ending.map(|ending| Ended { ways_on: ways_on(&ending, folder), ending }))
    }

    /// `ended in an error`.
    pub fn in_short(&self) -> &'static str {
        if self.ending.is_stop() { "stopped" } else { "ended in an error" }
    }

    /// `The run ended in an error, 2026-03-01 04:10:00 +01:00: MESSAGE`, and a line for each way on.
    pub fn lines(&self) -> Vec<String> {
        let Ending { when, message, .. } = &self.ending;
        let seen = format!("{}, {when}: {message}", self.headline("the run"));
        let ways_on = self.ways_on.iter().map(|(words, way)| format!("{}: {way}", words.to_lowercase()));
        std::iter::once(seen).chain(ways_on).collect()
    }

    fn headline(&self, whose: &str) -> String {
        let was = if self.ending.is_stop() { "was " } else { "" };
        format!("{whose} {was}{}", self.in_short())
    }
}

fn ways_on(ending: &Ending, folder: &Path) -> Vec<(&'static str, String)> {
    const WHAT_HELPS: &str = "What helps";
    const TO_GO_ON: &str = "To go on";
    // Earlier versions kept a stop's hint, which was not of the run.
    let hint = ending.hint.clone().filter(|_| !ending.is_stop()).map(|hint| (WHAT_HELPS, hint));
    let go_on = match comparison_of(folder) {
        _ if has_lost_checkpoints(folder) => format!("its checkpoints are gone: {RESTORE_CHECKPOINTS}"),
        Some(comparison) => to_go_on_with_comparison(comparison),
        None => format!("gsil resume {}", shell_path(folder)),
    };
    match (ending.is_of_training(), hint) {
        (true, Some(hint)) => vec![hint],
        (true, None) => vec![(WHAT_HELPS, "start a new run with other settings: resumed, it comes to the same".into())],
        (false, hint) => hint.into_iter().chain([(TO_GO_ON, go_on)]).collect(),
    }
}

/// What ended those of the runs that ended before their time; empty if none did.
pub fn section(runs: &[RunFiles]) -> String {
    let box_of = |run: &RunFiles| {
        let ended = run.ended.as_ref()?;
        let headline = match runs.len() {
            1 => ended.headline("The run"),
            _ => ended.headline(&run.name),
        };
        let way = |(words, way): &(&str, String)| format!("<li><b>{words}:</b> {}</li>\n", escape(way));
        let ways: String = ended.ways_on.iter().map(way).collect();
        let (headline, when, message) = (escape(&headline), escape(&ended.ending.when), escape(&ended.ending.message));
        Some(format!(
            "<section class=\"warnings\"><h2>{headline}</h2>\n<ul><li><b>{when}:</b> {message}</li>\n{ways}</ul></section>\n"
        ))
    };
    runs.iter().filter_map(box_of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::records::run_folder::{COMPARE_FILE, LATEST_FILE};

    /// What is said of a run in a folder `night` whose newest checkpoint has this name, if it has one.
    fn lines(error: &Error, latest: Option<&str>) -> Vec<String> {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("night");
        std::fs::create_dir(&folder).unwrap();
        let ending = Ending::of(error, "2026-03-01 04:10:00 +01:00".to_owned());
        std::fs::write(folder.join(ENDING_FILE), serde_json::to_string(&ending).unwrap()).unwrap();
        if let Some(latest) = latest {
            std::fs::write(folder.join(LATEST_FILE), latest).unwrap();
        }
        let lines = Ended::read(&folder).unwrap().map(|ended| ended.lines()).unwrap_or_default();
        let path = shell_path(&folder);
        lines.into_iter().map(|line| line.replace(&path, "night")).collect()
    }

    #[test]
    fn every_ending_has_a_way_on() {
        let gone = Error::server("http://s", "is gone").with_hint("start it");
        let resume = "to go on: gsil resume night";
        let seen = "the run ended in an error, 2026-03-01 04:10:00 +01:00: server http://s: is gone";
        assert_eq!(lines(&gone, None), [seen, "what helps: start it", resume]);
        let stopped = lines(&Error::Stopped { signal: 15, hint: None }, None);
        assert_eq!(stopped[1..], [resume]);
        assert!(stopped[0].starts_with("the run was stopped, 2026-03-01"), "{stopped:?}");
        // A resumed run comes to the same numbers.
        assert_eq!(lines(&Error::training("diverged").with_hint("lower it"), None)[1..], ["what helps: lower it"]);
        let diverged = lines(&Error::training("diverged"), None);
        assert_eq!(diverged[1..], ["what helps: start a new run with other settings: resumed, it comes to the same"]);
        let lost = lines(&gone, Some("step-000004-iteration-0"));
        assert_eq!(lost[2], format!("to go on: its checkpoints are gone: {RESTORE_CHECKPOINTS}"));
    }

    #[test]
    fn a_cell_is_gone_on_with_by_its_comparison() {
        let grid = tempfile::tempdir().unwrap();
        std::fs::write(grid.path().join(COMPARE_FILE), "").unwrap();
        let ending = Ending::of(&Error::Stopped { signal: 15, hint: None }, String::new());
        let of_earlier = Ending { hint: Some("the same command goes on".to_owned()), ..ending.clone() };
        for ending in [ending, of_earlier] {
            let ways_on = ways_on(&ending, &grid.path().join("cells/gsil/seed-0"));
            assert_eq!(ways_on, [("To go on", to_go_on_with_comparison(grid.path()))]);
        }
    }

    #[test]
    fn a_run_that_has_nothing_left_to_do_did_not_end_in_an_error() {
        assert_eq!(lines(&Error::training("diverged"), Some("step-000004-done")), Vec::<String>::new());
    }
}
