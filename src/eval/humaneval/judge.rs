//! Samples run in the sandbox, and what their tests say.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use serde::{Deserialize, Serialize};

use super::{Problem, Sample};
use crate::error::Result;
use crate::eval::sandbox::{Ending, Outcome, Sandbox};

/// How much of an error's text is kept.
const MAX_ERROR_CHARS: usize = 300;

/// What came of one sample. Values as openai/human-eval writes them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    pub passed: bool,
    /// `passed`, `timed out`, or `failed: ..`.
    pub result: String,
}

/// Python that runs a sample with its problem's tests, and says under `token` how they went.
///
/// The sample has a namespace of its own in which `__name__` is not `__main__`, as in openai/human-eval. A sample that ends
/// the interpreter has not passed. One that was written to find the token out can lie: tests in the same process as what
/// they test always have that weakness.
pub fn program(problem: &Problem, completion: &str, token: &str) -> String {
    let Problem { prompt, test, entry_point, .. } = problem;
    let source = format!("{prompt}{completion}\n{test}\ncheck({entry_point})");
    // A JSON string of serde_json's is a Python string, too.
    let source = serde_json::Value::String(source);
    format!(
        "import os
write, leave = os.write, os._exit
try:
    exec({source}, {{}})
    verdict = 'passed'
except BaseException as error:
    try:
        verdict = f'failed: {{error}}' if str(error) else f'failed: {{type(error).__name__}}'
    except BaseException:
        verdict = 'failed: an error without a text'
verdict = ' '.join(verdict[:{MAX_ERROR_CHARS}].split())
write(1, f'\\n{token} {{verdict}}\\n'.encode(errors='replace'))
leave(0)
"
    )
}

/// Reads what a [`program`] did.
pub fn verdict(outcome: &Outcome, token: &str) -> Verdict {
    let said = outcome.output.lines().rev().find_map(|line| line.strip_prefix(token)?.strip_prefix(' '));
    let result = match (outcome.ending, said) {
        (Ending::Exited(0), Some(said)) => said.to_owned(),
        (Ending::TimedOut, _) => "timed out".to_owned(),
        (Ending::TooMuchOutput, _) => "failed: wrote too much".to_owned(),
        (Ending::Exited(code), _) => format!("failed: ended with exit code {code} before its tests did"),
        (Ending::Killed(signal), _) => format!("failed: ended by signal {signal}"),
    };
    Verdict { passed: result == "passed", result }
}

/// Runs samples, so many at once. `on_verdict` hears of each as it is done, in any order; an error from it ends the work.
///
/// # Errors
/// A sandbox that is not there any more; an error of `on_verdict`.
pub fn judge(
    sandbox: &Sandbox,
    work: &[(&Problem, &Sample)],
    num_workers: usize,
    on_verdict: &mut (dyn FnMut(usize, Verdict) -> Result<()> + Send),
) -> Result<()> {
    let (next, failure, on_verdict) = (AtomicUsize::new(0), Mutex::new(None), Mutex::new(on_verdict));
    thread::scope(|scope| {
        for _ in 0..num_workers.clamp(1, work.len().max(1)) {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::SeqCst);
                    let Some((problem, sample)) = work.get(i) else { return };
                    let judged = judge_one(sandbox, problem, &sample.completion).and_then(|verdict| {
                        let mut on_verdict = on_verdict.lock().unwrap_or_else(PoisonError::into_inner);
                        on_verdict(i, verdict)
                    });
                    if let Err(error) = judged {
                        next.store(work.len(), Ordering::SeqCst);
                        failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                        return;
                    }
                }
            });
        }
    });
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

fn judge_one(sandbox: &Sandbox, problem: &Problem, completion: &str) -> Result<Verdict> {
    let token = token();
    Ok(verdict(&sandbox.run(&program(problem, completion, &token))?, &token))
}

/// A word that no sample can know.
fn token() -> String {
    let random = || RandomState::new().build_hasher().finish();
    format!("verdict-{:016x}{:016x}", random(), random())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(ending: Ending, output: &str) -> Outcome {
        Outcome { ending, output: output.to_owned() }
    }

    #[test]
    fn only_the_last_word_under_the_token_counts() {
        for (ending, output, expected) in [
            (Ending::Exited(0), "x\nT passed\n", "passed"),
            (Ending::Exited(0), "T passed\nT failed: 1\n", "failed: 1"),
            (Ending::Exited(0), "U passed\n", "failed: ended with exit code 0 before its tests did"),
            (Ending::Exited(0), "", "failed: ended with exit code 0 before its tests did"),
            (Ending::Exited(3), "T passed\n", "failed: ended with exit code 3 before its tests did"),
            (Ending::Killed(9), "", "failed: ended by signal 9"),
            (Ending::TimedOut, "T passed\n", "timed out"),
            (Ending::TooMuchOutput, "", "failed: wrote too much"),
        ] {
            let verdict = verdict(&outcome(ending, output), "T");
            assert_eq!((verdict.result.as_str(), verdict.passed), (expected, expected == "passed"), "{output:?}");
        }
    }

    #[test]
    fn tokens_differ() {
        assert_ne!(token(), token());
    }
}
