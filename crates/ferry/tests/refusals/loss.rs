//! A source that is gone, as a person meets it: shown, waited for as they say, given up only with the figure they were
//! told.

use super::image;
use super::support::cluster::Cluster;
use super::support::peers::{Peer, path_text};
use super::support::{NBDKIT, needs};
use ferry_api::{LossPolicy, Losses, StandIn, Volume};
use std::num::NonZeroU64;

const SIZE_BYTES: u64 = 16 << 20;

#[test]
fn a_source_that_is_gone_is_given_up_only_with_the_figure_that_was_told() {
    needs!(NBDKIT);
    let cluster = Cluster::of(&[("w1", "")]);
    let w1 = &cluster.workers[0];
    let image = cluster.dir().join("image");
    image::dense(&image, SIZE_BYTES, 70);
    // So slow that it would take two minutes: nearly all of it is still there when the source dies.
    let arguments = ["--threads=1", "--filter=rate", "-r", "file", path_text(&image), "rate=1M"];
    let source = Peer::nbdkit(cluster.dir(), &arguments);
    let _: Volume = w1.ask(&["volume", "import", "db", "--from", &source.uri()]);
    let first = source.uri();
    source.kill();
    let is_away = |volume: &Volume| volume.source.as_ref().is_some_and(|source| source.away_ms.is_some());
    w1.wait_for_volume("db", "misses its source", is_away);

    let set: Volume = w1.ask(&["volume", "on-source-loss", "db", "fail-after=30s"]);
    assert_eq!(set.loss_policy, LossPolicy::FailAfterMs(NonZeroU64::new(30_000).unwrap()));
    let shown = w1.ferry(&["volume", "show", "db"]).stdout;
    assert!(shown.contains("SOURCE AWAY") && shown.contains("fail after 30 s"), "{shown}");
    let said = w1.refusal(&["volume", "on-source-loss", "db", "soon"], 2);
    assert_eq!(said, "\"soon\" is no policy; write wait, or fail-after=SPAN as in fail-after=30s");
    let _: Volume = w1.ask(&["volume", "on-source-loss", "db", "wait"]);

    // A backup of which we say that it is one; its size is another, so it is never read.
    let backup = cluster.dir().join("backup.raw");
    image::dense(&backup, SIZE_BYTES / 2, 70);
    let with: Vec<StandIn> = w1.ask(&["volume", "source", "add", "db", path_text(&backup)]);
    assert_eq!(
        with.iter().map(|source| &source.uri).collect::<Vec<_>>(),
        [&first, &format!("file://{}", path_text(&backup))]
    );
    let is_refused = |volume: &Volume| {
        let more = volume.source.as_ref().and_then(|source| source.more.first());
        more.and_then(|more| more.last_error.as_ref()).is_some_and(|e| e.contains("it is another disk"))
    };
    w1.wait_for_volume("db", "says what is wrong with its second source", is_refused);
    let shown = w1.ferry(&["volume", "source", "list", "db"]).stdout;
    assert!(shown.lines().count() == 2 && shown.contains("backup.raw (away, tried again: "), "{shown}");
    let left: Vec<StandIn> = w1.ask(&["volume", "source", "remove", "db", path_text(&backup)]);
    assert_eq!(left.len(), 1);

    let told: Losses = w1.ask(&["volume", "abandon-source", "db"]);
    let remote = w1.volume("db").hydration.unwrap().bytes_remote;
    assert_eq!((told.abandoned, told.bytes), (false, remote));
    assert_eq!(told.listed.iter().map(|span| span.len_bytes).sum::<u64>(), remote);
    let figure = told.bytes.to_string();
    let shown = w1.ferry(&["volume", "abandon-source", "db"]).stdout;
    assert!(shown.ends_with(&format!("ferry volume abandon-source db --lose {figure}\n")), "{shown}");
    let wrong = (told.bytes - 1).to_string();
    let said = w1.refusal(&["volume", "abandon-source", "db", "--lose", &wrong], 1);
    assert!(
        said.starts_with(&format!("giving up the source costs {figure} bytes now, not {wrong};")),
        "{said}"
    );
    assert!(w1.volume("db").source.is_some(), "nothing has changed");

    let done: Losses = w1.ask(&["volume", "abandon-source", "db", "--lose", &figure]);
    assert_eq!((done.abandoned, done.bytes), (true, told.bytes));
    let list = std::fs::read_to_string(done.list.unwrap()).unwrap();
    assert!(list.contains(&format!("\"bytes\":{figure}")), "{list}");
    let left = w1.volume("db");
    let hydration = left.hydration.unwrap();
    assert_eq!((left.source, hydration.complete, hydration.bytes_abandoned), (None, true, told.bytes));
    assert!(w1.ferry(&["volume", "show", "db"]).stdout.contains("GIVEN UP"));
}
