//! Talk on stderr: lines, and progress bars that become plain lines where stderr is not a terminal.

use std::borrow::Cow;
use std::io::IsTerminal;
use std::panic::catch_unwind;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Plain progress lines come at most this often.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

/// Writes to stderr. Nobody may be listening any more (a closed terminal, a full disk): that must not end a night's run.
pub fn talk(text: &str) {
    // `eprint!` panics then, and yet it is what to use: test runners keep what it prints to themselves.
    let _ = catch_unwind(|| eprint!("{}", printable(text)));
}

/// Names out of strangers' files stand in messages: what a terminal would obey is shown as an escape.
fn printable(text: &str) -> Cow<'_, str> {
    let is_obeyed = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if !text.contains(is_obeyed) {
        return text.into();
    }
    text.chars().map(|c| if is_obeyed(c) { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// Whether what is written to stdout may have colours: not where a bar would be hidden (no terminal, or a dumb one), and
/// not where `NO_COLOR` is set.
pub fn stdout_has_colours() -> bool {
    let is_plain = ProgressDrawTarget::stdout().is_hidden();
    !is_plain && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Where messages go.
#[derive(Debug, Clone, Copy)]
pub struct Console {
    interactive: bool,
}

impl Console {
    /// The console of this process.
    pub fn stderr() -> Self {
        Console { interactive: std::io::stderr().is_terminal() }
    }

    /// Whether what is said goes to a terminal: to a person, as far as is known.
    pub fn is_interactive(&self) -> bool {
        self.interactive
    }

    /// One line.
    pub fn say(&self, text: impl AsRef<str>) {
        talk(&format!("{}\n", text.as_ref()));
    }

    /// One line that should not be missed.
    pub fn warn(&self, text: impl AsRef<str>) {
        talk(&format!("warning: {}\n", text.as_ref()));
    }

    /// A bar over `total` units of work.
    pub fn bar(&self, label: &str, total: u64, unit: Unit) -> Bar {
        let started = Instant::now();
        if !self.interactive {
            let shown = Shown::Lines { done: 0, last: started };
            return Bar { label: label.to_owned(), total, unit, num_before: 0, shown, started };
        }
        let counts = match unit {
            Unit::Bytes => "{decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec}",
            Unit::Count(_) => "{pos}/{len} {per_sec}",
        };
        let style = ProgressStyle::with_template(&format!("{{prefix:>14}} {{bar:24}} {counts} {{eta}} {{msg}}"));
        let bar = ProgressBar::new(total).with_prefix(label.to_owned());
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Bar { label: label.to_owned(), total, unit, num_before: 0, shown: Shown::Bar(bar), started }
    }
}

/// What a bar counts.
#[derive(Debug, Clone, Copy)]
pub enum Unit {
    Bytes,
    /// So many of these, in the plural, which ends in an s.
    Count(&'static str),
}

/// Progress of one piece of work. Dropping it ends it.
#[derive(Debug)]
pub struct Bar {
    label: String,
    total: u64,
    unit: Unit,
    /// Of the units that are done, those that were done earlier.
    num_before: u64,
    shown: Shown,
    started: Instant,
}

#[derive(Debug)]
enum Shown {
    Bar(ProgressBar),
    Lines { done: u64, last: Instant },
}

impl Bar {
    /// `count` more units are done.
    pub fn advance(&mut self, count: u64) {
        match &mut self.shown {
            Shown::Bar(bar) => bar.inc(count),
            Shown::Lines { done, .. } => *done += count,
        }
        self.say_if_due("");
    }

    /// `count` more units were done earlier, by a run that was stopped: they are no work of this time.
    pub fn skip(&mut self, count: u64) {
        if count == 0 {
            return; // the speed so far stands
        }
        self.num_before += count;
        match &mut self.shown {
            Shown::Bar(bar) => {
                bar.inc(count);
                bar.tick(); // what was not drawn yet would count as the work of the next moment
                bar.reset_eta();
            }
            Shown::Lines { done, .. } => *done += count,
        }
    }

    /// A few words behind the bar.
    pub fn note(&mut self, text: &str) {
        match &self.shown {
            Shown::Bar(bar) => bar.set_message(text.to_owned()),
            Shown::Lines { .. } => self.say_if_due(text),
        }
    }

    fn say_if_due(&mut self, note: &str) {
        if let Shown::Lines { last, .. } = &mut self.shown
            && last.elapsed() >= PLAIN_INTERVAL
        {
            *last = Instant::now();
            let seconds = self.started.elapsed().as_secs_f64();
            let line = format!("{} after {seconds:.0} s{} {note}", self.counts(), self.done_before());
            talk(&format!("{}\n", line.trim_end()));
        }
    }

    fn num_done(&self) -> u64 {
        match &self.shown {
            Shown::Bar(bar) => bar.position(),
            Shown::Lines { done, .. } => *done,
        }
    }

    /// What is done of what.
    fn counts(&self) -> String {
        let (done, total) = self.unit.describe(self.num_done(), self.total);
        format!("{:>14} {done} of {total}", self.label)
    }

    /// Empty if all was done in this time.
    fn done_before(&self) -> String {
        match self.num_before {
            0 => String::new(),
            before => format!(" ({} done before)", self.unit.describe(before, self.total).0),
        }
    }

    /// Takes the bar away and says what was done in this time; None if there was nothing to do.
    fn closed(&self, seconds: f64) -> Option<String> {
        let is_something = (self.num_done(), self.total) != (0, 0);
        let line = is_something.then(|| format!("{} in {seconds:.1} s{}\n", self.counts(), self.done_before()));
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear(); // after which its position is its end, wherever it stood
        }
        line
    }
}

impl Unit {
    fn describe(self, done: u64, total: u64) -> (String, String) {
        match self {
            Unit::Bytes => {
                let decimals = if total < 10_000_000 { 1 } else { 0 };
                let megabytes = |count: u64| format!("{:.decimals$}", count as f64 / 1e6);
                (megabytes(done), format!("{} MB", megabytes(total)))
            }
            Unit::Count(things) => {
                let things = if total == 1 { things.trim_end_matches('s') } else { things };
                (done.to_string(), format!("{total} {things}"))
            }
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        let seconds = self.started.elapsed().as_secs_f64();
        if let Some(line) = self.closed(seconds) {
            talk(&line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_said_as_a_person_says_them() {
        let said = |unit: Unit, done, total| {
            let (done, total) = unit.describe(done, total);
            format!("{done} of {total}")
        };
        assert_eq!(said(Unit::Bytes, 480_000, 480_000), "0.5 of 0.5 MB");
        assert_eq!(said(Unit::Bytes, 100_000_000, 540_000_000), "100 of 540 MB");
        assert_eq!(said(Unit::Count("responses"), 1, 1), "1 of 1 response");
        assert_eq!(said(Unit::Count("rows"), 0, 2), "0 of 2 rows");
    }

    #[test]
    fn units_that_were_done_earlier_are_said_apart() {
        let mut bar = Console { interactive: false }.bar("training", 10_000, Unit::Count("updates"));
        bar.advance(5);
        assert_eq!(bar.closed(1.0).unwrap(), "      training 5 of 10000 updates in 1.0 s\n");
        bar.skip(9990);
        bar.advance(5);
        let said = "      training 10000 of 10000 updates in 12.3 s (9990 done before)\n";
        assert_eq!(bar.closed(12.3).unwrap(), said);
        let mut bar = Console { interactive: false }.bar("fetching", 500_000, Unit::Bytes);
        bar.skip(300_000);
        assert_eq!(bar.closed(0.5).unwrap(), "      fetching 0.3 of 0.5 MB in 0.5 s (0.3 done before)\n");
        assert_eq!(Console { interactive: false }.bar("judging", 0, Unit::Count("turns")).closed(1.0), None);
    }

    #[test]
    fn a_bar_that_is_left_in_the_middle_says_where_it_stood() {
        for interactive in [false, true] {
            let mut bar = Console { interactive }.bar("training", 100, Unit::Count("updates"));
            bar.advance(5);
            assert_eq!(bar.closed(1.0).unwrap(), "      training 5 of 100 updates in 1.0 s\n");
        }
    }

    #[test]
    fn units_that_were_done_earlier_are_no_part_of_a_bars_speed() {
        let mut bar = Console { interactive: true }.bar("training", 1_000_000, Unit::Count("updates"));
        bar.skip(900_000);
        let Shown::Bar(shown) = &bar.shown else { panic!("it is a bar") };
        std::thread::sleep(Duration::from_millis(1)); // a speed needs some time to be one of
        assert_eq!((shown.position(), shown.per_sec()), (900_000, 0.0));
    }

    #[test]
    fn what_a_terminal_would_obey_is_shown_as_an_escape() {
        assert_eq!(printable("tensor `a`\n\tis é"), "tensor `a`\n\tis é");
        assert_eq!(printable("\u{1b}[2J\r\u{9b}1m\u{7}"), r"\u{1b}[2J\r\u{9b}1m\u{7}");
    }
}
