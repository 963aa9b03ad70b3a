//! The program: one binary for people, agents and volume servers.
//!
//! ```text
//!  words ──args──▶ typed ──meant──▶ meant ──▶ commands (ask an agent) · demo · drill · doctor · agent · volume server
//!                                                 │
//!                                               output ──▶ stdout, stderr
//! ```
//!
//! Invariant: whatever goes wrong ends as one sentence on stderr, `ferry: ...`, and one of the exit codes of `exit`.

mod args;
mod commands;
mod demo;
mod doctor;
mod drill;
mod exit;
mod meant;
mod output;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use ferry_volume::client::BlockClient;

use args::Typed;
use exit::Exit;
use meant::{Meant, Misuse};

fn main() -> ExitCode {
    let meant = match volume_server() {
        Some(server) => Meant::VolumeServer(server),
        None => match understand() {
            Ok(meant) => meant,
            Err(exit) => return exit.into(),
        },
    };
    match run(meant) {
        Ok(exit) => exit.into(),
        // Whoever read our output has seen enough.
        Err(error) if is_broken_pipe(&error) => Exit::Done.into(),
        Err(error) => {
            output::complain(&output::in_one_line(&error));
            Exit::of_error(&error).into()
        }
    }
}

/// The words of a volume server, if they are and are right.
fn volume_server() -> Option<args::VolumeServer> {
    let mut words = std::env::args_os().skip(1);
    let rest =
        words.next().filter(|word| word == "volume-server").map(|name| std::iter::once(name).chain(words))?;
    args::VolumeServer::try_parse_from(rest).ok()
}

fn understand() -> Result<Meant, Exit> {
    let typed = Typed::try_parse().map_err(|error| explain(&error))?;
    Meant::from_typed(typed).map_err(|Misuse(sentence)| {
        output::complain(&sentence);
        Exit::Misuse
    })
}

fn run(meant: Meant) -> Result<Exit> {
    match meant {
        Meant::Demo(options) => in_runtime(demo::run(options)),
        Meant::DemoEnd { dir } => demo::end_kept(&dir),
        Meant::Drill(options) => in_runtime(drill::run(options)),
        Meant::Ask(asked) => in_runtime(commands::ask(*asked)),
        Meant::DemoWriter(options) => {
            log_to_stderr();
            demo::writer::run(&options, |uri| Ok(BlockClient::connect_text(uri)?))?;
            Ok(Exit::Done)
        }
        Meant::DrillVm(words) => {
            log_to_stderr();
            drill::vm::run(&words)
        }
        Meant::DrillHook(hook) => drill::hook::run(&hook),
        Meant::DemoFill(piece) => piece.fill(),
        Meant::DemoCheck { piece, diary } => piece.check(&diary),
        Meant::Doctor { whose, json } => in_runtime(doctor::run(whose, json)),
        Meant::TruthAtRest { dirs, of, json } => commands::truth::at_rest(json, &dirs, &of),
        Meant::Agent { config, drill } => {
            log_to_stderr();
            in_runtime(commands::agent::run(&config, drill))
        }
        Meant::ClusterInit { config, json } => commands::cluster::init(&config, json),
        Meant::AgentJoin { config, token, address, json } => {
            in_runtime(commands::cluster::join(&config, &token, address.as_deref(), json))
        }
        Meant::MachineInit(init) => commands::agent::machine_init(&init),
        Meant::MachineProbe(words) => commands::agent::machine_probe(&words),
        Meant::VolumeServer(server) => {
            log_to_stderr();
            commands::volume_server::run(server)
        }
    }
}

fn in_runtime<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the program cannot start its threads")?;
    let outcome = runtime.block_on(work);
    // A blocking read that nobody waits for any more must not hold the program.
    runtime.shutdown_background();
    outcome
}

/// Lines of the log go to stderr; `FERRY_LOG` says how much.
fn log_to_stderr() {
    use tracing_subscriber::EnvFilter;
    // What becomes of a connection to NATS the agent says itself.
    let usual = || EnvFilter::new("info,async_nats=off");
    let filter = EnvFilter::try_from_env("FERRY_LOG").unwrap_or_else(|_| usual());
    // A log that cannot be written (its disk is full) must not end a volume server: by default that is complained
    // about with `eprintln!`, which panics when stderr is the very log.
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    log.log_internal_errors(false).init();
}

/// Help and version are answers; everything else clap says becomes one sentence.
fn explain(error: &clap::Error) -> Exit {
    use clap::error::ErrorKind;
    let kind = error.kind();
    if matches!(kind, ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return if error.print().is_ok() { Exit::Done } else { Exit::Failed };
    }
    if kind == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        output::complain("say what to do, as in `ferry demo` or `ferry machine list`; see --help");
    } else {
        let typed = std::env::args().skip(1).collect::<Vec<_>>();
        output::complain(&sentence_of(error, &typed));
    }
    Exit::Misuse
}

/// The first paragraph of what clap says, in one line, what may have been meant, and where to look further.
fn sentence_of(error: &clap::Error, typed: &[String]) -> String {
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let first = text.split("\n\n").next().unwrap_or(text);
    let first = first.split_whitespace().collect::<Vec<_>>().join(" ");
    let asked = command_of(typed);
    let hint = match (error.kind(), error.get(ContextKind::SuggestedSubcommand)) {
        // The best guess comes last.
        (_, Some(ContextValue::Strings(near))) => {
            near.last().map(|near| format!(" (did you mean {near}?)")).unwrap_or_default()
        }
        (ErrorKind::UnknownArgument, _) if asked == "ferry machine create" => {
            "; what the machine runs follows after --, as in -- sleep 1000".to_owned()
        }
        _ => String::new(),
    };
    format!("{first}{hint}; see {asked} --help")
}

/// The command that the first words of `typed` name, `ferry` included.
fn command_of(typed: &[String]) -> String {
    let whole = <Typed as clap::CommandFactory>::command();
    let mut command = &whole;
    let mut name = whole.get_name().to_owned();
    for word in typed {
        let Some(within) = command.find_subcommand(word) else { break };
        name = format!("{name} {word}");
        command = within;
    }
    name
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
