//! What goes wrong between the hub and this machine: damaged and torn files, refusals, a full disk, several at once.

use std::fs;
use std::time::Duration;

use crate::support::binary::{DISK, INPUT, assert_says, wait};
use crate::support::hub_place::{GENERATE, Place, SERVER, WEIGHTS, all_files};
use crate::support::mock_hub::Faults;

#[test]
fn a_hub_that_is_away_is_replaced_by_the_cache_with_a_warning() {
    let place = Place::new();
    let free_port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let arguments = [&GENERATE[..], &["--model", "o/tiny"]].concat();
    let away = format!("http://{free_port}");
    let stderr = place.run_with("HF_ENDPOINT", &away, &arguments).failed(SERVER);
    assert_says(&stderr, &[&format!("server {away}: o/tiny: it refuses connections"), "hint: look at the network"]);
    assert!(!stderr.contains("--offline"), "the cache has nothing: {stderr}");
    let fetched = place.generate("o/tiny", &[]).succeeded();
    let cached = place.run_with("HF_ENDPOINT", &away, &arguments).succeeded();
    assert_eq!(cached.stdout, fetched.stdout);
    assert_says(&cached.stderr, &["warning: ", &format!("taken from the cache: o/tiny@{}", place.commit)]);
}

#[test]
fn a_file_with_another_hash_is_removed_and_reported() {
    let place = Place::new();
    for name in ["config.json", WEIGHTS] {
        let mut content = fs::read(place.path("local").join(name)).unwrap();
        *content.last_mut().unwrap() ^= 1;
        place.hub.set_faults(Faults { content: Some((name, content)), ..Faults::default() });
        let stderr = place.generate("o/tiny", &[]).failed(INPUT);
        assert_says(&stderr, &[name, "another hash than the hub said", "hint: try again"]);
        place.assert_no_weights();
        let left = all_files(&place.repository().join("blobs")).len();
        assert_eq!(left, usize::from(name == WEIGHTS), "only a right config.json stays");
    }
    place.hub.set_faults(Faults::default());
    place.generate("o/tiny", &[]).succeeded();
}

#[test]
fn a_file_of_another_size_is_removed_and_reported() {
    let place = Place::new();
    let content = [fs::read(place.path("local").join(WEIGHTS)).unwrap(), b"and more".to_vec()].concat();
    place.hub.set_faults(Faults { content: Some((WEIGHTS, content)), ..Faults::default() });
    assert_says(&place.generate("o/tiny", &[]).failed(INPUT), &[WEIGHTS, "more came than the"]);
    place.assert_no_weights();
}

#[test]
fn a_torn_transfer_is_continued_where_it_broke_off() {
    let place = Place::new();
    place.hub.set_faults(Faults { torn: Some((WEIGHTS, 100_000, 2)), ..Faults::default() });
    place.generate("o/tiny", &[]).succeeded();
    let ranges: Vec<Option<String>> = place.hub.seen_with("cdn GET").into_iter().map(|seen| seen.range).collect();
    assert_eq!(ranges, [None, Some("bytes=100000-".to_owned()), Some("bytes=200000-".to_owned())]);
}

#[test]
fn a_transfer_that_never_ends_well_is_a_server_error_and_the_next_run_goes_on_from_it() {
    let place = Place::new();
    let local = place.generate("local", &[]).succeeded();
    let mut faults = Faults { torn: Some((WEIGHTS, 0, 100)), ..Faults::default() };
    place.hub.set_faults(faults.clone());
    let stderr = place.generate("o/tiny", &[]).failed(SERVER);
    assert_says(
        &stderr,
        &[WEIGHTS, "the transfer ended after 0 of 479256 bytes", "hint: what has come so far is kept"],
    );
    place.assert_no_weights();
    let partial = all_files(&place.repository().join("blobs"));
    let partial = partial.iter().find(|path| path.extension().is_some_and(|ending| ending == "incomplete")).unwrap();
    fs::write(partial, &fs::read(place.path("local").join(WEIGHTS)).unwrap()[..300_000]).unwrap();
    let offline = place.generate(&format!("o/tiny@{}", place.commit), &["--offline"]).failed(INPUT);
    assert_says(&offline, &[&format!("the cache lacks tokenizer.json, {WEIGHTS}")]);
    faults.torn = None;
    place.hub.set_faults(faults);
    place.hub.seen();
    assert_eq!(place.generate("o/tiny", &[]).succeeded().stdout, local.stdout);
    assert_eq!(place.hub.seen_with("cdn GET")[0].range.as_deref(), Some("bytes=300000-"));
}

#[test]
fn a_beginning_that_does_not_belong_to_the_file_is_thrown_away() {
    let place = Place::new();
    let local = place.generate("local", &[]).succeeded();
    for (num_bytes, no_ranges) in [(1000, false), (1000, true), (479_256, false), (1_000_000, false)] {
        let fetched = place.generate("o/tiny", &[]).succeeded();
        assert_eq!(fetched.stdout, local.stdout, "{num_bytes}, {no_ranges}");
        let blobs = all_files(&place.repository().join("blobs"));
        let blob = blobs.iter().find(|path| path.file_name().unwrap().len() == 64).unwrap();
        fs::remove_file(blob).unwrap();
        fs::write(format!("{}.incomplete", blob.display()), vec![b'x'; num_bytes]).unwrap();
        place.hub.set_faults(Faults { no_ranges, ..Faults::default() });
    }
    assert_eq!(place.generate("o/tiny", &[]).succeeded().stdout, local.stdout);
}

#[test]
fn what_the_hub_refuses_is_said_with_what_to_do() {
    let place = Place::new();
    let trouble = "hint: what has come so far is kept";
    for (status, reason, code, parts) in [
        (401, "", INPUT, ["the hub asks who you are (401)", "hint: it does not exist, or is private or gated"]),
        (401, "RepoNotFound", INPUT, ["no such model on http://127.0.0.1", "hint: look at the spelling"]),
        (403, "", INPUT, ["does not give it to you (403)", "hint: accept its licence at http://127.0.0.1"]),
        (401, "GatedRepo", INPUT, ["does not give it to you (401)", "/o/tiny, then set HF_TOKEN"]),
        (404, "", INPUT, ["no such file or folder here, and no such model", "hint: look at the spelling"]),
        (404, "RevisionNotFound", INPUT, ["has no revision `main`", "hint: give a branch, a tag or a commit"]),
        (429, "", SERVER, ["o/tiny: too many requests (429)", "hint: with a token in HF_TOKEN"]),
        (500, "", SERVER, ["o/tiny: it is in trouble (500)", trouble]),
        (503, "", SERVER, ["o/tiny: it is in trouble (503)", trouble]),
        (418, "", SERVER, ["o/tiny: it refuses the request (418)", "hint: is HF_ENDPOINT a hub?"]),
    ] {
        place.hub.set_faults(Faults { status: Some(("/api/", status, reason)), ..Faults::default() });
        assert_says(&place.generate("o/tiny", &[]).failed(code), &parts);
        let num_tries = if matches!(status, 429 | 500..) { 4 } else { 1 };
        assert_eq!(place.hub.seen().len(), num_tries, "{status} {reason}");
    }
    place.hub.set_faults(Faults { status: Some(("/resolve/", 403, "GatedRepo")), ..Faults::default() });
    assert_says(&place.generate("o/tiny", &[]).failed(INPUT), &["o/tiny, config.json: ", "hint: accept its licence"]);
    place.hub.set_faults(Faults::default());
    assert_says(&place.generate("o/tiny@v9", &[]).failed(INPUT), &["o/tiny@v9: the model has no revision `v9`"]);
    assert_says(&place.generate("o/nothing", &[]).failed(INPUT), &["o/nothing: there is no such file or folder here"]);
}

#[test]
fn two_processes_fetch_one_model_once() {
    let place = Place::new();
    let local = place.generate("local", &[]).succeeded();
    place.hub.set_faults(Faults { delay: Duration::from_millis(700), ..Faults::default() });
    let arguments = [&GENERATE[..], &["--model", "o/tiny"]].concat();
    let started: Vec<_> = (0..3).map(|_| place.command(&arguments).spawn().unwrap()).collect();
    for child in started {
        assert_eq!(wait(child).succeeded().stdout, local.stdout);
    }
    assert_eq!(place.hub.seen_with("cdn GET").len(), 1);
}

#[test]
fn a_file_that_does_not_fit_on_the_disk_is_not_begun() {
    let place = Place::new();
    place.hub.set_faults(Faults { headers: vec![("X-Linked-Size", (1_u64 << 60).to_string())], ..Faults::default() });
    let stderr = place.generate("o/tiny", &[]).failed(DISK);
    assert_says(&stderr, &["the disk is full"]);
    assert_eq!(place.hub.seen_with("cdn GET").len(), 0);
}
