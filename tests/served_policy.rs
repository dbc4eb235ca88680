//! How a server is given the policy of an iteration, and waited for.
#![cfg(all(unix, feature = "server"))]

use std::time::{Duration, Instant};

use crate::server::{Workplace, assert_all_near};
use crate::support::binary::{gsil, read};
use crate::support::mock_server::{MockServer, Reply, Switching};

#[test]
fn each_iteration_hands_its_policy_to_the_server() {
    let place = Workplace::new();
    let two = ["iterations=2", "train.epochs=2"];
    place.train("here", &two).succeeded();
    let switching = std::sync::Arc::new(Switching::new(place.path("served.txt")));
    let (listed, asked) = (std::sync::Arc::clone(&switching), switching);
    let server = MockServer::start(move || listed.model(), move |body, _| asked.answer(body));
    let hook = place.hook("echo \"$1\" > served.txt; echo \"iteration $GSIL_ITERATION\" >> hook.log; echo served");
    let settings = [&two[..], &[&hook, "server.ready_timeout_s=60"]].concat();
    let outcome = place.ask("there", &server, &settings).succeeded();
    assert!(!outcome.stdout.contains("served"), "what the command prints is talk: {}", outcome.stdout);
    assert_eq!(read(&place.path("hook.log")), "iteration 0\niteration 1\n");
    for iteration in ["iteration-000", "iteration-001"] {
        assert_eq!(place.responses("there", iteration), place.responses("here", iteration), "{iteration}");
        assert!(!place.path("there").join(iteration).join("policy").exists(), "the copy is removed");
    }
    assert_ne!(place.responses("here", "iteration-000"), place.responses("here", "iteration-001"));
    assert_all_near(&place.losses("there"), &place.losses("here"), 1e-3);
}

#[test]
fn a_server_that_keeps_serving_the_last_policy_is_not_asked_for_the_next() {
    let place = Workplace::new();
    let switching = std::sync::Arc::new(Switching::new(place.path("served.txt")));
    let (listed, asked) = (std::sync::Arc::clone(&switching), switching);
    let server = MockServer::start(move || listed.model(), move |body, _| asked.answer(body));
    let hook = place
        .hook("kept=\"$PWD\"/kept-iteration-000; test -e $kept || { cp -r \"$1\" $kept; echo $kept > served.txt; }");
    let stderr = place.ask("run", &server, &["iterations=2", &hook, "server.ready_timeout_s=2"]).failed(4);
    assert!(stderr.contains("still serves") && stderr.contains("not the policy of iteration-001"), "{stderr}");
}

#[test]
fn a_command_that_fails_and_a_server_that_is_not_there_are_said_so() {
    let place = Workplace::new();
    let nobody = "server.url=http://127.0.0.1:9/v1";
    let hook = place.hook("exit 3");
    let stderr = place.train("run", &[nobody, &hook]).failed(2);
    assert!(stderr.contains("server.on_policy_ready: the command failed") && stderr.contains('3'), "{stderr}");
    let stderr = place.train("other-run", &[nobody, "server.ready_timeout_s=1"]).failed(4);
    assert!(stderr.contains("waiting for the server") && stderr.contains("is it running"), "{stderr}");
}

#[test]
fn a_command_that_does_not_return_or_is_stopped_is_ended_with_all_that_it_started() {
    let place = Workplace::new();
    let settings = ["server.url=http://127.0.0.1:9/v1", "server.ready_timeout_s=1"];
    let started = Instant::now();
    let hook = place.hook("sleep 300; true");
    let stderr = place.train("run", &[&settings[..], &[&hook]].concat()).failed(2);
    assert!(stderr.contains("server.on_policy_ready: the command did not return within 1 s"), "{stderr}");
    assert!(stderr.contains("hint: the command must start the server in the background and return"), "{stderr}");
    // What a shell starts in the background ignores the interrupt that ends the shell.
    for (signal, code) in [("TERM", 143), ("INT", 130)] {
        let hook = place.hook(&format!("sleep 300 & kill -{signal} $PPID; wait; sleep 300"));
        let outcome = place.train(signal, &[settings[0], &hook]);
        assert_eq!(outcome.code, Some(code), "{}", outcome.stderr);
    }
    // Whoever sleeps holds the pipes that are read here to their end.
    assert!(started.elapsed() < Duration::from_secs(200), "something was left behind");
}

#[test]
fn what_a_command_leaves_in_the_policys_folder_does_not_hinder_a_resumed_run() {
    let place = Workplace::new();
    let hook = place.hook("touch \"$1\"/converted.gguf; exit 3");
    place.train("run", &["server.url=http://127.0.0.1:9/v1", &hook]).failed(2);
    assert!(place.path("run/iteration-000/policy/converted.gguf").exists());
    let stderr = gsil(&place.path(""), &["resume", "run"]).failed(2);
    assert!(stderr.contains("server.on_policy_ready: the command failed"), "{stderr}");
}

#[test]
fn a_command_that_ends_by_ctrl_c_is_a_stop_and_no_failure() {
    let place = Workplace::new();
    let hook = place.hook("kill -INT $PPID; exit 130");
    let outcome = place.train("run", &["server.url=http://127.0.0.1:9/v1", &hook]);
    assert_eq!(outcome.code, Some(130), "{}", outcome.stderr);
    assert!(!outcome.stderr.contains("the command failed"), "{}", outcome.stderr);
}

#[test]
fn a_server_that_hangs_when_it_is_asked_what_it_serves_is_given_up() {
    let place = Workplace::new();
    let server = MockServer::start(
        || {
            std::thread::sleep(Duration::from_secs(60)); // longer than a question may take, shorter than an answer
            vec!["policy".to_owned()]
        },
        |_, _| Reply::text(""),
    );
    let stderr = place.ask("run", &server, &[]).failed(4);
    assert!(stderr.contains("timeout") && stderr.contains("is it running"), "{stderr}");
}
