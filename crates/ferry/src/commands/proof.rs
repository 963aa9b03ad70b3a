//! Proof for people: the receipt of a move, and checks of what a volume holds.

use std::time::Duration;

use anyhow::{Result, bail};
use ferry_agent::jobs::{Proof, Receipt, VolumeReceipt};
use ferry_api::http::Client;
use ferry_api::{AgentApi, CheckState, Job, JobId, JobKind, VolumeCheck, VolumeRef, VolumeSource};
use serde::Serialize;

use super::crossed::Crossed;
use super::job::kind_text;
use super::loss::ranges_text;
use crate::exit::Exit;
use crate::output::bytes::Bytes;
use crate::output::live::Live;
use crate::output::{complain, say, say_json, table};

/// The step that writes the receipt.
const VERIFY: &str = "Verify";
/// How often an agent is asked how far a check is.
const LOOK: Duration = Duration::from_millis(200);

pub async fn receipt(agent: &Client, json: bool, job: JobId) -> Result<Exit> {
    let job = agent.job(job).await?;
    let JobKind::Move { machine, .. } = job.kind else {
        bail!("job {} moves several machines; ask for the receipt of one of its children", job.id)
    };
    let Some(receipt) = receipt_of(&job) else {
        bail!("job {} has no receipt yet; it is written when everything has arrived", job.id);
    };
    // A machine that was destroyed since is no longer known; the receipt is still good.
    let left = agent.machine(&machine.into()).await.ok();
    let crossed = Crossed::of(&job, left.as_ref());
    if json {
        say_json(&Document { job: job.id, kind: &job.kind, receipt: &receipt, crossed: &crossed })?;
    } else {
        let mut sheets: Vec<String> = receipt.volumes.iter().map(|volume| sheet(&job, volume)).collect();
        sheets.push(table::facts(crossed.facts()));
        say(sheets.join("\n\n"))?;
    }
    Ok(Exit::Done)
}

/// A receipt as a document; drawn in docs/formats.md.
#[derive(Serialize)]
struct Document<'a> {
    job: JobId,
    #[serde(flatten)]
    kind: &'a JobKind,
    #[serde(flatten)]
    receipt: &'a Receipt,
    #[serde(flatten)]
    crossed: &'a Crossed,
}

/// What `Verify` left in the journal of a job.
pub fn receipt_of(job: &Job) -> Option<Receipt> {
    let step = job.steps.iter().find(|step| step.step == VERIFY)?;
    serde_json::from_value(step.memo.clone()?).ok()
}

/// What a receipt says in one line: whether the roots of both sides agree.
pub fn verdict(receipt: &Receipt) -> String {
    let proofs: Vec<&Proof> = receipt.volumes.iter().filter_map(|volume| volume.proof.as_ref()).collect();
    if let [only] = proofs[..]
        && receipt.volumes.len() == 1
        && let Some(root) = only.agreed_root()
    {
        return format!("the root checksums of both sides agree ({})", &root[..16.min(root.len())]);
    }
    let agreed = proofs.iter().filter(|proof| proof.agreed_root().is_some()).count();
    match receipt.volumes.len() {
        all if all == agreed => format!("the root checksums of both sides agree for all {all} volumes"),
        all => format!(
            "the root checksums of both sides agree for {agreed} of {all} volumes; see ferry job receipt"
        ),
    }
}

fn sheet(job: &Job, volume: &VolumeReceipt) -> String {
    let mut facts = vec![
        ("receipt", format!("{}, job {}", kind_text(&job.kind), job.id)),
        ("volume", volume.key.to_string()),
    ];
    match &volume.proof {
        Some(proof) => facts.extend(proof_facts(proof)),
        None => facts.push(("root", "not asked for: the volume had moved on, or was destroyed".to_owned())),
    }
    if let Some(counted) = &volume.counted {
        facts.extend([
            (
                "copied",
                format!(
                    "{}, {} verified as they arrived",
                    Bytes(counted.bytes_fetched),
                    Bytes(counted.bytes_verified)
                ),
            ),
            ("from a base", format!("{}, which did not cross again", Bytes(counted.bytes_from_base))),
            (
                "refetched",
                format!(
                    "{} with a wrong checksum, of {} failed fetches",
                    counted.checksum_errors, counted.fetch_errors
                ),
            ),
            ("cold reads", counted.cold_reads.to_string()),
        ]);
    }
    table::facts(facts)
}

fn proof_facts(proof: &Proof) -> Vec<(&'static str, String)> {
    let dash = || "not known".to_owned();
    let mut facts = match proof.agreed_root() {
        Some(root) => vec![("root", format!("{root} on both sides"))],
        None => vec![
            ("on the source", proof.root_on_source.clone().unwrap_or_else(dash)),
            ("on the target", proof.root_on_target.clone().unwrap_or_else(dash)),
        ],
    };
    facts.extend(proof.unproven.as_ref().map(|reason| ("unproven", reason.clone())));
    let told = if proof.is_gappy {
        "taken from the source's word: overwritten by the machine first, or their checksums were lost"
    } else {
        "never arrived: overwritten by the machine first"
    };
    facts.extend([
        ("arrived", Bytes(proof.bytes_arrived).to_string()),
        ("known zero", Bytes(proof.bytes_zero).to_string()),
        ("told", format!("{} {told}", Bytes(proof.bytes_told))),
    ]);
    facts
}

pub async fn verify(agent: &Client, json: bool, volume: &VolumeRef) -> Result<Exit> {
    let mut live = Live::new(json);
    let mut check = agent.volume_verify(volume, ferry_api::VerifyVolume { anew: true }).await?;
    while check.state == CheckState::Running {
        let seen = check.regions_seen();
        live.now("verify", &format!("{seen} of {} regions, {} read", check.regions, Bytes(check.bytes_read)));
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            _ = tokio::signal::ctrl_c() => {
                live.clear();
                return Ok(Exit::Interrupted);
            }
        }
        check = agent.volume_verify(volume, ferry_api::VerifyVolume { anew: false }).await?;
    }
    live.clear();
    if let CheckState::Failed { reason } = &check.state {
        bail!("volume {volume} cannot be verified: {reason}");
    }
    if json {
        say_json(&check)?;
    } else {
        say(table::facts(check_facts(&check)))?;
    }
    if check.regions_differing == 0 {
        return Ok(Exit::Done);
    }
    let (differing, regions) = (check.regions_differing, check.regions);
    complain(&format!(
        "volume {volume} does not hold what it should: {differing} of {regions} regions differ"
    ));
    Ok(Exit::DataMissing)
}

fn check_facts(check: &VolumeCheck) -> Vec<(&'static str, String)> {
    let of = |count: u64| format!("{count} of {} regions", check.regions);
    let mut facts = vec![
        ("as it arrived", of(check.regions_equal)),
        ("changed", format!("{} by the machine since, so nothing can be said", of(check.regions_changed))),
        ("unknown", format!("{}, not here yet or without a checksum", of(check.regions_unknown))),
        ("differing", of(check.regions_differing)),
    ];
    if check.regions_differing > 0 {
        facts.push(("where", ranges_text(&check.differing, check.regions_differing)));
    }
    if check.regions_doubtful > 0 {
        let where_ = ranges_text(&check.doubtful, check.regions_doubtful);
        facts.push((
            "doubtful",
            format!(
                "{}, changed around a power loss, perhaps by the machine: {where_}",
                of(check.regions_doubtful)
            ),
        ));
    }
    facts.extend(check.root.as_ref().map(|root| ("root", root.clone())));
    facts.push(("read", Bytes(check.bytes_read).to_string()));
    facts
}

/// What `volume show` adds when a source gives something wrong again and again.
pub fn mismatch_facts(source: &VolumeSource) -> Vec<(&'static str, String)> {
    let told = source.mismatches.iter().map(|mismatch| {
        let cause = match mismatch.same_bytes {
            true => "the same wrong bytes each time: look at the source's disk and memory",
            false => "other bytes each time: look at the network",
        };
        let (span, times) = (mismatch.span, mismatch.times);
        (
            "wrong",
            format!("{}+{} came {times} times with a wrong checksum, {cause}", span.offset, span.len_bytes),
        )
    });
    told.take(8).collect()
}
