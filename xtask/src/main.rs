//! The project's own chores: `cargo xtask tidy` reads the tree and says what breaks the house rules;
//! `cargo xtask ci` is everything a change must pass, here and in CI; `cargo xtask bench` measures Ferry beside others;
//! `cargo xtask fuzz` feeds the parsers; `cargo xtask model` searches the crossing; `cargo xtask sim` runs clusters from seeds; `cargo xtask soak` is a long bad day; `cargo xtask lab` puts virtual machines on Ferry.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a chore speaks to the person who called it")]

mod bench;
mod ci;
mod fuzz;
mod lab;
mod model;
mod sim;
mod soak;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask <chore>

chores:
  tidy   check edges, hearts, sizes, dangers, documents (reads only, about a second)
  ci     everything a change must pass: fmt, clippy, tidy, deny, test, demo, simulated clusters, some of the drill, a short soak
  bench  Ferry's volume server beside qemu-nbd and nbdkit in one run, or what agents cost (`bench --help` tells the options)
  fuzz [--seconds N] [TARGET]
         any bytes for every parser of foreign bytes, or for one (60 s each unless told; needs nightly)
  soak [--what volumes|fio|workers|pingpong|database|postgres|postgres-oci|redis|vm|vm-kills] [--minutes N | --kills N | --moves N] [--seed S] [--ferry PATH]
         a random guest, fio, or a machine of two agents, which moves again and again while processes are killed; checked
  model [--worlds N] [WORDS]
         every order of events of the crossing in small worlds, or in those whose description has these words; at most
         N worlds of each (3000000 unless told; about 650 bytes of memory each)
  sim [--seeds N] [--from S] | --seed S [--trace]
         clusters of real agents on simulated hosts that fail, one a seed (100 unless told); or one seed again, with its trace
  lab vhost|ublk|cgroups
         a virtual machine in QEMU on a volume, or with volumes in it, whose servers are killed, or with limited machines in it
         (needs Debian)
  lab vm makes the VM that Ferry's tests move, in target/lab/vm (needs Debian)";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments.as_slice() {
        ["tidy"] => tidy::run(&workspace_root()),
        ["ci"] => ci::run(&workspace_root()),
        ["bench", rest @ ..] => bench::run(&workspace_root(), rest),
        ["fuzz", wishes @ ..] => fuzz::run(&workspace_root(), wishes),
        ["soak", wishes @ ..] => soak::run(&workspace_root(), wishes),
        ["model", wishes @ ..] => model::run(wishes),
        ["sim", wishes @ ..] => sim::run(&workspace_root(), wishes),
        ["lab", rest @ ..] => lab::run(&workspace_root(), rest),
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            Ok(())
        }
        [] => Err(anyhow::anyhow!("no chore was named\n\n{USAGE}")),
        [unknown, ..] => Err(anyhow::anyhow!("`{unknown}` is not a chore\n\n{USAGE}")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn workspace_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").to_path_buf()
}
