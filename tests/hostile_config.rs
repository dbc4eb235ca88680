//! Configuration files with mistakes: every key misspelt, every number impossible. Damaged text stands beside the parser, in
//! `config/parse.rs`.

use gsil::config::{LoraConfig, RunConfig, ServerConfig, TrainConfig, WordProblemsConfig};
use serde_json::Value;

use crate::support::doors;

/// Every section switched on, every optional number set.
fn complete() -> RunConfig {
    let stage = TrainConfig { num_steps: Some(4), ..TrainConfig::default() };
    let mut config = RunConfig {
        server: Some(ServerConfig { on_policy_ready: vec!["serve".to_owned()], ..ServerConfig::default() }),
        lora: Some(LoraConfig::default()),
        sft: Some(stage.clone()),
        train: stage,
        word_problems: Some(WordProblemsConfig::default()),
        max_rows: Some(10),
        continued_sft_lr: Some(1e-4),
        ..RunConfig::default()
    };
    config.evaluation.max_new_tokens = Some(8);
    config.resolve();
    config.validate().unwrap();
    config
}

/// The lines of the complete configuration, each key on its own.
fn lines() -> Vec<String> {
    complete().to_ron().unwrap().lines().map(str::to_owned).collect()
}

fn text_with(lines: &[String], at: usize, line: String) -> String {
    let mut lines = lines.to_vec();
    lines[at] = line;
    lines.join("\n")
}

#[test]
fn every_misspelt_key_is_named_with_line_column_and_the_right_key() {
    let lines = lines();
    doors::config(&lines.join("\n")).unwrap();
    let mut num_keys = 0;
    for (at, line) in lines.iter().enumerate() {
        let Some((key, value)) = line.trim_start().split_once(':') else { continue };
        let indent = line.len() - line.trim_start().len();
        num_keys += 1;
        for typo in [format!("{key}s"), format!("x{key}"), key.replacen(['e', 'a', 'i', 'o'], "", 1) + "_"] {
            if lines.iter().any(|line| line.trim_start().starts_with(&format!("{typo}:"))) {
                continue; // `device` and `devices` are both keys
            }
            let text = text_with(&lines, at, format!("{}{typo}:{value}", " ".repeat(indent)));
            let error = RunConfig::from_ron(&text, "run.ron").unwrap_err();
            let place = format!("run.ron:{}:{}: unknown key `{typo}`", at + 1, indent + 1);
            assert_eq!(error.to_string(), place);
            assert_eq!(error.hint(), Some(format!("did you mean `{key}`?").as_str()), "{typo}");
        }
    }
    assert!(num_keys > 60, "only {num_keys} keys were found");
}

/// NaN and infinities are refused when the text is read, what is merely out of range when it is validated: both before a
/// command opens a model.
#[test]
fn every_number_that_is_impossible_is_refused_by_its_key() {
    let lines = lines();
    let is_number = |value: &str| value.trim().trim_end_matches(',').parse::<f64>().is_ok();
    let mut num_numbers = 0;
    for (at, line) in lines.iter().enumerate() {
        let Some((key, _)) = line.split_once(':').filter(|(_, value)| is_number(value)) else { continue };
        num_numbers += 1;
        for bad in ["NaN", "inf", "-inf", "1e999", "-1e999", "-1e18", "1e31", "\"1\"", "(1)"] {
            let error = doors::config(&text_with(&lines, at, format!("{key}: {bad},"))).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{error}");
            let (key, place) = (key.trim(), format!("run.ron:{}:", at + 1));
            let text = error.to_string();
            assert!(text.contains(key) || text.starts_with(&place), "{key} is not named: {text}");
        }
        // Any seed is good; learning rates and gradient norms may be as large as single precision.
        if !matches!(key.trim(), "seed" | "lr" | "continued_sft_lr" | "max_grad_norm") {
            let huge = doors::config(&text_with(&lines, at, format!("{key}: 18446744073709551615,")));
            let text = huge.unwrap_err().to_string();
            assert!(text.contains(&format!("{}: 1.8446744073709552e19 is not possible", key.trim())), "{text}");
        }
    }
    let tree = serde_json::to_value(complete()).unwrap();
    let numbers = |object: &Value| object.as_object().unwrap().values().filter(|value| value.is_number()).count();
    let sections = tree.as_object().unwrap().values().filter(|value| value.is_object());
    assert_eq!(num_numbers, numbers(&tree) + sections.map(numbers).sum::<usize>());
}

#[test]
fn crafted_configurations_are_refused() {
    for text in [
        "",
        "()()",
        "(seed: 1, seed: 2)",
        "(train: (lr: 1e-4, lr: 1e-5))",
        "{\"seed\": 1}",
        "RunConfig(seed: 1",
        "(seed: 1) // \u{0}\n x",
        "(model: \"\\u{110000}\")",
        "(model: b\"m\")",
        "(train: (betas: (0.9)))",
        "(train: (betas: (0.9, 0.9, 0.9)))",
        "(train: (betas: (NaN, 0.9)))",
        "(lora: (target_modules: \"q_proj\"))",
        "(lora: (target_modules: [1]))",
        "(lora: true)",
        "(objective: bernoulli)",
        "(objective: (name: Bernoulli))",
        "(iterations: -0)",
        "(iterations: 1.0)",
        "(iterations: 0x1_0000_0000_0000_0000)",
        "(device: 'c')",
        "(skip_bad_rows: 1)",
        "seed: 1",
        "(\u{202e}seed: 1)",
    ] {
        let error = doors::config(text).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{text}: {error}");
    }
}
