//! What a line typed in `gsil chat` asks for.

use std::path::PathBuf;

/// What `/help` shows.
pub const COMMANDS: &str = "\
/reset        start over
/system TEXT  start over, with TEXT as the system message
/system       start over, without a system message
/save FILE    append the conversation to FILE (.jsonl), as a row that `gsil train` reads
/exit         end (so does Ctrl-D)
Ctrl-C stops an answer. A message that begins with two slashes is said with one.";

#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    Say(String),
    Reset,
    /// None: without a system message.
    System(Option<String>),
    Save(PathBuf),
    Help,
    Exit,
    Nothing,
    /// No command, or an incomplete one: why.
    Wrong(String),
}

impl Command {
    pub fn parse(line: &str) -> Self {
        let line = line.trim();
        let Some(command) = line.strip_prefix('/') else {
            return if line.is_empty() { Command::Nothing } else { Command::Say(line.to_owned()) };
        };
        if command.starts_with('/') {
            return Command::Say(command.to_owned());
        }
        let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        let rest = rest.trim();
        match (name, rest) {
            ("reset", "") => Command::Reset,
            ("help", "") => Command::Help,
            ("exit", "") => Command::Exit,
            ("system", text) => Command::System((!text.is_empty()).then(|| text.to_owned())),
            ("save", "") => Command::Wrong("/save needs a file".to_owned()),
            ("save", path) => Command::Save(path.into()),
            ("reset" | "help" | "exit", _) => Command::Wrong(format!("/{name} takes nothing more")),
            _ => Command::Wrong(format!("no command /{name}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_message_unless_it_begins_with_one_slash() {
        assert_eq!(Command::parse("  hello /reset \n"), Command::Say("hello /reset".into()));
        assert_eq!(Command::parse("//etc is a folder"), Command::Say("/etc is a folder".into()));
        assert_eq!(Command::parse(" \n"), Command::Nothing);
        assert_eq!(Command::parse("/system  Be brief. "), Command::System(Some("Be brief.".into())));
        assert_eq!(Command::parse("/system "), Command::System(None));
        assert_eq!(Command::parse("/save my talk.jsonl"), Command::Save("my talk.jsonl".into()));
        assert_eq!([Command::parse("/reset"), Command::parse("/exit")], [Command::Reset, Command::Exit]);
    }

    #[test]
    fn an_unknown_or_incomplete_command_is_not_said_to_the_model() {
        for line in ["/rest", "/save", "/", "/reset now"] {
            assert!(matches!(Command::parse(line), Command::Wrong(_)), "{line}");
        }
    }

    #[test]
    fn help_names_every_command() {
        for command in ["/reset", "/system", "/save", "/exit"] {
            assert!(COMMANDS.contains(command), "{command}");
        }
    }
}
