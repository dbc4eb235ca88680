//! `gsil eval mt-bench`: answers in FastChat's form, and a judge of the user's that rates them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use serde_json::json;

use super::{OptionalModel, WritingArgs, lock};
use crate::cli::print_json;
use crate::config::{ServerConfig, WeightFormat};
use crate::data::rows::Message;
use crate::error::{Error, Result};
use crate::eval::mt_bench::answer::{NOT_ANSWERED, Writing, answer};
use crate::eval::mt_bench::judge::{Asked, JudgePrompts, rating};
use crate::eval::mt_bench::scores::Scores;
use crate::eval::mt_bench::{Answer, Choice, Judgment, NO_RATING, Question, read_answers, read_questions};
use crate::eval::row_store::{TEMPLATE_DATE, keep_date, settle_settings};
use crate::formats::atomic_write::create_folder;
use crate::formats::file_system::Disk;
use crate::formats::fingerprint::fingerprint;
use crate::formats::json_lines::{append_line, read_lines};
use crate::formats::way_to_have;
use crate::generate::Generator;
use crate::generate::server::{ChatRequest, Server};
use crate::report::console::{Console, Unit};

/// FastChat lets a judge write so much.
const JUDGMENT_TOKENS: usize = 2048;
/// Where FastChat looks for answers.
const ANSWER_FOLDER: &str = "model_answer";

#[derive(Debug, Args)]
#[command(after_help = "The files are FastChat's: question.jsonl and judge_prompts.jsonl are read,
model_answer/ID.jsonl and model_judgment/JUDGE_single.jsonl are written.

Examples:
  gsil eval mt-bench --model SmolLM2 --data question.jsonl --output mt")]
pub(in crate::cli) struct MtBenchArgs {
    #[command(flatten)]
    model: OptionalModel,
    /// question.jsonl, also of a data set of the hub.
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Judge these answers instead of writing some.
    #[arg(long, value_name = "FILE", conflicts_with = "model", requires = "judge")]
    answers: Option<PathBuf>,
    /// The folder for answers and judgments; the same command goes on where it
    /// was stopped.
    #[arg(long, value_name = "FOLDER")]
    output: PathBuf,
    /// The model's name in the files. Default: the name of its folder or file.
    #[arg(long, value_name = "NAME")]
    model_id: Option<String>,
    #[command(flatten)]
    writing: WritingArgs,
    /// An OpenAI-compatible server that rates the answers; the questions and
    /// answers are sent to it.
    #[arg(long, value_name = "URL", requires = "judge_model", requires = "judge_prompts")]
    judge: Option<String>,
    /// The judge's name there.
    #[arg(long, value_name = "NAME", requires = "judge")]
    judge_model: Option<String>,
    /// The environment variable that holds the judge's key. Default:
    /// GSIL_API_KEY or OPENAI_API_KEY, if there is one.
    #[arg(long, value_name = "VARIABLE", requires = "judge")]
    judge_key_variable: Option<String>,
    /// FastChat's judge_prompts.jsonl.
    #[arg(long, value_name = "FILE", requires = "judge")]
    judge_prompts: Option<PathBuf>,
    /// Reference answers for math, reasoning and coding, in the form of answers.
    #[arg(long, value_name = "FILE", requires = "judge")]
    reference_answers: Option<PathBuf>,
    /// Questions to the judge at once.
    #[arg(long, value_name = "N", default_value_t = 8, requires = "judge")]
    max_in_flight: usize,
}

pub(in crate::cli) fn mt_bench(args: MtBenchArgs) -> Result<()> {
    args.writing.check()?;
    if args.max_in_flight == 0 {
        return Err(Error::usage("--max-in-flight must be at least 1"));
    }
    let console = Console::stderr();
    let data = args.model.hub.data(&args.data)?;
    let mut questions = read_questions(&data)?;
    let _lock = lock(&args.output)?;
    questions.truncate(args.writing.num_wanted(questions.len()));
    // What the judge needs is looked at before the model works for an hour.
    let judge = args.judge.as_deref().map(|url| Judge::open(url, &args, &questions, &console)).transpose()?;
    let answers = match &args.answers {
        Some(file) => read_answers(file)?,
        None => write_answers(&args, &data, &questions, &console)?,
    };
    let answers = in_order(answers, &questions, args.answers.as_deref().unwrap_or(&args.output))?;
    let num_unanswered = answers.iter().flat_map(Answer::turns).filter(|text| *text == NOT_ANSWERED).count();
    if num_unanswered > 0 {
        console.warn(format!("{num_unanswered} turns did not fit the model's context: their answer is {NOT_ANSWERED}"));
    }
    let scores = judge.map(|judge| judge.judge_all(&args, &questions, &answers, &console)).transpose()?;
    if let Some(Scores { num_without_rating: num @ 1.., .. }) = scores {
        console.warn(format!("{num} judgments have no rating and are in no mean"));
    }
    if scores.is_none() {
        let folder = args.output.join(ANSWER_FOLDER);
        let way_on = "to have them rated: the same command with --judge, --judge-model and --judge-prompts";
        console.say(format!("the answers are in {}; {way_on}", folder.display()));
    }
    print_json(&json!({
        "evaluation": "mt-bench",
        "num_rows": questions.len(),
        "confidence": 0.95,
        "num_unanswered_turns": num_unanswered,
        "judged": scores.is_some(),
        "judge": args.judge_model,
        "figures": scores,
    }))
}

/// One answer for each question, with all of its turns.
fn in_order(answers: Vec<Answer>, questions: &[Question], place: &Path) -> Result<Vec<Answer>> {
    let mut by_id: BTreeMap<u64, Answer> = answers.into_iter().map(|answer| (answer.question_id, answer)).collect();
    let of_question = |question: &Question| {
        let id = question.question_id;
        let answer = by_id.remove(&id).filter(|answer| answer.turns().len() >= question.turns.len());
        answer.ok_or_else(|| {
            Error::input(place, format!("question {id} has not all of its answers"))
                .with_hint("judge the questions that are answered with --limit")
        })
    };
    questions.iter().map(of_question).collect()
}

/// Writes the answers that the folder lacks.
fn write_answers(args: &MtBenchArgs, data: &Path, questions: &[Question], console: &Console) -> Result<Vec<Answer>> {
    let given = args.model.model.as_ref().ok_or_else(|| Error::usage("give --model, or --answers to judge"))?;
    let model_id = args.model_id();
    let file = args.output.join(ANSWER_FOLDER).join(format!("{}.jsonl", file_name(&model_id)));
    create_folder(&Disk, &args.output.join(ANSWER_FOLDER))?;
    let WritingArgs { max_new_tokens, batch_size, seed, .. } = args.writing;
    let mut policy = args.model.open(given)?;
    let settings_file = args.output.join(format!("{}.settings.json", file_name(&model_id)));
    let mut settings = json!({
        "evaluation": "mt_bench", "model": fingerprint(&policy.files.paths())?,
        "data": fingerprint(&[data.to_owned()])?, "max_new_tokens": max_new_tokens, "seed": seed,
    });
    if let Some(tokenizer) = &mut policy.tokenizer
        && let Some(date) = keep_date(tokenizer, &settings_file)?
    {
        settings[TEMPLATE_DATE] = date.into();
    }
    settle_settings(&settings_file, &file, &settings)?;
    let mut answers: Vec<Answer> = read_lines(&Disk, &file)?;
    let is_open = |question: &&Question| !answers.iter().any(|answer| answer.question_id == question.question_id);
    let open: Vec<&Question> = questions.iter().filter(is_open).collect();
    if open.is_empty() {
        return Ok(answers);
    }
    let tokenizer = policy.tokenizer.as_ref().filter(|tokenizer| tokenizer.has_chat_template()).ok_or_else(|| {
        Error::input(&policy.files.path, "has no tokenizer with a chat template, and MT-Bench is a conversation")
            .with_hint(way_to_have(&policy.files.path, "chat_template.jinja"))
    })?;
    let mut generator = Generator::new(&args.model.load(&policy, console)?, WeightFormat::F32)?;
    let context = policy.config.max_position_embeddings;
    let writing = Writing { max_new_tokens, batch_size, context, seed };
    let mut bar = console.bar("answering", open.len() as u64, Unit::Count("questions"));
    for group in by_temperature(&open).iter().flat_map(|group| group.chunks(batch_size)) {
        let texts = answer(&mut generator, tokenizer, group, &writing, &|| Ok(()))?;
        for (question, turns) in group.iter().zip(texts) {
            let answer = new_answer(question, turns, &model_id);
            append_line(&Disk, &file, &answer)?;
            answers.push(answer);
            bar.advance(1);
        }
    }
    Ok(answers)
}

fn by_temperature<'a>(questions: &[&'a Question]) -> Vec<Vec<&'a Question>> {
    let mut groups: Vec<Vec<&Question>> = Vec::new();
    for question in questions {
        match groups.iter_mut().find(|group| group[0].temperature() == question.temperature()) {
            Some(group) => group.push(question),
            None => groups.push(vec![question]),
        }
    }
    groups
}

fn new_answer(question: &Question, turns: Vec<String>, model_id: &str) -> Answer {
    let tstamp = now();
    let id = blake3::hash(format!("{model_id} {} {tstamp}", question.question_id).as_bytes());
    Answer {
        question_id: question.question_id,
        answer_id: id.to_hex()[..22].to_owned(),
        model_id: model_id.to_owned(),
        choices: vec![Choice { index: 0, turns }],
        tstamp,
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// A name as that of a file.
fn file_name(name: &str) -> String {
    name.chars().map(|c| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect()
}

/// A path's last part without this ending. Any other stays: the dot of `SmolLM2-1.7B` begins none.
fn name_without(path: &Path, ending: &str) -> Option<String> {
    let name = path.file_name()?.to_string_lossy();
    Some(name.strip_suffix(ending).unwrap_or(&name).to_owned())
}

impl MtBenchArgs {
    /// The model's name in the files.
    fn model_id(&self) -> String {
        let of_model = || self.model.model.as_ref().and_then(|path| name_without(path, ".gguf"));
        let of_answers = || self.answers.as_ref().and_then(|path| name_without(path, ".jsonl"));
        self.model_id.clone().or_else(of_model).or_else(of_answers).unwrap_or_else(|| "model".to_owned())
    }
}

/// The server that rates, its prompts, and the reference answers.
struct Judge {
    server: Server,
    name: String,
    prompts: JudgePrompts,
    references: BTreeMap<u64, Answer>,
}

/// One turn to judge.
struct Turn {
    question_id: u64,
    turn: usize,
    asked: Asked,
}

impl Turn {
    fn name(&self) -> String {
        format!("question {}, turn {}", self.question_id, self.turn)
    }
}

impl Judge {
    fn open(url: &str, args: &MtBenchArgs, questions: &[Question], console: &Console) -> Result<Self> {
        let (Some(name), Some(prompts)) = (&args.judge_model, &args.judge_prompts) else {
            return Err(Error::usage("--judge needs --judge-model and --judge-prompts"));
        };
        let references = args.reference_answers.as_deref().map_or(Ok(Vec::new()), read_answers)?;
        let references: BTreeMap<u64, Answer> =
            references.into_iter().map(|answer| (answer.question_id, answer)).collect();
        let lacks =
            |question: &&Question| question.needs_reference() && !references.contains_key(&question.question_id);
        let num_lacking = questions.iter().filter(lacks).count();
        if num_lacking > 0 {
            console.warn(format!(
                "{num_lacking} questions of math, reasoning and coding have no reference answer (--reference-answers): \
                 they are judged without, which FastChat does not do"
            ));
        }
        let config = ServerConfig { url: url.to_owned(), max_in_flight: args.max_in_flight, ..ServerConfig::default() };
        config.check(&[]).map_err(|error| Error::usage(format!("--judge {error}")).with_hint_of(&error))?;
        let server = Server::with_key_of(&config, args.judge_key_variable.as_deref())?.with_model(name.clone());
        Ok(Judge { server, name: name.clone(), prompts: JudgePrompts::read(prompts)?, references })
    }

    /// Asks about every turn that the folder has no judgment of. What the server says instead of a judgment is kept as
    /// one without a rating: a turn that it refuses must not cost all figures.
    ///
    /// # Errors
    /// [`Error::Server`], also if every turn that was asked about is refused, and those are most of all: then it is not
    /// the turns that the server refuses.
    fn judge_all(
        &self,
        args: &MtBenchArgs,
        questions: &[Question],
        answers: &[Answer],
        console: &Console,
    ) -> Result<Scores> {
        let folder = args.output.join("model_judgment");
        create_folder(&Disk, &folder)?;
        let file = folder.join(format!("{}_single.jsonl", file_name(&self.name)));
        let (model, turns) = (args.model_id(), self.turns(questions, answers)?);
        let is_of = |judgment: &Judgment, turn: &Turn| {
            (judgment.question_id, judgment.turn, &judgment.judge.1) == (turn.question_id, turn.turn, &turn.asked.name)
                && judgment.model == model
                && judgment.user_prompt == turn.asked.user_prompt
        };
        let mut judgments: Vec<Judgment> = read_lines(&Disk, &file)?;
        judgments.retain(|judgment| turns.iter().any(|turn| is_of(judgment, turn)));
        let open: Vec<&Turn> =
            turns.iter().filter(|turn| !judgments.iter().any(|judgment| is_of(judgment, turn))).collect();
        let refusals = self.ask(&open, console, &mut |turn, said| {
            let judgment = self.judgment(turn, &model, said);
            append_line(&Disk, &file, &judgment)?;
            judgments.push(judgment);
            Ok(())
        })?;
        if let Some((first, said)) = refusals.first() {
            let said = format!("{}: {said}", first.name());
            if refusals.len() == open.len() && open.len() > judgments.len() {
                return Err(self.server.error(said));
            }
            let turns = if refusals.len() == 1 { "turn" } else { "turns" };
            console.warn(format!(
                "the judge refuses {} {turns}, first {said}; to ask again, remove the lines with score -1.0 from {}",
                refusals.len(),
                file.display()
            ));
        }
        for (turn, said) in refusals {
            let judgment = Judgment { score: NO_RATING, ..self.judgment(turn, &model, said) };
            append_line(&Disk, &file, &judgment)?;
            judgments.push(judgment);
        }
        Ok(Scores::new(questions, &judgments))
    }

    /// Asks about turns. Those that the server would not judge, in their order, each with what it said instead.
    fn ask<'a>(
        &self,
        turns: &[&'a Turn],
        console: &Console,
        on_judgment: &mut dyn FnMut(&Turn, String) -> Result<()>,
    ) -> Result<Vec<(&'a Turn, String)>> {
        let mut bar = console.bar("judging", turns.len() as u64, Unit::Count("turns"));
        let requests = turns.iter().map(|turn| request(&turn.asked)).collect();
        let mut refusals: BTreeMap<usize, String> = BTreeMap::new();
        self.server.chat_all(
            requests,
            &|i| turns[i].name(),
            &mut |i, answered| {
                bar.advance(1);
                match answered {
                    Ok(said) => on_judgment(turns[i], said.text),
                    Err(said) => {
                        refusals.insert(i, said);
                        Ok(())
                    }
                }
            },
            &|| Ok(()),
        )?;
        Ok(refusals.into_iter().map(|(i, said)| (turns[i], said)).collect())
    }

    fn turns(&self, questions: &[Question], answers: &[Answer]) -> Result<Vec<Turn>> {
        let mut turns = Vec::new();
        for (question, answer) in questions.iter().zip(answers) {
            let reference = self.references.get(&question.question_id).filter(|_| question.needs_reference());
            for turn in 1..=question.turns.len() {
                let asked = self.prompts.ask(question, answer, reference, turn)?;
                turns.push(Turn { question_id: question.question_id, turn, asked });
            }
        }
        Ok(turns)
    }

    fn judgment(&self, turn: &Turn, model: &str, judgment: String) -> Judgment {
        Judgment {
            question_id: turn.question_id,
            model: model.to_owned(),
            judge: (self.name.clone(), turn.asked.name.clone()),
            user_prompt: turn.asked.user_prompt.clone(),
            score: rating(&judgment).unwrap_or(NO_RATING),
            judgment,
            turn: turn.turn,
            tstamp: now(),
        }
    }
}

fn request(asked: &Asked) -> ChatRequest {
    let message = |role: &str, content: &String| Message { role: role.to_owned(), content: content.clone() };
    ChatRequest {
        messages: vec![message("system", &asked.system_prompt), message("user", &asked.user_prompt)],
        temperature: 0.0,
        max_new_tokens: JUDGMENT_TOKENS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_models_name_keeps_its_dots() {
        let name = |path: &str, ending: &str| name_without(Path::new(path), ending);
        assert_eq!(name("HuggingFaceTB/SmolLM2-1.7B-Instruct", ".gguf").as_deref(), Some("SmolLM2-1.7B-Instruct"));
        assert_eq!(name("o/n/x-1.5.gguf", ".gguf").as_deref(), Some("x-1.5"));
        assert_eq!(name("model_answer/gpt-3.5.jsonl", ".jsonl").as_deref(), Some("gpt-3.5"));
        assert_eq!(name("..", ".gguf"), None);
    }
}
