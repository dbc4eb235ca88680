//! Generation: decoding over a cache against full forward passes, independence of the batch, limits; and the
//! architectures.
//!
//! The expected logits are those of transformers: [`crate::support::tiny_models`].

use burn::tensor::TensorData;
use gsil::config::WeightFormat;
use gsil::data::batch::Sequence;
use gsil::formats::safetensors::open_safetensors;
use gsil::generate::sampler::Sampling;
use gsil::generate::{Decoding, Event, Generator, OnEvent, Request, Response, generate, in_order};
use gsil::model::CausalLm;

use crate::support::golden::{self, VALUE_TOLERANCE, VOCAB_SIZE};
use crate::support::tiny_models::{self, VOCAB_SIZE as TINY_VOCAB_SIZE};
use crate::support::{TestDevice, assert_near, cpu_devices, devices, load_model, logits, random_ids, token_scores};

/// Prompts of six lengths, one of them a single token: left padding of every size in one batch.
const PROMPT_LENS: [usize; 6] = [5, 1, 13, 3, 8, 13];
/// Crosses the 32 tokens after which attention reads a wider part of the cache.
const MAX_NEW_TOKENS: usize = 24;

#[test]
fn every_architecture_has_the_logits_of_transformers() {
    for device in cpu_devices() {
        for name in tiny_models::all() {
            let expected = open_safetensors(&tiny_models::folder_of(name).join("expected.safetensors")).unwrap();
            let ids: Vec<u32> = expected.read_f32("input_ids").unwrap().iter().map(|id| *id as u32).collect();
            let rows: Vec<Vec<u32>> = ids.chunks(24).map(<[u32]>::to_vec).collect();
            let actual = logits(&tiny_model(name, device), &rows, 1).concat();
            let what = format!("{}: logits of {name}", device.name);
            assert_near(&what, &actual, &expected.read_f32("logits").unwrap(), VALUE_TOLERANCE);
        }
    }
}

#[test]
fn cached_decoding_gives_the_log_probs_of_the_full_forward() {
    for device in devices() {
        let model = golden::policy(device);
        let requests = requests(VOCAB_SIZE as u32, 7);
        for batch_size in if device.is_cpu() { vec![1, 2, 4, 6] } else { vec![6] } {
            let what = format!("{}, batches of {batch_size}", device.name);
            check_against_full_forward(&what, device, &model, &requests, batch_size);
        }
    }
}

#[test]
fn cached_decoding_equals_the_full_forward_for_every_architecture() {
    for device in cpu_devices() {
        for name in tiny_models::all() {
            let model = tiny_model(name, device);
            let what = format!("{}: {name}", device.name);
            check_against_full_forward(&what, device, &model, &requests(TINY_VOCAB_SIZE, 8), 4);
        }
    }
}

#[test]
fn a_response_is_the_same_alone_and_in_any_batch() {
    for device in cpu_devices() {
        let model = tiny_model("llama3", device);
        let requests = requests(TINY_VOCAB_SIZE, 9);
        for sampling in [Sampling::greedy(), sampled()] {
            let alone = answers(&model, &requests, &decoding(sampling.clone(), 1));
            for batch_size in [2, 3, 6] {
                let together = answers(&model, &requests, &decoding(sampling.clone(), batch_size));
                assert_eq!(token_ids(&together), token_ids(&alone), "{}: {sampling:?}, {batch_size}", device.name);
            }
        }
    }
}

#[test]
fn decoding_with_16_bit_weights_is_decoding_with_a_model_of_rounded_weights() {
    for device in cpu_devices().filter(|device| device.name == "flex") {
        let model = tiny_model("llama3", device);
        let file = open_safetensors(&tiny_models::folder_of("llama3").join("model.safetensors")).unwrap();
        let (rounded, _) = tiny_model("llama3", device).with_parameters(&mut |name, shape| {
            // The decoder looks embeddings up, and normalises, in f32.
            let name = if name.starts_with("lm_head") { name.to_owned() } else { format!("model.{name}") };
            let is_rounded = shape.len() == 2 && !name.contains("embed_tokens");
            let round = |value: &f32| half::bf16::from_f32(*value).to_f32();
            let rounded = || file.read_f32(&name).unwrap().iter().map(round).collect();
            is_rounded.then(|| TensorData::new(rounded(), shape.to_vec()))
        });
        let requests = requests(TINY_VOCAB_SIZE, 10);
        let with = |model: &CausalLm, weights: WeightFormat| {
            collect(&requests, |on_event| {
                Generator::new(model, weights)?.answer(&requests, &decoding(sampled(), 4), on_event)
            })
        };
        let narrow = with(&model, WeightFormat::Bf16);
        assert_eq!(narrow, with(&rounded, WeightFormat::F32));
        assert_ne!(narrow, with(&model, WeightFormat::F32), "rounding shows");
    }
}

#[test]
fn answers_in_the_order_of_requests_come_in_groups_of_a_few_batches_where_they_are_padded() {
    for device in cpu_devices() {
        let model = tiny_model("llama3", device);
        let requests = requests(TINY_VOCAB_SIZE, 3);
        let lens = |batch_size| in_order(&model, &requests, batch_size).map(<[Request]>::len).collect::<Vec<_>>();
        let expected = if device.name == "flex" { [vec![6], vec![6]] } else { [vec![4, 2], vec![6]] };
        assert_eq!([lens(1), lens(usize::MAX)], expected, "{}", device.name);
        assert_eq!(in_order(&model, &[], 1).count(), 0, "{}", device.name);
    }
}

#[test]
fn a_seed_repeats_its_response_and_another_gives_another() {
    for device in cpu_devices() {
        let model = tiny_model("qwen2", device);
        let of_seed = |seed| answers(&model, &requests(TINY_VOCAB_SIZE, seed), &decoding(sampled(), 6));
        let first = of_seed(1);
        assert_eq!(first, of_seed(1), "{}", device.name);
        for (i, (one, other)) in first.iter().zip(of_seed(2)).enumerate() {
            assert_ne!(one.token_ids, other.token_ids, "{}: prompt {i}", device.name);
        }
    }
}

#[test]
fn greedy_responses_do_not_depend_on_the_seed() {
    for device in cpu_devices() {
        let model = tiny_model("mistral", device);
        let of_seed = |seed| answers(&model, &requests(TINY_VOCAB_SIZE, seed), &decoding(Sampling::greedy(), 6));
        assert_eq!(of_seed(1), of_seed(2), "{}", device.name);
    }
}

#[test]
fn a_response_ends_with_its_first_end_token_and_is_finished() {
    for device in cpu_devices() {
        let model = tiny_model("llama3", device);
        let requests = requests(TINY_VOCAB_SIZE, 10);
        let endless = answers(&model, &requests, &decoding(sampled(), 6));
        // Any token of some response may be called an end token: what comes before it must not change.
        let eos_token_ids = vec![endless[0].token_ids[4], endless[2].token_ids[11]];
        let decoding = Decoding { eos_token_ids: eos_token_ids.clone(), ..decoding(sampled(), 6) };
        let ended = answers(&model, &requests, &decoding);
        assert!(ended[0].finished && ended[2].finished, "{}", device.name);
        for (i, (ended, endless)) in ended.iter().zip(&endless).enumerate() {
            let end = endless.token_ids.iter().position(|id| eos_token_ids.contains(id));
            let len = end.map_or(MAX_NEW_TOKENS, |position| position + 1);
            assert_eq!(ended.token_ids, endless.token_ids[..len], "{}: prompt {i}", device.name);
            assert_eq!(ended.token_log_probs.len(), len, "{}: prompt {i}", device.name);
            assert_eq!(ended.finished, end.is_some(), "{}: prompt {i}", device.name);
        }
    }
}

#[test]
fn a_response_that_reaches_the_token_limit_is_not_finished() {
    for device in cpu_devices() {
        let model = tiny_model("qwen2", device);
        for max_new_tokens in [1, 7] {
            let decoding = Decoding { max_new_tokens, ..decoding(sampled(), 4) };
            for response in answers(&model, &requests(TINY_VOCAB_SIZE, 11), &decoding) {
                assert_eq!((response.token_ids.len(), response.finished), (max_new_tokens, false), "{}", device.name);
            }
        }
    }
}

#[test]
fn a_request_may_have_a_lower_limit_of_its_own() {
    for device in cpu_devices() {
        let model = tiny_model("qwen2", device);
        let limits = [Some(2), None, Some(1), Some(100)];
        let requests = limits.map(|max_new_tokens| Request { prompt_ids: vec![3, 4], seed: 1, max_new_tokens });
        let decoding = Decoding { max_new_tokens: 5, ..decoding(sampled(), 4) };
        let lens: Vec<usize> = answers(&model, &requests, &decoding).iter().map(|r| r.token_ids.len()).collect();
        assert_eq!(lens, [2, 5, 1, 5], "{}", device.name);
    }
}

#[test]
fn a_response_stops_where_the_models_context_ends() {
    for device in cpu_devices() {
        let model = tiny_model("mistral", device);
        let context = model.config().max_position_embeddings;
        let request =
            |len| Request { prompt_ids: random_ids(12, len, TINY_VOCAB_SIZE), seed: 12, max_new_tokens: None };
        let requests = [request(context - 3), request(context - 1), request(context - 30)];
        let lens: Vec<usize> = answers(&model, &requests, &decoding(Sampling::greedy(), 3))
            .iter()
            .map(|response| response.token_ids.len())
            .collect();
        assert_eq!(lens, [3, 1, MAX_NEW_TOKENS], "{}", device.name);

        let error =
            generate(&model, &[request(context)], &decoding(Sampling::greedy(), 1), &mut |_| Ok(())).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("256 tokens"), "{error}");
    }
}

fn tiny_model(name: &str, device: &TestDevice) -> CausalLm {
    load_model(&tiny_models::folder_of(name), &device.device)
}

/// One request for each of [`PROMPT_LENS`]; `seed` changes the sampling, not the prompts.
fn requests(vocab_size: u32, seed: u64) -> Vec<Request> {
    let request = |(i, len): (usize, &usize)| Request {
        prompt_ids: random_ids(i as u64, *len, vocab_size),
        seed: 1000 * seed + i as u64,
        max_new_tokens: None,
    };
    PROMPT_LENS.iter().enumerate().map(request).collect()
}

/// The policy's own distribution.
fn sampled() -> Sampling {
    Sampling { temperature: 1.0, top_k: 0, top_p: 1.0 }
}

/// Without end tokens: every response has [`MAX_NEW_TOKENS`].
fn decoding(sampling: Sampling, batch_size: usize) -> Decoding {
    Decoding { sampling, max_new_tokens: MAX_NEW_TOKENS, batch_size, eos_token_ids: Vec::new() }
}

/// Responses in the order of the requests.
fn answers(model: &CausalLm, requests: &[Request], decoding: &Decoding) -> Vec<Response> {
    collect(requests, |on_event| generate(model, requests, decoding, on_event))
}

/// What `answer` tells, in the order of the requests.
fn collect(requests: &[Request], answer: impl FnOnce(OnEvent<'_>) -> gsil::Result<()>) -> Vec<Response> {
    let mut found: Vec<Option<Response>> = vec![None; requests.len()];
    answer(&mut |event| {
        if let Event::Done(i, response) = event {
            assert!(found[i].replace(response).is_none(), "request {i} is answered twice");
        }
        Ok(())
    })
    .unwrap();
    found.into_iter().map(|response| response.expect("every request is answered")).collect()
}

fn token_ids(responses: &[Response]) -> Vec<&[u32]> {
    responses.iter().map(|response| response.token_ids.as_slice()).collect()
}

/// The log-probs that decoding kept, against those of a scoring pass over prompt and response.
#[track_caller]
fn check_against_full_forward(
    what: &str,
    device: &TestDevice,
    model: &CausalLm,
    requests: &[Request],
    batch_size: usize,
) {
    let responses = answers(model, requests, &decoding(sampled(), batch_size));
    let sequences: Vec<Sequence<'_>> = requests
        .iter()
        .zip(&responses)
        .map(|(request, response)| Sequence { prompt_ids: &request.prompt_ids, response_ids: &response.token_ids })
        .collect();
    let scores = token_scores(model, &sequences, sequences.len(), device.num_tokens_multiple());
    for (i, (response, scores)) in responses.iter().zip(&scores).enumerate() {
        assert_eq!(response.token_ids.len(), MAX_NEW_TOKENS);
        assert_near(&format!("{what}, prompt {i}"), &response.token_log_probs, scores, VALUE_TOLERANCE);
    }
}
