//! The house rules that a compiler does not hold: imports run downward, presets are valid and say the command that runs
//! them.

use std::fs;
use std::path::{Path, PathBuf};

use gsil::config::{CompareConfig, RunConfig};
use tempfile::tempdir;

use crate::support::binary::{gsil, read, text};

/// The modules from the ground up: each may use those before it and itself, and nothing after it. `lib` and `main` stand
/// above all.
const LAYERS: [&str; 18] = [
    "error",
    "config",
    "records",
    "device",
    "report",
    "ops",
    "formats",
    "model",
    "data",
    "policy",
    "objective",
    "generate",
    "eval",
    "train",
    "compare",
    "bench",
    "doctor",
    "cli",
];

#[test]
fn a_run_notes_the_version_of_burn_that_is_built_in() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = read(&root.join("Cargo.toml"));
    let version = manifest.split_once("\nburn = { version = \"=").unwrap().1.split_once('"').unwrap().0;
    let noted = format!("\"burn\": \"{version}\",");
    assert!(read(&root.join("src/train/environment.rs")).contains(&noted), "env.json does not say {version}");
}

#[test]
fn imports_run_downward() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let layer = |name: &str| LAYERS.iter().position(|layer| *layer == name);
    let (mut num_imports, mut violations) = (0, Vec::new());
    for file in rust_files(&src) {
        let relative = file.strip_prefix(&src).unwrap();
        let module = relative.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        if ["lib", "main"].contains(&module) {
            continue;
        }
        let own = layer(module).unwrap_or_else(|| panic!("{module} has no place in the order of layers"));
        for (number, line) in read(&file).lines().enumerate() {
            for used in used_modules(line) {
                num_imports += 1;
                // `None` is a re-export of lib.rs: `crate::Error`.
                if layer(&used).is_some_and(|used| used > own) {
                    violations.push(format!("{}:{}: {module} uses {used}", relative.display(), number + 1));
                }
            }
        }
    }
    assert!(num_imports > 100, "the reader of imports found only {num_imports}");
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

#[test]
fn every_module_of_lib_rs_has_a_place_in_the_order_of_layers() {
    let lib = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs"));
    let mut declared: Vec<&str> =
        lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    let mut layers = LAYERS.to_vec();
    declared.sort_unstable();
    layers.sort_unstable();
    assert_eq!(declared, layers);
}

#[test]
fn the_reader_of_imports_sees_every_way_to_write_one() {
    for (line, expected) in [
        ("use crate::error::{Error, Result};", vec!["error"]),
        ("    crate::train::fit(crate::model::load())", vec!["train", "model"]),
        ("use crate::{train, model::Lm};", vec!["train", "model"]),
        ("/// See [`crate::train`].", vec![]),
        ("let x = 1; // crate::train", vec![]),
    ] {
        assert_eq!(used_modules(line), expected, "{line}");
    }
}

#[test]
fn every_preset_parses_resolves_and_is_valid() {
    let presets = presets("");
    assert!(presets.len() >= 5, "{presets:?}");
    for path in presets {
        let (text, name) = (read(&path), path.to_string_lossy().into_owned());
        if is_comparison(&path) {
            let config = CompareConfig::from_ron(&text, &name).unwrap();
            config.validate(&text, &name).unwrap();
            continue;
        }
        let mut config = RunConfig::from_ron(&text, &name).unwrap();
        config.validate().unwrap_or_else(|error| panic!("{name}: {error}"));
        config.resolve();
        config.validate().unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

/// The words after `gsil` of the command in a preset's head.
fn command_of(text: &str, verb: &str) -> Vec<String> {
    let head = text.lines().map_while(|line| line.strip_prefix("//")).collect::<Vec<_>>().join("\n");
    let start = head.find(&format!("gsil {verb}")).unwrap_or_else(|| panic!("no command in {head}"));
    let command = head[start..].replace("\\\n", " ");
    command.lines().next().unwrap().split_whitespace().skip(1).map(str::to_owned).collect()
}

#[test]
fn the_command_in_the_head_of_every_preset_is_one_that_runs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for path in presets("").into_iter().filter(|path| !is_comparison(path)) {
        let text = read(&path);
        let command = command_of(&text, "train");
        let words: Vec<&str> = command.iter().map(String::as_str).chain(["--dry-run"]).collect();
        let outcome = gsil(root, &words).succeeded();
        assert!(!outcome.stderr.contains("warning"), "{command:?}: {}", outcome.stderr);
        let mut own = RunConfig::from_ron(&text, "preset").unwrap();
        own.resolve();
        let configured = RunConfig::from_ron(&outcome.stdout, "printed").unwrap();
        assert_eq!((configured.objective, configured.train), (own.objective, own.train), "{command:?}");
    }
}

#[test]
fn every_comparison_among_the_presets_lists_its_runs_at_equal_updates() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let presets = presets("compare_");
    assert!(presets.len() >= 3, "{presets:?}");
    let nothing_begun = tempdir().unwrap();
    let output = text(nothing_begun.path().join("runs"));
    for path in presets {
        let preset = read(&path);
        let command = command_of(&preset, "compare");
        let options = ["--dry-run", "--output", &output];
        let words: Vec<&str> = command.iter().map(String::as_str).chain(options).collect();
        let printed = gsil(root, &words).succeeded().stdout;
        let config = CompareConfig::from_ron(&preset, "preset").unwrap();
        let cells: Vec<&str> = printed.lines().filter(|line| line.contains("cells/")).collect();
        assert_eq!(cells.len(), config.methods.len() * config.seeds.len(), "{printed}");
        let place = columns(printed.lines().next().unwrap()).iter().position(|name| *name == "updates").unwrap();
        let updates: Vec<usize> = cells.iter().map(|line| columns(line)[place].parse().unwrap()).collect();
        assert!(updates.iter().all(|num| *num > 0 && *num == updates[0]), "{printed}");
        // The file that is run is the file that the head is in.
        assert!(command[1].ends_with(path.file_name().unwrap().to_str().unwrap()), "{command:?}");
    }
}

/// The cells of a line of a table, which stand at least two spaces apart.
fn columns(line: &str) -> Vec<&str> {
    line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()
}

fn is_comparison(path: &Path) -> bool {
    path.file_name().unwrap().to_str().unwrap().starts_with("compare_")
}

/// Presets whose names begin so.
fn presets(prefix: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "ron"))
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(prefix))
        .collect()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| match path.is_dir() {
            true => rust_files(&path),
            false if path.extension().is_some_and(|extension| extension == "rs") => vec![path],
            false => Vec::new(),
        })
        .collect()
}

/// The first segments after `crate::` in a line of code; comments are not code.
fn used_modules(line: &str) -> Vec<String> {
    let code = line.split("//").next().unwrap();
    let paths = code.split("crate::").skip(1);
    let name =
        |path: &str| path.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    paths
        .flat_map(|path| match path.strip_prefix('{') {
            Some(group) if !group.contains('}') => panic!("write one `use` a line, not {line}"),
            Some(group) => group.split(['}', ',']).map(name).filter(|name| !name.is_empty()).collect(),
            None => vec![name(path)],
        })
        .filter(|name| name.starts_with(|c: char| c.is_lowercase()))
        .collect()
}
