//! What the ecosystem's own readers make of exports: the scripts under `tests/oracle`, run by a Python interpreter.
//!
//! `GSIL_READERS_PYTHON` names one with numpy, safetensors and gguf, which read files; `GSIL_PYTHON` one with torch, transformers
//! and peft as well, which compute. Without them the tests say loudly that they are skipped. Where llama-cpp-python is
//! installed too, llama.cpp itself loads the GGUF files.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::tempdir;

use crate::support::binary::{device, ending_model, export, golden, gsil, say_skipped, text, text_model, write_rows};
use crate::support::tiny_models;

/// An interpreter that reads files.
fn reader(test: &str) -> Option<String> {
    let python = std::env::var("GSIL_READERS_PYTHON").or_else(|_| std::env::var("GSIL_PYTHON")).ok();
    if python.is_none() {
        say_skipped(test, "GSIL_READERS_PYTHON does not name a Python interpreter with numpy, safetensors and gguf");
    }
    python
}

/// An interpreter that computes.
fn computer(test: &str) -> Option<String> {
    let python = std::env::var("GSIL_PYTHON").ok();
    if python.is_none() {
        say_skipped(test, "GSIL_PYTHON does not name a Python interpreter with torch, transformers and peft");
    }
    python
}

/// Runs a script of `tests/oracle`; what it measured is printed.
fn check(python: &str, script: &str, arguments: &[&Path]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle").join(script);
    let checked = Command::new(python).arg(script).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success(), "{said}{}", String::from_utf8_lossy(&checked.stderr));
    print!("{said}");
}

fn gsil_path() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_gsil"))
}

fn exported(folder: &Path, source: &Path, format: &str, dtype: &str) -> PathBuf {
    let output = folder.join(format!("{}-{format}-{dtype}", source.file_name().unwrap().to_str().unwrap()));
    export(folder, source, format, &output, &["--dtype", dtype]).succeeded();
    output
}

#[test]
fn the_gguf_package_reads_every_export_as_the_bytes_that_it_would_write() {
    let Some(python) = reader("GGUF exports in the gguf package") else { return };
    let folder = tempdir().unwrap();
    for source in tiny_models::in_gguf().map(tiny_models::folder_of).chain([text_model(folder.path())]) {
        let plain = exported(folder.path(), &source, "hf", "f32");
        for dtype in ["f32", "f16", "bf16", "q8_0"] {
            let file = exported(folder.path(), &source, "gguf", dtype);
            check(&python, "check_gguf.py", &[gsil_path(), &plain, &file]);
        }
    }
}

#[test]
fn the_real_model_exported_as_gguf_is_read_by_the_gguf_package() {
    let Some(python) = reader("the real model's GGUF export") else { return };
    let Ok(source) = std::env::var("GSIL_SMOLLM2_GGUF").map(PathBuf::from) else {
        say_skipped("the real model's GGUF export", "GSIL_SMOLLM2_GGUF does not name SmolLM2-135M-Instruct.Q4_1.gguf");
        return;
    };
    let folder = tempdir().unwrap();
    let plain = exported(folder.path(), &source, "hf", "f32");
    // Once with the tokenizer made from tokenizer.json, once with that of the GGUF file carried over.
    for (source, dtype) in [(&plain, "f16"), (&source, "q8_0")] {
        let file = exported(folder.path(), source, "gguf", dtype);
        check(&python, "check_gguf.py", &[gsil_path(), &plain, &file]);
    }
}

/// A run that trained an adapter on the model whose responses end.
fn run_with_adapter(folder: &Path) -> PathBuf {
    let (model, device) = (text(ending_model(folder)), device());
    write_rows(&folder.join("rows.jsonl"), 6);
    let arguments = ["train", "--model", &model, "--data", "rows.jsonl", "--output", "run", "--device", &device];
    let settings = ["lora.rank=4", "generation.max_new_tokens=12", "train.batch_size=3", "train.lr=1e-2"];
    gsil(folder, &[&arguments[..], &settings].concat()).succeeded();
    folder.join("run")
}

#[test]
fn the_safetensors_package_reads_an_adapter_that_makes_the_merged_model() {
    let Some(python) = reader("an adapter in the safetensors package") else { return };
    let folder = tempdir().unwrap();
    let run = run_with_adapter(folder.path());
    let adapter = exported(folder.path(), &run, "peft", "f32");
    check(&python, "check_safetensors.py", &[&folder.path().join("tiny"), &adapter, &run.join("model")]);
}

#[test]
fn peft_gives_our_log_probs_with_an_exported_adapter() {
    let Some(python) = computer("an adapter in peft") else { return };
    let folder = tempdir().unwrap();
    let run = run_with_adapter(folder.path());
    let adapter = exported(folder.path(), &run, "peft", "f32");
    check(&python, "check_peft.py", &[gsil_path(), &adapter, &run.join("model")]);
}

#[test]
fn transformers_gives_our_log_probs_on_folders_of_every_number_format() {
    let Some(python) = computer("exported folders in transformers") else { return };
    let folder = tempdir().unwrap();
    for dtype in ["f32", "f16", "bf16"] {
        let output = exported(folder.path(), &golden("tiny_llama"), "hf", dtype);
        check(&python, "check_export.py", &[gsil_path(), &output]);
    }
    for name in ["qwen2", "llama3"] {
        let output = exported(folder.path(), &tiny_models::folder_of(name), "mlx", "bf16");
        check(&python, "check_export.py", &[gsil_path(), &output]);
    }
    for name in tiny_models::with_gradients() {
        let output = exported(folder.path(), &tiny_models::folder_of(name), "hf", "f32");
        check(&python, "check_export.py", &[gsil_path(), &output]);
    }
}
