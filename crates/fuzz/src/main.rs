//! Runs a target on mutations of its seeds: `cargo run -p fuzz -- TARGET [--seconds N]`. What fails is written to
//! `target/fuzz/TARGET-...` and its path printed; it becomes a test beside the code it was found in.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use fuzz::{Mutator, TARGETS};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or_default();
    let Some((_, target)) = TARGETS.iter().find(|(n, _)| *n == name) else {
        let names: Vec<_> = TARGETS.iter().map(|(n, _)| *n).collect();
        eprintln!("usage: fuzz TARGET [--seconds N]; TARGET is one of {}", names.join(", "));
        return ExitCode::FAILURE;
    };
    let seconds = match (arguments.next().as_deref(), arguments.next().map(|n| n.parse())) {
        (None, _) => 60,
        (Some("--seconds"), Some(Ok(seconds))) => seconds,
        _ => {
            eprintln!("usage: fuzz TARGET [--seconds N]");
            return ExitCode::FAILURE;
        }
    };
    let seed = fastrand::u64(..);
    let mut mutator = match Mutator::new(&name, seed) {
        Ok(mutator) => mutator,
        Err(error) => {
            eprintln!("the seeds of {name} cannot be read: {error}");
            return ExitCode::FAILURE;
        }
    };
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut runs: u64 = 0;
    // What fails says so itself: the hook prints it, the file below repeats it.
    while Instant::now() < end {
        let input = mutator.next_input();
        if std::panic::catch_unwind(|| target(&input)).is_err() {
            return keep(&name, &input, runs);
        }
        runs += 1;
    }
    println!("{name}: {runs} runs in {seconds} s from seed {seed}, nothing found");
    ExitCode::SUCCESS
}

fn keep(name: &str, input: &[u8], runs: u64) -> ExitCode {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/fuzz");
    let path = folder.join(format!("{name}-{runs}"));
    let written = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&path, input));
    match written {
        Ok(()) => eprintln!("{name}: found after {runs} runs; the input is in {}", path.display()),
        Err(error) => eprintln!("{name}: found after {runs} runs: {input:?} ({error})"),
    }
    ExitCode::FAILURE
}
