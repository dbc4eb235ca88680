//! A comparison: which methods, with which seeds, from one start and on one data set. [`crate::compare`] carries it out.

use serde::{Deserialize, Serialize};

use super::overrides::{key_of, nearest};
use super::{RunConfig, parse, ranges};
use crate::error::{Error, Result};

/// Most cells (methods times seeds): more would run for months.
const MAX_CELLS: usize = 10_000;
/// Longest name of a method.
const MAX_NAME_CHARS: usize = 60;
/// What every cell has in common: the start, the data, how it is judged, and what the comparison itself decides.
const SHARED_KEYS: [&str; 16] = [
    "model",
    "data",
    "prompt_column",
    "response_column",
    "output",
    "device",
    "devices",
    "offline",
    "memory_limit",
    "seed",
    "template_date",
    "skip_bad_rows",
    "sft",
    "continued_sft_lr",
    "evaluation",
    "word_problems",
];

/// Where a key stands that is the comparison's own and no setting of a run; None of other keys.
pub(crate) fn place_of_own_key(key: &str) -> Option<String> {
    let own = serde_json::to_value(CompareConfig::default()).ok()?;
    (key != "base" && own.get(key).is_some()).then(|| format!("`{key}` is set in the comparison's file, beside `base`"))
}

/// A grid of runs: every method with every seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CompareConfig {
    /// What the methods have in common: a whole run. Its `sft` stage is the start, made once for each seed; `seed`,
    /// `output` and `continued_sft_lr` stay unset, for the comparison decides them.
    pub base: RunConfig,
    /// One run of each method for each of them. Default (0, 1, 2): one seed says nothing about the next.
    pub seeds: Vec<u64>,
    /// What is compared. Default none: at least one must be given.
    pub methods: Vec<Method>,
    /// The name of the method that the others are measured against. Default none: the first.
    pub baseline: Option<String>,
    /// Refuse methods that differ in their number of updates, and let responses that are left out change none. Default
    /// true: more updates are an advantage of their own. A demonstration all of whose responses are left out is not trained
    /// on (`generation.unfinished`): supervised training has it all the same.
    pub equal_updates: bool,
    /// Keep the model and the last checkpoints (`base.keep_last`, 3 unless set) of every finished cell. Default true;
    /// false keeps figures, responses and reports, and the starts.
    pub keep_models: bool,
}

/// A named list of changes to the base.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Method {
    /// What tables call it. Default none: it must be given.
    pub name: String,
    /// `KEY=VALUE`, as on the command line. Default none: the base itself.
    pub set: Vec<String>,
}

impl Default for CompareConfig {
    fn default() -> Self {
        Self {
            base: RunConfig::default(),
            seeds: vec![0, 1, 2],
            methods: Vec::new(),
            baseline: None,
            equal_updates: true,
            keep_models: true,
        }
    }
}

impl Method {
    /// The name as that of a folder: `GSIL, scale 0.5` is `gsil-scale-0.5`.
    pub fn folder(&self) -> String {
        let kept = |c: char| if c.is_alphanumeric() || matches!(c, '.' | '_' | '=') { c } else { '-' };
        let name: String = self.name.to_lowercase().chars().map(kept).collect();
        let words: Vec<&str> = name.split('-').filter(|word| !word.is_empty()).collect();
        words.join("-").trim_start_matches(['.', '-']).to_owned()
    }

    /// Where the method, or one of its assignments, stands in `text`, which was read from `origin`; for errors.
    pub fn place(&self, assignment: Option<&str>, text: &str, origin: &str) -> String {
        format!("{origin}:{}: method `{}`", line_of(text, self, assignment), self.name)
    }
}

impl CompareConfig {
    /// Reads a comparison's text; `origin` is the file's name, for errors.
    ///
    /// # Errors
    /// As [`RunConfig::from_ron`].
    pub fn from_ron(text: &str, origin: &str) -> Result<Self> {
        let config: Self = parse::read(text, origin)?;
        ranges::check_finite(&config.base).map_err(|error| Error::config(origin, format!("base: {error}")))?;
        Ok(config)
    }

    /// Changes one value of the base.
    ///
    /// # Errors
    /// As [`RunConfig::set`].
    pub fn set_base(&mut self, assignment: &str) -> Result<()> {
        set(&mut self.base, assignment)
    }

    /// The complete comparison as text: `from_ron` of it gives an equal one.
    ///
    /// # Errors
    /// As [`RunConfig::to_ron`].
    pub fn to_ron(&self) -> Result<String> {
        parse::to_ron(self)
    }

    /// Refuses what cannot work, every cell's settings included. `text` is what was read from `origin`: a method's error
    /// names its line there.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn validate(&self, text: &str, origin: &str) -> Result<()> {
        let place = |key: &str| format!("{origin}: {key}");
        self.check_base().map_err(|(key, message)| Error::config(place(&format!("base.{key}")), message))?;
        self.check_seeds().map_err(|message| Error::config(place("seeds"), message))?;
        if self.methods.is_empty() {
            return Err(Error::config(place("methods"), "names no method").with_hint(
                "for example: methods: [(name: \"gsil\"), (name: \"sft\", set: [\"objective.name=sft\"])]",
            ));
        }
        for (i, method) in self.methods.iter().enumerate() {
            let named = method.place(None, text, origin);
            check_name(&method.name).map_err(|message| Error::config(&named, message))?;
            if let Some(other) = self.methods[..i].iter().find(|other| other.folder() == method.folder()) {
                let message = format!("has the folder `{}`, and so has `{}`", method.folder(), other.name);
                return Err(Error::config(named, message).with_hint("give each method a name of its own"));
            }
            self.check_method(method, text, origin)?;
        }
        self.baseline_index()
            .map(drop)
            .map_err(|error| Error::config(place("baseline"), error.to_string()).with_hint_of(&error))
    }

    fn check_base(&self) -> std::result::Result<(), (&'static str, &'static str)> {
        let default = RunConfig::default();
        if self.base.seed != default.seed {
            return Err(("seed", "is set by `seeds` beside `base`"));
        }
        if self.base.output.is_some() {
            return Err(("output", "is given with --output"));
        }
        match self.base.continued_sft_lr {
            None => Ok(()),
            Some(_) => Err(("continued_sft_lr", "is a method here: (name: \"sft\", set: [\"objective.name=sft\"])")),
        }
    }

    fn check_seeds(&self) -> std::result::Result<(), String> {
        if self.seeds.is_empty() {
            return Err("there must be at least one".to_owned());
        }
        if let Some(seed) = self.seeds.iter().enumerate().find(|(i, seed)| self.seeds[..*i].contains(seed)) {
            return Err(format!("{} is given twice", seed.1));
        }
        match self.seeds.len().saturating_mul(self.methods.len()) {
            ..=MAX_CELLS => Ok(()),
            num_cells => Err(format!("with the methods they make {num_cells} cells; at most {MAX_CELLS} are possible")),
        }
    }

    /// The method's overrides one by one, then all of its settings together.
    fn check_method(&self, method: &Method, text: &str, origin: &str) -> Result<()> {
        let place = |assignment| method.place(assignment, text, origin);
        let at = |assignment, error: Error| Error::config(place(assignment), error.to_string()).with_hint_of(&error);
        let mut config = self.base.clone();
        for assignment in &method.set {
            let key = key_of(assignment);
            let section = key.split('.').next().unwrap_or_default();
            if SHARED_KEYS.contains(&section) {
                let message = format!("{assignment}: `{section}` is the same for all methods");
                return Err(Error::config(place(Some(assignment)), message).with_hint("set it in `base`"));
            }
            set(&mut config, assignment).map_err(|error| at(Some(assignment), error))?;
            if key == "train.max_length" {
                let message = "says which rows are judged on: it is the same for all methods";
                let refused = Error::config(key, message).with_hint("set it in `base`");
                return Err(at(Some(assignment), refused));
            }
        }
        config.resolve();
        config.validate().map_err(|error| at(None, error))
    }

    /// Which method the others are measured against.
    ///
    /// # Errors
    /// [`Error::Config`] if there is none of that name.
    pub fn baseline_index(&self) -> Result<usize> {
        self.baseline.as_ref().map_or(Ok(0), |name| self.method_index(name))
    }

    /// The method of this name.
    ///
    /// # Errors
    /// [`Error::Config`] if there is none, with the nearest name.
    pub fn method_index(&self, name: &str) -> Result<usize> {
        let names = || self.methods.iter().map(|method| method.name.as_str());
        names().position(|own| own == name).ok_or_else(|| {
            let problem = Error::config(name, "no method has this name");
            match nearest(name, names()) {
                Some(near) => problem.with_hint(format!("did you mean `{near}`?")),
                None => problem.with_hint(format!(
                    "there are: {}",
                    names().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
                )),
            }
        })
    }

    /// The settings of one cell: the base changed by the method, with this seed, judged as the base says.
    ///
    /// # Errors
    /// None that [`CompareConfig::validate`] does not find.
    pub fn cell(&self, method: usize, seed: u64) -> Result<RunConfig> {
        let mut config = self.start(seed);
        for assignment in &self.methods[method].set {
            config.set(assignment)?;
        }
        config.resolve();
        Ok(config)
    }

    /// The base with this seed. How it is judged does not depend on how it generates any more.
    pub fn start(&self, seed: u64) -> RunConfig {
        let mut config = RunConfig { seed, ..self.base.clone() };
        config.evaluation.max_new_tokens.get_or_insert(self.base.generation.max_new_tokens);
        config.resolve();
        config.train.lr = self.base.train.lr; // a method may change what is trained: the default is the cell's own
        config
    }
}

/// [`RunConfig::set`], but what is no setting of a run has no nearest one.
fn set(config: &mut RunConfig, assignment: &str) -> Result<()> {
    match place_of_own_key(key_of(assignment)) {
        Some(place) => Err(Error::config(assignment, "is no setting of a run").with_hint(place)),
        None => config.set(assignment),
    }
}

fn check_name(name: &str) -> std::result::Result<(), String> {
    let is_empty = !name.chars().any(char::is_alphanumeric);
    match name.chars().count() {
        _ if is_empty => Err("a name needs at least one letter or digit".to_owned()),
        _ if name.chars().any(char::is_control) => Err("a name must have no control characters".to_owned()),
        ..=MAX_NAME_CHARS => Ok(()),
        num_chars => Err(format!("a name of {num_chars} characters; at most {MAX_NAME_CHARS} fit a table")),
    }
}

/// The line, from 1, at which a method or one of its assignments stands; the method's own if the text is another's.
fn line_of(text: &str, method: &Method, assignment: Option<&str>) -> usize {
    let quoted = |words: &str| format!("\"{}\"", words.replace('\\', "\\\\").replace('"', "\\\""));
    // A comment may have the words, too.
    let is_code = |at: usize| !text[..at].rsplit('\n').next().is_some_and(|before| before.contains("//"));
    let find =
        |words: &str, from: usize| text[from..].match_indices(words).map(|(at, _)| from + at).find(|at| is_code(*at));
    let start = find(&quoted(&method.name), find("methods:", 0).unwrap_or(0)).unwrap_or(0);
    let place = assignment.and_then(|assignment| find(&quoted(assignment), start)).unwrap_or(start);
    text[..place].matches('\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "(
    base: (model: \"m\", data: \"d\"),
    methods: [
        (name: \"continued sft\", set: [\"objective.name=sft\"]),
        (name: \"gsil\", set: [
            \"objective.name=brier\",
            \"train.lr=1e-4\",
        ]),
    ],
)";

    fn checked(text: &str) -> Result<CompareConfig> {
        let config = CompareConfig::from_ron(text, "c.ron")?;
        config.validate(text, "c.ron").map(|()| config)
    }

    fn error_of(text: &str) -> String {
        let error = checked(text).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        format!("{error} | {}", error.hint().unwrap_or(""))
    }

    #[test]
    fn a_cell_is_the_base_changed_by_its_method_and_its_seed() {
        let config = checked(TEXT).unwrap();
        assert_eq!(config.seeds, [0, 1, 2]);
        let cell = config.cell(1, 7).unwrap();
        assert_eq!((cell.seed, cell.train.lr), (7, Some(1e-4)));
        assert_eq!(cell.objective.name, crate::config::ObjectiveName::Brier);
        assert_eq!(config.cell(0, 7).unwrap().train.lr, Some(1e-5));
    }

    #[test]
    fn methods_that_would_be_judged_on_other_rows_are_refused() {
        let with = |assignment: &str| TEXT.replace("train.lr=1e-4", assignment);
        let refused = |assignment: &str| error_of(&with(assignment));
        assert!(refused("train.max_length=64").contains("set it in `base`"), "{}", refused("train.max_length=64"));
        checked(&with("max_rows=31")).unwrap(); // the rows tell: see the plan
    }

    #[test]
    fn methods_that_generate_shorter_responses_are_judged_like_the_others() {
        let text = TEXT.replace("\"train.lr=1e-4\"", "\"generation.max_new_tokens=8\"");
        let cells = [0, 1].map(|method| checked(&text).unwrap().cell(method, 0).unwrap());
        assert_eq!(cells[0].evaluation, cells[1].evaluation);
        assert_eq!(cells[1].generation.max_new_tokens, 8);
    }

    #[test]
    fn a_method_that_a_server_writes_nothing_for_is_refused_at_its_line_and_may_do_without() {
        let text = TEXT.replace("data: \"d\"", "data: \"d\", server: (url: \"http://localhost:8000/v1\")");
        assert_eq!(
            error_of(&text),
            "c.ron:4: method `continued sft`: server: this objective trains on demonstrations alone; nothing is generated \
             | leave it out: server=none"
        );
        checked(&text.replace("\"objective.name=sft\"", "\"objective.name=sft\", \"server=none\"")).unwrap();
    }

    #[test]
    fn a_wrong_override_names_file_line_and_method() {
        let error = error_of(&TEXT.replace("train.lr=", "train.lrr="));
        assert_eq!(error, "c.ron:7: method `gsil`: train.lrr=1e-4: unknown key `train.lrr` | did you mean `train.lr`?");
        let error = error_of(&TEXT.replace("train.lr=1e-4", "train.lr=-1"));
        assert!(
            error.starts_with("c.ron:5: method `gsil`: train.lr: -1 is not possible; it must be above 0"),
            "{error}"
        );
    }

    #[test]
    fn a_key_of_the_comparison_given_as_a_setting_is_told_its_place() {
        for key in ["seeds", "methods", "baseline", "equal_updates", "keep_models"] {
            let place = format!("is no setting of a run | `{key}` is set in the comparison's file, beside `base`");
            let assignment = format!("{key}=1");
            let error = CompareConfig::default().set_base(&assignment).unwrap_err();
            assert_eq!(format!("{error} | {}", error.hint().unwrap()), format!("{assignment}: {place}"));
            let error = error_of(&TEXT.replace("train.lr=1e-4", &assignment));
            assert_eq!(error, format!("c.ron:7: method `gsil`: {assignment}: {place}"));
        }
        let mut config = CompareConfig::default();
        config.set_base("save_every=7").unwrap();
        assert_eq!(config.base.save_every, 7);
    }

    #[test]
    fn a_name_is_looked_for_among_the_methods_and_not_in_comments() {
        let text = TEXT.replace("train.lr=", "train.lrr=").replacen(
            "    base:",
            "    // methods: what \"gsil\" beats\n    baseline: \"gsil\",\n    base:",
            1,
        );
        let text = text.replacen("        (name: \"gsil\"", "        // \"gsil\"\n        (name: \"gsil\"", 1);
        assert!(error_of(&text).starts_with("c.ron:10: method `gsil`: train.lrr"), "{}", error_of(&text));
        let error = error_of(&text.replace("train.lrr=1e-4", "train.lr=-1"));
        assert!(error.starts_with("c.ron:8: method `gsil`: train.lr"), "{error}");
    }

    #[test]
    fn what_all_cells_share_cannot_be_a_methods_own() {
        for key in [
            "seed=3",
            "template_date=2026-01-31T08:00:00",
            "model=x",
            "sft.lr=1",
            "evaluation.sampled=true",
            "word_problems.num_train=3",
            "output=x",
        ] {
            let error = error_of(&TEXT.replace("train.lr=1e-4", key));
            assert!(error.contains("is the same for all methods") && error.contains("c.ron:7"), "{error}");
        }
        for (key, value) in [("seed", "3"), ("output", "\"x\""), ("continued_sft_lr", "1e-4")] {
            let error = error_of(&TEXT.replace("data:", &format!("{key}: {value}, data:")));
            assert!(error.starts_with(&format!("c.ron: base.{key}: is ")), "{error}");
        }
    }

    #[test]
    fn unknown_keys_are_named_with_line_column_and_the_nearest() {
        assert_eq!(error_of("(\n seed: [1])"), "c.ron:2:2: unknown key `seed` | did you mean `seeds`?");
        assert_eq!(
            error_of("(model: \"m\")"),
            "c.ron:1:2: unknown key `model` | `model` belongs in `base: (model: ..)`; a file of one run is for `gsil train --config`"
        );
        let error = error_of(&TEXT.replace("data:", "keep_models: false, data:"));
        assert!(
            error.ends_with("unknown key `keep_models` | `keep_models` is set in the comparison's file, beside `base`"),
            "{error}"
        );
        let error = error_of(&TEXT.replace("data:", "train: (batch_sise: 3), data:"));
        assert!(error.ends_with("unknown key `batch_sise` | did you mean `batch_size`?"), "{error}");
        let error = error_of(&TEXT.replacen("set:", "sets:", 1));
        assert!(error.ends_with("unknown key `sets` | did you mean `set`?"), "{error}");
    }

    #[test]
    fn seeds_names_and_baseline_are_checked() {
        let with = |key: &str| TEXT.replacen("base:", &format!("{key}, base:"), 1);
        assert!(error_of(&with("seeds: []")).starts_with("c.ron: seeds: there must be"));
        assert!(error_of(&with("seeds: [1, 2, 1]")).starts_with("c.ron: seeds: 1 is given twice"));
        assert!(error_of(&with("baseline: \"continued\"")).contains("did you mean `continued sft`?"));
        assert!(error_of(&TEXT.replace("\"gsil\"", "\"Continued  SFT\"")).contains("has the folder `continued-sft`"));
        assert!(error_of(&TEXT.replace("\"gsil\"", "\"..\"")).contains("at least one letter or digit"));
        assert!(error_of("()").starts_with("c.ron: methods: names no method"));
        assert_eq!(checked(&with("baseline: \"gsil\"")).unwrap().baseline_index().unwrap(), 1);
    }

    #[test]
    fn names_become_folders_that_stay_where_they_are() {
        for (name, folder) in [("GSIL, scale 0.5", "gsil-scale-0.5"), ("../x", "x"), ("a/b\\c", "a-b-c"), (".x", "x")] {
            assert_eq!(Method { name: name.to_owned(), set: Vec::new() }.folder(), folder);
        }
    }

    #[test]
    fn a_written_comparison_reads_back_equal() {
        let config = checked(TEXT).unwrap();
        assert_eq!(CompareConfig::from_ron(&config.to_ron().unwrap(), "written").unwrap(), config);
    }
}
