//! What a person wants to know before the first step.

use super::checkpoint::Saved;
use super::estimate::limits::Limits;
use super::estimate::memory::Memory;
use super::estimate::time::{Standing, WITHOUT_SERVER, Work};
use super::estimate::{bytes, phase_name};
use super::setup::Run;
use crate::error::Result;
use crate::model::{CausalLm, weights};
use crate::report::table::{duration, plural};
use crate::report::{objective, training};

impl Run {
    /// Says what is trained on what, and what that will take.
    pub(super) fn say_header(&self, model: &CausalLm, memory: &Memory, limits: &Limits) -> Result<()> {
        let config = model.config();
        let trained = weights::num_trained_parameters(model);
        let console = &self.console;
        console.say(format!(
            "model      {} ({} parameters, {} trained)",
            self.config.model.as_deref().map_or_else(|| self.files.path.display().to_string(), str::to_owned),
            millions(config.num_parameters()),
            millions(trained)
        ));
        let held_out = self.held_out.examples.len();
        let is_held_out = if self.held_out.settings.held_out { "held out" } else { "of them scored before and after" };
        console.say(format!("data       {}, {held_out} {is_held_out}", plural(self.examples.len(), "demonstration")));
        if self.config.keep_best > 0 && !self.held_out.settings.held_out {
            console.warn(format!(
                "keep_best: there are no held-out rows (evaluation.data), so the best checkpoint is the one that gives the \
                 first {held_out} training rows the highest log-prob"
            ));
        }
        console.say(match objective(&self.config) {
            None => format!("training   {}", training(&self.config)),
            Some(objective) => format!("objective  {objective}; iterations: {}", self.config.iterations),
        });
        let devices = match self.config.devices.len() {
            0 | 1 => self.device_name.clone(),
            _ => format!("{}; training steps on {}", self.device_name, self.config.devices.join(", ")),
        };
        console.say(format!("device     {devices}"));
        console.say(format!("run folder {}", self.dir.path().display()));
        let (peak, phase) = (bytes(memory.peak_bytes()), phase_name(memory.peak().phase));
        console.say(format!("memory     about {peak} at its peak ({phase}); {}", limits.describe()));
        if limits.available_bytes.is_some_and(|free| memory.peak_bytes() > free) {
            console.warn("the run needs more memory than is free now: close other programs, or see `gsil estimate`");
        }
        let work = self.work()?;
        let speed = work.measure_speed(model, self.num_tokens_multiple)?;
        // Not `sum`: that of no phase is -0.
        let seconds = work.seconds(speed).iter().fold(0.0, |all, phase| all + phase.seconds);
        let what = if self.resumed.is_some() { "what is left" } else { "the whole run" };
        let part = if work.is_without_server() { format!(" {WITHOUT_SERVER}") } else { String::new() };
        console.say(format!("time       about {} for {what}{part}, at the speed just measured", duration(seconds)));
        if console.is_interactive() {
            console.say("to stop    Ctrl-C: the work in hand is ended and saved; a second one ends the run at once");
        }
        Ok(())
    }

    /// What is left to do.
    fn work(&self) -> Result<Work<'_>> {
        let standing = match &self.resumed {
            Some(Saved { progress, .. }) => Some(Standing {
                stage: progress.stage,
                stage_steps: progress.stage_steps,
                num_responses: self.num_responses(progress.stage)?,
            }),
            None => None,
        };
        Ok(Work {
            config: &self.config,
            examples: &self.examples,
            num_held_out: self.held_out.examples.len(),
            num_answered: self.held_out.num_answered(),
            standing,
        })
    }
}

/// `134.5 million`.
fn millions(count: usize) -> String {
    match count {
        0..10_000 => count.to_string(),
        _ => format!("{:.2} million", count as f64 / 1e6),
    }
}
