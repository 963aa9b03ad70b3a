//! `ferry placement ...`

use anyhow::Result;
use ferry_api::http::Client;
use ferry_api::{AgentApi, Fit, MachineRef, PlacementExplained, WorkerJudged};

use crate::exit::Exit;
use crate::output::{say, say_json, table};

/// Tells of every worker whether a machine could go there.
pub async fn explain(agent: &Client, json: bool, machine: &MachineRef) -> Result<Exit> {
    let explained = agent.machine_placement(machine).await?;
    match json {
        true => say_json(&explained)?,
        false => say(sheet(&explained))?,
    }
    Ok(Exit::Done)
}

fn sheet(explained: &PlacementExplained) -> String {
    let rows = table::columns(["WORKER", "TAKES IT", "WHY"], explained.workers.iter().flat_map(rows_of));
    let blockers = explained.blockers.iter().map(|blocker| format!("\nit cannot leave now: {blocker}"));
    let blockers: String = blockers.collect();
    format!("machine {} on worker {}\n{rows}{blockers}", explained.machine_name, explained.from)
}

/// One row for each reason.
fn rows_of(judged: &WorkerJudged) -> Vec<[String; 3]> {
    let worker = judged.worker.to_string();
    match &judged.fit {
        Fit::Yes(score) => {
            let near = match score.near {
                0 => String::new(),
                near => format!("{near} of its wishes to be near something come true; "),
            };
            let left = score.left_permille / 10;
            vec![[
                worker,
                "yes".to_owned(),
                format!("{near}{left} % of what gets scarcest is left there with it"),
            ]]
        }
        Fit::No { reasons } => {
            let first = (worker, "no".to_owned());
            let rest = std::iter::repeat((String::new(), String::new()));
            let heads = std::iter::once(first).chain(rest);
            heads.zip(reasons).map(|((worker, fits), reason)| [worker, fits, reason.clone()]).collect()
        }
        Fit::Silent { reason } => {
            vec![[worker, "not known".to_owned(), format!("it gives no bid: {reason}")]]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferry_api::Score;

    #[test]
    fn every_reason_has_a_row_and_its_worker_is_named_once() {
        let judged = |name: &str, fit| WorkerJudged { worker: name.parse().unwrap(), fit };
        let no = Fit::No { reasons: vec!["too small".to_owned(), "too far".to_owned()] };
        assert_eq!(
            rows_of(&judged("w2", no)),
            [["w2", "no", "too small"].map(str::to_owned), ["", "", "too far"].map(str::to_owned)]
        );
        let yes = rows_of(&judged("w3", Fit::Yes(Score { near: 0, left_permille: 417 })));
        assert_eq!(yes[0][2], "41 % of what gets scarcest is left there with it");
    }
}
