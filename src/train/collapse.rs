//! Signs that self-generation has collapsed: responses that say nothing, all say the same, or never end.
//!
//! More than half of one kind is an onset, said as a warning. Nearly all of one kind in two iterations in a row is a
//! collapse: what is trained from such pairs is noise, so the run stops. Demonstrations set the measure: where they are short
//! and alike themselves, so may responses be. Responses that are their own demonstrations are no collapse but the goal: they are
//! warned of, because next to nothing is learnt from them any more, unless `objective.variance_reduction` leaves the
//! demonstration its pull.

use std::collections::HashSet;

use crate::config::{RunConfig, Unfinished};
use crate::data::examples::Example;
use crate::error::{Error, Result};
use crate::records::self_generation::{
    AGAINST_DUPLICATED, AGAINST_EMPTY, AGAINST_IDENTICAL, AGAINST_UNFINISHED, SelfGeneratedCounts,
};

/// A share of responses above it is an onset.
const ONSET: f64 = 0.5;
/// A share above it in this iteration and the one before is a collapse.
const COLLAPSE: f64 = 0.9;

/// One way to collapse.
struct Kind {
    what: &'static str,
    advice: &'static str,
    /// Whether a run full of them is ruined rather than done.
    is_harmful: bool,
    count: fn(&SelfGeneratedCounts) -> usize,
}

const CUT_OFF: &str = "cut off";
const IDENTICAL: &str = "identical to their demonstration";

const KINDS: [Kind; 4] = [
    Kind { what: "empty", advice: AGAINST_EMPTY, is_harmful: true, count: |c| c.empty },
    Kind { what: IDENTICAL, advice: AGAINST_IDENTICAL, is_harmful: false, count: |c| c.identical },
    Kind { what: "repeated for other prompts", advice: AGAINST_DUPLICATED, is_harmful: true, count: |c| c.duplicated },
    Kind { what: CUT_OFF, advice: AGAINST_UNFINISHED, is_harmful: true, count: |c| c.unfinished },
];

impl Kind {
    fn share(&self, counts: &SelfGeneratedCounts) -> f64 {
        (self.count)(counts) as f64 / counts.responses.max(1) as f64
    }
}

/// The same counts for the demonstrations: what is normal for these data.
pub fn of_demonstrations(examples: &[Example]) -> SelfGeneratedCounts {
    let distinct: HashSet<&[u32]> = examples.iter().map(|example| &example.demonstration_ids[..]).collect();
    SelfGeneratedCounts {
        responses: examples.len(),
        empty: examples.iter().filter(|example| example.demonstration_ids.len() <= 1).count(),
        duplicated: examples.len() - distinct.len(),
        ..SelfGeneratedCounts::default()
    }
}

/// The warnings that an iteration's responses give. Who asks for cut responses with `generation.unfinished=mask` gets no
/// more than a warning of them; with `objective.variance_reduction` responses that are their demonstrations give none.
///
/// # Errors
/// [`Error::Training`] if the iteration before was beyond the limit in the same way already.
pub fn check(
    counts: &SelfGeneratedCounts,
    before: Option<&SelfGeneratedCounts>,
    demonstrations: &SelfGeneratedCounts,
    config: &RunConfig,
) -> Result<Vec<String>> {
    let mut onsets = Vec::new();
    for kind in &KINDS {
        let (share, normal) = (kind.share(counts), kind.share(demonstrations));
        let is_reduced = kind.what == IDENTICAL && config.objective.variance_reduction.is_on();
        if share <= ONSET || normal > ONSET || is_reduced {
            continue;
        }
        let percent = 100.0 * share;
        let is_asked_for = config.generation.unfinished == Unfinished::Mask && kind.what == CUT_OFF;
        if share > COLLAPSE
            && kind.is_harmful
            && !is_asked_for
            && before.is_some_and(|before| kind.share(before) > COLLAPSE)
        {
            return Err(Error::training(format!(
                "generation has collapsed: {percent:.0}% of the responses are {}, as in the iteration before",
                kind.what
            ))
            .with_hint(format!("{}; the last checkpoint is intact", kind.advice)));
        }
        onsets.push(format!("{percent:.0}% of the responses are {}: {}", kind.what, kind.advice));
    }
    Ok(onsets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::Response;
    use crate::train::pairs::make_pairs;

    const NUM_PROMPTS: usize = 20;

    fn examples(demonstration: impl Fn(u32) -> Vec<u32>) -> Vec<Example> {
        let example = |i: u32| Example {
            index: i as usize,
            prompt_ids: vec![7, i],
            demonstration_ids: demonstration(i),
            self_generated_ids: None,
            demonstration_text: None,
        };
        (0..NUM_PROMPTS as u32).map(example).collect()
    }

    /// What a sampler that follows a script gives: the first `num_scripted` prompts get its response, the others a good one.
    fn counts(examples: &[Example], num_scripted: usize, script: Script) -> SelfGeneratedCounts {
        let answer = |example: &Example| match example.index < num_scripted {
            true => script(example),
            false => (vec![100 + example.index as u32, 2], true),
        };
        let responses: Vec<Vec<Response>> = examples
            .iter()
            .map(answer)
            .map(|(token_ids, finished)| {
                vec![Response { token_log_probs: vec![-1.0; token_ids.len()], token_ids, finished }]
            })
            .collect();
        make_pairs(examples, &responses, &[-1.0; NUM_PROMPTS], Unfinished::Mask, 1000).1
    }

    fn with(assignments: &[&str]) -> RunConfig {
        let mut config = RunConfig::default();
        assignments.iter().for_each(|assignment| config.set(assignment).unwrap());
        config
    }

    /// What a scripted sampler answers, and whether that is finished.
    type Script = fn(&Example) -> (Vec<u32>, bool);

    const SCRIPTS: [(&str, Script); 4] = [
        ("empty", |_| (vec![2], true)),
        ("identical", |example| (example.demonstration_ids.clone(), true)),
        ("repeated", |_| (vec![50, 51, 2], true)),
        ("cut off", |example| (vec![60 + example.index as u32; 30], false)),
    ];

    #[test]
    fn healthy_responses_give_no_warning() {
        let examples = examples(|i| vec![i, 5, 2]);
        let (healthy, normal) = (counts(&examples, 0, SCRIPTS[0].1), of_demonstrations(&examples));
        assert_eq!(check(&healthy, Some(&healthy), &normal, &with(&[])).unwrap(), Vec::<String>::new());
        for (_, script) in SCRIPTS {
            let half = counts(&examples, NUM_PROMPTS / 2, script);
            assert_eq!(check(&half, Some(&half), &normal, &with(&[])).unwrap(), Vec::<String>::new());
        }
    }

    #[test]
    fn every_collapse_is_warned_of_at_its_onset_and_stops_the_run_in_the_second_iteration() {
        let examples = examples(|i| vec![i, 5, 2]);
        let normal = of_demonstrations(&examples);
        for (what, script) in SCRIPTS.into_iter().filter(|(what, _)| *what != "identical") {
            let (onset, all) = (counts(&examples, 14, script), counts(&examples, NUM_PROMPTS, script));
            let warned = check(&onset, None, &normal, &with(&[])).unwrap().concat();
            assert!(warned.contains(what), "{what}: {warned}");
            assert!(check(&all, None, &normal, &with(&[])).is_ok(), "{what}: once is not yet a collapse");
            assert!(
                check(&all, Some(&onset), &normal, &with(&[])).is_ok(),
                "{what}: the iteration before was not as bad"
            );
            let error = check(&all, Some(&all), &normal, &with(&[])).unwrap_err();
            assert_eq!(error.exit_code(), 5);
            assert!(error.to_string().contains(what), "{what}: {error}");
            assert!(error.hint().unwrap().contains("checkpoint is intact"));
        }
    }

    #[test]
    fn answering_as_demonstrated_is_warned_of_and_never_stops_a_run() {
        let examples = examples(|i| vec![i, 5, 2]);
        let all = counts(&examples, NUM_PROMPTS, SCRIPTS[1].1);
        let warned = check(&all, Some(&all), &of_demonstrations(&examples), &with(&[])).unwrap().concat();
        let expected =
            "100% of the responses are identical to their demonstration: without objective.variance_reduction ";
        assert!(warned.starts_with(expected), "{warned}");
        let reduced = with(&["objective.variance_reduction=top_k(16)"]);
        assert_eq!(check(&all, None, &of_demonstrations(&examples), &reduced).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn responses_that_are_cut_off_on_purpose_are_only_warned_of() {
        let examples = examples(|i| vec![i, 5, 2]);
        let all = counts(&examples, NUM_PROMPTS, SCRIPTS[3].1);
        let warned =
            check(&all, Some(&all), &of_demonstrations(&examples), &with(&["generation.unfinished=mask"])).unwrap();
        assert!(warned.concat().contains(CUT_OFF), "{warned:?}");
    }

    #[test]
    fn where_demonstrations_are_alike_so_may_responses_be() {
        let examples = examples(|i| vec![i % 2, 2]);
        let alike = counts(&examples, NUM_PROMPTS, |_| (vec![1, 2], true));
        let warned = check(&alike, Some(&alike), &of_demonstrations(&examples), &with(&[])).unwrap();
        assert!(warned.iter().all(|onset| !onset.contains("repeated")), "{warned:?}");
    }
}
