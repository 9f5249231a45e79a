//! `cargo instructions`: how many instructions each hot operation takes, against the counts of the repository.

use std::process::ExitCode;

fn main() -> ExitCode {
    // cargo adds that this is a bench, which it knows.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match dynarust_bench::instructions::run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            error.exit_code()
        }
    }
}
