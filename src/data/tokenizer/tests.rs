//! Prompts and responses as token ids: recorded ids, end tokens, templates, conventions.

use serde_json::json;

use super::*;

const TOKENIZER_JSON: &[u8] = include_bytes!("../../../tests/fixtures/tokenizer/tokenizer.json");
const CHATML: &str = include_str!("../../../tests/fixtures/tokenizer/templates/chatml.jinja");
const HEADERS: &str = include_str!("../../../tests/fixtures/tokenizer/templates/headers.jinja");
const INST: &str = include_str!("../../../tests/fixtures/tokenizer/templates/inst.jinja");
const ZEPHYR: &str = include_str!("../../../tests/fixtures/tokenizer/templates/zephyr.jinja");
// Ids of the fixture's special tokens, in the order of SPECIAL in make.py.
const ENDOFTEXT: u32 = 0;
const IM_START: u32 = 1;
const IM_END: u32 = 2;
const BOS: u32 = 3;
const EOS: u32 = 4;
const EOT: u32 = 7;

fn load(template: Option<&str>, config: Value, eos_token_ids: &[u32]) -> Result<Tokenizer> {
    load_at(Path::new("model"), template, config, eos_token_ids)
}

fn load_at(path: &Path, template: Option<&str>, config: Value, eos_token_ids: &[u32]) -> Result<Tokenizer> {
    let files = TokenizerFiles {
        tokenizer_json: TOKENIZER_JSON.to_vec(),
        tokenizer_config: config,
        chat_template: template.map(str::to_owned),
    };
    Tokenizer::new(&files, path, eos_token_ids)
}

fn marked() -> Value {
    json!({"bos_token": "<s>", "eos_token": {"content": "</s>"}})
}

fn text(text: &str) -> Prompt {
    Prompt::Text(text.into())
}

fn answer(tokenizer: &Tokenizer, prompt: &str, response: &str) -> Vec<u32> {
    tokenizer.encode_response(&text(prompt), &Response::Text(response.into())).unwrap()
}

/// tests/fixtures/tokenizer/expected.json is what Python's `tokenizers` gives: see make.py beside it.
#[test]
fn text_becomes_the_same_ids_as_in_python_and_comes_back() {
    let tokenizer = load(None, json!({}), &[ENDOFTEXT]).unwrap();
    let expected: Value =
        serde_json::from_str(include_str!("../../../tests/fixtures/tokenizer/expected.json")).unwrap();
    for case in expected["encodings"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let ids = tokenizer.encode(text).unwrap();
        assert_eq!(json!(ids), case["ids"], "{text:?}");
        if !text.contains('|') && !text.contains("<s>") {
            assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        }
    }
    assert_eq!(tokenizer.decode(&[IM_START, 72, IM_END]).unwrap(), tokenizer.decode(&[72]).unwrap());
    assert_eq!(tokenizer.vocab_size(), tokenizer.inner.get_vocab_size(true));
}

#[test]
fn a_token_for_unknown_text_is_known_unless_responses_end_with_it() {
    let mut json: Value = serde_json::from_slice(TOKENIZER_JSON).unwrap();
    let mut has_unknown = |unknown: Value, eos_token_ids: &[u32]| {
        json["model"]["unk_token"] = unknown;
        let tokenizer_json = serde_json::to_vec(&json).unwrap();
        let files = TokenizerFiles { tokenizer_json, tokenizer_config: json!({}), chat_template: None };
        let tokenizer = Tokenizer::new(&files, Path::new("model"), eos_token_ids).unwrap();
        let has_unknown = tokenizer.has_unknown(&[64, ENDOFTEXT]);
        assert_eq!(tokenizer.is_special(ENDOFTEXT), !has_unknown);
        has_unknown
    };
    assert!(has_unknown(json!("<|endoftext|>"), &[IM_END]));
    assert!(!has_unknown(json!("<|endoftext|>"), &[ENDOFTEXT]));
    assert!(!has_unknown(Value::Null, &[IM_END]));
}

#[test]
fn an_end_token_is_no_text_of_a_response_though_the_tokenizer_does_not_call_it_special() {
    let mut json: Value = serde_json::from_slice(TOKENIZER_JSON).unwrap();
    let token = json["added_tokens"].as_array_mut().unwrap().iter_mut().find(|token| token["id"] == IM_END).unwrap();
    assert_eq!(token["content"], "<|im_end|>");
    token["special"] = json!(false);
    let files = TokenizerFiles {
        tokenizer_json: serde_json::to_vec(&json).unwrap(),
        tokenizer_config: json!({}),
        chat_template: None,
    };
    let open = |eos_token_ids: &[u32]| Tokenizer::new(&files, Path::new("model"), eos_token_ids).unwrap();
    let tokenizer = open(&[IM_END]);
    let ids = answer(&tokenizer, "64 +", " 8");
    assert_eq!((ids.last(), tokenizer.is_special(IM_END)), (Some(&IM_END), false));
    assert_eq!(tokenizer.decode(&ids).unwrap(), " 8");
    assert_eq!(tokenizer.decode_all(&ids).unwrap(), " 8<|im_end|>");
    assert_eq!(open(&[ENDOFTEXT]).decode(&ids).unwrap(), " 8<|im_end|>", "where it ends nothing it is text");
}

#[test]
fn a_chatml_response_ends_with_im_end_and_not_with_the_line_break_after_it() {
    let tokenizer = load(Some(CHATML), json!({}), &[ENDOFTEXT]).unwrap();
    assert_eq!(tokenizer.eos_token_ids(), [ENDOFTEXT, IM_END]);
    let ids = answer(&tokenizer, "What is the capital of France?", "Paris.");
    assert_eq!(ids, [tokenizer.encode("Paris.").unwrap(), vec![IM_END]].concat());
    let prompt = tokenizer.render_prompt(&text("Hi")).unwrap().unwrap();
    assert_eq!(
        prompt,
        "<|im_start|>system\nYou are a small model.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    );
    assert_eq!(tokenizer.encode_prompt(&text("Hi")).unwrap(), tokenizer.encode(&prompt).unwrap());
}

#[test]
fn every_template_ends_a_response_with_one_end_token_at_its_end() {
    for (template, end) in [(CHATML, IM_END), (HEADERS, EOT), (INST, EOS), (ZEPHYR, EOS)] {
        let tokenizer = load(Some(template), marked(), &[ENDOFTEXT]).unwrap();
        for response in ["Paris.", "\n 64 + 8 = 72 \n", "日本", "Paris.</s>", "Paris.<|endoftext|> </s>\n"] {
            let ids = answer(&tokenizer, "  What? ", response);
            let ends: Vec<usize> = (0..ids.len()).filter(|&i| tokenizer.eos_token_ids().contains(&ids[i])).collect();
            assert_eq!(ends, [ids.len() - 1], "{response:?} in {template}");
            assert_eq!(ids.last(), Some(&end), "{response:?} in {template}");
            let shown = response.replace("</s>", "").replace("<|endoftext|>", "");
            assert_eq!(tokenizer.decode(&ids).unwrap().trim(), shown.trim());
        }
    }
}

#[test]
fn the_prompt_and_the_response_are_the_whole_conversation() {
    for template in [CHATML, HEADERS, INST, ZEPHYR] {
        let tokenizer = load(Some(template), marked(), &[]).unwrap();
        let mut messages = as_messages(&text("What is the capital of France?")).unwrap();
        messages.push(Message { role: "assistant".into(), content: "Paris.".into() });
        let whole = tokenizer.chat_template.as_ref().unwrap().render(&messages, false).unwrap();
        let ids = [
            tokenizer.encode_prompt(&text("What is the capital of France?")).unwrap(),
            answer(&tokenizer, "What is the capital of France?", "Paris."),
        ];
        assert_eq!(ids.concat(), tokenizer.encode(whole.trim_end()).unwrap());
    }
}

#[test]
fn a_template_that_rewrites_the_prompt_falls_back_to_the_text_and_the_end_token_that_it_writes() {
    let template = "{{ messages | length }}{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}";
    // Models list their end tokens in any order: the smallest id is rarely the one that ends a turn.
    let tokenizer = load(Some(template), json!({}), &[ENDOFTEXT, IM_END]).unwrap();
    assert_eq!(answer(&tokenizer, "Hi", "Paris."), [tokenizer.encode("Paris.").unwrap(), vec![IM_END]].concat());
}

#[test]
fn a_template_without_an_end_token_leaves_a_response_where_it_stands() {
    let template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}";
    let tokenizer = load(Some(template), marked(), &[]).unwrap();
    let expected = [tokenizer.encode(" Paris").unwrap(), vec![EOS]].concat();
    assert_eq!(answer(&tokenizer, "Hi", "Paris"), expected, "with the template's space, without its line break");
    assert_eq!(
        tokenizer.encode_after(&tokenizer.encode_prompt(&text("Hi")).unwrap(), " Paris").unwrap(),
        expected[..expected.len() - 1]
    );

    // Without a generation prompt the header is part of the turn, whatever letters it has.
    let headed = "{% for m in messages %}{% if m.role == 'user' %}Question: {{ m.content }}\n{% else %}Answer: {{ m.content }}\n{% endif %}{% endfor %}";
    let tokenizer_with_header = load(Some(headed), marked(), &[]).unwrap();
    let expected = [tokenizer.encode("Answer: A").unwrap(), vec![EOS]].concat();
    assert_eq!(answer(&tokenizer_with_header, "A or B?", "A"), expected);

    // As SentencePiece does it: every text begins with a space, which is none of the response's.
    let mut prepending: Value = serde_json::from_slice(TOKENIZER_JSON).unwrap();
    prepending["normalizer"] = json!({"type": "Prepend", "prepend": " "});
    let template = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}\nAnswer:\n{% else %}{{ m.content }}{% endif %}{% endfor %}";
    let files = TokenizerFiles {
        tokenizer_json: serde_json::to_vec(&prepending).unwrap(),
        tokenizer_config: marked(),
        chat_template: Some(template.to_owned()),
    };
    let prepends = Tokenizer::new(&files, Path::new("model"), &[]).unwrap();
    assert_eq!(prepends.encode("Paris").unwrap(), tokenizer.encode(" Paris").unwrap(), "the test needs that space");
    assert_eq!(answer(&prepends, "Hi", "Paris"), [tokenizer.encode("Paris").unwrap(), vec![EOS]].concat());
}

#[test]
fn an_end_token_inside_a_response_is_an_error() {
    let tokenizer = load(None, marked(), &[]).unwrap();
    let error = tokenizer.encode_response(&text("Hi"), &Response::Text("one</s>two".into())).unwrap_err();
    assert_eq!(error.to_string(), "model: the response has the end token `</s>` before its end");
}

#[test]
fn a_beginning_token_is_written_once_and_only_by_convention() {
    let plain = |config: Value, prompt: &str| load(None, config, &[EOS]).unwrap().encode_prompt(&text(prompt)).unwrap();
    let a = load(None, marked(), &[]).unwrap().encode("a").unwrap();
    assert_eq!(plain(marked(), "a"), a);
    let adds = json!({"bos_token": "<s>", "add_bos_token": true});
    assert_eq!(plain(adds.clone(), "a"), [vec![BOS], a.clone()].concat());
    assert_eq!(plain(adds.clone(), "<s>a"), [vec![BOS], a].concat());
    let tokenizer = load(Some(INST), adds, &[EOS]).unwrap();
    let ids = tokenizer.encode_prompt(&text("a")).unwrap();
    assert_eq!(ids.iter().filter(|&&id| id == BOS).count(), 1);
}

#[test]
fn without_a_template_a_response_is_its_text_and_the_end_token() {
    let tokenizer = load(None, marked(), &[]).unwrap();
    assert_eq!(answer(&tokenizer, "64 +", " 8"), [tokenizer.encode(" 8").unwrap(), vec![EOS]].concat());
}

#[test]
fn token_ids_pass_through_unchanged() {
    let tokenizer = load(Some(CHATML), json!({}), &[IM_END]).unwrap();
    let prompt = Prompt::Ids(vec![9, 9]);
    assert_eq!(tokenizer.encode_prompt(&prompt).unwrap(), [9, 9]);
    assert_eq!(tokenizer.encode_response(&prompt, &Response::Ids(vec![5])).unwrap(), [5]);
    let ids = tokenizer.encode_response(&prompt, &Response::Text("Hi".into())).unwrap();
    assert_eq!(ids, [tokenizer.encode("Hi").unwrap(), vec![IM_END]].concat());
}

#[test]
fn what_a_model_folder_lacks_is_said() {
    let error = load(None, json!({}), &[]).err().unwrap();
    assert_eq!(error.to_string(), "model: no end token is known: a response could never end");
    assert!(error.hint().unwrap().ends_with("as `eos_token_id` in config.json"), "{error:?}");
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = load_at(file.path(), None, json!({}), &[]).err().unwrap();
    assert_eq!(error.hint(), Some("a GGUF file cannot be given an end token: take its Hugging Face folder"));
    let tokenizer = load(None, marked(), &[]).unwrap();
    let messages = Prompt::Messages(as_messages(&text("Hi")).unwrap());
    let error = tokenizer.encode_prompt(&messages).unwrap_err().to_string();
    assert_eq!(error, "model: rows of messages need a chat template");
}

#[test]
fn a_panic_of_the_tokenizer_library_is_an_error() {
    let result: Result<()> =
        guarded(Path::new("model"), "load", || -> std::result::Result<(), String> { panic!("a panic on purpose") });
    assert_eq!(result.unwrap_err().to_string(), "model, tokenizer.json: cannot load the tokenizer: it is damaged");
}
