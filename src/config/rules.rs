//! Which settings can work together: what joins several keys, and texts that must say something. The range of each number:
//! [`super::ranges`].

use super::paths::mistake_in_path;
use super::ranges::{self, stages};
use super::{LoraConfig, RunConfig, TrainConfig, WeightFormat, WordProblemsConfig, size};
use crate::error::{Error, Result};

/// See [`RunConfig::validate`].
pub(super) fn validate(config: &RunConfig) -> Result<()> {
    ranges::check(config)?;
    check_texts(config)?;
    check_sizes(config)?;
    check_iterations(config)?;
    config.objective.variance_reduction.check(config.objective.name, &config.generation)?;
    check_server(config)?;
    check_sources(config)
}

/// A server must have something to write, and every policy that is asked for.
fn check_server(config: &RunConfig) -> Result<()> {
    let Some(server) = &config.server else { return Ok(()) };
    server.check(&without_policies(config))?;
    if config.iterations > 0 && !config.objective.name.needs_self_generated() {
        let message = "this objective trains on demonstrations alone; nothing is generated";
        return Err(Error::config("server", message).with_hint("leave it out: server=none"));
    }
    match config.generation.weights {
        WeightFormat::F32 => Ok(()),
        _ => Err(Error::config("generation.weights", "is for responses that are written here, not by a server")
            .with_hint("leave it at f32; the server is told by its own options")),
    }
}

/// What to set so that no iteration's reference is another than the start model as it is; nothing if none is.
fn without_policies(config: &RunConfig) -> Vec<&'static str> {
    let makers = [
        (config.iterations != 1, "iterations=1"), // 0 without a stage of its own trains nothing
        (config.sft.is_some(), "sft=none"),
        (config.word_problems.is_some(), "word_problems=none"),
    ];
    makers.into_iter().filter(|(makes, _)| *makes).map(|(_, setting)| setting).collect()
}

/// Texts and lists that must not be empty.
fn check_texts(config: &RunConfig) -> Result<()> {
    let texts = [
        ("device", Some(&config.device)),
        ("memory_limit", config.memory_limit.as_ref()),
        ("model", config.model.as_ref()),
        ("data", config.data.as_ref()),
        ("prompt_column", config.prompt_column.as_ref()),
        ("response_column", config.response_column.as_ref()),
        ("output", config.output.as_ref()),
        ("evaluation.data", config.evaluation.data.as_ref()),
        ("evaluation.answer_marker", config.evaluation.answer_marker.as_ref()),
    ];
    for (key, text) in texts {
        if text.is_some_and(|text| text.trim().is_empty()) {
            return Err(Error::config(key, "must not be empty"));
        }
    }
    let paths = [
        ("model", &config.model),
        ("data", &config.data),
        ("output", &config.output),
        ("evaluation.data", &config.evaluation.data),
    ];
    for (key, path) in paths {
        if let Some((mistake, advice)) = path.as_deref().and_then(mistake_in_path) {
            return Err(Error::config(key, mistake).with_hint(advice));
        }
    }
    if config.devices.iter().any(|name| name.trim().is_empty()) {
        return Err(Error::config("devices", "must not name an empty text"));
    }
    if let Some(first) = config.devices.first()
        && ![first.as_str(), "auto"].contains(&config.device.as_str())
    {
        let message = format!("`{}` contradicts `devices`, whose first is `{first}`", config.device);
        return Err(Error::config("device", message).with_hint("give one of the two: device=auto, or devices=[]"));
    }
    if let (Some(text), None) = (&config.template_date, config.date()) {
        return Err(Error::config("template_date", format!("`{text}` is no date like 2026-01-31T08:00:00")));
    }
    size::check_limit(config.memory_limit.as_deref())?;
    let Some(lora) = &config.lora else { return Ok(()) };
    let key = "lora.target_modules";
    if lora.target_modules.is_empty() {
        return Err(Error::config(key, "must name at least one layer"));
    }
    for (i, name) in lora.target_modules.iter().enumerate() {
        if !LoraConfig::MODULES.contains(&name.as_str()) {
            let problem = Error::config(key, format!("no layer is called `{name}`"));
            return Err(problem.with_hint(format!("known: {}", LoraConfig::MODULES.join(", "))));
        }
        if lora.target_modules[..i].contains(name) {
            return Err(Error::config(key, format!("names `{name}` twice")));
        }
    }
    Ok(())
}

/// Sizes that must fit each other.
fn check_sizes(config: &RunConfig) -> Result<()> {
    for (section, train) in stages(config) {
        let (micro, batch) = (train.micro_batch_size, train.batch_size);
        if micro > batch {
            let message = format!("{micro} is more than {section}.batch_size, {batch}; it must be at most that");
            return Err(Error::config(format!("{section}.micro_batch_size"), message));
        }
    }
    let generation = &config.generation;
    if generation.max_new_tokens >= config.train.max_length {
        let (tokens, length) = (generation.max_new_tokens, config.train.max_length);
        let message = format!("{tokens} leaves no room for a prompt; it must be below train.max_length, {length}");
        return Err(Error::config("generation.max_new_tokens", message));
    }
    if generation.temperature == 0.0 && generation.samples_per_prompt > 1 {
        let message = "at temperature 0 all responses to a prompt are the same; it must be 1";
        return Err(Error::config("generation.samples_per_prompt", message));
    }
    let Some(problems) = &config.word_problems else { return Ok(()) };
    if problems.num_train + problems.num_test > WordProblemsConfig::MAX_PROBLEMS {
        let most = WordProblemsConfig::MAX_PROBLEMS;
        let message = format!("with num_test there must be at most {most} problems: no two are alike");
        return Err(Error::config("word_problems.num_train", message));
    }
    if !problems.hidden_size.is_multiple_of(2 * problems.num_heads) {
        let (width, heads) = (problems.hidden_size, problems.num_heads);
        let message = format!("{width} must be a multiple of {}: {heads} heads of an even width", 2 * heads);
        return Err(Error::config("word_problems.hidden_size", message));
    }
    Ok(())
}

/// A run that would train nothing.
fn check_iterations(config: &RunConfig) -> Result<()> {
    if config.iterations == 0 && config.sft.is_none() {
        let problem = Error::config("iterations", "0 with no `sft` stage trains nothing; it must be at least 1");
        return Err(problem.with_hint(
            "for supervised training alone set its epochs: sft.epochs=3; to judge a model without training it, use `gsil eval`",
        ));
    }
    Ok(())
}

/// See [`RunConfig::unread_of_train`].
pub(super) fn unread_of_train(config: &RunConfig) -> Vec<String> {
    let (0, Some(sft)) = (config.iterations, &config.sft) else { return Vec::new() };
    let mut unset = RunConfig { lora: config.lora.clone(), ..RunConfig::default() };
    unset.resolve();
    let tree = |stage: &TrainConfig| serde_json::to_value(stage).unwrap_or_default();
    let (train, unset, sft) = (tree(&config.train), tree(&unset.train), tree(sft));
    let keys = train.as_object().into_iter().flatten().map(|(key, _)| key.as_str());
    let is_unread = |key: &&str| *key != "max_length" && train[*key] != unset[*key] && train[*key] != sft[*key];
    keys.filter(is_unread).map(str::to_owned).collect()
}

/// Columns are named in pairs; the built-in task brings its own model and data.
fn check_sources(config: &RunConfig) -> Result<()> {
    let columns = [("prompt_column", &config.prompt_column), ("response_column", &config.response_column)];
    let (given, missing): (Vec<_>, Vec<_>) = columns.into_iter().partition(|(_, column)| column.is_some());
    if let (Some((given, _)), Some((missing, _))) = (given.first(), missing.first()) {
        let message = format!("must be given with `{given}`: a row is read by both or by neither");
        return Err(Error::config(*missing, message));
    }
    if config.word_problems.is_none() {
        return Ok(());
    }
    let sources = [
        ("model", &config.model),
        ("data", &config.data),
        ("evaluation.data", &config.evaluation.data),
        ("prompt_column", &config.prompt_column),
    ];
    match sources.into_iter().find(|(_, source)| source.is_some()) {
        Some((key, _)) => Err(Error::config(key, "`word_problems` makes its own model and data; only one can be used")
            .with_hint("switch the built-in task off with word_problems=none")),
        None => Ok(()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::ServerConfig;

    /// A valid configuration with every optional number set.
    pub(in crate::config) fn complete() -> RunConfig {
        let stage = TrainConfig { num_steps: Some(4), ..TrainConfig::default() };
        let mut config = RunConfig {
            max_rows: Some(10),
            server: Some(ServerConfig { on_policy_ready: vec!["serve".to_owned()], ..ServerConfig::default() }),
            lora: Some(LoraConfig::default()),
            sft: Some(stage.clone()),
            train: stage,
            continued_sft_lr: Some(1e-4),
            word_problems: Some(WordProblemsConfig::default()),
            ..RunConfig::default()
        };
        config.evaluation.max_new_tokens = Some(8);
        config.resolve();
        config
    }

    /// What the configuration says with these changes.
    pub(in crate::config) fn refusal(assignments: &[&str]) -> String {
        let mut config = complete();
        config.validate().unwrap();
        for assignment in assignments {
            config.set(assignment).unwrap();
        }
        config.validate().unwrap_err().to_string()
    }

    #[test]
    fn a_path_that_only_a_shell_understands_is_refused() {
        for key in ["model", "data", "output", "evaluation.data"] {
            let refused = refusal(&[&format!("{key}=~/x")]);
            assert_eq!(refused, format!("{key}: `~` stands for nothing here: only a shell replaces it"));
        }
    }

    #[test]
    fn a_run_without_iterations_is_told_how_supervised_training_alone_is_set() {
        let mut config = RunConfig::default();
        for assignment in ["iterations=0", "train.epochs=3"] {
            config.set(assignment).unwrap();
        }
        let error = config.validate().unwrap_err();
        let (_, advised) = error.hint().unwrap().split_once("its epochs: ").unwrap();
        config.set(advised.split_once(';').unwrap().0).unwrap();
        config.validate().unwrap();
    }

    #[test]
    fn keys_that_do_not_fit_each_other_are_refused() {
        let cases: [(&[&str], &str); 20] = [
            (&["train.micro_batch_size=9"], "train.micro_batch_size: 9 is more than train.batch_size, 8"),
            (&["sft.batch_size=1"], "sft.micro_batch_size: 2 is more than sft.batch_size, 1"),
            (&["generation.max_new_tokens=1024"], "generation.max_new_tokens: 1024 leaves no room"),
            (&["generation.temperature=0", "generation.samples_per_prompt=2"], "generation.samples_per_prompt: "),
            (&["iterations=0", "sft=none"], "iterations: 0 with no `sft`"),
            (&["lora.target_modules=[]"], "lora.target_modules: must name"),
            (&["lora.target_modules=[q_prj]"], "lora.target_modules: no layer is called `q_prj`"),
            (&["lora.target_modules=[\"q_proj\", \"q_proj\"]"], "lora.target_modules: names `q_proj` twice"),
            (&["model=m.gguf"], "model: `word_problems` makes its own"),
            (&["word_problems.num_train=20000"], "word_problems.num_train: with num_test"),
            (&["device=flex", "devices=[ndarray, flex]"], "device: `flex` contradicts `devices`"),
            (&["devices=[\"flex\", \"\"]"], "devices: must not name an empty text"),
            (&["server.url=localhost:8000"], "server.url: `localhost:8000` is no address"),
            (&["server.url=http://me:key@host/v1"], "server.url: names a user"),
            (&["server.on_policy_ready=[]"], "server.on_policy_ready: must say how"),
            (&["server.on_policy_ready=[\" \"]"], "server.on_policy_ready: begins with an empty text"),
            (&["objective.name=sft"], "server: this objective trains on demonstrations alone"),
            (&["generation.weights=bf16"], "generation.weights: is for responses that are written here"),
            (&["memory_limit=8 gigs"], "memory_limit: `8 gigs` is no size"),
            (&["word_problems.num_heads=5"], "word_problems.hidden_size: 96 must be a multiple of 10"),
        ];
        for (assignments, start) in cases {
            assert!(refusal(assignments).starts_with(start), "{assignments:?}: {}", refusal(assignments));
        }
        for key in ["device", "output", "evaluation.answer_marker"] {
            assert_eq!(refusal(&[&format!("{key}= ")]), format!("{key}: must not be empty"));
        }
    }

    #[test]
    fn without_iterations_settings_of_train_are_unread_where_those_of_sft_are_others() {
        let unread = |assignments: &[&str]| {
            let mut config = RunConfig::default();
            assignments.iter().for_each(|assignment| config.set(assignment).unwrap());
            config.resolve();
            config.unread_of_train()
        };
        let settings = ["sft.epochs=3", "train.lr=2e-4", "train.batch_size=4", "train.max_length=512"];
        let with = |more: &[&str]| unread(&[&settings[..], more].concat());
        assert_eq!(with(&["iterations=0"]), ["lr", "batch_size"], "rows are read with train.max_length");
        assert_eq!(with(&["iterations=1"]), [""; 0], "the iteration reads them");
        assert_eq!(with(&["iterations=0", "sft.batch_size=4"]), ["lr"], "the stage does what was asked for");
        for rate in ["sft.epochs=3", "lora.rank=8", "sft.lr=2e-4"] {
            assert_eq!(unread(&["iterations=0", "sft.epochs=3", rate]), [""; 0], "no rate of `train` was set");
        }
    }

    #[test]
    fn a_run_that_makes_policies_is_told_all_that_makes_them() {
        const ALL: [&str; 3] = ["iterations=1", "sft=none", "word_problems=none"];
        for (undone, left) in [(&ALL[..0], &ALL[..]), (&ALL[..1], &ALL[1..]), (&ALL[..2], &ALL[2..])] {
            let mut config = complete();
            for assignment in ["server.on_policy_ready=[]", "iterations=3"].iter().chain(undone) {
                config.set(assignment).unwrap();
            }
            let error = config.validate().unwrap_err();
            let hint = error.hint().unwrap();
            assert!(hint.ends_with(&format!("or use {}", left.join(" "))), "{hint}");
            left.iter().for_each(|assignment| config.set(assignment).unwrap());
            config.validate().unwrap();
        }
    }
}
