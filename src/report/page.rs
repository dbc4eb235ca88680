//! The report: one HTML file that needs nothing else, for people who want to know how a run went.
//!
//! What ended it before its time, what was trained on what, warnings, held-out figures, curves, responses, time, settings.
//! Everything that comes from the run's files is escaped; the page loads nothing, and a browser is told so. Next:
//! [`super::ended`], [`super::training_charts`], [`super::responses`], [`super::figures`], [`super::health`].

use serde_json::Value;

use super::figures::{evaluation_section, timing_section};
use super::health::{Finding, findings};
use super::html::{count, escape, table};
use super::run_files::RunFiles;
use super::table::plural;
use super::{ended, responses, training_charts};
use crate::config::{ObjectiveName, RunConfig, TrainConfig};
use crate::records::ending::now;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
/// Nothing is loaded from anywhere, whatever a text in the page says.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'";

/// The page of the first run, with the others beside it in tables and charts. Their names tell them apart.
pub fn html(runs: &[RunFiles]) -> String {
    let run = &runs[0];
    let title = runs.iter().map(|run| escape(&run.name)).collect::<Vec<_>>().join(" \u{b7} ");
    let sections = [
        ended::section(runs),
        facts(run),
        differences(runs),
        warnings(runs),
        evaluation_section(runs),
        training_charts::section(runs),
        responses::section(run),
        timing_section(run),
        settings(run),
    ];
    let self_generated = match run.responses_are_given() {
        true => "stands here for the response that a row brings to be told from it; the <b>reference</b> is",
        false => "response was sampled from the <b>reference</b>,",
    };
    let words = format!(
        "Words: a <b>demonstration</b> is given, a <b>self-generated</b> {self_generated} the policy at the start of an \
         iteration; a <b>log-ratio</b> is log-prob under the policy less log-prob under the reference, in nats over the \
         response."
    );
    document(&title, &[status(run), scope(runs)].concat(), &sections.concat(), &words)
}

/// A page that needs nothing else. All parts are HTML. It says when it was written: nothing else tells the page of a
/// run that was killed from that of one that goes on.
pub(super) fn document(title: &str, status: &str, main: &str, words: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
         <title>{title} \u{2013} gsil</title>\n<style>\n{STYLE}</style></head>\n\
         <body>\n<header><h1>{title}</h1>\n<p class=\"status\">{status}</p></header>\n\
         <main>\n{main}</main>\n\
         <footer>Written by gsil {}, {}. {words}</footer>\n\
         <script>\n{SCRIPT}</script></body></html>\n",
        env!("CARGO_PKG_VERSION"),
        now()
    )
}

/// How far the run has come.
fn status(run: &RunFiles) -> String {
    let (done, all) = run.stages_done();
    let badge = |otherwise: &str| match &run.ended {
        Some(ended) => format!("<span class=\"badge bad\">{}</span>", ended.in_short()),
        None => format!("<span class=\"badge\">{otherwise}</span>"),
    };
    match (run.updates.last(), run.evaluations.last()) {
        _ if run.is_finished() => {
            let updates = if run.updates.len() == 1 { "update" } else { "updates" };
            format!("<span class=\"badge good\">finished</span> {} {updates}.", count(run.updates.len()))
        }
        _ if done == all => {
            format!("{} All stages are evaluated; the last checkpoint is not saved yet.", badge("not finished"))
        }
        (Some(update), _) => format!(
            "{} {done} of {all} stages are evaluated; the last update recorded is {} ({}, update {} of the stage).",
            badge("not finished"),
            update.total_step,
            escape(&update.stage),
            update.stage_step
        ),
        (None, Some(row)) => {
            format!("{} The {} is evaluated; no update is recorded yet.", badge("just begun"), escape(&row.stage))
        }
        (None, None) if run.ended.is_some() => format!("{} Nothing was recorded.", badge("just begun")),
        (None, None) => {
            format!("{} Nothing is recorded yet: come back when the start is evaluated.", badge("just begun"))
        }
    }
}

/// What of a page is about which run.
fn scope(runs: &[RunFiles]) -> String {
    let name = escape(&runs[0].name);
    match runs.len() {
        1 => String::new(),
        _ => format!(" Model and data, responses, time and settings are those of {name}; all else shows every run."),
    }
}

/// What was trained on what.
fn facts(run: &RunFiles) -> String {
    let config = &run.config;
    let versions = format!("gsil {}, burn {}, seed {}", run.environment("gsil"), run.environment("burn"), config.seed);
    let rows = [
        ("model", Some(model(run))),
        ("data", Some(data(run))),
        ("objective", objective(config)),
        ("training", Some(training(config))),
        ("device", Some(device(run))),
        ("versions", Some(versions)),
    ];
    let known = rows.into_iter().filter_map(|(name, text)| Some((name, text?)));
    let rows: String = known.map(|(name, text)| format!("<dt>{name}</dt><dd>{}</dd>\n", escape(&text))).collect();
    format!("<section><h2>What was trained</h2>\n<dl>{rows}</dl></section>\n")
}

fn model(run: &RunFiles) -> String {
    let name = match (&run.config.model, &run.config.word_problems) {
        (_, Some(task)) => {
            format!("made from nothing: {} layers of width {}", task.num_layers, task.hidden_size)
        }
        (Some(path), None) => path.clone(),
        (None, None) => "not named".to_owned(),
    };
    let adapter = run.config.lora.as_ref().map(|lora| format!("; adapter of rank {}", lora.rank)).unwrap_or_default();
    let size = run.about.as_ref().map(|about| {
        format!("; {} parameters, {} trained", count(about.num_parameters), count(about.num_trained_parameters))
    });
    format!("{name}{adapter}{}", size.unwrap_or_default())
}

fn data(run: &RunFiles) -> String {
    let name = match (&run.config.data, &run.config.word_problems) {
        (_, Some(_)) => "built-in word problems".to_owned(),
        (Some(path), None) => path.clone(),
        (None, None) => "not named".to_owned(),
    };
    let size = run.about.as_ref().map(|about| {
        let judged = if about.held_out { "held out" } else { "of them scored before and after" };
        let ending = if about.num_demonstrations == 1 { "" } else { "s" };
        let (all, evaluated) = (count(about.num_demonstrations), count(about.num_evaluated));
        format!("; {all} demonstration{ending}, {evaluated} {judged}")
    });
    format!("{name}{}", size.unwrap_or_default())
}

/// The objective with its numbers; None where supervised training is all that is done: it has no use for one.
pub fn objective(config: &RunConfig) -> Option<String> {
    let objective = &config.objective;
    let mut text = objective.name.to_string();
    if objective.name.needs_reference() {
        text += &format!(", scale {}", objective.scale);
    }
    if objective.name.reads_shift() {
        text += &format!(", shift {}", objective.shift);
    }
    if objective.name == ObjectiveName::BregmanPower {
        text += &format!(", power {}", objective.power);
    }
    if objective.sft_weight > 0.0 {
        text += &format!(", sft_weight {}", objective.sft_weight);
    }
    if objective.name.needs_reference() && !objective.normalize {
        text += ", not normalized";
    }
    if objective.variance_reduction.is_on() {
        text += &format!(", variance_reduction {}", objective.variance_reduction);
    }
    (config.iterations > 0).then_some(text)
}

/// What is trained for how long: the iterations and the supervised stage before them, or that alone.
pub fn training(config: &RunConfig) -> String {
    let batches = |train: &TrainConfig| {
        let lr = train.lr.map_or_else(String::new, |lr| format!(", learning rate {lr}"));
        format!("in batches of {}{lr}", train.batch_size)
    };
    let supervised = |sft: &TrainConfig| format!("{} of supervised training {}", length(sft), batches(sft));
    let (sft, num_iterations) = (config.sft.as_ref().map(supervised), config.iterations);
    let iterations = || {
        let (length, batches, samples) = (length(&config.train), batches(&config.train), samples(config));
        format!("{} of {length} {batches}{samples}", plural(num_iterations, "iteration"))
    };
    match sft {
        Some(sft) if num_iterations == 0 => sft,
        Some(sft) => format!("{}; before them {sft}", iterations()),
        None => iterations(),
    }
}

/// `, 4 responses to each prompt`; empty for one and for none.
pub fn samples(config: &RunConfig) -> String {
    match config.generation.samples_per_prompt {
        count if count > 1 && config.objective.name.needs_self_generated() => {
            format!(", {count} responses to each prompt")
        }
        _ => String::new(),
    }
}

/// How long a stage trains.
fn length(train: &TrainConfig) -> String {
    match train.num_steps {
        Some(num_steps) => plural(num_steps, "update"),
        None => plural(train.epochs, "epoch"),
    }
}

fn device(run: &RunFiles) -> String {
    let parts = ["device", "device_description", "operating_system", "architecture"].map(|key| run.environment(key));
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ")
}

/// The settings in which the runs of a comparison differ.
fn differences(runs: &[RunFiles]) -> String {
    if runs.len() < 2 {
        return String::new();
    }
    let told = |run: &RunFiles| flat_settings(run).into_iter().chain(fingerprints(run)).collect();
    let settings: Vec<Vec<(String, String)>> = runs.iter().map(told).collect();
    let mut keys: Vec<&String> = settings.iter().flatten().map(|(key, _)| key).collect();
    keys.sort_unstable();
    keys.dedup();
    let value = |run: &Vec<(String, String)>, key: &str| {
        run.iter().find(|(own, _)| own == key).map_or_else(|| "\u{2013}".to_owned(), |(_, value)| escape(value))
    };
    let rows: Vec<Vec<String>> = keys
        .into_iter()
        .map(|key| [escape(key)].into_iter().chain(settings.iter().map(|run| value(run, key))).collect::<Vec<_>>())
        .filter(|row| row[1..].iter().any(|value| *value != row[1]))
        .collect();
    let header: Vec<String> =
        ["setting".to_owned()].into_iter().chain(runs.iter().map(|run| escape(&run.name))).collect();
    let body = match rows.is_empty() {
        true => "<p class=\"note\">All settings are the same.</p>".to_owned(),
        false => table(&header, &rows),
    };
    format!("<section><h2>In what the runs differ</h2>\n{body}</section>\n")
}

/// `train.lr` and its value, for every setting but the folder's name.
fn flat_settings(run: &RunFiles) -> Vec<(String, String)> {
    let mut flat = Vec::new();
    let config = serde_json::to_value(&run.config).unwrap_or_default();
    flatten(String::new(), &config, &mut flat);
    flat.retain(|(key, _)| key != "output");
    flat
}

/// What the paths of the settings do not tell: other rows may lie at the same place, and be read by another version.
fn fingerprints(run: &RunFiles) -> Vec<(String, String)> {
    [
        ("gsil (version)", "gsil"),
        ("training rows (fingerprint)", "rows_fingerprint"),
        ("evaluated rows (fingerprint)", "held_out_fingerprint"),
    ]
    .map(|(name, key)| (name.to_owned(), run.environment(key)))
    .into_iter()
    .filter(|(_, value)| !value.is_empty())
    .collect()
}

fn flatten(key: String, value: &Value, flat: &mut Vec<(String, String)>) {
    match value {
        Value::Object(map) => {
            let dot = if key.is_empty() { "" } else { "." };
            map.iter().for_each(|(name, value)| flatten(format!("{key}{dot}{name}"), value, flat));
        }
        Value::Null => flat.push((key, "none".to_owned())),
        Value::String(text) => flat.push((key, text.clone())),
        other => flat.push((key, other.to_string())),
    }
}

fn warnings(runs: &[RunFiles]) -> String {
    let found = runs.iter().flat_map(|run| findings(run).into_iter().map(move |finding| (run, finding)));
    let item = |(run, finding): (&RunFiles, Finding)| {
        let whose = if runs.len() > 1 { format!("<b>{}</b> ", escape(&run.name)) } else { String::new() };
        let (seen, advice) = (escape(&finding.seen), escape(&finding.advice));
        format!("<li>{whose}{seen} <b>What helps:</b> {advice}.</li>\n")
    };
    let items: String = found.map(item).collect();
    match items.is_empty() {
        false => format!("<section class=\"warnings\"><h2>Warnings</h2>\n<ul>{items}</ul></section>\n"),
        true if runs[0].updates.is_empty() => String::new(),
        true => {
            "<section><h2>Warnings</h2>\n<p>None. Looked for: demonstrations that get less likely while the margin \
                 rises, responses that are cut off, identical, empty or duplicated, clamped exponentials, gradient \
                 spikes after the first updates, and held-out figures that fall.</p></section>\n"
                .to_owned()
        }
    }
}

fn settings(run: &RunFiles) -> String {
    format!(
        "<section><h2>Settings</h2>\n<details><summary>config.ron, with every default written out</summary>\n\
         <pre>{}</pre></details></section>\n",
        escape(&run.config_text)
    )
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Local};

    use super::*;

    fn configured(assignments: &[&str]) -> RunConfig {
        let mut config = RunConfig::default();
        assignments.iter().for_each(|assignment| config.set(assignment).unwrap());
        config
    }

    #[test]
    fn a_page_says_when_it_was_written() {
        let before = Local::now().timestamp();
        let page = document("night", "", "", "Words.");
        let (_, foot) = page.split_once(&format!("<footer>Written by gsil {}, ", env!("CARGO_PKG_VERSION"))).unwrap();
        let (when, _) = foot.split_once(". Words.</footer>").unwrap();
        let written = DateTime::parse_from_str(when, "%Y-%m-%d %H:%M:%S %:z").unwrap().timestamp();
        assert!((before..=Local::now().timestamp()).contains(&written), "{when}");
    }

    #[test]
    fn an_objective_is_named_with_every_number_that_it_reads() {
        let line = |assignments: &[&str]| objective(&configured(assignments));
        let named = |text: &str| Some(text.to_owned());
        assert_eq!(line(&[]), named("bernoulli, scale 1, shift 0"));
        assert_eq!(line(&["iterations=0"]), None);
        let power = "objective.power=0.3";
        assert_eq!(line(&[power]), named("bernoulli, scale 1, shift 0"), "it ignores the power");
        let all = [power, "objective.name=bregman_power", "objective.shift=-0.5", "objective.sft_weight=0.1"];
        let expected = "bregman_power, scale 1, shift -0.5, power 0.3, sft_weight 0.1";
        assert_eq!(line(&all), named(expected));
        let expected = "spin, scale 1, not normalized";
        assert_eq!(line(&["objective.name=spin", "objective.normalize=false"]), named(expected));
        let unread = ["objective.scale=0.1", "objective.shift=2", "objective.normalize=false"];
        for name in ["sft", "simper"] {
            let chosen = format!("objective.name={name}");
            assert_eq!(line(&[&[chosen.as_str()][..], &unread].concat()), named(name), "it reads none of them");
        }
        for reduction in ["top_k(16)", "exact"] {
            let reduced = format!("objective.variance_reduction={reduction}");
            let expected = format!("bernoulli, scale 1, shift 0, variance_reduction {reduction}");
            assert_eq!(line(&[&reduced]), Some(expected));
        }
    }

    #[test]
    fn several_responses_to_each_prompt_are_said_where_responses_are_written() {
        let line = |assignments: &[&str]| training(&configured(assignments));
        let several = "generation.samples_per_prompt=4";
        assert!(line(&[several]).ends_with(", 4 responses to each prompt"), "{}", line(&[several]));
        let supervised = [&[several, "iterations=0", "sft.epochs=1"][..], &[several, "objective.name=sft"]];
        for without in [&[][..]].into_iter().chain(supervised) {
            assert!(!line(without).contains("responses"), "{}", line(without));
        }
    }
}
