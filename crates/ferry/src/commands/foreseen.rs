//! `ferry move --plan`: what a move would do.

use anyhow::Result;
use ferry_api::http::Client;
use ferry_api::{AgentApi, Expected, MoveMode, MovePlan, StartMove};

use crate::exit::Exit;
use crate::output::bytes::Bytes;
use crate::output::{say, say_json, table};

/// Prints the plan. A move that would be refused ends as one that is.
pub async fn plan(agent: &Client, json: bool, start: StartMove) -> Result<Exit> {
    let plan = agent.move_plan(start).await?;
    if json {
        say_json(&plan)?;
    } else {
        say(sheet(&plan))?;
    }
    Ok(if plan.blockers.is_empty() { Exit::Done } else { Exit::Failed })
}

fn sheet(plan: &MovePlan) -> String {
    let mode = match plan.mode {
        MoveMode::Live => "live",
        MoveMode::Warm => "warm",
        MoveMode::Cold | MoveMode::Auto => "cold",
    };
    let rounds = plan.rounds.map(|rounds| format!(", in {rounds} rounds the last time")).unwrap_or_default();
    let mut facts = vec![
        ("move", format!("{} from {} to {}", plan.machine_name, plan.from, plan.to)),
        ("mode", format!("{mode}: {}", plan.why)),
        ("in use", Bytes(plan.bytes_in_use).to_string()),
        ("copied ahead", format!("{}{rounds}", Bytes(plan.bytes_ahead))),
        ("stopping", ms(plan.interruption.stop_ms)),
        ("down for", down(&plan.interruption)),
    ];
    match plan.blockers.is_empty() {
        true => facts.push(("in the way", "nothing".to_owned())),
        false => facts.extend(plan.blockers.iter().map(|blocker| ("in the way", blocker.clone()))),
    }
    table::facts(facts)
}

fn down(expected: &Expected) -> String {
    let Expected { seal_ms, hand_over_ms, start_ms, own_moves, .. } = expected;
    let [seal, hand_over, start] = [seal_ms, hand_over_ms, start_ms].map(|part| ms(*part));
    format!(
        "{}: seal {seal}, hand-over {hand_over}, start {start}, by {own_moves} of its moves from here",
        down_for(expected)
    )
}

/// How long a machine is expected to be down, or at most if nobody has measured that.
pub(super) fn down_for(expected: &Expected) -> String {
    match expected.promised_ms {
        Some(promised_ms) => format!("at most {promised_ms} ms"),
        None => ms(expected.down_ms()),
    }
}

fn ms(of: Option<u64>) -> String {
    of.map_or_else(|| "not known".to_owned(), |ms| format!("{ms} ms"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_nobody_knows_is_not_made_up() {
        let expected = Expected { seal_ms: Some(3), own_moves: 0, ..Expected::default() };
        let said = "not known: seal 3 ms, hand-over not known, start not known, by 0 of its moves from here";
        assert_eq!(down(&expected), said);
    }

    #[test]
    fn the_first_move_from_a_worker_is_told_by_what_is_promised() {
        let first = Expected { start_ms: Some(20), promised_ms: Some(120), ..Expected::default() };
        assert_eq!(down_for(&first), "at most 120 ms");
        let measured = Expected { seal_ms: Some(3), hand_over_ms: Some(4), promised_ms: None, ..first };
        assert_eq!(down_for(&measured), "27 ms");
    }
}
