//! A small task that needs no download: two-step arithmetic stories, their tokenizer, and the shape of a model for it.
//!
//! `Hal has 6 4 cups wins 8 gives 3 ? A:` is answered by `6 4 + 8 = 7 2 ; 7 2 - 3 = 6 9 ; #### 6 9`. Numbers are
//! spelled digit by digit, so that 53 tokens suffice and a model of 0.34 million parameters learns it in half a minute.
//! Prompt and solution are tokenized apart, or joined by a space. Weights are not made here; next: [`crate::model`].

use std::path::Path;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::config::WordProblemsConfig;
use crate::error::{Error, Result};
use crate::formats::TokenizerFiles;

/// Token ids 0 to 3, in this order.
const SPECIAL: [&str; 4] = ["<pad>", "<bos>", "<eos>", "<unk>"];
/// Who the story is about.
const NAMES: [&str; 10] = ["Ann", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hal", "Ida", "Jo"];
/// What is counted.
const OBJECTS: [&str; 9] = ["cups", "pens", "books", "coins", "cards", "eggs", "hats", "keys", "nuts"];
/// Verbs that add.
const GAINS: [&str; 6] = ["wins", "buys", "finds", "gets", "makes", "earns"];
/// Verbs that take away.
const LOSSES: [&str; 6] = ["gives", "loses", "sells", "drops", "eats", "breaks"];
/// The rest of the language besides the ten digits.
const SIGNS: [&str; 8] = ["has", "?", "A:", "+", "-", "=", ";", WordProblemsConfig::ANSWER_MARKER];

/// Tokens in a context of the model: a story and its solution have 31.
const MAX_POSITIONS: usize = 128;

/// Demonstrations and held-out problems.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WordProblems {
    /// Demonstrations; their steps may slip.
    pub train: Vec<Problem>,
    /// Held-out problems; their solutions are right.
    pub test: Vec<Problem>,
}

/// One story with its solution, both as words separated by single spaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The story, up to and with `A:`.
    pub prompt: String,
    /// The two steps and the answer, without an end token.
    pub solution: String,
}

/// A start value and two steps; a step is a signed number from 2 to 9.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Chain {
    start: i32,
    steps: [i32; 2],
}

/// Two-digit numbers: all values on the way.
fn is_allowed(value: i32) -> bool {
    (10..=99).contains(&value)
}

/// All chains whose values stay within 10 and 99.
fn all_chains() -> Vec<Chain> {
    let steps = || (2..=9).flat_map(|size| [size, -size]);
    let mut chains = Vec::new();
    for start in 10..=99 {
        for first in steps().filter(|first| is_allowed(start + first)) {
            for second in steps().filter(|second| is_allowed(start + first + second)) {
                chains.push(Chain { start, steps: [first, second] });
            }
        }
    }
    chains
}

/// Makes problems at random: chains uniform without repetition, names, objects and verbs uniform.
///
/// The same `seed` and counts give the same stories whatever `slip_probability` is. A step of a demonstration slips
/// with that probability: its result is off by one, and the solution goes on from the wrong value.
///
/// # Panics
/// If more problems are asked for than there are chains; [`crate::config::RunConfig::validate`] allows fewer.
pub fn make_word_problems(seed: u64, num_train: usize, num_test: usize, slip_probability: f64) -> WordProblems {
    let mut stories = ChaCha8Rng::seed_from_u64(seed);
    let mut slips = ChaCha8Rng::seed_from_u64(seed);
    slips.set_stream(1);

    let mut chains = all_chains();
    let (num_chains, num_problems) = (chains.len(), num_train + num_test);
    assert!(num_problems <= num_chains, "{num_problems} problems of {num_chains} chains");
    // The head of a Fisher-Yates shuffle.
    for i in 0..num_problems {
        chains.swap(i, i + below(&mut stories, num_chains - i));
    }
    let (for_test, for_train) = chains[..num_problems].split_at(num_test);
    WordProblems {
        test: for_test.iter().map(|&chain| problem(chain, &mut stories, &mut slips, 0.0)).collect(),
        train: for_train.iter().map(|&chain| problem(chain, &mut stories, &mut slips, slip_probability)).collect(),
    }
}

/// Tells the story of a chain and solves it, with slips.
fn problem(chain: Chain, stories: &mut ChaCha8Rng, slips: &mut ChaCha8Rng, slip_probability: f64) -> Problem {
    let name = choose(stories, &NAMES);
    let object = choose(stories, &OBJECTS);
    let [first, second] = chain.steps.map(|step| {
        let verb = choose(stories, if step > 0 { &GAINS } else { &LOSSES });
        format!("{verb} {}", step.abs())
    });
    let prompt = format!("{name} has {} {object} {first} {second} ? A:", spelled(chain.start));

    let mut solution = String::new();
    let mut value = chain.start;
    for (i, step) in chain.steps.into_iter().enumerate() {
        let later: i32 = chain.steps[i + 1..].iter().sum();
        let result = value + step + slip(slips, slip_probability, value + step, later);
        let sign = if step > 0 { '+' } else { '-' };
        solution += &format!("{} {sign} {} = {} ; ", spelled(value), step.abs(), spelled(result));
        value = result;
    }
    solution += &format!("{} {}", WordProblemsConfig::ANSWER_MARKER, spelled(value));
    Problem { prompt, solution }
}

/// 0, or with the given probability +1 or -1, whichever keeps `result` and what follows it (`later`) within two digits.
fn slip(rng: &mut ChaCha8Rng, probability: f64, result: i32, later: i32) -> i32 {
    // Both numbers are drawn in any case, so that one slip does not move the others.
    let slips = uniform(rng) < probability;
    let direction = if below(rng, 2) == 0 { 1 } else { -1 };
    let fits = |by: i32| is_allowed(result + by) && is_allowed(result + by + later);
    match (slips, fits(direction)) {
        (false, _) => 0,
        (true, true) => direction,
        // One direction always fits: two values at most 9 apart cannot be at 10 and at 99.
        (true, false) => -direction,
    }
}

/// `64` as `6 4`.
fn spelled(number: i32) -> String {
    format!("{} {}", number / 10, number % 10)
}

/// One of `words`, each as likely.
fn choose<'a>(rng: &mut ChaCha8Rng, words: &[&'a str]) -> &'a str {
    words[below(rng, words.len())]
}

/// A whole number below `limit`, each as likely: draws from the incomplete last block of `u64` are thrown away.
fn below(rng: &mut ChaCha8Rng, limit: usize) -> usize {
    let limit = limit as u64;
    let whole_blocks = u64::MAX - u64::MAX % limit;
    loop {
        let draw = rng.next_u64();
        if draw < whole_blocks {
            return (draw % limit) as usize;
        }
    }
}

/// A number from 0 to just below 1, in steps of 2^-53.
fn uniform(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// All tokens; the place is the id.
fn vocabulary() -> impl Iterator<Item = String> {
    let digits = (0..10).map(|digit| digit.to_string());
    let words = SIGNS.iter().chain(&NAMES).chain(&OBJECTS).chain(&GAINS).chain(&LOSSES);
    SPECIAL.iter().map(|&token| token.to_owned()).chain(digits).chain(words.map(|&word| word.to_owned()))
}

/// A Hugging Face tokenizer of these words: split at white space, one token a word, decoded with single spaces.
pub fn tokenizer_files() -> TokenizerFiles {
    let vocab: serde_json::Map<String, Value> = vocabulary().enumerate().map(|(id, word)| (word, id.into())).collect();
    let added_tokens: Vec<Value> = SPECIAL
        .iter()
        .enumerate()
        .map(|(id, token)| {
            json!({
                "id": id, "content": token, "special": true,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            })
        })
        .collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added_tokens,
        "normalizer": null, "pre_tokenizer": { "type": "WhitespaceSplit" }, "post_processor": null,
        // Without a decoder tokens are joined by single spaces.
        "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "<unk>" },
    });
    let tokenizer_config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>",
        "add_bos_token": false, "add_eos_token": false,
        "model_max_length": MAX_POSITIONS,
        // It would turn " ?" into "?".
        "clean_up_tokenization_spaces": false,
    });
    TokenizerFiles { tokenizer_json: tokenizer.to_string().into_bytes(), tokenizer_config, chat_template: None }
}

/// The `config.json` of a Llama-style model for this task. Sizes as in [`crate::config::WordProblemsConfig`];
/// `vocab_size` is the tokenizer's.
pub fn model_config(
    vocab_size: usize,
    hidden_size: usize,
    num_layers: usize,
    num_heads: usize,
    intermediate_size: usize,
) -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama",
        "vocab_size": vocab_size, "hidden_size": hidden_size, "intermediate_size": intermediate_size,
        "num_hidden_layers": num_layers, "num_attention_heads": num_heads, "num_key_value_heads": num_heads,
        "max_position_embeddings": MAX_POSITIONS, "rope_theta": 10000.0, "rms_norm_eps": 1e-5,
        "hidden_act": "silu", "attention_bias": false, "mlp_bias": false, "tie_word_embeddings": true,
        "initializer_range": 0.06, "torch_dtype": "float32",
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    })
}

/// Writes problems as JSONL rows of `prompt` and `response`.
///
/// # Errors
/// [`Error::Disk`] if the file cannot be written.
pub fn write_rows(path: impl AsRef<Path>, problems: &[Problem]) -> Result<()> {
    let path = path.as_ref();
    let mut text = String::new();
    for Problem { prompt, solution } in problems {
        text += &json!({ "prompt": prompt, "response": solution }).to_string();
        text.push('\n');
    }
    std::fs::write(path, text).map_err(Error::writing("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use tokenizers::Tokenizer;

    /// A step of a solution as written, `6 4 + 8 = 7 2`: left value, signed step, right value.
    fn step(text: &str) -> (i32, i32, i32) {
        let words: Vec<&str> = text.split(' ').collect();
        let [a, b, sign, c, "=", d, e] = words[..] else { panic!("not a step: {text}") };
        let number = |tens: &str, ones: &str| format!("{tens}{ones}").parse().unwrap();
        let size: i32 = c.parse().unwrap();
        (number(a, b), if sign == "+" { size } else { -size }, number(d, e))
    }

    /// Both steps and the answer of a solution.
    fn read(solution: &str) -> ([(i32, i32, i32); 2], i32) {
        let parts: Vec<&str> = solution.split(" ; ").collect();
        let [first, second, answer] = parts[..] else { panic!("not a solution: {solution}") };
        let answer = answer.strip_prefix("#### ").unwrap().replace(' ', "").parse().unwrap();
        ([step(first), step(second)], answer)
    }

    /// Start value and signed steps as the prompt tells them.
    fn chain_of(prompt: &str) -> Chain {
        let words: Vec<&str> = prompt.split(' ').collect();
        let [_, "has", tens, ones, _, verb1, size1, verb2, size2, "?", "A:"] = words[..] else { panic!("{prompt}") };
        let signed = |verb: &str, size: &str| size.parse::<i32>().unwrap() * if GAINS.contains(&verb) { 1 } else { -1 };
        Chain { start: format!("{tens}{ones}").parse().unwrap(), steps: [signed(verb1, size1), signed(verb2, size2)] }
    }

    #[test]
    fn a_chain_is_told_and_solved_as_in_the_documentation() {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let made = problem(Chain { start: 64, steps: [8, -3] }, &mut rng.clone(), &mut rng, 0.0);
        assert_eq!(made.solution, "6 4 + 8 = 7 2 ; 7 2 - 3 = 6 9 ; #### 6 9");
        assert_eq!(chain_of(&made.prompt), Chain { start: 64, steps: [8, -3] });
    }

    #[test]
    fn the_arithmetic_of_a_thousand_problems_is_right_and_stays_within_two_digits() {
        let problems = make_word_problems(7, 800, 200, 0.0);
        assert_eq!((problems.train.len(), problems.test.len()), (800, 200));
        for Problem { prompt, solution } in problems.train.iter().chain(&problems.test) {
            let chain = chain_of(prompt);
            let ([first, second], answer) = read(solution);
            assert_eq!(first, (chain.start, chain.steps[0], chain.start + chain.steps[0]));
            assert_eq!(second, (first.2, chain.steps[1], first.2 + chain.steps[1]));
            assert_eq!(answer, second.2);
            assert!([first.0, first.2, second.2].into_iter().all(is_allowed), "{solution}");
        }
    }

    #[test]
    fn no_chain_occurs_twice_or_in_both_sets() {
        let problems = make_word_problems(3, 2000, 400, 0.0);
        let all: HashSet<String> =
            problems.train.iter().chain(&problems.test).map(|problem| problem.solution.clone()).collect();
        assert_eq!(all.len(), 2400);
    }

    #[test]
    fn there_are_enough_chains_for_every_valid_configuration() {
        // Counted in Python: for a in 10..=99, each b in 10..=99 with 2 <= |b - a| <= 9, the number of such c for b.
        let num_chains = all_chains().len();
        assert_eq!(num_chains, 20_760);
        assert!(crate::config::WordProblemsConfig::MAX_PROBLEMS <= num_chains);
    }

    #[test]
    fn the_seed_decides_everything() {
        assert_eq!(make_word_problems(1, 50, 10, 0.2), make_word_problems(1, 50, 10, 0.2));
        assert_ne!(make_word_problems(1, 50, 10, 0.2), make_word_problems(2, 50, 10, 0.2));
    }

    #[test]
    fn slips_are_off_by_one_as_often_as_asked_and_only_in_demonstrations() {
        let clean = make_word_problems(5, 2000, 400, 0.0);
        let noisy = make_word_problems(5, 2000, 400, 0.25);
        assert_eq!(noisy.test, clean.test);
        let mut num_slips = 0;
        for (noisy, clean) in noisy.train.iter().zip(&clean.train) {
            assert_eq!(noisy.prompt, clean.prompt);
            let (steps, answer) = read(&noisy.solution);
            assert_eq!(steps[1].0, steps[0].2);
            assert_eq!(steps[1].2, answer);
            for (left, by, right) in steps {
                assert!(is_allowed(right) && (right - left - by).abs() <= 1, "{}", noisy.solution);
                num_slips += (right - left - by).abs();
            }
        }
        // 4,000 steps at 0.25: mean 1,000, standard deviation 27.
        assert!((850..1150).contains(&num_slips), "{num_slips}");
        for probability_one in make_word_problems(5, 19_000, 0, 1.0).train {
            let (steps, _) = read(&probability_one.solution);
            assert!(steps.iter().all(|(left, by, right)| is_allowed(*right) && (right - left - by).abs() == 1));
        }
    }

    #[test]
    fn uniform_numbers_cover_their_range_evenly() {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let mut counts = [0; 7];
        for _ in 0..70_000 {
            counts[below(&mut rng, 7)] += 1;
        }
        // Mean 10,000, standard deviation 93.
        assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
        assert!((0..1000).map(|_| uniform(&mut rng)).all(|x| (0.0..1.0).contains(&x)));
    }

    #[test]
    fn the_tokenizer_knows_every_word_and_gives_the_text_back() {
        let tokenizer = Tokenizer::from_bytes(tokenizer_files().tokenizer_json).unwrap();
        assert_eq!(tokenizer.get_vocab_size(true), 53);
        let unknown = tokenizer.token_to_id("<unk>").unwrap();
        let problems = make_word_problems(11, 1000, 0, 0.0);
        for Problem { prompt, solution } in &problems.train {
            for text in [prompt, solution] {
                let ids = tokenizer.encode(text.as_str(), true).unwrap().get_ids().to_vec();
                assert_eq!(ids.len(), text.split(' ').count());
                assert!(!ids.contains(&unknown), "{text}");
                assert_eq!(&tokenizer.decode(&ids, true).unwrap(), text);
            }
        }
    }

    #[test]
    fn special_tokens_have_the_ids_of_the_model_configuration_and_are_skipped_when_decoding() {
        let files = tokenizer_files();
        let tokenizer = Tokenizer::from_bytes(files.tokenizer_json).unwrap();
        let config = model_config(53, 96, 3, 4, 256);
        for name in ["pad", "bos", "eos"] {
            let token = files.tokenizer_config[format!("{name}_token")].as_str().unwrap();
            assert_eq!(config[format!("{name}_token_id")], tokenizer.token_to_id(token).unwrap());
        }
        let ids = tokenizer.encode("#### 6 9 <eos>", true).unwrap().get_ids().to_vec();
        assert_eq!(ids.last(), Some(&2));
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), "#### 6 9");
    }

    #[test]
    fn no_word_stands_twice_in_the_vocabulary() {
        let words: Vec<String> = vocabulary().collect();
        assert_eq!(words.iter().collect::<HashSet<_>>().len(), words.len());
    }

    #[test]
    fn rows_are_written_one_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train.jsonl");
        let problems = make_word_problems(0, 3, 0, 0.0).train;
        write_rows(&path, &problems).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(rows.len(), 3);
        assert_eq!(rows[2], json!({ "prompt": problems[2].prompt, "response": problems[2].solution }));
        assert_eq!(write_rows(folder.path().join("no/x.jsonl"), &problems).unwrap_err().exit_code(), 6);
    }
}
