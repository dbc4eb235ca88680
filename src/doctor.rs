//! A device put to the test: the work of a training run on a tiny model, compared with the CPU.
//!
//! Graphics drivers exist that report success and compute garbage, and training then learns garbage. So the first run on
//! a card and driver begins with [`ensure_sound`]; `gsil doctor` shows the same examination. The model is a grouped-query
//! Llama whose matrices have few different shapes, because a card compiles a program for each. Next: [`crate::cli`].

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use burn::tensor::{Device, TensorData};
use serde_json::json;

use crate::config::{ObjectiveConfig, OptimizerName, TrainConfig};
use crate::data::batch::{Batch, Sequence};
use crate::device::{self, Card};
use crate::error::{Error, Result};
use crate::formats::atomic_write::replace_text;
use crate::formats::file_system::Disk;
use crate::generate::sampler::Sampling;
use crate::generate::{Decoding, Event, Request, Response, generate};
use crate::model::{CausalLm, ModelConfig, weights};
use crate::objective::{Objective, log_probs};
use crate::report::console::Console;
use crate::train::optimizer::Optimizer;
use crate::train::pairs::{Pair, ScoredResponse};
use crate::train::setup::num_tokens_multiple;
use crate::train::step::Updater;

/// Differences that rounding explains: the norm of the difference as a share of the norm, in float32.
const LIMIT: f64 = 1e-3;
const VOCAB_SIZE: u32 = 64;
const NUM_NEW_TOKENS: usize = 8;

/// One part of the examination.
#[derive(Debug, Clone, PartialEq)]
pub struct Check {
    pub what: &'static str,
    /// How far the device's numbers are from the CPU's, as a share of their size; what the device said if it failed.
    pub difference: std::result::Result<f64, String>,
}

impl Check {
    /// Not so for NaN.
    pub fn is_sound(&self) -> bool {
        self.difference.as_ref().is_ok_and(|difference| *difference <= LIMIT)
    }

    fn new(what: &'static str, numbers: std::result::Result<Numbers, String>, expected: &Numbers) -> Self {
        Check { what, difference: numbers.map(|numbers| largest_difference(&numbers, expected)) }
    }
}

/// A device's work; a panic of its driver is a finding, not the end of the program.
fn guarded<T>(work: impl FnOnce() -> Result<T>) -> std::result::Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(panic) => Err(device::text_of_panic(&*panic).unwrap_or("the driver panicked").to_owned()),
    }
}

/// The most that [`Check::difference`] may be.
pub fn limit() -> f64 {
    LIMIT
}

/// Some tensors' values.
type Numbers = Vec<Vec<f32>>;

/// Examines a device.
///
/// # Errors
/// [`Error::Device`] if it or the CPU backend does not start. What the device computes wrongly is in the checks.
pub fn examine(device_name: &str) -> Result<Vec<Check>> {
    let device = Examined::open(device_name)?;
    let cpu = Examined { num_tokens_multiple: device.num_tokens_multiple, ..Examined::open(device::processor())? };
    let generated = guarded(|| device.decode());
    let scored = generated.as_ref().map_or_else(|_| Ok(Numbers::new()), |responses| cpu.score(responses))?;
    let decoded = generated.map(|responses| responses.into_iter().map(|r| r.token_log_probs).collect());
    Ok(vec![
        Check::new("forward pass", guarded(|| device.logits()), &cpu.logits()?),
        Check::new("gradients of all weights", guarded(|| device.gradients()), &cpu.gradients()?),
        Check::new("gradients of an adapter", guarded(|| device.adapter_gradients()), &cpu.adapter_gradients()?),
        Check::new("decoding over a cache", decoded, &scored),
        Check::new("two AdamW updates, clipped", guarded(|| device.adamw()), &cpu.adamw()?),
        Check::new("two RMSprop updates, clipped", guarded(|| device.rmsprop()), &cpu.rmsprop()?),
    ])
}

/// Stops before a run on a device that computes garbage. A card with its driver is examined once; the verdict is kept in the
/// user's cache folder. Processors are taken at their word.
///
/// # Errors
/// [`Error::Device`] naming the first check that failed.
pub fn ensure_sound(device_name: &str, console: &Console) -> Result<()> {
    let Some(card) = device::card(device_name) else { return Ok(()) };
    let verdicts = Verdicts::of_user();
    if verdicts.holds_sound(&card) {
        return Ok(());
    }
    console.say(format!("first use of {}: comparing it with the CPU (once for each driver)", card.name));
    verdict(device_name, &examine(device_name)?)?;
    verdicts.keep_sound(&card);
    Ok(())
}

/// # Errors
/// [`Error::Device`] naming the first check that failed, with what to do.
pub fn verdict(device_name: &str, checks: &[Check]) -> Result<()> {
    let Some(check) = checks.iter().find(|check| !check.is_sound()) else { return Ok(()) };
    let what = check.what;
    let message = match &check.difference {
        Ok(difference) => {
            format!("computes garbage: {what} differs from the CPU by {difference:.1e} (limit {LIMIT:.0e})")
        }
        Err(said) => format!("fails: {what}: {said}"),
    };
    Err(Error::device(device_name, message).with_hint(
        "update the graphics driver, try another device (`gsil devices`), or begin a run with --device flex",
    ))
}

/// A device with the tiny model and its data.
struct Examined {
    device: Device,
    num_tokens_multiple: usize,
    pairs: Vec<Pair>,
}

impl Examined {
    fn open(name: &str) -> Result<Self> {
        let device = device::open(name)?.autodiff();
        let pairs = [(0, 5, 9), (40, 3, 7)].map(|(first, num_prompt, num_response)| {
            let ids = |start: u32, len: u32| (0..len).map(|i| (first + start + 7 * i) % VOCAB_SIZE).collect();
            let scored = |start| ScoredResponse { token_ids: ids(start, num_response), reference_log_prob: -20.0 };
            Pair {
                index: first as usize,
                prompt_ids: ids(1, num_prompt),
                demonstration: scored(20),
                self_generated: vec![scored(33)],
                distributions: Vec::new(),
            }
        });
        Ok(Examined { device, num_tokens_multiple: num_tokens_multiple(name), pairs: pairs.to_vec() })
    }

    fn model(&self) -> Result<CausalLm> {
        let config = json!({
            "model_type": "llama", "vocab_size": VOCAB_SIZE, "hidden_size": 64, "intermediate_size": 64,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5,
            "max_position_embeddings": 64, "tie_word_embeddings": true, "hidden_act": "silu", "initializer_range": 0.2,
        });
        weights::initialize(&ModelConfig::from_json(&config, None, Path::new("doctor"))?, 1, &self.device)
    }

    fn adapted_model(&self) -> Result<CausalLm> {
        let model = self.model()?.with_adapters(2, 4.0, &["q_proj".into(), "down_proj".into()], 1);
        // A fresh adapter's second matrix is zero, and the first would have no gradient.
        let wave = |len: usize| (0..len).map(|i| (i as f32).sin() / 10.0).collect::<Vec<f32>>();
        let (model, _) = model.with_parameters(&mut |path, shape| {
            path.ends_with("lora.b").then(|| TensorData::new(wave(shape.iter().product()), shape.to_vec()))
        });
        Ok(model)
    }

    fn logits(&self) -> Result<Numbers> {
        let model = self.model()?;
        let pairs = self.pairs.iter();
        let sequences: Vec<Sequence<'_>> = pairs.map(sequence).collect();
        let batch = Batch::new(&sequences, self.num_tokens_multiple);
        Ok(vec![weights::to_host(model.head(log_probs::hidden_states(&model, &batch)))?])
    }

    fn gradients(&self) -> Result<Numbers> {
        self.changes(self.model()?, &sgd(), 1, 1.0)
    }

    fn adapter_gradients(&self) -> Result<Numbers> {
        self.changes(self.adapted_model()?, &sgd(), 1, 1.0)
    }

    fn adamw(&self) -> Result<Numbers> {
        self.changes(self.model()?, &clipped(OptimizerName::Adamw), 2, 1e-2)
    }

    fn rmsprop(&self) -> Result<Numbers> {
        self.changes(self.model()?, &clipped(OptimizerName::Rmsprop), 2, 1e-2)
    }

    /// How updates change each trained tensor. With plain descent at rate 1 that is the gradient.
    fn changes(&self, model: CausalLm, config: &TrainConfig, num_updates: usize, lr: f64) -> Result<Numbers> {
        let objective = Objective::new(&ObjectiveConfig::default());
        let updater =
            Updater { objective: &objective, config, normalizer: 1.0, num_tokens_multiple: self.num_tokens_multiple };
        let pairs: Vec<&Pair> = self.pairs.iter().collect();
        let before = trained(&model)?;
        let mut optimizer = Optimizer::new(config);
        let updated = (0..num_updates)
            .try_fold(model, |model, _| updater.update(model, &mut optimizer, &pairs, lr).map(|(model, _)| model))?;
        let change = |(before, after): (&Vec<f32>, Vec<f32>)| before.iter().zip(after).map(|(b, a)| b - a).collect();
        Ok(before.iter().zip(trained(&updated)?).map(change).collect())
    }

    /// Greedy answers to the prompts.
    fn decode(&self) -> Result<Vec<Response>> {
        let prompts = self.pairs.iter().map(|pair| pair.prompt_ids.clone());
        let requests: Vec<Request> =
            prompts.map(|prompt_ids| Request { prompt_ids, seed: 0, max_new_tokens: None }).collect();
        let decoding = Decoding {
            sampling: Sampling::greedy(),
            max_new_tokens: NUM_NEW_TOKENS,
            batch_size: requests.len(),
            eos_token_ids: Vec::new(),
        };
        let mut answers = BTreeMap::new();
        let model = self.model()?;
        generate(&model, &requests, &decoding, &mut |event| {
            if let Event::Done(i, response) = event {
                answers.insert(i, response);
            }
            Ok(())
        })?;
        Ok(answers.into_values().collect())
    }

    /// Log-probs of answers to the prompts by a full forward pass.
    fn score(&self, responses: &[Response]) -> Result<Numbers> {
        let answered = self.pairs.iter().zip(responses);
        let sequences: Vec<Sequence<'_>> = answered
            .map(|(pair, response)| Sequence { prompt_ids: &pair.prompt_ids, response_ids: &response.token_ids })
            .collect();
        log_probs::score(&self.model()?, &sequences, sequences.len(), self.num_tokens_multiple, &mut |_| Ok(()))
    }
}

fn sequence(pair: &Pair) -> Sequence<'_> {
    Sequence { prompt_ids: &pair.prompt_ids, response_ids: &pair.demonstration.token_ids }
}

fn sgd() -> TrainConfig {
    TrainConfig { optimizer: OptimizerName::Sgd, max_grad_norm: 0.0, ..TrainConfig::default() }
}

/// A large epsilon: with a small one the first update is the gradient's sign, rounding decides it near zero, and a wrong
/// norm of the gradient changes nothing.
fn clipped(optimizer: OptimizerName) -> TrainConfig {
    TrainConfig { optimizer, epsilon: 1e-2, max_grad_norm: 0.1, ..TrainConfig::default() }
}

fn trained(model: &CausalLm) -> Result<Numbers> {
    weights::trained_tensors_to_write(model).into_iter().map(|tensor| Ok(tensor.into_host()?.values)).collect()
}

/// Over tensors: the norm of the difference as a share of the expected norm. Infinite where tensors are missing or a number
/// is not finite.
fn largest_difference(numbers: &Numbers, expected: &Numbers) -> f64 {
    let same_sizes = numbers.iter().map(Vec::len).eq(expected.iter().map(Vec::len));
    let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    let difference = |(numbers, expected): (&Vec<f32>, &Vec<f32>)| {
        let difference = norm(&mut numbers.iter().zip(expected).map(|(a, b)| a - b));
        difference / norm(&mut expected.iter().copied()).max(f64::MIN_POSITIVE)
    };
    let differences = numbers.iter().zip(expected).map(difference);
    let worst = differences.fold(0.0, |worst: f64, d| if d.is_finite() { worst.max(d) } else { f64::INFINITY });
    if same_sizes { worst } else { f64::INFINITY }
}

/// Cards that were found sound: one line each in a file of the user's cache folder.
struct Verdicts(Option<PathBuf>);

impl Verdicts {
    fn of_user() -> Self {
        Verdicts(dirs::cache_dir().map(|folder| folder.join("gsil").join("sound_devices")))
    }

    /// What makes a verdict void when it changes.
    fn key(Card { name, driver }: &Card) -> String {
        format!("{name} | {driver} | gsil {}", env!("CARGO_PKG_VERSION")).replace('\n', " ")
    }

    fn holds_sound(&self, card: &Card) -> bool {
        let text = self.0.as_ref().and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
        text.lines().any(|line| line == Self::key(card))
    }

    /// A verdict that cannot be kept is found again at the next run.
    fn keep_sound(&self, card: &Card) {
        let Some(path) = &self.0 else { return };
        let text = fs::read_to_string(path).unwrap_or_default() + &Self::key(card) + "\n";
        let folder = path.parent().unwrap_or(Path::new("."));
        let _ = fs::create_dir_all(folder).is_ok().then(|| replace_text(&Disk, path, &text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(driver: &str) -> Card {
        Card { name: "a card".to_owned(), driver: driver.to_owned() }
    }

    #[test]
    fn the_cpu_agrees_with_itself() {
        let checks = examine(device::processor()).unwrap();
        assert_eq!(checks.len(), 6);
        // All but decoding, which has kernels of its own, are the very same operations.
        assert!(checks.iter().all(|check| check.difference.as_ref().is_ok_and(|d| *d < 1e-5)), "{checks:?}");
        verdict(device::processor(), &checks).unwrap();
    }

    #[test]
    fn a_wrong_norm_of_the_gradient_shows_in_clipped_updates() {
        let cpu = Examined::open(device::processor()).unwrap();
        for optimizer in [OptimizerName::Adamw, OptimizerName::Rmsprop] {
            let config = clipped(optimizer);
            // As if the norm were found one percent too small.
            let wrong = TrainConfig { max_grad_norm: 1.01 * config.max_grad_norm, ..config.clone() };
            let changes = |config| cpu.changes(cpu.model().unwrap(), config, 2, 1e-2).unwrap();
            let check = Check::new("clipped", Ok(changes(&wrong)), &changes(&config));
            assert!(!check.is_sound(), "{optimizer:?}: {check:?}");
        }
    }

    #[test]
    fn garbage_is_named_and_stops_the_run() {
        let expected = vec![vec![1.0, 2.0], vec![3.0]];
        let nothing_written = vec![vec![0.0, 0.0], vec![3.0]];
        let not_a_number = vec![vec![1.0, f32::NAN], vec![3.0]];
        let too_few = vec![vec![1.0, 2.0]];
        for numbers in [nothing_written, not_a_number, too_few] {
            let check = Check::new("forward pass", Ok(numbers), &expected);
            assert!(!check.is_sound());
            let error = verdict("wgpu", &[check]).unwrap_err();
            assert_eq!(error.exit_code(), 4);
            assert!(error.to_string().contains("forward pass differs"), "{error}");
            assert!(error.hint().unwrap().contains("driver"));
        }
        let near = Check::new("forward pass", Ok(vec![vec![1.0, 2.0002], vec![3.0]]), &expected);
        assert!(near.is_sound());
    }

    #[test]
    fn a_panic_of_a_driver_is_a_finding() {
        let said = guarded(|| -> Result<Numbers> { panic!("device lost") });
        let error = verdict("wgpu", &[Check::new("gradients", said, &Numbers::new())]).unwrap_err();
        assert!(error.to_string().contains("gradients: device lost"), "{error}");
    }

    #[test]
    fn a_verdict_holds_for_one_driver() {
        let folder = tempfile::tempdir().unwrap();
        let verdicts = Verdicts(Some(folder.path().join("gsil/sound_devices")));
        assert!(!verdicts.holds_sound(&card("1.0")));
        verdicts.keep_sound(&card("1.0"));
        assert!(verdicts.holds_sound(&card("1.0")));
        assert!(!verdicts.holds_sound(&card("1.1")));
    }
}
