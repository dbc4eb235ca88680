//! How much of a gradient is signal? `cargo bench --bench gradient_noise -- MODEL DATA [KEY=VALUE ..]`
//!
//! A batch's gradient is the expected one plus noise. From B batches `g_b` of the same size, with `S` their sum,
//!
//! ```text
//! signal^2 = (|S|^2 - sum_b |g_b|^2) / (B (B - 1))      noise^2 = (sum_b |g_b|^2 - |S|^2 / B) / (B - 1)
//! ```
//! are unbiased, over all parameters together. At the start of an iteration a self-generated response has no gradient on average:
//! plain losses see it as noise alone, and the variance reduction leaves none of it but that of tokens outside the K that
//! it keeps. So this is measured at the reference and after some supervised updates away from it. All weights are measured:
//! an adapter is refused.
//!
//! `train.batch_size` is the size of a batch, `max_rows` / `train.batch_size` their number, `train.num_steps` the supervised
//! updates in between. Of a run's other settings these count, and the rest changes nothing:
//!
//! - `device`, `seed`, `skip_bad_rows`, `prompt_column`, `response_column`
//! - `objective`: `scale`, `shift`, `sft_weight`
//! - `generation`: `samples_per_prompt`, `max_new_tokens`, `batch_size`, `weights`, `unfinished`
//! - `train`: `max_length`, `micro_batch_size`, `max_tokens`, `activation_checkpointing`; of the supervised updates `lr` (the
//!   same for all), `optimizer` with its numbers, `max_grad_norm`, and `epochs` with `num_steps=none`

use std::path::{Path, PathBuf};

use burn::optim::GradientsAccumulator;
use gsil::config::{ObjectiveConfig, ObjectiveName, RunConfig};
use gsil::data::batch::Sequence;
use gsil::data::examples::Example;
use gsil::generate::sampler::{Sampling, answer_seed};
use gsil::generate::{Decoding, Event, Generator, Request, Response};
use gsil::model::CausalLm;
use gsil::objective::variance_reduction::distributions;
use gsil::objective::{Objective, log_probs};
use gsil::policy::{Policy, Wanted};
use gsil::report::console::Console;
use gsil::report::table::format_table;
use gsil::train::clipping::global_norm;
use gsil::train::optimizer::Optimizer;
use gsil::train::pairs::{Pair, make_pairs};
use gsil::train::replicas::Replicas;
use gsil::train::step::Updater;
use gsil::{Error, Result, device};

/// Likeliest tokens that the variance reduction keeps.
const NUM_CANDIDATES: usize = 16;

/// The losses that are compared, and whether their self-generated side is reduced.
const LOSSES: [(&str, ObjectiveName, bool); 6] = [
    ("sft", ObjectiveName::Sft, false),
    ("spin", ObjectiveName::Spin, false),
    ("bernoulli", ObjectiveName::Bernoulli, false),
    ("bernoulli, reduced", ObjectiveName::Bernoulli, true),
    ("kliep", ObjectiveName::Kliep, false),
    ("kliep, reduced", ObjectiveName::Kliep, true),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let outcome = match arguments.as_slice() {
        [] => {
            eprintln!("gradient_noise: give MODEL DATA [KEY=VALUE ..] to measure something");
            Ok(())
        }
        [_] => Err(Error::usage("a model needs its demonstrations: MODEL DATA [KEY=VALUE ..]")),
        [model, data, changes @ ..] => run(Path::new(model), Path::new(data), changes),
    };
    if let Err(error) = outcome {
        eprintln!("error: {error}");
        error.hint().into_iter().for_each(|hint| eprintln!("hint: {hint}"));
        std::process::exit(error.exit_code());
    }
}

fn run(model: &Path, data: &Path, changes: &[String]) -> Result<()> {
    let config = configured(changes)?;
    let console = Console::stderr();
    let policy = Policy::open(model)?;
    let wanted = Wanted::new(&config, config.max_rows);
    let examples = policy.read_examples(&[PathBuf::from(data)], &wanted, config.train.max_length, &console)?;
    let reference = policy.load(&device::open(&config.device)?.autodiff(), &console)?;
    let responses = answers(&config, &reference, &policy.eos_token_ids, &examples)?;
    let pairs = pairs(&config, &reference, &examples, &responses)?;
    if pairs.len() < 2 * config.train.batch_size {
        let message = format!("{} pairs make less than two batches of {}", pairs.len(), config.train.batch_size);
        return Err(Error::config("max_rows", message));
    }
    eprintln!("{} pairs in batches of {}", pairs.len(), config.train.batch_size);
    println!("At the reference\n{}", table(&config, &reference, &pairs)?);
    let moved = supervised_updates(&config, reference, &pairs)?;
    let num_steps = config.train.num_updates(pairs.len());
    println!("After {num_steps} supervised updates\n{}", table(&config, &moved, &pairs)?);
    Ok(())
}

fn configured(changes: &[String]) -> Result<RunConfig> {
    let mut config = RunConfig { device: "flex".into(), max_rows: Some(96), ..RunConfig::default() };
    config.train.num_steps = Some(8);
    changes.iter().try_for_each(|change| config.set(change))?;
    if config.lora.is_some() {
        return Err(Error::usage("an adapter is set, but the gradients of all weights are measured")
            .with_hint("leave out `lora` and its keys"));
    }
    config.resolve();
    config.validate()?;
    Ok(config)
}

/// The reference's own answers, `samples_per_prompt` to each prompt.
fn answers(config: &RunConfig, reference: &CausalLm, eos: &[u32], examples: &[Example]) -> Result<Vec<Vec<Response>>> {
    let generation = &config.generation;
    let num_samples = generation.samples_per_prompt;
    let request = |(i, sample): (usize, usize)| Request {
        prompt_ids: examples[i].prompt_ids.clone(),
        seed: answer_seed(config.seed, 0, i, sample),
        max_new_tokens: None,
    };
    let places = (0..examples.len()).flat_map(|i| (0..num_samples).map(move |sample| (i, sample)));
    let requests: Vec<Request> = places.map(request).collect();
    let decoding = Decoding {
        sampling: Sampling { temperature: 1.0, top_k: 0, top_p: 1.0 },
        max_new_tokens: generation.max_new_tokens,
        batch_size: generation.batch_size,
        eos_token_ids: eos.to_vec(),
    };
    let mut found: Vec<Option<Response>> = vec![None; requests.len()];
    Generator::new(reference, generation.weights)?.answer(&requests, &decoding, &mut |event| {
        if let Event::Done(i, response) = event {
            found[i] = Some(response);
        }
        Ok(())
    })?;
    Ok(found.chunks(num_samples).map(|own| own.iter().flatten().cloned().collect()).collect())
}

/// Scored under the reference, with its distributions.
fn pairs(
    config: &RunConfig,
    reference: &CausalLm,
    examples: &[Example],
    responses: &[Vec<Response>],
) -> Result<Vec<Pair>> {
    let demonstrations: Vec<Sequence<'_>> = examples
        .iter()
        .map(|example| Sequence { prompt_ids: &example.prompt_ids, response_ids: &example.demonstration_ids })
        .collect();
    let batch_size = 2 * config.train.micro_batch_size;
    let scores = log_probs::score(reference, &demonstrations, batch_size, 1, &mut |_| Ok(()))?;
    let scores: Vec<f64> = scores.iter().map(|tokens| tokens.iter().map(|p| f64::from(*p)).sum()).collect();
    let unfinished = config.generation.unfinished;
    let (mut pairs, _) = make_pairs(examples, responses, &scores, unfinished, config.train.max_length);
    for pair in &mut pairs {
        let own = pair.self_generated.iter();
        let own = own.map(|response| Sequence { prompt_ids: &pair.prompt_ids, response_ids: &response.token_ids });
        pair.distributions =
            own.map(|sequence| distributions(reference, sequence, NUM_CANDIDATES, 1)).collect::<Result<_>>()?;
    }
    Ok(pairs)
}

fn updater<'a>(config: &'a RunConfig, objective: &'a Objective) -> Updater<'a> {
    Updater { objective, config: &config.train, normalizer: 1.0, num_tokens_multiple: 1 }
}

/// A policy that has left the reference.
fn supervised_updates(config: &RunConfig, mut model: CausalLm, pairs: &[Pair]) -> Result<CausalLm> {
    let objective = Objective::new(&ObjectiveConfig { name: ObjectiveName::Sft, ..config.objective.clone() });
    let mut optimizer = Optimizer::new(&config.train);
    let lr = config.train.lr.expect("a resolved configuration has a learning rate");
    let alone: Vec<Pair> = pairs.iter().map(without_self_generated).collect();
    let batches = alone.chunks(config.train.batch_size).cycle();
    for batch in batches.take(config.train.num_updates(pairs.len())) {
        let batch: Vec<&Pair> = batch.iter().collect();
        (model, _) = updater(config, &objective).update(model, &mut optimizer, &batch, lr)?;
    }
    Ok(model)
}

fn without_self_generated(pair: &Pair) -> Pair {
    Pair { self_generated: Vec::new(), distributions: Vec::new(), ..pair.clone() }
}

fn table(config: &RunConfig, model: &CausalLm, pairs: &[Pair]) -> Result<String> {
    let mut rows = Vec::new();
    for (title, name, is_reduced) in LOSSES {
        let objective = Objective::new(&ObjectiveConfig { name, ..config.objective.clone() });
        let of_loss = |pair: &Pair| match (objective.needs_self_generated(), is_reduced) {
            (false, _) => without_self_generated(pair),
            (true, false) => Pair { distributions: Vec::new(), ..pair.clone() },
            (true, true) => pair.clone(),
        };
        let pairs: Vec<Pair> = pairs.iter().map(of_loss).collect();
        let [signal, noise] = signal_and_noise(&updater(config, &objective), model, &pairs)?;
        rows.push(vec![
            title.to_owned(),
            format!("{signal:.3}"),
            format!("{noise:.3}"),
            format!("{:.3}", signal / noise),
        ]);
        eprintln!("{title}: {:.3}", signal / noise);
    }
    Ok(format_table(&["gradient of a batch", "signal", "noise", "signal / noise"], &rows))
}

/// As the head of this file says; a signal whose square comes out below 0 is 0.
fn signal_and_noise(updater: &Updater<'_>, model: &CausalLm, pairs: &[Pair]) -> Result<[f64; 2]> {
    let (mut sum, mut squares, mut count) = (GradientsAccumulator::new(), 0.0, 0.0);
    for batch in pairs.chunks_exact(updater.config.batch_size) {
        let batch: Vec<&Pair> = batch.iter().collect();
        let (gradients, _) = updater.gradients(&Replicas::default(), model, &batch)?;
        squares += global_norm(model, &gradients)?.powi(2);
        sum.accumulate(model, gradients);
        count += 1.0;
    }
    let square_of_sum = global_norm(model, &sum.grads())?.powi(2);
    let signal = (square_of_sum - squares) / (count * (count - 1.0));
    let noise = (squares - square_of_sum / count) / (count - 1.0);
    Ok([signal.max(0.0).sqrt(), noise.sqrt()])
}
