//! What the run folder tells beyond checkpoints and figures: what the model and data are like, how long each phase
//! took, and the report made of it all.

use std::any::Any;
use std::time::Instant;

use super::collapse;
use super::setup::Run;
use crate::data::examples::Example;
use crate::device::{error_of_panic, text_of_panic};
use crate::error::Result;
use crate::formats::json_lines::json_line;
use crate::model::{CausalLm, weights};
use crate::records::about::{ABOUT_FILE, About, SampleRow};
use crate::records::ending::{ENDING_FILE, Ending, now};
use crate::records::timing::{TIMING_FILE, TimingRow};
use crate::report::write_report;

/// Rows whose responses a report shows.
const NUM_SAMPLES: usize = 8;

impl Run {
    /// Writes down what the report tells of model and data, unless it is there.
    pub(super) fn describe_task(&self, model: &CausalLm) -> Result<()> {
        self.dir.keep_lines(TIMING_FILE, |_| true)?; // cuts off a line that a crash tore
        if self.dir.join(ABOUT_FILE).exists() {
            return Ok(());
        }
        let text = |ids: &[u32]| match &self.tokenizer {
            Some(tokenizer) => tokenizer.decode(ids),
            None => Ok(ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")),
        };
        let sample = |example: &Example| -> Result<SampleRow> {
            let (prompt, demonstration) = (text(&example.prompt_ids)?, text(&example.demonstration_ids)?);
            Ok(SampleRow { index: example.index, prompt, demonstration })
        };
        let num_tokens: usize = self.examples.iter().map(|example| example.demonstration_ids.len()).sum();
        let about = About {
            num_parameters: model.config().num_parameters(),
            num_trained_parameters: weights::num_trained_parameters(model),
            num_demonstrations: self.examples.len(),
            num_evaluated: self.held_out.examples.len(),
            held_out: self.held_out.settings.held_out,
            mean_demonstration_tokens: num_tokens as f64 / self.examples.len().max(1) as f64,
            demonstrations: Some(collapse::of_demonstrations(&self.examples)),
            responses_are_given: self.are_given(),
            samples: self.examples.iter().take(NUM_SAMPLES).map(sample).collect::<Result<_>>()?,
        };
        self.dir.write(ABOUT_FILE, &json_line(&about)?)
    }

    /// Does the work and writes down how long it took and how many tokens it wrote, also if it was stopped: what it did
    /// until then is kept.
    pub(super) fn timed<T>(&self, stage: &str, phase: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let started = Instant::now();
        let result = work();
        let seconds = started.elapsed().as_secs_f64();
        let num_tokens = Some(self.num_new_tokens.take()).filter(|num_tokens| *num_tokens > 0);
        let row = TimingRow { stage: stage.to_owned(), phase: phase.to_owned(), seconds, num_tokens };
        let told = self.dir.append(TIMING_FILE, &row);
        result.and_then(|value| told.map(|()| value))
    }

    /// Writes down what ended the run before its time, for the report. What fails in that hides no error: that is the one to
    /// end with.
    pub(super) fn remember_ending(&self, ending: &Ending) {
        if let Err(error) = json_line(ending).and_then(|line| self.dir.write(ENDING_FILE, &line)) {
            self.console.warn(format!("the report will not say why the run ended: {error}"));
        }
    }

    /// The run goes on: what once ended it is not its state any more.
    pub(super) fn forget_ending(&self) -> Result<()> {
        if self.dir.join(ENDING_FILE).exists() {
            self.dir.remove(ENDING_FILE)?;
            self.report();
        }
        Ok(())
    }

    /// Writes the report as far as the run has come. A report that fails is no reason to end a run.
    pub(super) fn report(&self) {
        if let Err(error) = write_report(self.dir.path(), &[]) {
            self.console.warn(format!("the report was not written: {error}"));
        }
    }
}

/// The end by a panic: a device's that ran out of memory or is lost, or our own mistake.
pub(super) fn ending_of_panic(payload: &(dyn Any + Send)) -> Ending {
    let text = text_of_panic(payload).unwrap_or("no message");
    match error_of_panic(text) {
        Some(error) => Ending::of(&error, now()),
        None => Ending {
            message: format!("internal: {text}; this is a bug in gsil"),
            hint: Some("please report it with what the command said".to_owned()),
            exit_code: 1,
            when: now(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_that_ends_a_run_is_a_devices_error_or_a_bug() {
        let ending = |payload: Box<dyn Any + Send>| ending_of_panic(&*payload);
        let lost = ending(Box::new("device lost".to_owned()));
        assert_eq!((lost.exit_code, lost.message.contains("was lost")), (4, true), "{lost:?}");
        let bug = ending(Box::new("index out of bounds"));
        assert_eq!((bug.exit_code, bug.message.as_str()), (1, "internal: index out of bounds; this is a bug in gsil"));
    }
}
