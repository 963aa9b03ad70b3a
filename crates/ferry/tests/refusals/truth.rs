//! `ferry truth` as a person and a script meet it: an answer, the evidence, an exit code.

use super::create;
use super::support::cluster::Cluster;
use ferry_api::{Truth, Verdict};

#[test]
fn the_real_one_is_told_with_evidence_and_what_cannot_be_known_is_said() {
    let cluster = Cluster::two();
    let (w1, w2) = cluster.pair();
    create(w1, "web", &["data=64MiB"]);
    let said = w1.ferry(&["truth", "web"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.stdout.contains("  w1 has the real one, at generation 1: it is in use there"), "{said:?}");
    let job = w1.moves("web", w2);
    for worker in [w1, w2] {
        let said = worker.ferry(&["truth", "data"]);
        assert_eq!(said.code, Some(0), "{said:?}");
        assert!(said.stdout.contains("  w2 has the real copy, at generation 2"), "{said:?}");
        let by = format!("of job {} in the journal of w1", job.id);
        assert!(said.stdout.contains(&by) && said.stdout.contains("  since 20"), "{said:?}");
        assert!(said.stdout.contains("retired, w2 has it; sealed, whole"), "{said:?}");
    }

    w2.kill();
    let said = w1.ferry(&["truth", "web"]);
    assert_eq!(said.code, Some(7), "{said:?}");
    assert_eq!(said.sentence(), "it is not certain which web is the real one; what is missing is told above");
    assert!(said.stdout.contains("NOT CERTAIN: as far as is known w2 has the real one"), "{said:?}");
    assert!(
        said.stdout.contains("so: do not start it on any other worker before worker w2 was heard"),
        "{said:?}"
    );
    let json = w1.ferry(&["truth", "web", "--json"]);
    let truth: Truth = serde_json::from_str(&json.stdout).unwrap();
    assert!(
        json.code == Some(7) && matches!(truth.subjects[0].verdict, Verdict::Likely { .. }),
        "{truth:#?}"
    );

    // The files are enough; no agent is asked.
    w1.kill();
    let dirs = [w1, w2].map(|worker| worker.dir.to_str().unwrap().to_owned());
    let said = w1.ferry(&["truth", "data", "--state-dir", &dirs[0], "--state-dir", &dirs[1]]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.stdout.contains("  w2 has the real copy, at generation 2"), "{said:?}");
    let alone = w1.ferry(&["truth", "data", "--state-dir", &dirs[0]]);
    assert!(alone.code == Some(7) && alone.stdout.contains("its state directory was not given"), "{alone:?}");
}

#[test]
fn what_is_unknown_or_means_nothing_is_refused() {
    let cluster = Cluster::two();
    let (w1, _) = cluster.pair();
    let sentence = w1.refusal(&["truth", "web"], 1);
    assert!(sentence.contains("no worker that was heard knows a machine or volume web"), "{sentence}");
    assert!(w1.refusal(&["truth", "We/b"], 2).contains("is not a name"));
    let nowhere = cluster.dir().join("nowhere");
    let sentence = w1.refusal(&["truth", "web", "--state-dir", nowhere.to_str().unwrap()], 1);
    assert!(sentence.ends_with("is not the state directory of a worker; give its state_dir"), "{sentence}");
    let dir = w1.dir.to_str().unwrap();
    let sentence = w1.refusal(&["truth", "web", "--state-dir", dir, "--state-dir", dir], 1);
    assert!(sentence.contains("give each worker once"), "{sentence}");
}
