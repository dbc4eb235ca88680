//! Lines typed by a person, with editing and history, or piped in by a program; and Ctrl-C while an answer is written.

use std::io::{BufRead, ErrorKind, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use signal_hook::consts::SIGINT;
use signal_hook::flag;

use crate::error::{Error, Result};
use crate::report::console::Console;

const PROMPT: &str = "> ";

pub enum Input {
    Terminal(Box<DefaultEditor>),
    Pipe,
}

impl Input {
    /// A line editor where stdin is a terminal.
    ///
    /// # Errors
    /// [`Error::Usage`] if the terminal cannot be used.
    pub fn open() -> Result<Self> {
        match std::io::stdin().is_terminal() {
            true => DefaultEditor::new().map(|editor| Input::Terminal(Box::new(editor))).map_err(terminal),
            false => Ok(Input::Pipe),
        }
    }

    /// The next line; None at the end of the input.
    pub fn read_line(&mut self) -> Result<Option<String>> {
        match self {
            Input::Pipe => {
                let mut line = String::new();
                let num_bytes =
                    std::io::stdin().lock().read_line(&mut line).map_err(Error::reading("standard input"))?;
                Ok((num_bytes > 0).then_some(line))
            }
            Input::Terminal(editor) => {
                let line = typed(editor.readline(PROMPT))?;
                if let Some(line) = &line {
                    editor.add_history_entry(line).map_err(terminal)?;
                }
                Ok(line)
            }
        }
    }
}

/// The line that the editor has read; None at the end of the input.
fn typed(line: rustyline::Result<String>) -> Result<Option<String>> {
    match line {
        Ok(line) => Ok(Some(line)),
        Err(ReadlineError::Interrupted) => Ok(Some(String::new())), // Ctrl-C empties the line
        Err(ReadlineError::Eof) => Ok(None),
        // One key of a terminal in another encoding must not end the conversation.
        Err(ReadlineError::Io(error)) if error.kind() == ErrorKind::InvalidData => {
            Console::stderr().warn("that was not UTF-8: set the terminal to UTF-8");
            Ok(Some(String::new()))
        }
        Err(error) => Err(terminal(error)),
    }
}

fn terminal(error: ReadlineError) -> Error {
    Error::usage(format!("the terminal cannot be read: {error}"))
}

/// Ctrl-C: stops the answer that is being written; ends the program where none is.
pub struct Interrupts {
    is_idle: Arc<AtomicBool>,
    came: Arc<AtomicBool>,
}

impl Interrupts {
    /// Listens from now on.
    ///
    /// # Errors
    /// [`Error::Usage`] if the system refuses.
    pub fn listen() -> Result<Self> {
        let interrupts = Interrupts { is_idle: Arc::new(AtomicBool::new(true)), came: Arc::default() };
        flag::register_conditional_shutdown(SIGINT, 128 + SIGINT, Arc::clone(&interrupts.is_idle))
            .and_then(|_| flag::register(SIGINT, Arc::clone(&interrupts.came)))
            .map_err(|error| Error::usage(format!("cannot listen to signals: {error}")))?;
        Ok(interrupts)
    }

    /// Runs `work`, which is to look at [`Self::came`].
    pub fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        self.came.store(false, Ordering::Relaxed);
        self.is_idle.store(false, Ordering::Relaxed);
        let result = work();
        self.is_idle.store(true, Ordering::Relaxed);
        result
    }

    /// Whether Ctrl-C was pressed since [`Self::during`] began.
    pub fn came(&self) -> bool {
        self.came.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_not_utf8_empties_the_line_and_a_lost_terminal_is_an_error() {
        let failed = |kind: ErrorKind| typed(Err(ReadlineError::Io(kind.into())));
        assert_eq!(failed(ErrorKind::InvalidData).unwrap(), Some(String::new()));
        assert!(failed(ErrorKind::NotConnected).is_err());
        assert_eq!(typed(Err(ReadlineError::Eof)).unwrap(), None);
    }
}
