//! `ferry doctor`: what this host offers, and what is missing for what, in plain words.
//!
//! ```text
//!  host ──probe──▶ facts ──judge♥──▶ findings ──▶ lines, or JSON
//! ```

mod facts;
mod judge;
mod probe;

use crate::exit::Exit;
use crate::output::{Paint, say, say_json};
use anyhow::Result;
use ferry_agent::Config;
use judge::{Finding, State, judge, serves_volumes};
use serde::Serialize;
use std::path::PathBuf;

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    serves_volumes: bool,
    findings: Vec<Finding>,
}

/// The worker that this host is looked at for.
#[derive(Debug)]
pub enum Whose {
    /// The one with that configuration file.
    Config(PathBuf),
    /// One that keeps its volumes in that directory; an absolute path.
    StateDir(PathBuf),
}

/// Looks at this host for a worker, and tells.
pub async fn run(whose: Whose, json: bool) -> Result<Exit> {
    let (state_dir, nats) = match whose {
        Whose::Config(path) => {
            let Config { state_dir, nats, .. } = Config::read(&path)?;
            (state_dir, nats)
        }
        Whose::StateDir(dir) => (dir, None),
    };
    let findings = judge(&probe::look(&state_dir, nats.as_ref()).await);
    let report = Report { serves_volumes: serves_volumes(&findings), findings };
    if json {
        say_json(&report)?;
    } else {
        tell(&report)?;
    }
    Ok(if report.serves_volumes { Exit::Done } else { Exit::Failed })
}

fn tell(report: &Report) -> Result<()> {
    let paint = Paint::for_stdout();
    for finding in &report.findings {
        let (mark, state) = match finding.state {
            State::Works => (paint.good("ok"), "ok"),
            State::Missing if finding.required => (paint.bad("MISSING"), "MISSING"),
            State::Missing => (paint.strong("missing"), "missing"),
            State::Unknown => (paint.faint("unknown"), "unknown"),
        };
        let gap = " ".repeat(9 - state.len());
        say(format_args!("{mark}{gap}{}: {}", paint.strong(finding.what), finding.seen))?;
        say(format_args!("         {}", paint.faint(&format!("for {}", finding.needed_for))))?;
        if let Some(advice) = &finding.advice {
            say(format_args!("         → {advice}"))?;
        }
    }
    say("")?;
    say(match report.serves_volumes {
        true => paint.good("this host can serve volumes"),
        false => paint.bad("this host cannot serve volumes: see what is MISSING above"),
    })?;
    Ok(())
}
