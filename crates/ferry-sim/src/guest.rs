//! A machine: it writes, reads, flushes and compares, as long as it runs.
//!
//! Invariant: it believes what it was told and nothing else. What it asked for and got no answer to may have happened
//! or not; nothing of it is still to happen once the next machine on the same copy begins.

use crate::process::What;
use crate::server::Reply;
use crate::store::{SECTOR_BYTES, Token, span};
use crate::told::Told;
use crate::world::{At, HostIndex, State, World};
use ferry_agent::drivers::Ended;
use ferry_api::{MachineId, VolumeKey};
use ferry_engine::{BLOCK_BYTES, ByteRange, Errno, RequestKind};
use std::sync::Arc;
use std::time::Duration;

/// How long a machine takes to end that does not listen, in milliseconds; longer than it is given.
const STUBBORN_MS: u64 = 60_000;
/// How long a guest waits before it goes to its disk again, in milliseconds.
const RECONNECT_MS: u64 = 20;

/// Lets a process become its machine.
pub fn begin(
    state: &mut State,
    host: HostIndex,
    pid: u32,
    machine: MachineId,
    disks: Vec<VolumeKey>,
    life: Option<u64>,
) {
    if life.is_none() {
        state.check_begins_anew(machine);
    }
    let life = life.unwrap_or_else(|| state.fresh_life());
    let Some(process) = state.hosts[host].processes.get_mut(&pid) else { return };
    (process.what, process.life) = (What::Runs(machine), life);
    let (told, ended) = (Arc::clone(&process.told), Arc::clone(&process.ended));
    let (held, rests) = (Arc::clone(&process.held), Arc::clone(&process.rests));
    let over = Arc::new(Told::new(false));
    state.say_of(host, format!("machine {machine} runs (process {pid}, guest {life})"));
    state.disks.insert(machine, disks.iter().map(|key| key.id).collect());
    state.check_runs_once(machine);
    if let Some(home) = state.homes.get(&machine).copied().filter(|home| *home != host) {
        state.find(format!("machine {machine} runs on w{}, and is at home on w{}", host + 1, home + 1));
    }
    let world = state.world.upgrade().expect("the world is there while something happens in it");
    let lingers_ms = match state.dice.roll(8) {
        0 => STUBBORN_MS,
        1..=3 => state.dice.between(1, 2_000),
        _ => 0,
    };
    let guest = Guest { world, host, pid, over: Arc::clone(&over), ended, held, rests };
    tokio::spawn(async move { guest.run(disks).await });
    tokio::spawn(async move { linger(told, lingers_ms, over).await });
}

/// A machine that was asked to end does so some time later; until then it goes on.
async fn linger(told: Arc<Told<bool>>, ms: u64, over: Arc<Told<bool>>) {
    told.wait_for(|told| *told).await;
    tokio::time::sleep(Duration::from_millis(ms)).await;
    over.tell(true);
}

struct Guest {
    world: Arc<World>,
    host: HostIndex,
    pid: u32,
    over: Arc<Told<bool>>,
    ended: Arc<Told<Option<Ended>>>,
    held: Arc<Told<bool>>,
    rests: Arc<Told<bool>>,
}

impl State {
    fn fresh_life(&mut self) -> u64 {
        self.next_life += 1;
        self.next_life
    }

    /// Nothing is left of a machine that could go on when it is started anew.
    fn check_begins_anew(&mut self, machine: MachineId) {
        let all = self.hosts.iter().flat_map(|host| host.processes.values());
        let mut all = all.filter(|process| matches!(process.what, What::Runs(runs) if runs == machine));
        if all.any(|process| process.sends_to().is_some()) {
            self.find(format!("machine {machine} is started anew while its memory is still to move"));
        }
    }
}

/// Why a guest goes no further.
struct Over;

enum Act {
    Write { range: ByteRange, token: Token, fua: bool },
    Zero { range: ByteRange, trim: bool },
    Read { range: ByteRange },
    Flush,
}

impl Guest {
    async fn run(self, disks: Vec<VolumeKey>) {
        // Over when it was killed, or asked to end: then it does so by itself.
        let Err(Over) = self.live(&disks).await;
        let mut state = self.world.lock();
        if state.hosts[self.host].processes.contains_key(&self.pid) {
            state.say_of(self.host, format!("machine of process {} ends", self.pid));
            state.end_process(self.host, self.pid, Ended::with_code(0));
        }
    }

    async fn live(&self, disks: &[VolumeKey]) -> Result<std::convert::Infallible, Over> {
        for key in disks {
            self.wait_for_those_before(*key).await?;
        }
        loop {
            for key in disks {
                self.rest().await?;
                let act = self.choose(At { host: self.host, key: *key })?;
                if let Some(act) = act {
                    self.act(*key, act).await?;
                }
            }
            let (quiet, ms) = {
                let mut state = self.world.lock();
                (state.is_quiet, state.dice.between(1, 400))
            };
            self.pause(if quiet { 5_000 } else { ms }).await?;
        }
    }

    /// While it is paused it does nothing.
    async fn rest(&self) -> Result<(), Over> {
        while self.held.get() {
            self.rests.tell(true);
            tokio::select! {
                biased;
                _ = self.over.wait_for(|over| *over) => return Err(Over),
                _ = self.ended.wait_for(Option::is_some) => return Err(Over),
                _ = self.held.wait_for(|held| !held) => {}
            }
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.over.get() || !self.world.lock().hosts[self.host].processes.contains_key(&self.pid)
    }

    async fn pause(&self, ms: u64) -> Result<(), Over> {
        tokio::select! {
            biased;
            _ = self.over.wait_for(|over| *over) => return Err(Over),
            _ = self.ended.wait_for(Option::is_some) => return Err(Over),
            () = tokio::time::sleep(Duration::from_millis(ms)) => {}
        }
        self.world.awake(self.host).await;
        if self.is_over() { Err(Over) } else { Ok(()) }
    }

    /// Whoever was here before may have left requests; what they do is done before this guest looks.
    async fn wait_for_those_before(&self, key: VolumeKey) -> Result<(), Over> {
        while self.world.lock().cancel_unheard(At { host: self.host, key }) {
            self.pause(RECONNECT_MS).await?;
        }
        Ok(())
    }

    fn choose(&self, at: At) -> Result<Option<Act>, Over> {
        if self.is_over() {
            return Err(Over);
        }
        let mut state = self.world.lock();
        let Some(size) = state.server(at).map(|server| server.engine.geometry().size_bytes()) else {
            return Ok(None);
        };
        let (quiet, flushes_one_in) = (state.is_quiet, state.flushes_one_in);
        let dice = &mut state.dice;
        let unit = if dice.roll(3) == 0 { SECTOR_BYTES } else { BLOCK_BYTES };
        let (units, len) = (size / unit, dice.between(1, 6));
        let first = dice.roll(units);
        let range = ByteRange::new(first * unit, len.min(units - first) * unit).expect("it is not empty");
        let what = if quiet { 9 } else { dice.roll(14) };
        Ok(Some(match what {
            0..=5 => {
                let fua = dice.roll(4 * flushes_one_in) == 0;
                state.next_token += 1;
                Act::Write { range, token: state.next_token, fua }
            }
            6 => Act::Zero { range, trim: dice.coin() },
            7 | 8 if dice.roll(flushes_one_in) == 0 => Act::Flush,
            9 if dice.roll(4) == 0 || quiet => {
                Act::Read { range: ByteRange::new(0, size).expect("it is not empty") }
            }
            _ => Act::Read { range },
        }))
    }

    async fn act(&self, key: VolumeKey, act: Act) -> Result<(), Over> {
        match act {
            Act::Write { range, token, fua } => {
                self.write(key, RequestKind::Write { range, fua }, range, token).await
            }
            Act::Zero { range, trim: false } => {
                let kind = RequestKind::WriteZeroes { range, fua: false, no_hole: false };
                self.write(key, kind, range, 0).await
            }
            Act::Zero { range, trim: true } => {
                let covers =
                    range.offset().is_multiple_of(BLOCK_BYTES) && range.end().is_multiple_of(BLOCK_BYTES);
                match covers {
                    true => self.write(key, RequestKind::Trim { range, fua: false }, range, 0).await,
                    false => Ok(()),
                }
            }
            Act::Read { range } => self.read(key, range).await,
            Act::Flush => self.flush(key).await,
        }
    }

    async fn write(
        &self,
        key: VolumeKey,
        kind: RequestKind,
        range: ByteRange,
        token: Token,
    ) -> Result<(), Over> {
        let span = span(range);
        self.world.lock().oracle.write_asked(key.id, span.clone(), token);
        let durable = matches!(kind, RequestKind::Write { fua: true, .. });
        let reply = self.ask(key, kind, vec![token; span.len()]).await?;
        let mut state = self.world.lock();
        // A write that failed may have been done in part.
        if let Some(Ok(_)) = reply {
            state.oracle.write_told(key.id, span, token, durable);
        }
        Ok(())
    }

    async fn read(&self, key: VolumeKey, range: ByteRange) -> Result<(), Over> {
        let span = span(range);
        let reply = self.ask(key, RequestKind::Read { range }, vec![0; span.len()]).await?;
        let mut state = self.world.lock();
        match reply {
            Some(Ok(tokens)) => {
                let read = state.oracle.read(key.id, span.start, &tokens);
                if let Err(wrong) = read {
                    state.find(format!("{wrong} (copy {key} on w{})", self.host + 1));
                }
            }
            Some(Err(Errno::EIO)) if state.may_be_bad(key.id) => state.count("reads of bad sectors"),
            Some(Err(errno)) if errno != Errno::ESHUTDOWN && errno != Errno::ECANCELED => {
                state.find(format!("a guest's read of {key} fails: {errno}"));
            }
            Some(Err(_)) | None => {}
        }
        Ok(())
    }

    async fn flush(&self, key: VolumeKey) -> Result<(), Over> {
        let asked = self.world.lock().oracle.flush_asked();
        let reply = self.ask(key, RequestKind::Flush, Vec::new()).await?;
        if let Some(Ok(_)) = reply {
            self.world.lock().oracle.flush_told(key.id, asked);
        }
        Ok(())
    }

    /// Asks its disk, and waits for the answer; none comes if the server dies. Asked to end meanwhile, a guest
    /// waits for what it has begun.
    async fn ask(
        &self,
        key: VolumeKey,
        kind: RequestKind,
        buffer: Vec<Token>,
    ) -> Result<Option<Reply>, Over> {
        let asked = self.world.lock().request(At { host: self.host, key }, kind, buffer);
        let Some(mut asked) = asked else {
            self.pause(RECONNECT_MS).await?;
            return Ok(None);
        };
        let reply = tokio::select! {
            biased;
            _ = self.ended.wait_for(Option::is_some) => return Err(Over),
            reply = &mut asked => reply.ok(),
        };
        self.world.awake(self.host).await;
        if !self.world.lock().hosts[self.host].processes.contains_key(&self.pid) {
            return Err(Over);
        }
        if reply.is_none() {
            self.pause(RECONNECT_MS).await?;
        }
        Ok(reply)
    }
}
