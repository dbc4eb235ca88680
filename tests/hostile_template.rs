//! Chat templates from strangers. A template is a program: it may ask for endless work, memory or stack, and must end soon,
//! in a text or in an error.

use std::path::Path;
use std::time::{Duration, Instant};

use gsil::Result;
use gsil::data::chat_template::ChatTemplate;
use gsil::data::rows::Message;

use crate::support::binary::Random;
use crate::support::mutations::damaged_text;
use crate::support::{doors, fixture, in_its_own_process};

/// Promised is one second on a quiet machine; tests share theirs, and here is a compilation, too.
const PATIENCE: Duration = Duration::from_secs(3);

fn ends_in_time(source: &str) -> Result<()> {
    let start = Instant::now();
    let result = doors::chat_template(source);
    assert!(start.elapsed() < PATIENCE, "{:?} for {source:.160}", start.elapsed());
    if let Err(error) = &result {
        doors::assert_input_error(error, "model");
    }
    result
}

/// A template that replaces `x` by `step` of itself `times` times.
fn growing(start: &str, step: &str, times: usize, end: &str) -> String {
    let body = format!("{{% for i in range({times}) %}}{{% set ns.x = {step} %}}{{% endfor %}}");
    format!("{{% set ns = namespace(x={start}) %}}{body}{end}")
}

/// Promise R14.
#[test]
fn templates_that_ask_for_too_much_end_in_an_error_soon() {
    in_its_own_process("hostile_template::templates_that_ask_for_too_much_end_in_an_error_soon", || {
        too_much().iter().for_each(|source| assert!(ends_in_time(source).is_err(), "{source:.160}"));
    });
}

fn too_much() -> Vec<String> {
    vec![
        "{% for i in range(1000000000000000) %}{% endfor %}".to_owned(),
        "{% for i in range(-1000000000000000, 1000000000000000) %}x{% endfor %}".to_owned(),
        format!("{}{}", "{% for i in range(100000) %}".repeat(3), "{% endfor %}".repeat(3)),
        growing("'ab'", "ns.x ~ ns.x", 60, ""),
        growing("'ab'", "ns.x + ns.x", 60, ""),
        growing("'ab'", "ns.x.replace('a', 'aaaa')", 60, ""),
        growing("'ab'", "ns.x | replace('a', 'aaaa')", 60, ""),
        growing("'ab'", "ns.x.join(ns.x)", 60, ""),
        growing("'ab'", "ns.x | join(ns.x)", 60, ""),
        growing("'ab'", "(ns.x ~ ns.x) | upper", 60, ""),
        growing("['a']", "[ns.x, ns.x]", 60, "{{ ns.x | tojson }}"),
        growing("['a']", "[ns.x, ns.x]", 22, "{{ ns.x }}"),
        growing("['a']", "[ns.x, ns.x]", 22, "{{ ns.x ~ '' }}"),
        growing("['a']", "[ns.x, ns.x]", 22, "{{ ns.x | string }}"),
        growing("['a']", "ns.x + ns.x", 34, "{{ ns.x | length }}"),
        growing("{'a': 1}", "{'a': ns.x, 'b': ns.x}", 60, "{{ ns.x | tojson(indent=4) }}"),
        "{{ 'a' * 100000000000 }}".to_owned(),
        "{{ [1] * 100000000000 }}".to_owned(),
        "{{ '%999999999999d' | format(1) }}".to_owned(),
        "{{ '%2000000000s' | format('a') }}".to_owned(),
        "{{ 'a' | indent(2000000000, true) }}".to_owned(),
        "{% macro f(x) %}{{ f(x) }}{{ f(x) }}{% endmacro %}{{ f(1) }}".to_owned(),
        "{% for x in [1] recursive %}{{ loop([1]) }}{{ loop([1]) }}{% endfor %}".to_owned(),
        format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000)),
        format!("{{{{ {}1{} }}}}", "[".repeat(100_000), "]".repeat(100_000)),
        format!("{}x{}", "{% if true %}".repeat(9_000), "{% endif %}".repeat(9_000)),
        "x".repeat((256 << 10) + 1),
    ]
}

/// An error or a text, but never an overflow of the stack, which would abort the whole test run.
#[test]
fn long_chains_and_deep_values_do_not_overflow_the_stack() {
    let chains = [
        format!("{{{{ 1{} }}}}", "|abs".repeat(60_000)),
        format!("{{{{ x{} }}}}", ".a".repeat(120_000)),
        format!("{{{{ x{} }}}}", "[0]".repeat(80_000)),
        format!("{{{{ {}1 }}}}", "-".repeat(250_000)),
        format!("{{{{ {}1 }}}}", "not ".repeat(60_000)),
        format!("{{{{ 1{} }}}}", "~1".repeat(120_000)),
        format!("{{{{ 1{} }}}}", "**1".repeat(80_000)),
        format!("{{{{ 1{} }}}}", " is string".repeat(25_000)),
        format!("{{{{ x{} }}}}", "()".repeat(120_000)),
        format!("{{{{ 1{} }}}}", " if 1 else 1".repeat(20_000)),
        format!("{{% if 1 %}}{}{{% endif %}}", "{% elif 1 %}".repeat(20_000)),
        growing("[]", "[ns.x]", 30_000, "{{ ns.x | tojson }}"),
        growing("[]", "[ns.x]", 30_000, "{{ ns.x }}{{ ns.x == [ns.x] }}"),
        growing("[]", "ns.x[:]", 20_000, "{{ ns.x }}"),
        growing("[]", "ns.x | map('abs')", 30_000, "{{ ns.x | list }}"),
    ];
    for source in &chains {
        let _text_or_error = ends_in_time(source);
    }
}

#[test]
fn templates_read_no_files() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "a secret").unwrap();
    let path = secret.display();
    for source in [
        format!("{{% include '{path}' %}}"),
        format!("{{% include ['{path}'] ignore missing %}}"),
        format!("{{% extends '{path}' %}}"),
        format!("{{% import '{path}' as x %}}{{{{ x }}}}"),
        format!("{{% from '{path}' import x %}}"),
        "{{ ''.__class__.__mro__[1].__subclasses__() }}".to_owned(),
        "{{ self.__init__.__globals__ }}".to_owned(),
        format!("{{{{ open('{path}').read() }}}}"),
    ] {
        let template = ChatTemplate::new(&source, None, None, Path::new("model"));
        let text = template.and_then(|template| template.render(&[], true)).unwrap_or_default();
        assert!(!text.contains("secret"), "{source}: {text}");
    }
}

/// Ten megabytes a thousand times over: fuel grows with the messages, the text that comes out must not grow with it.
#[test]
fn a_long_message_is_rendered_and_a_thousand_copies_of_it_are_not() {
    let messages = [Message { role: "user".into(), content: "word ".repeat(2_000_000) }];
    let render = |source: &str| ChatTemplate::new(source, None, None, Path::new("model"))?.render(&messages, true);
    let copies = "{% for m in messages %}{{ m.content }}{{ m.content | trim }}{% endfor %}";
    assert_eq!(render(copies).unwrap().len(), 20_000_000 - 1);
    let error = render(&"{{ messages[0].content }}".repeat(1_000)).unwrap_err();
    doors::assert_input_error(&error, "chat template");
}

/// The first row of a data file costs the time limit and a thread that cannot be stopped; the others must not.
#[test]
fn a_template_that_ran_over_its_time_is_not_tried_again() {
    in_its_own_process("hostile_template::a_template_that_ran_over_its_time_is_not_tried_again", || {
        let slow = growing("['a']", "ns.x + ns.x", 34, "{{ ns.x | length }}");
        let source = format!("{{% if messages[0].content == 'slow' %}}{slow}{{% endif %}}");
        let template = ChatTemplate::new(&source, None, None, Path::new("model")).unwrap();
        let render = |content: &str| template.render(&[Message { role: "user".into(), content: content.into() }], true);
        assert_eq!(render("quick").unwrap(), "");
        let error = render("slow").unwrap_err();
        assert!(error.to_string().contains("did not end within"), "{error}");
        for content in ["slow", "quick"] {
            assert!(render(content).unwrap_err().to_string().contains("is not tried again"));
        }
    });
}

#[test]
fn damaged_templates_render_or_are_refused() {
    let names = ["chatml", "chatml_multiline", "headers", "inst", "zephyr"];
    let sources = names.map(|name| {
        let path = fixture("tokenizer/templates").join(format!("{name}.jinja"));
        std::fs::read_to_string(path).unwrap()
    });
    let mut random = Random(14);
    let mut num_refused = 0;
    for round in 0..2_000 {
        let bytes = damaged_text(&mut random, &sources[round % sources.len()]);
        num_refused += usize::from(ends_in_time(&String::from_utf8_lossy(&bytes)).is_err());
    }
    assert!((200..1_900).contains(&num_refused), "{num_refused} refused");
}
