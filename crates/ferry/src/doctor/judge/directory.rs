//! Whether the worker can hear the others by the bucket that its configuration names. Gossip needs nothing that could be tried alone.

use super::Finding;
use crate::doctor::facts::Facts;

const WHAT: &str = "directory";
const PURPOSE: &str = "hearing at once of other workers, by NATS (without it they are asked every 30 s)";

/// None for a worker that gossips.
pub(super) fn directory(facts: &Facts) -> Option<Finding> {
    let found = facts.directory.as_ref()?;
    if let Err(trouble) = &found.tried {
        let advice = trouble.advice();
        return Some(Finding { advice, ..Finding::missing(WHAT, PURPOSE, trouble.what(), "") });
    }
    let bucket = &found.bucket;
    if matches!(facts.membership, Ok(None)) {
        let seen = format!(
            "the bucket {bucket} is there, but this worker belongs to no cluster, and its agent does not start so"
        );
        let advice =
            "join one (ferry cluster init, ferry agent join), or remove [directory] from the configuration";
        return Some(Finding::missing(WHAT, PURPOSE, seen, advice));
    }
    Some(Finding::works(WHAT, PURPOSE, format!("the bucket {bucket} can be read and written")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::facts::{Directory, Membership};
    use crate::doctor::judge::{State, serves_volumes, tests::rich};
    use ferry_agent::{CredentialsError, NatsTrouble};

    fn member() -> Facts {
        let (worker, roster_version) = ("w1".to_owned(), 3);
        let found = Membership { worker, roster_version, certificate_s: 0..u64::MAX, lost: None };
        Facts { membership: Ok(Some(found)), ..rich() }
    }

    fn judged(facts: Facts, tried: Result<(), NatsTrouble>) -> Finding {
        let bucket = "fleet".to_owned();
        directory(&Facts { directory: Some(Directory { bucket, tried }), ..facts }).unwrap()
    }

    #[test]
    fn of_a_worker_that_gossips_nothing_is_said_and_of_a_bucket_that_can_be_used_that_it_can() {
        assert_eq!(directory(&member()), None);
        let fine = judged(member(), Ok(()));
        assert_eq!((fine.state, fine.advice), (State::Works, None));
        assert_eq!(fine.seen, "the bucket fleet can be read and written");
    }

    #[test]
    fn whatever_is_in_the_way_is_told_with_what_to_do_and_keeps_no_volume_from_being_served() {
        let (servers, bucket) = ("tls://a:4222".to_owned(), "fleet".to_owned());
        let why = "timed out".to_owned();
        let path = "/etc/nats.creds".into();
        for (trouble, seen, advice) in [
            (
                NatsTrouble::Unreachable { servers: servers.clone(), why: why.clone() },
                "tls://a:4222: timed out",
                "NATS runs",
            ),
            (
                NatsTrouble::Denied { servers: servers.clone(), has_credentials: true },
                "not taken",
                "`credentials`",
            ),
            (NatsTrouble::Tls { servers: servers.clone(), why: why.clone() }, "over TLS", "`ca`"),
            (
                NatsTrouble::Credentials(CredentialsError::Missing { path }),
                "no file /etc/nats.creds",
                "put this worker's",
            ),
            (NatsTrouble::NoJetStream { servers }, "JetStream is off", "turn it on"),
            (NatsTrouble::Missing { bucket: bucket.clone() }, "no bucket fleet", "nats kv add fleet"),
            (NatsTrouble::Refused { bucket, why }, "fleet cannot be used: timed out", "may do that"),
        ] {
            let finding = judged(member(), Err(trouble));
            assert!(finding.state == State::Missing && finding.seen.contains(seen), "{finding:?}");
            assert!(finding.advice.as_ref().unwrap().contains(advice), "{finding:?}");
            assert!(serves_volumes(&[finding]));
        }
    }

    #[test]
    fn a_worker_without_a_cluster_is_told_that_its_agent_would_not_start() {
        let alone = judged(rich(), Ok(()));
        assert!(alone.state == State::Missing && alone.seen.contains("belongs to no cluster"), "{alone:?}");
        let elsewhere = judged(rich(), Err(NatsTrouble::Missing { bucket: "fleet".to_owned() }));
        assert!(elsewhere.seen.contains("no bucket"), "first what others must mend: {elsewhere:?}");
    }
}
