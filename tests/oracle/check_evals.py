"""Do the evaluations of gsil say what lm-evaluation-harness says, row by row?

    python check_evals.py PATH_TO_GSIL REPOSITORY [--gsm8k TEST.jsonl] [--model FOLDER] [--write]

Needs lm_eval (0.4.13 was used), torch and transformers. Both programs get the same model and the same rows. The model is the
tiny Llama of the fixtures with the tokenizer of the fixtures, once as it is and once with texts that begin with the beginning
token; or a Hugging Face folder.

GSM8K: some hundred awkward responses and, with a test file, real worked answers go through lm_eval's own filters and metric;
the same for the responses that gsil itself gives. Multiple choice and perplexity: lm_eval's HFLM computes every log-likelihood,
its HellaSwag code makes the texts. `--write` writes what lm_eval said to tests/fixtures/evals, where the tests of gsil read it.
"""

import argparse
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.metrics import bits_per_byte, exact_match_hf_evaluate, weighted_perplexity
from lm_eval.filters.extraction import RegexFilter
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import postprocess_generated_text
from lm_eval.tasks.hellaswag.utils import preprocess

STRICT = RegexFilter(r"#### (\-?[0-9\.\,]+)")
FLEXIBLE = RegexFilter(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", group_select=-1)
IGNORED = [",", r"\$", r"(?s).*#### ", r"\.$"]
STOPS = ["Question:", "</s>", "<|im_end|>"]
# Nats. Both compute in float32, in another order.
TOLERANCE = 1e-3


def read_lines(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write_lines(path, rows):
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def judge(response, answer):
    """What lm_eval finds in a response, and whether that is right."""
    response = postprocess_generated_text(response, STOPS, None)
    strict, flexible = (f.apply([[response]], [{}])[0][0] for f in (STRICT, FLEXIBLE))

    def match(prediction):
        found = exact_match_hf_evaluate([prediction], [answer], regexes_to_ignore=IGNORED, ignore_case=True)
        return bool(found["exact_match"])

    return {"strict": strict, "flexible": flexible, "exact_match_strict": match(strict), "exact_match_flexible": match(flexible)}


def awkward_responses():
    """Pairs of a response and the row's answer."""
    tails = ["#### 1,234.", "#### 1234", "$5", "#### $5", "no answer at all", "#### 3 #### 4", "#### -7", "#### --7", "####8",
             "####  8", "#### 7 2", "#### 12 apples", "#### .", "#### ,", "-", "--5--", "$$", "..", "5.", "5..", "#### 5..",
             "The answer is 1,234.50.", "#### 42\nQuestion: 9?", "#### 42</s> 7", "7<|im_end|>8", "answer: $1,000", "#### 0.5",
             "1/2", "#### 1e5", "٣ and 3", "#### é5", "#### 10%", "[invalid]", "", "\n\n", "#### \n5", "##### 6", "#### 007",
             "- 5", "-$5", "$-5", "1 2 3", "#### 5\n.", "#### 1,2,3", "TEN", "#### 5 Question 6", "x=3.14159", "#### +5", "5 ####"]
    answers = ["so\n#### 1,234", "#### 5", "#### -7", "#### 42", "#### 8", "#### 1,000", "#### 0.5", "#### 72", "#### 3",
               "[invalid]", "TEN", "#### 5.", "#### 5\n"]
    pick = random.Random(1).choice
    rows = [(tail, answer) for tail in tails for answer in random.Random(tail).sample(answers, 4)]
    pieces = ["#### ", "####", " ", "\n", "-", "$", ",", ".", "5", "17", "1,234", "x", "Question:", "</s>", "ans "]
    rows += [("".join(pick(pieces) for _ in range(random.Random(i).randint(1, 9))), pick(answers)) for i in range(300)]
    return rows


def gsil(program, *arguments):
    return subprocess.run([program, *map(str, arguments)], check=True, capture_output=True, text=True).stdout


def make_model(repository, folder):
    fixtures = os.path.join(repository, "tests", "fixtures")
    shutil.copytree(os.path.join(fixtures, "golden", "tiny_llama"), folder)
    shutil.copy(os.path.join(fixtures, "tokenizer", "tokenizer.json"), folder)
    shutil.copy(os.path.join(fixtures, "tokenizer", "templates", "chatml.jinja"), os.path.join(folder, "chat_template.jinja"))
    with open(os.path.join(folder, "tokenizer_config.json"), "w", encoding="utf-8") as file:
        json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "<|im_end|>"}, file)


def begin_with_token(folder):
    """Lets the tokenizer write `<s>` before every text, as Llama's does."""
    path = os.path.join(folder, "tokenizer.json")
    with open(path, encoding="utf-8") as file:
        tokenizer = json.load(file)
    (begin,) = (token["id"] for token in tokenizer["added_tokens"] if token["content"] == "<s>")
    special, text = {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    pair = [special, text, {"Sequence": {"id": "B", "type_id": 0}}]
    tokens = {"<s>": {"id": "<s>", "ids": [begin], "tokens": ["<s>"]}}
    tokenizer["post_processor"] = {"type": "TemplateProcessing", "single": [special, text], "pair": pair, "special_tokens": tokens}
    with open(path, "w", encoding="utf-8") as file:
        json.dump(tokenizer, file)


WORDS = "the sea and a small boat went out before rain, Two of us sat; it's 17 o'clock. naïve café don't [step] [title] end".split()


def sentence(rng, least, most):
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(least, most)))


def choice_rows():
    rng = random.Random(2)
    rows = []
    for i in range(60):
        endings = ["It " + sentence(rng, 0, 8) for _ in range(rng.randint(2, 5))]
        answer = rng.randrange(len(endings))
        start, end = sentence(rng, 2, 9), sentence(rng, 0, 4)
        if i % 3 == 0:
            rows.append({"activity_label": "Roof [header] work", "ctx_a": start, "ctx_b": end, "ctx": f"{start} {end}", "endings": endings, "label": str(answer)})
        elif i % 3 == 1:
            rows.append({"ctx": f"{start}  {end}", "endings": endings, "label": answer})
        else:
            # Ends in white space, is empty, or is longer than the model's 256 tokens.
            prompt = ["", start, start + "  ", start + "\n", sentence(rng, 150, 200)][i // 3 % 5]
            rows.append({"prompt": prompt, "choices": endings, "answer": answer})
    return rows


def choice_texts(row):
    if "endings" not in row:
        return row["prompt"], row["choices"], row["answer"]
    if "ctx_a" in row:
        query = row["activity_label"] + ": " + row["ctx_a"] + " " + row["ctx_b"].capitalize()
    else:
        query = row["ctx"]
    return preprocess(query), [preprocess(ending) for ending in row["endings"]], int(row["label"])


def expected_choices(lm, rows):
    """The task code of lm_eval takes the largest sum, and the largest sum by length of the choice."""
    expected = []
    for row in rows:
        context, choices, answer = choice_texts(row)
        requests = [Instance("loglikelihood", row, (context, f" {choice}"), i) for i, choice in enumerate(choices)]
        sums = np.array([found[0] for found in lm.loglikelihood(requests, disable_tqdm=True)])
        lengths = np.array([float(len(choice)) for choice in choices])
        expected.append({"log_likelihoods": sums.tolist(), "answer": answer, "predicted": int(np.argmax(sums)), "predicted_norm": int(np.argmax(sums / lengths))})
    return expected


def text_rows():
    rng = random.Random(3)
    lengths = [(1, 1), (2, 9), (10, 40), (60, 90), (120, 200)]
    rows = [{"text": sentence(rng, *lengths[i % 5])} for i in range(28)]
    return rows + [{"text": " begins and ends in spaces  "}, {"text": "two\n\nlines\u00a0and\ttabs 🙂"}]


def expected_texts(lm, rows):
    requests = [Instance("loglikelihood_rolling", row, (row["text"],), i) for i, row in enumerate(rows)]
    sums = lm.loglikelihood_rolling(requests, disable_tqdm=True)
    return [
        {"log_likelihood": float(total), "num_words": len(re.split(r"\s+", row["text"])), "num_bytes": len(row["text"].encode())}
        for row, total in zip(rows, sums)
    ]


def agree(found, expected):
    """Equal in every key of `expected`; numbers with a fraction to within the tolerance."""
    for key, value in expected.items():
        if key.startswith("log_likelihood"):
            if not np.allclose(found[key], value, rtol=1e-6, atol=TOLERANCE):
                return False
        elif found[key] != value:
            return False
    return True


def count(name, found, expected):
    wrong = [i for i, (a, b) in enumerate(zip(found, expected, strict=True)) if not agree(a, b)]
    for i in wrong[:5]:
        print(f"{name}, row {i}: gsil {found[i]}, lm_eval {expected[i]}")
    print(f"{name}: {len(expected) - len(wrong)} of {len(expected)} rows agree")
    return not wrong


def run_rows(program, verb, model, data, folder, *more):
    gsil(program, "eval", verb, "--model", model, "--data", data, "--device", "flex", "--output", folder, *more)
    rows = sorted(read_lines(os.path.join(folder, "rows.jsonl")), key=lambda row: row["index"])
    with open(os.path.join(folder, "result.json"), encoding="utf-8") as file:
        return rows, {name: figure["value"] for name, figure in json.load(file)["figures"].items()}


def close(name, found, expected):
    same = all(math.isclose(found[key], value, rel_tol=1e-4) for key, value in expected.items())
    print(f"{name}: figures {'agree' if same else f'differ: {found}, {expected}'}")
    return same


def check_model(program, model, problems, folder, name):
    """Every evaluation with one model. Returns whether all agree, and what lm_eval said of choices and texts."""
    def at(file):
        return os.path.join(folder, f"{name} {file}")

    rows, _ = run_rows(program, "gsm8k", model, problems, at("g"), "--max-new-tokens", 48)
    expected = [judge(row["response"], problem["answer"]) for row, problem in zip(rows, read_lines(problems))]
    good = [count(f"{name}: gsm8k, its own responses", rows, expected)]
    lm = HFLM(pretrained=model, device="cpu", batch_size=1, dtype="float32")
    choices, texts = choice_rows(), text_rows()
    write_lines(at("choices.jsonl"), choices)
    write_lines(at("texts.jsonl"), texts)
    scored, read = expected_choices(lm, choices), expected_texts(lm, texts)
    rows, figures = run_rows(program, "multiple-choice", model, at("choices.jsonl"), at("c"))
    good.append(count(f"{name}: multiple choice", rows, scored))
    shares = {figure: float(np.mean([row[key] == row["answer"] for row in scored])) for figure, key in (("acc", "predicted"), ("acc_norm", "predicted_norm"))}
    good.append(close(f"{name}: multiple choice", figures, shares))
    rows, figures = run_rows(program, "perplexity", model, at("texts.jsonl"), at("p"))
    good.append(count(f"{name}: perplexity", rows, read))
    by_word = [(row["log_likelihood"], row["num_words"]) for row in read]
    by_byte = [(row["log_likelihood"], row["num_bytes"]) for row in read]
    wanted = {"word_perplexity": weighted_perplexity(by_word), "byte_perplexity": weighted_perplexity(by_byte), "bits_per_byte": bits_per_byte(by_byte)}
    good.append(close(f"{name}: perplexity", figures, wanted))
    return all(good), {"choices.jsonl": choices, "choices_expected.jsonl": scored, "texts.jsonl": texts, "texts_expected.jsonl": read}


def judged_responses(gsm8k):
    pairs = awkward_responses()
    if gsm8k:
        # Every second answer stands as a response to its neighbour's question: right and wrong ones, in people's words.
        answers = [row["answer"] for row in read_lines(gsm8k)][:80]
        pairs += [(answers[i], answers[i - i % 2]) for i in range(len(answers))]
    return [{"response": response, "answer": answer, **judge(response, answer)} for response, answer in pairs]


def main(arguments):
    with tempfile.TemporaryDirectory() as folder:
        problems = arguments.gsm8k or os.path.join(folder, "gsm8k.jsonl")
        if not arguments.gsm8k:
            write_lines(problems, [{"question": f"What is {i} and {i}?", "answer": f"#### {2 * i}"} for i in range(40)])
        if arguments.model:
            return check_model(arguments.gsil, arguments.model, problems, folder, "the model")[0]
        plain, begins = (os.path.join(folder, name) for name in ("plain", "begins"))
        make_model(arguments.repository, plain)
        make_model(arguments.repository, begins)
        begin_with_token(begins)
        good, fixtures = check_model(arguments.gsil, plain, problems, folder, "tiny")
        good &= check_model(arguments.gsil, begins, problems, folder, "tiny, texts begin with <s>")[0]
    fixtures["gsm8k_responses.jsonl"] = judged_responses(arguments.gsm8k)
    print(f"{len(fixtures['gsm8k_responses.jsonl'])} responses judged: the tests of gsil compare them with its own judgement")
    if arguments.write:
        for name, rows in fixtures.items():
            write_lines(os.path.join(arguments.repository, "tests", "fixtures", "evals", name), rows)
    return good


if __name__ == "__main__":
    os.environ["TQDM_DISABLE"] = "1"
    parser = argparse.ArgumentParser()
    parser.add_argument("gsil")
    parser.add_argument("repository")
    parser.add_argument("--gsm8k")
    parser.add_argument("--model")
    parser.add_argument("--write", action="store_true")
    sys.exit(not main(parser.parse_args()))
