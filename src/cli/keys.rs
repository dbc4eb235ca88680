//! `KEY=VALUE` for verbs that read a part of the configuration: a key that would do nothing there is refused.

use crate::config::RunConfig;
use crate::error::{Error, Result};

/// What a verb reads of the configuration.
pub(super) struct Keys {
    /// The verb as it is typed.
    pub verb: &'static str,
    /// Keys, and sections that are read as a whole.
    pub read: &'static [&'static str],
    /// Keys that are given in another way, and how.
    pub elsewhere: &'static [(&'static str, &'static str)],
}

impl Keys {
    /// A configuration changed by `key=value`.
    ///
    /// # Errors
    /// [`Error::Config`] as of [`RunConfig::set`], and for a key that the verb does not read.
    pub fn changed(&self, mut config: RunConfig, overrides: &[String]) -> Result<RunConfig> {
        for assignment in overrides {
            config.set(assignment)?;
            let key = assignment.split('=').next().unwrap_or_default().trim();
            if !self.reads(key) {
                let message = format!("`gsil {}` does not read `{key}`", self.verb);
                return Err(Error::config(assignment, message).with_hint(self.advice(key)));
            }
        }
        Ok(config)
    }

    fn reads(&self, key: &str) -> bool {
        let section = key.split('.').next();
        self.read.iter().any(|known| *known == key || Some(*known) == section)
    }

    fn advice(&self, key: &str) -> String {
        match self.elsewhere.iter().find(|(known, _)| *known == key) {
            Some((_, given)) => format!("it is given as {given}"),
            None => format!("it reads {}", self.read.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: Keys = Keys { verb: "sing", read: &["seed", "lora", "train.lr"], elsewhere: &[("device", "--device")] };

    #[test]
    fn keys_and_sections_that_are_read_are_set_and_no_other() {
        let set = |assignment: &str| KEYS.changed(RunConfig::default(), &[assignment.to_owned()]);
        assert_eq!(set("seed=3").unwrap().seed, 3);
        assert_eq!(set("lora.rank=2").unwrap().lora.unwrap().rank, 2);
        assert_eq!(set("train.lr = 1").unwrap().train.lr, Some(1.0));
        for (assignment, message, hint) in [
            (
                "train.epochs=2",
                "train.epochs=2: `gsil sing` does not read `train.epochs`",
                "it reads seed, lora, train.lr",
            ),
            ("device=flex", "device=flex: `gsil sing` does not read `device`", "it is given as --device"),
            ("sed=3", "sed=3: unknown key `sed`", "did you mean `seed`?"),
        ] {
            let error = set(assignment).unwrap_err();
            assert_eq!((error.to_string().as_str(), error.hint()), (message, Some(hint)));
            assert_eq!(error.exit_code(), 2);
        }
    }
}
