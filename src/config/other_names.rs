//! What other trainers call things: names of `transformers` (`TrainingArguments`), TRL (`DPOConfig`, `GRPOConfig`) and PEFT
//! (`LoraConfig`). They are known for the sake of advice alone; no configuration takes them.

use super::overrides::known_keys;

/// A name of theirs, the key here, and how its value differs; nothing where the same value does the same.
const OTHER_NAMES: [(&str, &str, &str); 21] = [
    ("beta", "objective.scale", ""),
    ("eval_steps", "evaluation.data", "judged at the start and after each stage, not every so many steps"),
    ("gradient_accumulation_steps", "train.batch_size", "pairs per update: those steps times `micro_batch_size`"),
    ("gradient_checkpointing", "train.activation_checkpointing", "true or false"),
    ("learning_rate", "train.lr", ""),
    ("logging_steps", "output", "leave it out: every update is logged, in `metrics.jsonl` of the run's folder"),
    ("lora_alpha", "lora.alpha", ""),
    ("lora_r", "lora.rank", ""),
    ("loss_type", "objective.name", "its names are others: TRL's `sigmoid` is `spin`"),
    ("lr_scheduler_type", "train.schedule", "constant, linear or cosine; the last two end at `final_lr_ratio`"),
    ("max_completion_length", "generation.max_new_tokens", ""),
    ("num_generations", "generation.samples_per_prompt", ""),
    ("num_train_epochs", "train.epochs", ""),
    ("optim", "train.optimizer", "adamw, rmsprop or sgd"),
    ("per_device_train_batch_size", "train.micro_batch_size", "pairs per pass; those per update are `batch_size`"),
    ("r", "lora.rank", ""),
    ("ref_model", "model", "what an iteration begins with is its reference; no other can be given"),
    ("rpo_alpha", "objective.sft_weight", "beside a loss that `normalize` divides"),
    ("save_total_limit", "keep_last", ""),
    ("use_peft", "lora.rank", "an adapter is trained once it is set"),
    ("warmup_ratio", "train.warmup_steps", "a number of updates, not a share of them"),
];

const LOSS_KEY: &str = "objective.name";
/// Names of the loss that is `spin` here: a person's, and TRL's own.
const NAMES_OF_DPO: [&str; 2] = ["dpo", "sigmoid"];
const SPIN_IS_DPO: &str = "on pairs of `prompt`, `chosen` and `rejected` it is DPO";

/// The key that another trainer's name stands for.
pub(crate) struct OtherName {
    pub key: String,
    difference: &'static str,
}

impl OtherName {
    /// What a person who gave the name is told.
    pub(super) fn hint(&self) -> String {
        format!("here it is `{}`{}", self.key, self.note())
    }

    /// The same at a place of a file that takes the keys `expected`.
    pub(super) fn hint_at(&self, expected: &[&str]) -> String {
        let (section, name) = parts(&self.key);
        let is_its_place =
            known_keys().iter().map(|key| parts(key)).all(|(of, key)| of != section || expected.contains(&key));
        let place = match (is_its_place, section) {
            (true, _) => format!("`{name}`"),
            (false, "") => format!("`{name}`, which belongs in no section"),
            (false, _) => format!("`{section}: ({name}: ..)`"),
        };
        format!("here it is {place}{}", self.note())
    }

    /// How its value differs, to stand behind other words; empty if it does not.
    pub(super) fn note(&self) -> String {
        if self.difference.is_empty() { String::new() } else { format!(" ({})", self.difference) }
    }
}

/// Section and name of a key; those that are in no section have an empty one.
fn parts(key: &str) -> (&str, &str) {
    key.split_once('.').unwrap_or(("", key))
}

/// What the last part of `word` stands for, if it is another trainer's name.
pub(crate) fn other_name(word: &str) -> Option<OtherName> {
    let (section, name) = word.rsplit_once('.').unwrap_or(("", word));
    let (_, key, difference) = OTHER_NAMES.iter().find(|(other, ..)| *other == name)?;
    let key = match parts(key) {
        // Both stages have the same keys.
        ("train", key) if section == "sft" => format!("sft.{key}"),
        _ => (*key).to_owned(),
    };
    Some(OtherName { key, difference })
}

/// The `key=value` to write in place of `name` with a value, and what is to be known of it.
pub(crate) struct SettingHere {
    pub setting: String,
    /// In brackets, with a space before them; may be empty.
    pub note: String,
}

/// The setting of `key` for a `name` with the value `given`; `..` or `PATH` for one that is not given or has to be another.
pub(crate) fn setting_here(name: &str, key: &str, given: Option<&str>) -> SettingHere {
    if key == LOSS_KEY && given.is_some_and(is_dpo) {
        return SettingHere { setting: format!("{key}=spin"), note: format!(" ({SPIN_IS_DPO})") };
    }
    let note = other_name(name).map(|other| other.note()).unwrap_or_default();
    // `..` would be a path, too.
    let unknown = if ["model", "data", "output", "evaluation.data"].contains(&key) { "PATH" } else { ".." };
    let value = given.filter(|_| note.is_empty()).unwrap_or(unknown);
    SettingHere { setting: format!("{key}={value}"), note }
}

/// What to write in place of another trainer's name of a loss, where `known` are the names of all losses.
pub(super) fn loss_hint<'a>(word: &str, mut known: impl Iterator<Item = &'a str>) -> Option<String> {
    (is_dpo(word) && known.any(|name| name == "spin")).then(|| format!("did you mean `spin`? {SPIN_IS_DPO}"))
}

fn is_dpo(word: &str) -> bool {
    NAMES_OF_DPO.iter().any(|name| word.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{CompareConfig, RunConfig};

    fn hint_of_set(assignment: &str) -> String {
        let error = RunConfig::default().set(assignment).unwrap_err();
        error.hint().unwrap_or_default().to_owned()
    }

    fn hint_of_file(text: &str) -> String {
        let error = RunConfig::from_ron(text, "run.ron").unwrap_err();
        error.hint().unwrap_or_default().to_owned()
    }

    #[test]
    fn every_other_name_stands_for_a_key_and_is_none() {
        let keys = known_keys();
        for (name, key, _) in OTHER_NAMES {
            let is_section = keys.iter().any(|known| known.starts_with(&format!("{key}.")));
            assert!(keys.iter().any(|known| known == key) && !is_section, "{key}");
            assert!(keys.iter().all(|known| known.rsplit('.').next() != Some(name)), "{name} keeps its meaning");
        }
    }

    #[test]
    fn every_other_name_is_told_its_key_as_an_assignment_and_in_a_file() {
        for (name, key, difference) in OTHER_NAMES {
            let note = if difference.is_empty() { String::new() } else { format!(" ({difference})") };
            for word in [name.to_owned(), format!("train.{name}"), format!("objective.{name}")] {
                assert_eq!(hint_of_set(&format!("{word}=1")), format!("here it is `{key}`{note}"), "{word}");
            }
            assert_eq!(hint_of_set(name), format!("for example: {key}=VALUE{note}"), "{name}");
            let place = match key.split_once('.') {
                Some((section, key)) => format!("{section}: ({key}: ..)"),
                None => key.to_owned(),
            };
            assert_eq!(hint_of_file(&format!("({name}: 1)")), format!("here it is `{place}`{note}"), "{name}");
        }
    }

    #[test]
    fn a_file_is_told_the_key_as_its_place_spells_it() {
        for (text, place) in [
            ("(objective: (beta: 0.1))", "`scale`"),
            ("(train: (beta: 0.1))", "`objective: (scale: ..)`"),
            ("(train: (learning_rate: 1e-4))", "`lr`"),
            ("(sft: (learning_rate: 1e-4))", "`lr`"),
            ("(lora: (r: 8))", "`rank`"),
            // `train` has an `alpha`, too, and it is another.
            ("(train: (lora_alpha: 8))", "`lora: (alpha: ..)`"),
            ("(train: (save_total_limit: 2))", "`keep_last`, which belongs in no section"),
        ] {
            assert_eq!(hint_of_file(text), format!("here it is {place}"), "{text}");
        }
        assert_eq!(hint_of_set("sft.learning_rate=1e-4"), "here it is `sft.lr`");
    }

    #[test]
    fn a_comparison_is_told_the_keys_of_its_runs() {
        let hint = |text: &str| {
            let error = CompareConfig::from_ron(text, "c.ron").unwrap_err();
            error.hint().unwrap_or_default().to_owned()
        };
        assert_eq!(hint("(base: (objective: (beta: 0.1)), methods: [])"), "here it is `scale`");
        for text in ["(beta: 0.1)", "(methods: [(name: \"a\", beta: 0.1)])"] {
            assert_eq!(hint(text), "here it is `objective.scale`, in `base` or in a method's `set`", "{text}");
        }
    }

    #[test]
    fn dpo_is_spin_on_pairs_and_a_value_of_another_meaning_is_not_taken_over() {
        let hint = format!("did you mean `spin`? {SPIN_IS_DPO}");
        for name in ["dpo", "DPO", "sigmoid"] {
            assert_eq!(hint_of_set(&format!("objective.name={name}")), hint);
            assert_eq!(hint_of_file(&format!("(objective: (name: {name}))")), hint);
            assert_eq!(setting_here("loss", LOSS_KEY, Some(name)).setting, "objective.name=spin");
        }
        assert_ne!(hint_of_set("train.optimizer=sigmoid"), hint);
        let setting = |name: &str| setting_here(name, &other_name(name).unwrap().key, Some("4")).setting;
        assert_eq!(setting("num_train_epochs"), "train.epochs=4");
        assert_eq!(setting("gradient_accumulation_steps"), "train.batch_size=..");
        assert_eq!(
            (setting("logging_steps"), setting("eval_steps")),
            ("output=PATH".into(), "evaluation.data=PATH".into())
        );
    }
}
