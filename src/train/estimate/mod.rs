//! What a run will need, said before anything starts: memory by phase, time by phase, room on the disk.
//!
//! [`mod@memory`] is arithmetic over `sizes` and [`batches`] and needs no weights; [`program`] is what the process
//! holds beside them; [`savings`] tries changes of the settings; [`limits`] is what the machine has; [`time`] measures
//! the speed of the loaded model for a few seconds.

pub mod batches;
pub mod limits;
pub mod memory;
pub mod program;
pub mod savings;
pub mod sizes;
pub mod time;

use super::checkpoint;
use super::distributions;
use super::optimizer::Optimizer;
use super::retention::Keep;
use crate::config::{RunConfig, TrainConfig};
use crate::device::IN_A_COMPARISON;
use crate::error::{Error, Result};
use batches::most_response_tokens;
use limits::Limits;
use memory::{Memory, Phase, Subject, memory};
use savings::{Change, changes, combination};
use sizes::{NUMBER, Sizes};

/// What helps against a weight that is too large for a graphics card.
pub const OTHER_MODEL: &str = "no setting makes a weight smaller: take a smaller model, or --device flex";
/// The same for a run that has begun: model and device stay what they are.
const OTHER_CARD: &str = "no setting makes a weight smaller: resume the run where a card takes it, or start a new one: \
                          a smaller model, or --device flex";

/// What helps a run that has begun where no setting does.
const ELSEWHERE: &str = "resume the run where there is more memory. The last checkpoint is intact";

/// The memory of a run, if the machine has it.
///
/// # Errors
/// [`Error::Device`] if it has not, with the cheapest changes that help.
pub fn memory_that_fits(subject: &Subject<'_>, limits: &Limits, device_name: &str) -> Result<Memory> {
    let memory = memory(subject);
    let Some(problem) = limits.problem(&memory) else { return Ok(memory) };
    if limits.is_beyond_a_buffer(&memory) {
        let hint = if subject.is_resumed { OTHER_CARD } else { OTHER_MODEL };
        return Err(Error::device(device_name, problem).with_hint(hint));
    }
    let changes = changes(subject, &memory);
    let mut hint = advice(&changes, subject.is_resumed);
    if let Some(limit) = limits.bytes.filter(|_| !changes.is_empty()) {
        hint += &match combination(subject, limit) {
            Some(fitting) => format!("; the cheapest that fits: {}", fitting.assignments.join(" ")),
            None if subject.is_resumed => "; all that may change in this run does not suffice".to_owned(),
            None => "; all of them together do not fit: take a smaller model".to_owned(),
        };
    }
    Err(Error::device(device_name, problem).with_hint(hint + "; `gsil estimate` shows where memory goes"))
}

/// Changes in words, those that save most for what they cost first; for a run that has begun, those first that it may still
/// make.
pub fn advice(changes: &[Change], has_begun: bool) -> String {
    let words = |fits: &dyn Fn(&Change) -> bool| {
        let fitting = changes.iter().filter(|change| fits(change));
        let words =
            fitting.map(|change| format!("{} ({} less)", change.assignments.join(" "), bytes(change.saved_bytes)));
        words.collect::<Vec<_>>().join(", ")
    };
    if changes.is_empty() {
        let way_on = if has_begun { ELSEWHERE } else { "take a smaller model" };
        return format!("no change of the settings needs less: {way_on}");
    }
    if !has_begun {
        return format!("in the order of what they save for what they cost: {}", words(&|_| true));
    }
    let (now, anew) = (words(&|change| change.fits_resume), words(&|change| !change.fits_resume));
    let now = Some(now)
        .filter(|words| !words.is_empty())
        .map(|words| format!("`gsil resume DIR --allow-changes` {IN_A_COMPARISON} with {words}"));
    let anew = Some(anew).filter(|words| !words.is_empty()).map(|words| format!("in a new run {words}"));
    let both: Vec<String> = now.into_iter().chain(anew).collect();
    format!("by the estimate, in the order of what saves most: {}. The last checkpoint is intact", both.join("; "))
}

/// What a run keeps on the disk at once: its checkpoints with one more while it is written, the start where it is needed
/// again, the model, and at most so much of the reference's distributions.
pub fn disk_bytes(subject: &Subject<'_>) -> u64 {
    let Subject { config, model, rows, .. } = *subject;
    let trained = Sizes { model, lora: config.lora.as_ref() }.trained_numbers();
    let stages = config.sft.iter().chain((config.iterations > 0).then_some(&config.train));
    let optimizers = stages.map(Optimizer::new);
    let checkpoint = optimizers.map(|optimizer| checkpoint::num_bytes(trained, Some(&optimizer))).max();
    let checkpoint = checkpoint.unwrap_or_else(|| checkpoint::num_bytes(trained, None));
    let start = if config.compares_sft() { checkpoint::num_bytes(trained, None) } else { 0 };
    let hands_over = config.server.as_ref().is_some_and(|server| !server.on_policy_ready.is_empty());
    let num_models = if hands_over { 2 } else { 1 };
    let num_checkpoints = Keep::new(config).most().min(most_checkpoints(config, rows.len())) as u64 + 1;
    let num_tokens = most_response_tokens(config, rows, model.max_position_embeddings);
    let reduction = config.objective.variance_reduction;
    let distributions = config.iterations as u64 * distributions::num_bytes(reduction, model.vocab_size, num_tokens);
    num_checkpoints * checkpoint + start + num_models * NUMBER * model.num_parameters() as u64 + distributions
}

/// The most checkpoints that a run of `num_rows` rows makes if it is never stopped: one where it begins, and for each stage
/// those of its first and last update and one every `save_every`.
fn most_checkpoints(config: &RunConfig, num_rows: usize) -> usize {
    let of_stage = |train: &TrainConfig, times: usize| 2 + times * train.num_updates(num_rows) / config.save_every;
    let sft = config.sft.as_ref().map_or(0, |sft| of_stage(sft, 1));
    let continued_sft = if config.compares_sft() { of_stage(&config.train, config.iterations) } else { 0 };
    1 + sft + config.iterations * of_stage(&config.train, 1) + continued_sft
}

/// `2.86 GB`, `640 MB`.
pub fn bytes(count: u64) -> String {
    match count {
        0..1_000_000_000 => format!("{:.0} MB", count as f64 / 1e6),
        _ => format!("{:.2} GB", count as f64 / 1e9),
    }
}

/// A phase in a word or two.
pub fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Load => "load",
        Phase::Sft => "sft",
        Phase::SelfGenerate => "self-generate",
        Phase::Score => "score",
        Phase::Train => "train",
        Phase::Checkpoint => "checkpoint",
        Phase::Evaluate => "evaluate",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ModelConfig;
    use crate::train::changes::CHANGEABLE;
    use batches::RowLengths;
    use memory::Part;
    use serde_json::json;
    use std::path::Path;

    fn model() -> ModelConfig {
        let config = json!({"architectures": ["LlamaForCausalLM"], "vocab_size": 1000, "hidden_size": 64,
            "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 1024, "tie_word_embeddings": true});
        ModelConfig::from_json(&config, None, Path::new("m")).unwrap()
    }

    fn with_subject<T>(assignments: &[&str], work: impl FnOnce(&Subject<'_>) -> T) -> T {
        let mut config = RunConfig::default();
        assignments.iter().for_each(|assignment| config.set(assignment).unwrap());
        let rows = vec![RowLengths { prompt: 200, demonstration: 100, given: None }; 32];
        let model = model();
        work(&Subject {
            config: &config,
            model: &model,
            rows: &rows,
            held_out: &rows[..4],
            num_answered: 0,
            program_bytes: 20_000_000,
            is_flex: true,
            num_tokens_multiple: 1,
            is_resumed: false,
        })
    }

    fn peak(assignments: &[&str]) -> u64 {
        with_subject(assignments, |subject| memory(subject).peak_bytes())
    }

    #[test]
    fn what_saves_memory_by_its_documentation_saves_it_in_the_estimate() {
        let full = peak(&[]);
        for cheaper in [
            "train.activation_checkpointing=true",
            "train.micro_batch_size=1",
            "train.max_tokens=600",
            "train.optimizer=sgd",
            "lora.rank=4",
            "generation.max_new_tokens=100",
        ] {
            assert!(peak(&[cheaper]) < full, "{cheaper}");
        }
        assert!(peak(&["train.micro_batch_size=4"]) > full);
        // Where logits are larger than averages, the room of those that are saved is lost to the logits.
        assert!(peak(&["train.optimizer=rmsprop"]) <= full);
        let one_by_one = "train.micro_batch_size=1";
        assert!(peak(&[one_by_one, "train.optimizer=rmsprop"]) < peak(&[one_by_one]));
        let generating = |assignments: &[&str]| {
            with_subject(assignments, |subject| {
                let phases = memory(subject).phases;
                phases.iter().find(|phase| phase.phase == Phase::SelfGenerate).unwrap().bytes()
            })
        };
        assert!(generating(&["generation.batch_size=1"]) < generating(&[]));
        assert!(generating(&["generation.weights=bf16"]) < generating(&[]));
        // A server's probe is all that is decoded here.
        let server = "server.url=http://localhost:8000/v1";
        assert!(generating(&[server]) < generating(&[]));
        assert_eq!(generating(&[server, "generation.batch_size=32"]), generating(&[server]));
    }

    #[test]
    fn other_devices_than_the_cpu_hold_the_scores_of_a_whole_batch_of_prompts() {
        let activations = |prompt: usize, is_flex: bool| {
            with_subject(&["generation.batch_size=8", "generation.max_new_tokens=12"], |subject| {
                let rows = vec![RowLengths { prompt, demonstration: 100, given: None }; 32];
                let phases = memory(&Subject { rows: &rows, is_flex, ..*subject }).phases;
                let generating = phases.iter().find(|phase| phase.phase == Phase::SelfGenerate).unwrap();
                generating.of(Part::Activations)
            })
        };
        // f32: of a row two hidden states of 64, gate, up and their product of 128.
        let row = 4 * (2 * 64 + 3 * 128);
        // 4 heads, before softmax and after it, and one mask; keys up to a multiple of 32.
        assert_eq!(activations(500, false), 8 * 512 * row + 8 * 500 * 512 * 4 * (2 * 4 + 1));
        assert_eq!(activations(20, false), 8 * 32 * row + 8 * 20 * 32 * 4 * (2 * 4 + 1));
        assert_eq!(activations(500, true), activations(20, true));
    }

    #[test]
    fn no_other_weights_to_decode_with_are_offered_where_a_server_writes_the_responses() {
        // Decoding takes most: what one pair needs in training is small beside a cache of 32 responses.
        let settings = ["lora.rank=1", "train.micro_batch_size=1", "train.activation_checkpointing=true"];
        let decoding = ["generation.batch_size=32", "generation.max_new_tokens=500"];
        let offers = |more: &[&str]| {
            with_subject(&[&settings[..], &decoding, more].concat(), |subject| {
                let found = changes(subject, &memory(subject));
                found.iter().any(|change| change.assignments == ["generation.weights=bf16"])
            })
        };
        assert!(offers(&[]));
        assert!(!offers(&["server.url=http://localhost:8000/v1"]));
    }

    #[test]
    fn the_cost_of_a_change_names_no_rate_that_the_run_does_not_read() {
        with_subject(&["iterations=0", "sft.micro_batch_size=1", "train.micro_batch_size=1"], |subject| {
            let found = changes(subject, &memory(subject));
            let costs: Vec<&str> = found.iter().map(|change| change.cost.as_str()).collect();
            assert_eq!(costs.iter().filter(|cost| cost.contains("learning rate")).count(), 2, "{found:?}");
            assert!(!costs.concat().contains(".lr"), "{found:?}");
        });
    }

    #[test]
    fn advice_for_a_run_that_has_begun_puts_first_what_may_change_in_it() {
        let words = with_subject(&[], |subject| advice(&changes(subject, &memory(subject)), true));
        let places = ["--allow-changes", "activation_checkpointing=true", "in a new run", "lora.rank=8", "is intact"]
            .map(|word| words.find(word).unwrap_or_else(|| panic!("{word}: {words}")));
        assert!(places.is_sorted(), "{words}");
    }

    #[test]
    fn where_no_setting_helps_it_is_said_once_and_a_begun_run_is_told_of_no_other_model() {
        let smallest = [
            "lora.rank=1",
            "train.micro_batch_size=1",
            "train.activation_checkpointing=true",
            "train.optimizer=sgd",
            "generation.batch_size=1",
            "generation.weights=bf16",
        ];
        let hint = |is_resumed| {
            with_subject(&smallest, |subject| {
                let limits = Limits { bytes: Some(1), ..Limits::default() };
                let refused = memory_that_fits(&Subject { is_resumed, ..*subject }, &limits, "flex").unwrap_err();
                refused.hint().unwrap().to_owned()
            })
        };
        let (new, begun) = (hint(false), hint(true));
        assert_eq!(new.matches("take a smaller model").count(), 1, "{new}");
        assert!(!begun.contains("model") && begun.contains("The last checkpoint is intact"), "{begun}");
        assert!(!format!("{new}{begun}").contains("all "), "of no changes none are summed up: {new}; {begun}");
    }

    #[test]
    fn the_cheapest_combination_fits_and_none_is_found_where_none_fits() {
        let full = peak(&[]);
        with_subject(&[], |subject| {
            let found = combination(subject, full * 2 / 3).unwrap();
            let assignments: Vec<&str> = found.assignments.iter().map(String::as_str).collect();
            assert_eq!(peak(&assignments), found.peak_bytes);
            assert!(found.peak_bytes <= full * 2 / 3, "{found:?}");
            assert_eq!(combination(subject, 20_000_000), None);
        });
    }

    #[test]
    fn a_resumed_run_that_does_not_fit_is_told_of_changes_that_a_resume_accepts() {
        let full = peak(&[]);
        with_subject(&[], |subject| {
            let resumed = Subject { is_resumed: true, ..*subject };
            let mut limit = full;
            while let Some(found) = combination(&resumed, limit - 1) {
                let is_changeable = |assignment: &String| CHANGEABLE.contains(&assignment.split('=').next().unwrap());
                assert!(found.assignments.iter().all(is_changeable), "{found:?}");
                limit = found.peak_bytes;
            }
            assert!(limit < full && combination(subject, limit - 1).is_some(), "a new run can do with less");

            let refused = |bytes| {
                let limits = Limits { bytes: Some(bytes), available_bytes: None, ..Limits::default() };
                memory_that_fits(&resumed, &limits, "flex").unwrap_err().hint().unwrap().to_owned()
            };
            let hint = refused(limit);
            let way_on = "`gsil resume DIR --allow-changes` (in a comparison: the same `gsil compare` command) with ";
            assert!(hint.contains(way_on) && hint.contains("cheapest"), "{hint}");
            let hint = refused(20_000_000);
            assert!(hint.contains("all that may change in this run does not suffice"), "{hint}");
        });
    }

    #[test]
    fn the_largest_checkpoint_is_that_of_the_stage_with_the_larger_optimizer() {
        let bytes = |assignments: &[&str]| with_subject(assignments, disk_bytes);
        let (sgd, adamw) = ("train.optimizer=sgd", bytes(&[]));
        assert_eq!(bytes(&[sgd, "sft.optimizer=adamw"]), adamw);
        assert_eq!(bytes(&["sft.optimizer=sgd"]), adamw);
        assert_eq!(bytes(&[sgd, "sft.optimizer=adamw", "iterations=0"]), adamw);
        assert_eq!(bytes(&["sft.optimizer=sgd", "iterations=0"]), bytes(&[sgd]));
        assert!(bytes(&[sgd]) < adamw);
    }

    #[test]
    fn no_room_is_asked_for_checkpoints_that_a_run_cannot_make() {
        let bytes = |assignments: &[&str]| with_subject(assignments, disk_bytes);
        let (short, long) = ("train.num_steps=20", "train.num_steps=5000");
        let settings = ["iterations=1", "save_every=50"];
        let with = |more: &[&str]| bytes(&[&settings[..], more].concat());
        // The start, both ends of the iteration and one that is being written.
        let checkpoint = with(&[long, "keep_last=3"]) - with(&[long, "keep_last=2"]);
        assert_eq!(with(&[short, "keep_last=100"]), with(&[short, "keep_last=3"]));
        assert_eq!(with(&[long, "keep_last=100"]) - with(&[short, "keep_last=100"]), 97 * checkpoint);
    }

    #[test]
    fn distributions_are_kept_for_every_response_token_of_every_iteration() {
        let bytes = |assignments: &[&str]| with_subject(assignments, disk_bytes);
        let settings = ["generation.max_new_tokens=50", "generation.samples_per_prompt=2", "iterations=3"];
        let with = |reduction: &str| bytes(&[&settings[..], &[reduction]].concat());
        // 32 rows, 2 responses of 50 tokens each, 3 iterations.
        let reduction = crate::config::VarianceReduction::TopK(16);
        let expected = 3 * distributions::num_bytes(reduction, 1000, 32 * 2 * 50);
        assert_eq!(with("objective.variance_reduction=top_k(16)") - bytes(&settings), expected);
        assert!(with("objective.variance_reduction=exact") - bytes(&settings) > 10 * expected);
    }

    #[test]
    fn a_tensor_beyond_a_cards_largest_buffer_is_a_problem_though_its_memory_is_not_known() {
        let memory = with_subject(&[], memory);
        let card = |max_buffer_bytes| Limits { max_buffer_bytes: Some(max_buffer_bytes), ..Limits::default() };
        assert_eq!(card(memory.largest_tensor_bytes).problem(&memory), None);
        let problem = card(memory.largest_tensor_bytes - 1).problem(&memory).unwrap();
        assert!(problem.contains("largest buffer"), "{problem}");
        let limits = Limits { bytes: Some(u64::MAX), ..card(memory.largest_tensor_bytes - 1) };
        for (is_resumed, hint) in [(false, OTHER_MODEL), (true, OTHER_CARD)] {
            let refused = |subject: &Subject<'_>| {
                memory_that_fits(&Subject { is_resumed, ..*subject }, &limits, "wgpu").unwrap_err()
            };
            assert_eq!(with_subject(&[], refused).hint(), Some(hint));
        }
        assert!(card(1).describe().contains("its driver does not say"));
    }
}
