//! `KEY=VALUE` for verbs that read a part of the configuration: a key that would do nothing there is refused.

use crate::config::{RunConfig, is_named, key_named, key_of, nearest, other_name};
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
            let key = key_of(assignment);
            if !self.reads(key) {
                let message = format!("`gsil {}` does not read `{key}`", self.verb);
                return Err(Error::config(assignment, message).with_hint(self.advice(key)));
            }
        }
        Ok(config)
    }

    /// The key that this verb reads whose last part is `name` or nearest to it; of several the first.
    pub fn named(&self, name: &str) -> Option<String> {
        let is_section = |key: &str| !key.contains('.') && key_named(key).as_deref() != Some(key);
        let of_all = key_named(name);
        if other_name(name).is_some() {
            return of_all.filter(|key| self.reads(key));
        }
        let in_section = of_all.as_deref().filter(|key| self.reads(key));
        let read = self.read.iter().copied().filter(|key| !is_section(key));
        let found = nearest(name, read.chain(in_section))?;
        // A key of another verb is no misspelt key of this one.
        let is_of_another = !is_named(found, name) && of_all.as_deref().is_some_and(|key| is_named(key, name));
        (!is_of_another).then(|| found.to_owned())
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
    fn a_name_finds_keys_that_are_read_and_no_section() {
        let keys = Keys { read: &["generation.batch_size", "lora", "train.batch_size", "seed"], ..KEYS };
        for (name, key) in [
            ("batch_size", Some("generation.batch_size")),
            ("seed", Some("seed")),
            ("rank", Some("lora.rank")),
            ("lora", Some("lora.rank")),
            ("train_batch_size", Some("train.batch_size")),
            ("sft_batch_size", None),
            ("sede", Some("seed")),
            ("lr", None),
            ("lora_r", Some("lora.rank")),
            ("beta", None),
            ("max_rows", None),
        ] {
            assert_eq!(keys.named(name).as_deref(), key, "{name}");
        }
    }

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
