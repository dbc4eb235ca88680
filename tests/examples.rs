//! The course is programs to read; here they run, and what each of them teaches is checked.

#![allow(dead_code)] // `main` of an example reads arguments, which are not the example's here

use std::fs;

use gsil::config::ObjectiveName;
use gsil::policy::Policy;
use tempfile::tempdir;

#[path = "../examples/03_bandit.rs"]
mod bandit;
#[path = "../examples/01_density_ratios.rs"]
mod density_ratios;
#[path = "../examples/06_gguf_to_aligned.rs"]
mod gguf_to_aligned;
#[path = "../examples/02_losses.rs"]
mod losses;
#[path = "../examples/04_own_h.rs"]
mod own_h;
#[path = "../examples/05_own_kernel.rs"]
mod own_kernel;

// Fewest samples at x = -1, about 1,100 on p's side: a standard error of 0.03 nats, of which the bound is five.
#[test]
fn example_01_finds_the_log_density_ratio_with_every_loss_but_hinge() {
    let folder = tempdir().unwrap();
    let svg = folder.path().join("ratios.svg");
    let tables = density_ratios::run(&svg).unwrap();
    assert_eq!(tables.len(), 6);
    for (name, u) in &tables {
        let judged =
            density_ratios::JUDGED.map(|cell| (density_ratios::log_ratio(density_ratios::middle(cell)), u[cell]));
        match *name {
            "hinge" => judged.for_each(|(log_ratio, u)| assert!((u - log_ratio.signum()).abs() < 0.05, "{u}")),
            name => assert!(density_ratios::largest_error(u) < 0.15, "{name}: {}", density_ratios::largest_error(u)),
        }
    }
    assert!(fs::read_to_string(svg).unwrap().contains(">bregman_power</text>"));
}

#[test]
fn example_02_shows_that_push_over_pull_is_the_density_ratio() {
    let folder = tempdir().unwrap();
    let svg = folder.path().join("losses.svg");
    for curves in losses::run(&svg).unwrap() {
        for (i, u) in curves.us.iter().enumerate() {
            let (push, pull) = (curves.push[i], curves.pull[i]);
            match curves.name {
                "hinge" => assert!([0.0, 1.0].contains(&push) && [0.0, 1.0].contains(&pull), "{u}: {push}, {pull}"),
                name => assert!((push / pull / u.exp() - 1.0).abs() < 1e-3, "{name} at {u}: {push} / {pull}"),
            }
        }
    }
    assert_eq!(fs::read_to_string(svg).unwrap().matches("<polyline").count(), 4 * 6);
}

#[test]
fn example_03_lowers_the_reverse_kl_and_makes_the_first_update_of_sft() {
    let paths = bandit::run().unwrap();
    let of = |name: ObjectiveName| &paths.iter().find(|path| path.name == name).unwrap().probability_of_a;
    let kl = |a: &f64| bandit::reverse_kl(*a);
    for path in &paths {
        let (first, last) = (path.probability_of_a.first().unwrap(), path.probability_of_a.last().unwrap());
        assert!(kl(last) < kl(first), "{}", path.name);
        assert!((path.probability_of_a[1] - of(ObjectiveName::Sft)[1]).abs() < 1e-6, "{}", path.name);
    }
    let bernoulli = of(ObjectiveName::Bernoulli);
    assert!(bernoulli.is_sorted(), "{bernoulli:?}");
    assert!(kl(bernoulli.last().unwrap()) < 1e-3);
    for (kliep, sft) in of(ObjectiveName::Kliep).iter().zip(of(ObjectiveName::Sft)) {
        assert!((kliep - sft).abs() < 1e-5, "{kliep}, {sft}");
    }
}

// The expected places minimise the exact mean loss over all policies of two tokens (a grid of millionths).
#[test]
fn example_03_rests_at_the_demonstrator_with_scale_1_beyond_it_below_and_before_it_above() {
    let device = gsil::device::open("flex").unwrap().autodiff();
    let places = bandit::resting_places(&device).unwrap();
    for (place, expected) in places.iter().zip(minima_of_bernoulli(bandit::SCALES)) {
        assert!((place - expected).abs() < 2e-3, "{places:?}, expected {expected}");
    }
}

/// `pi(A)` with the smallest mean loss, for each scale.
fn minima_of_bernoulli<const N: usize>(scales: [f64; N]) -> [f64; N] {
    let softplus = |x: f64| x.exp().ln_1p();
    scales.map(|scale| {
        let loss = |a: f64| {
            let u = |p: f64, reference: f64| scale * (p / reference).ln();
            let (first, second) = (u(a, 0.1), u(1.0 - a, 0.9));
            0.8 * softplus(-first) + 0.2 * softplus(-second) + 0.1 * softplus(first) + 0.9 * softplus(second)
        };
        let grid = (1..1_000_000).map(|i| f64::from(i) / 1e6);
        grid.min_by(|a, b| loss(*a).total_cmp(&loss(*b))).unwrap()
    })
}

#[test]
fn example_04_builds_its_loss_from_h_and_rests_at_the_log_density_ratio() {
    let findings = own_h::run().unwrap();
    assert!(findings.largest_difference < 1e-5, "{}", findings.largest_difference);
    assert_eq!(findings.optima.len(), 5);
    for (log_ratio, own, bernoulli) in findings.optima {
        // A grid of hundredths, and f32 around a flat minimum.
        assert!((own - log_ratio).abs() < 0.021 && (bernoulli - log_ratio).abs() < 0.021, "{log_ratio}: {own}");
    }
}

#[test]
fn example_05_has_a_kernel_that_equals_its_reference() {
    let (reference_error, kernel_error) = own_kernel::run().unwrap();
    assert!(reference_error < 1e-6, "{reference_error}");
    assert!(kernel_error.is_none_or(|error| error < 1e-5), "{kernel_error:?}");
}

#[test]
fn an_error_that_is_not_a_number_is_the_largest() {
    let mut u = [0.0; 25];
    u[12] = f64::NAN;
    assert!(density_ratios::largest_error(&u).is_nan());
    let expected = || [1.0, 2.0, 8.0].into_iter();
    assert!(own_kernel::largest_error(&[1.0, f32::NAN, 8.5], expected()).is_nan());
    assert_eq!(own_kernel::largest_error(&[1.0, 2.0, 7.0], expected()), 1.0 / 8.0);
}

#[test]
fn example_06_ends_with_a_folder_and_a_file_that_load_and_know_the_demonstrations_better() {
    let folder = tempdir().unwrap();
    let stages = gguf_to_aligned::run(folder.path()).unwrap();
    let log_prob = |i: usize| stages[i].evaluation.demonstration_log_prob_per_token;
    assert_eq!(stages.len(), 2);
    assert!(log_prob(1) > log_prob(0), "{} after {}", log_prob(1), log_prob(0));
    let accuracy = stages[1].evaluation.against_reference.unwrap().implicit_reward_accuracy.unwrap();
    assert!(accuracy > 0.5, "{accuracy}");
    let aligned = ["run", "aligned.gguf"].map(|name| Policy::open(&folder.path().join(name)).unwrap());
    assert!(aligned.iter().all(|policy| policy.tokenizer.is_some()));
    assert_eq!(aligned[0].config.num_parameters(), aligned[1].config.num_parameters());
}
