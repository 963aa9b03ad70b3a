//! Proof for people: the receipt of a move, and checks of what a volume holds.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use ferry_agent::jobs::{Proof, Receipt, VolumeReceipt};
use ferry_api::http::Client;
use ferry_api::{
    AgentApi, AskRoot, CheckState, Job, JobId, JobKind, Root, VolumeCheck, VolumeKey, VolumeRef, VolumeSource,
};
use serde::Serialize;

use super::crossed::Crossed;
use super::job::{kind_text, memo, step};
use super::loss::ranges_text;
use super::vouched::{self, Claim, Held};
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
    let document = document(&job)?;
    if json {
        say_json(&document)?;
    } else {
        let volumes = document.receipt.volumes.iter();
        let mut sheets: Vec<String> = volumes.map(|volume| sheet(&job, volume)).collect();
        sheets.push(table::facts(document.crossed.facts()));
        say(sheets.join("\n\n"))?;
    }
    Ok(Exit::Done)
}

fn document(job: &Job) -> Result<Document<'_>> {
    let JobKind::Move { .. } = job.kind else {
        bail!("job {} moves several machines; ask for the receipt of one of its children", job.id)
    };
    let Some(receipt) = receipt_of(job) else {
        bail!("job {} has no receipt yet; it is written when everything has arrived", job.id);
    };
    let crossed = Crossed::of(job);
    Ok(Document { version: vouched::VERSION, job: job.id, kind: &job.kind, receipt, crossed })
}

/// A receipt as a document; drawn in docs/formats.md.
#[derive(Serialize)]
struct Document<'a> {
    version: u64,
    job: JobId,
    #[serde(flatten)]
    kind: &'a JobKind,
    #[serde(flatten)]
    receipt: Receipt,
    #[serde(flatten)]
    crossed: Crossed,
}

/// What `Verify` left in the journal of a job.
pub fn receipt_of(job: &Job) -> Option<Receipt> {
    step(job, VERIFY).and_then(memo)
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

/// Checks what a volume holds on its disk; with `receipt`, also whether that is what the receipt says.
pub async fn verify(agent: &Client, json: bool, volume: &VolumeRef, receipt: Option<&str>) -> Result<Exit> {
    let against = match receipt {
        Some(receipt) => Some(Against::new(agent, volume, receipt).await?),
        None => None,
    };
    let Some(check) = walk(agent, json, volume).await? else { return Ok(Exit::Interrupted) };
    let held = match &against {
        Some(against) => Some(against.held(agent, &check).await?),
        None => None,
    };
    if json {
        say_json(&Checked { check: &check, receipt: held.as_ref().map(held_word) })?;
    } else {
        let mut facts = check_facts(&check);
        facts.extend(held.as_ref().map(|held| ("receipt", held_text(held))));
        say(table::facts(facts))?;
    }
    let (differing, regions) = (check.regions_differing, check.regions);
    if differing > 0 {
        complain(&format!(
            "volume {volume} does not hold what it should: {differing} of {regions} regions differ"
        ));
        return Ok(Exit::DataMissing);
    }
    match held {
        None | Some(Held::Agrees) => Ok(Exit::Done),
        Some(Held::Differs(root)) => {
            complain(&format!("volume {volume} is not what the receipt vouches for: its root is {root}"));
            Ok(Exit::DataMissing)
        }
        Some(Held::Unknown(reason)) => bail!("volume {volume} cannot be held against the receipt: {reason}"),
    }
}

/// What a volume is held against, beside its own checksums.
struct Against {
    copy: VolumeKey,
    claim: Claim,
}

impl Against {
    /// The receipt of a job of this agent's, or one in a file.
    async fn new(agent: &Client, volume: &VolumeRef, receipt: &str) -> Result<Self> {
        let document = match receipt.parse::<JobId>() {
            Ok(job) => serde_json::to_vec(&document(&agent.job(job).await?)?)?,
            Err(_) => std::fs::read(receipt).with_context(|| format!("cannot read {receipt}"))?,
        };
        let vouched = vouched::read(&document).map_err(anyhow::Error::msg)?;
        let found = agent.volume(volume).await?;
        let claim = Claim::of(&vouched, &found).map_err(anyhow::Error::msg)?;
        Ok(Self { copy: VolumeKey { id: found.id, generation: found.generation }, claim })
    }

    async fn held(&self, agent: &Client, check: &VolumeCheck) -> Result<Held> {
        let arrived = match &self.claim {
            Claim::Arrived { .. } => {
                // It came from the generation before; there is none before the first.
                let of_generation = self.copy.generation.0.saturating_sub(1);
                let of = AskRoot { of_generation, first_region: 0, regions: None };
                agent.peer_root(self.copy, of).await?.root
            }
            Claim::Sealed { .. } => Root::Summing,
        };
        Ok(self.claim.held(check, &arrived))
    }
}

/// What `volume verify --json` prints.
#[derive(Serialize)]
struct Checked<'a> {
    #[serde(flatten)]
    check: &'a VolumeCheck,
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt: Option<&'static str>,
}

/// Looks until the check is over; none if somebody is tired of that.
async fn walk(agent: &Client, json: bool, volume: &VolumeRef) -> Result<Option<VolumeCheck>> {
    let mut live = Live::new(json);
    let mut check = agent.volume_verify(volume, ferry_api::VerifyVolume { anew: true }).await?;
    while check.state == CheckState::Running {
        let seen = check.regions_seen();
        live.now("verify", &format!("{seen} of {} regions, {} read", check.regions, Bytes(check.bytes_read)));
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            _ = tokio::signal::ctrl_c() => {
                live.clear();
                return Ok(None);
            }
        }
        check = agent.volume_verify(volume, ferry_api::VerifyVolume { anew: false }).await?;
    }
    live.clear();
    if let CheckState::Failed { reason } = &check.state {
        bail!("volume {volume} cannot be verified: {reason}");
    }
    Ok(Some(check))
}

fn held_text(held: &Held) -> String {
    match held {
        Held::Agrees => "vouches for what arrived or was sealed here, by its root".to_owned(),
        Held::Differs(root) => format!("vouches for something else; here the root is {root}"),
        Held::Unknown(reason) => format!("cannot be held against this: {reason}"),
    }
}

/// The same in a word, for scripts.
fn held_word(held: &Held) -> &'static str {
    match held {
        Held::Agrees => "agrees",
        Held::Differs(_) => "differs",
        Held::Unknown(_) => "unknown",
    }
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
