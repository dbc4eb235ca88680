//! A comparison that was begun: what it was asked for, what of it has run, and what may be different when it goes on.

use std::fs;
use std::path::{Path, PathBuf};

use super::fingerprints::Fingerprints;
use super::plan::{Plan, cell_folder, start_folder};
use super::{FAILED_FILE, FINISHED_FILE};
use crate::config::{CompareConfig, RunConfig};
use crate::error::{Error, Result};
use crate::formats::hub;
use crate::records::run_folder::{COMPARE_FILE, holds_run};
use crate::train::changes::{CHANGEABLE, differences};
use crate::train::results_if_finished;

/// A comparison of which something has run.
#[derive(Debug)]
pub struct Begun {
    /// What it was asked for.
    pub config: CompareConfig,
    /// None: it kept none.
    fingerprints: Option<Fingerprints>,
    folder: PathBuf,
}

/// What is different, and may be.
#[derive(Debug)]
pub struct Accepted {
    /// Settings of the base, in words.
    pub settings: Vec<String>,
    /// Failed cells of methods that were changed or taken out: folders inside the comparison's folder.
    pub outdated: Vec<String>,
}

impl Begun {
    /// The comparison in a folder; None if none was begun there, or nothing of it has run: then nothing depends on its
    /// settings.
    ///
    /// # Errors
    /// [`Error::Input`] and [`Error::Config`] for a file that does not read.
    pub fn in_folder(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(COMPARE_FILE);
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(&path).map_err(Error::reading(&path))?;
        let config = CompareConfig::from_ron(&text, &path.to_string_lossy())?;
        let has_run = config.seeds.iter().any(|seed| {
            let cells = (0..config.methods.len()).map(|method| cell_folder(&config, method, *seed));
            cells.chain([start_folder(*seed)]).any(|run| holds_run(&folder.join(run)))
        });
        match has_run {
            false => Ok(None),
            true => Ok(Some(Begun { config, fingerprints: Fingerprints::read(folder)?, folder: folder.to_owned() })),
        }
    }

    /// Refuses files of this machine that are gone, or are not what the comparison began with; what they are now, None if
    /// it did not keep what they were. Every byte is read, about a second for a GB.
    ///
    /// # Errors
    /// [`Error::Input`] that names the file.
    pub fn check_sources(&self, now: &CompareConfig) -> Result<Option<Fingerprints>> {
        let Some(kept) = &self.fingerprints else { return Ok(None) };
        self.check_places(kept, now)?;
        let found = Fingerprints::of(&now.base)?;
        kept.check_same(&found, &now.base).map(|()| Some(found))
    }

    /// Refuses a place of this machine where nothing lies any more.
    fn check_places(&self, kept: &Fingerprints, now: &CompareConfig) -> Result<()> {
        let (old, new) = (&self.config.base, &now.base);
        for (key, kept, old, new) in [
            ("model", &kept.model, &old.model, &new.model),
            ("data", &kept.data, &old.data, &new.data),
            ("evaluation.data", &kept.held_out, &old.evaluation.data, &new.evaluation.data),
        ] {
            let (Some(_), Some(old), Some(new)) = (kept, old, new) else { continue };
            if Path::new(new).exists() || (old == new && !self.needs(key, now)?) {
                continue;
            }
            let problem = match Path::new(old).ends_with(new) {
                true if !Path::new(old).exists() => {
                    format!("is not there any more; the comparison began with it as `{key}`")
                }
                // Another setting, which is refused by its name.
                false if hub::address(new)?.is_some() => continue,
                _ => format!("is not there; the comparison was run with {old} as `{key}`"),
            };
            return Err(Error::input(new, problem)
                .with_hint(format!("put it back, or say where it lies now: the same command with {key}=NEW_PLACE")));
        }
        Ok(())
    }

    /// Whether something that is not finished reads what the base names as `key`.
    fn needs(&self, key: &str, now: &CompareConfig) -> Result<bool> {
        let readers: Vec<String> = match key == "model" && now.base.sft.is_some() {
            true => now.seeds.iter().map(|seed| start_folder(*seed)).collect(),
            false => {
                let of_seed = |seed| (0..now.methods.len()).map(move |method| cell_folder(now, method, seed));
                now.seeds.iter().copied().flat_map(of_seed).collect()
            }
        };
        for folder in readers.iter().map(|name| self.folder.join(name)) {
            if !is_finished(&folder, holds_run(&folder))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What is different in `plan` and may be.
    ///
    /// # Errors
    /// [`Error::Config`] that names what must not.
    pub fn check(&self, plan: &Plan) -> Result<Accepted> {
        let (mut fixed, mut outdated) = (Vec::new(), Vec::new());
        for method in other_methods(&self.config, &plan.config) {
            match self.failed_cells(method)? {
                None => fixed.push(method),
                Some(failed) => outdated.extend(failed),
            }
        }
        let began_with = CompareConfig { base: self.base_at_places_of(plan), ..self.config.clone() };
        match check_unchanged(&began_with, &plan.config, &|method| fixed.contains(&method)) {
            Ok(settings) => Ok(Accepted { settings, outdated }),
            Err(refused) => {
                let path = self.folder.join(COMPARE_FILE);
                let message = format!("the comparison was begun with other settings: {refused}");
                let free: Vec<&str> = CHANGEABLE.into_iter().filter(|key| may_change(key)).collect();
                Err(Error::config(path.to_string_lossy(), message).with_hint(format!(
                    "undo the change, or choose another --output; seeds and methods may be added, and in `base` may change: {}",
                    free.join(", ")
                )))
            }
        }
    }

    /// The folders of a method's failed cells; None if another cell of it has run.
    fn failed_cells(&self, method: usize) -> Result<Option<Vec<String>>> {
        let mut failed = Vec::new();
        for seed in &self.config.seeds {
            let name = cell_folder(&self.config, method, *seed);
            let folder = self.folder.join(&name);
            match (folder.join(FAILED_FILE).exists(), holds_run(&folder)) {
                (true, has_run) if !is_finished(&folder, has_run)? => failed.push(name),
                (_, true) => return Ok(None),
                (_, false) => {}
            }
        }
        Ok(Some(failed))
    }

    /// The base with model and data where they are now, if they are what they were.
    fn base_at_places_of(&self, plan: &Plan) -> RunConfig {
        let (mut then, now) = (self.config.base.clone(), &plan.config.base);
        let (Some(kept), Some(found)) = (&self.fingerprints, &plan.fingerprints) else { return then };
        for (kept, found, old, new) in [
            (&kept.model, &found.model, &mut then.model, &now.model),
            (&kept.data, &found.data, &mut then.data, &now.data),
            (&kept.held_out, &found.held_out, &mut then.evaluation.data, &now.evaluation.data),
        ] {
            if kept.is_some() && kept == found {
                old.clone_from(new);
            }
        }
        then
    }
}

/// A failed cell may have been finished by hand.
fn is_finished(folder: &Path, has_run: bool) -> Result<bool> {
    Ok(folder.join(FINISHED_FILE).exists() || has_run && results_if_finished(folder)?.is_some())
}

/// The methods of the begun comparison that are gone or changed.
fn other_methods(begun: &CompareConfig, now: &CompareConfig) -> impl Iterator<Item = usize> {
    (0..begun.methods.len()).filter(|method| !now.methods.contains(&begun.methods[*method]))
}

/// Whether a setting of the base may change once something has run: what may change in a resumed run, but for the number of
/// updates, which finished cells have made.
fn may_change(key: &str) -> bool {
    key != "train.epochs" && CHANGEABLE.contains(&key)
}

/// What has changed and may, in words; as an error what must not change once a comparison was begun. More seeds and methods
/// leave its cells as they are, and so does another method in place of one that has not run: it may be one that cannot.
fn check_unchanged(
    begun: &CompareConfig,
    now: &CompareConfig,
    has_run: &dyn Fn(usize) -> bool,
) -> std::result::Result<Vec<String>, String> {
    let base = differences(&begun.base, &now.base).map_err(|error| error.to_string())?;
    let (changed, refused): (Vec<_>, Vec<_>) = base.iter().partition(|difference| may_change(&difference.key));
    let in_words = |difference| format!("base.{difference}");
    if !refused.is_empty() {
        return Err(refused.into_iter().map(in_words).collect::<Vec<_>>().join("; "));
    }
    if begun.equal_updates != now.equal_updates {
        return Err(format!("equal_updates: {}, now {}", begun.equal_updates, now.equal_updates));
    }
    if let Some(seed) = begun.seeds.iter().find(|seed| !now.seeds.contains(seed)) {
        return Err(format!("seeds: {seed} is gone"));
    }
    if let Some(method) = other_methods(begun, now).find(|method| has_run(*method)) {
        let method = &begun.methods[method];
        return Err(match now.methods.iter().find(|own| own.name == method.name) {
            None => format!("methods: `{}` is gone", method.name),
            Some(own) => format!("method `{}`: {:?}, now {:?}", method.name, method.set, own.set),
        });
    }
    Ok(changed.into_iter().map(in_words).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Method, TrainConfig};
    use crate::records::run_folder::CONFIG_FILE;

    fn config() -> CompareConfig {
        let method = |name: &str| Method { name: name.to_owned(), set: vec!["train.lr=1".to_owned()] };
        CompareConfig { methods: vec![method("a"), method("b")], ..CompareConfig::default() }
    }

    #[test]
    fn seeds_and_methods_may_be_added_and_all_else_is_refused_by_name() {
        type Change = fn(&mut CompareConfig);
        let allowed: [Change; 4] = [
            |c| c.seeds.insert(0, 9),
            |c| c.methods.insert(0, Method { name: "c".to_owned(), set: Vec::new() }),
            |c| c.baseline = Some("b".to_owned()),
            |c| c.keep_models = false,
        ];
        let refused: [(Change, &str); 5] = [
            (|c| c.base.train.epochs = 2, "base.train.epochs: 1, now 2"),
            (|c| c.seeds = vec![0, 1], "seeds: 2 is gone"),
            (|c| drop(c.methods.pop()), "methods: `b` is gone"),
            (|c| c.methods[1].set.clear(), "method `b`: [\"train.lr=1\"], now []"),
            (|c| c.equal_updates = false, "equal_updates: true, now false"),
        ];
        for change in allowed {
            let mut now = config();
            change(&mut now);
            assert_eq!(check_unchanged(&config(), &now, &|_| true), Ok(Vec::new()));
        }
        for (change, expected) in refused {
            let mut now = config();
            change(&mut now);
            assert_eq!(check_unchanged(&config(), &now, &|_| true), Err(expected.to_owned()));
        }
        let (mut changed, mut gone) = (config(), config());
        changed.methods[1].set.clear();
        gone.methods.pop();
        for now in [changed, gone] {
            assert_eq!(check_unchanged(&config(), &now, &|method| method == 0), Ok(Vec::new()), "`b` has not run");
        }
    }

    #[test]
    fn a_method_has_not_run_while_all_that_was_begun_of_it_failed() {
        let folder = tempfile::tempdir().unwrap();
        let begun = Begun { config: config(), fingerprints: None, folder: folder.path().to_owned() };
        let write = |cell: &str, file: &str| {
            let cell = folder.path().join(cell);
            fs::create_dir_all(&cell).unwrap();
            fs::write(cell.join(file), "").unwrap();
        };
        let failed = || begun.failed_cells(0).unwrap();
        assert_eq!(failed(), Some(Vec::new()), "nothing was begun");
        write("cells/a/seed-0", FAILED_FILE); // its start failed
        write("cells/a/seed-1", FAILED_FILE);
        write("cells/a/seed-1", CONFIG_FILE);
        let both = ["cells/a/seed-0", "cells/a/seed-1"].map(str::to_owned).to_vec();
        assert_eq!(failed(), Some(both));
        write("cells/a/seed-2", CONFIG_FILE);
        assert_eq!(failed(), None, "one was begun and has not failed");
        write("cells/a/seed-2", FAILED_FILE);
        assert_eq!(failed().unwrap().len(), 3);
        // As a run leaves it that came to its end and whose checkpoints were removed.
        fs::write(folder.path().join("cells/a/seed-2/latest"), "step-000015-done").unwrap();
        assert_eq!(failed(), None, "one was finished by hand");
        fs::remove_file(folder.path().join("cells/a/seed-2/latest")).unwrap();
        write("cells/a/seed-2", FINISHED_FILE);
        assert_eq!(failed(), None, "one is finished");
    }

    #[test]
    fn a_place_where_nothing_lies_any_more_is_missed_by_its_key_while_something_needs_it() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("models/m").to_string_lossy().into_owned();
        let with_model = |given: &str| {
            let mut config = config();
            config.base.model = Some(given.to_owned());
            config
        };
        let kept = Fingerprints { model: Some("0a".to_owned()), ..Fingerprints::default() };
        let begun = Begun { config: with_model(&place), fingerprints: None, folder: folder.path().to_owned() };
        let said = |now: &CompareConfig| {
            let error = begun.check_places(&kept, now).err()?;
            assert!(error.hint().unwrap().contains("the same command with model=NEW_PLACE"));
            Some(error.to_string())
        };
        for lost in ["models/m", &place] {
            let expected = format!("{lost}: is not there any more; the comparison began with it as `model`");
            assert_eq!(said(&with_model(lost)), Some(expected));
        }
        let expected = format!("mm: is not there; the comparison was run with {place} as `model`");
        assert_eq!(said(&with_model("mm")), Some(expected));
        for other in ["owner/model", &folder.path().to_string_lossy()] {
            assert_eq!(said(&with_model(other)), None, "{other}");
        }
        // A relative name, read from another folder than the one that the comparison began in.
        fs::create_dir_all(&place).unwrap();
        let expected = format!("models/m: is not there; the comparison was run with {place} as `model`");
        assert_eq!(said(&with_model("models/m")), Some(expected));
        fs::remove_dir(&place).unwrap();
        let finish = |name: &str| {
            fs::create_dir_all(folder.path().join(name)).unwrap();
            fs::write(folder.path().join(name).join(FINISHED_FILE), "").unwrap();
        };
        let (mut with_starts, all) = (with_model(&place), config());
        with_starts.base.sft = Some(TrainConfig::default());
        assert!(said(&with_starts).is_some());
        all.seeds.iter().for_each(|seed| finish(&start_folder(*seed)));
        assert_eq!((said(&with_starts), said(&with_model(&place)).is_some()), (None, true));
        for seed in &all.seeds {
            (0..all.methods.len()).for_each(|method| finish(&cell_folder(&all, method, *seed)));
        }
        assert_eq!((said(&with_model(&place)), said(&with_model("models/m")).is_some()), (None, true));
    }

    #[test]
    fn what_a_resumed_run_may_change_may_change_in_the_base_and_is_told() {
        let mut now = config();
        now.base.save_every = 7;
        now.base.train.micro_batch_size = 1;
        let told = ["base.save_every: 50, now 7", "base.train.micro_batch_size: 2, now 1"].map(str::to_owned);
        assert_eq!(check_unchanged(&config(), &now, &|_| true), Ok(told.to_vec()));
        now.base.seed = 3;
        let refused = "base.seed: 0, now 3".to_owned();
        assert_eq!(check_unchanged(&config(), &now, &|_| true), Err(refused), "the others are not to blame");
    }
}
