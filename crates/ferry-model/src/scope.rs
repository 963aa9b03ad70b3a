//! How large a world is, what may befall it, and which mistake is planted in it.

/// A small world, and how often each thing may happen in it.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// Workers: two or three. The machine begins on the first.
    pub workers: usize,
    /// Volumes of the machine.
    pub volumes: usize,
    /// What may happen.
    pub budget: Budget,
    /// Whether moves are warm ones: the target copies while the machine runs, in one round.
    pub is_warm: bool,
    /// Whether moves are live ones: the machine's memory moves, too. Nothing is copied ahead.
    pub is_live: bool,
    /// A mistake, or none.
    pub bug: Option<Bug>,
    /// Whether somebody asks which machine and which copy is the real one after each thing that happens, and how sure that
    /// is. Without that a mistake is found only when it does harm.
    pub is_asked: bool,
}

/// How often each thing may happen, in all workers together. What is not here (deliveries, repetitions, work of agents,
/// reads of sources) may happen at any time and any number of times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Moves that a person begins, from wherever the machine is to anywhere.
    pub moves: u8,
    /// Moves that a person cancels.
    pub cancels: u8,
    /// Agents that die and start again, with all that was not durable lost.
    pub crashes: u8,
    /// Hosts that do, with every process on them.
    pub reboots: u8,
    /// Calls between agents that are given up without an answer.
    pub timeouts: u8,
    /// Backups made of an agent's records.
    pub backups: u8,
    /// Backups put in the place of an agent's records, while its host is down.
    pub restores: u8,
    /// Writes of the machine, each flushed and acknowledged.
    pub writes: u8,
    /// Times that its owner stops the machine, or starts it again.
    pub desires: u8,
    /// Times that its owner destroys the machine.
    pub destroys: u8,
    /// Records of moves to a worker that it forgets, as it does with old ones.
    pub forgets: u8,
    /// Processes that wait for the memory of a machine and die.
    pub deaths: u8,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cost {
    Move,
    Cancel,
    Crash,
    Reboot,
    Timeout,
    Backup,
    Restore,
    Write,
    Desire,
    Destroy,
    Forget,
    Death,
}

impl Budget {
    /// How often something may still happen.
    pub(crate) fn of(&mut self, cost: Cost) -> &mut u8 {
        match cost {
            Cost::Move => &mut self.moves,
            Cost::Cancel => &mut self.cancels,
            Cost::Crash => &mut self.crashes,
            Cost::Reboot => &mut self.reboots,
            Cost::Timeout => &mut self.timeouts,
            Cost::Backup => &mut self.backups,
            Cost::Restore => &mut self.restores,
            Cost::Write => &mut self.writes,
            Cost::Desire => &mut self.desires,
            Cost::Destroy => &mut self.destroys,
            Cost::Forget => &mut self.forgets,
            Cost::Death => &mut self.deaths,
        }
    }
}

/// A mistake that the model must find. Each is made by the model's environment; the product has no such switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// The source tells the target of the hand-over before its copies carry the mark.
    TellsBeforeMark,
    /// The mark of a hand-over is not looked at when something is opened, started or taken in.
    IgnoresMark,
    /// The mark of a hand-over is deleted with the copy that was handed over.
    ForgetsMark,
    /// An agent acts on a journal entry that is not durable.
    ActsBeforeDurable,
    /// A machine is taken for stopped as soon as it was asked to stop.
    CallsItStopped,
    /// The source lets go of its copies before the target has what is in them.
    RetiresEarly,
    /// A failed move is reported before the machine runs at home again.
    ReportsTooSoon,
    /// A call that got no answer is not made again.
    ForgetsToRetry,
    /// A target gives up a reservation when its source says that the job still runs.
    SweepsTooMuch,
    /// Of several volumes the first alone is handed over.
    HandsOverOne,
    /// A base is asked also for what the source says has changed.
    IgnoresChanges,
    /// A retired copy is deleted though another one reads it.
    DeletesBase,
    /// A reservation is deleted without a look at what lies in it.
    DeletesUnseen,
    /// A move to here is forgotten as soon as it is over, whatever may still be asked of it.
    ForgetsTooSoon,
    /// What was copied ahead is kept whatever was written since.
    KeepsWhatChanged,
    /// A copy that is opened again keeps its marks.
    UnsealKeepsMarks,
    /// The target is told that its clones hold what is right, without a look at the marks.
    VouchesUnseen,
    /// What becomes of a machine that was stopped is forgotten when it moves: the target starts it.
    StartsWhatWasStopped,
    /// A target whose process for the memory of a machine has ended starts the machine anew, before the source has said that it
    /// does not run there.
    StartsUnasked,
    /// A source whose machine runs on, since its memory could not leave, has the target start it all the same.
    LeavesItRunning,
}

impl Scope {
    const fn new(workers: usize, volumes: usize, budget: Budget) -> Self {
        Self { workers, volumes, budget, is_warm: false, is_live: false, bug: None, is_asked: true }
    }

    /// The same with warm moves.
    const fn warm(self) -> Self {
        Self { is_warm: true, ..self }
    }

    /// The same with live moves.
    const fn live(self) -> Self {
        Self { is_live: true, ..self }
    }

    /// The same with a mistake in it, which is to do harm.
    #[must_use]
    pub fn with(self, bug: Bug) -> Self {
        Self { bug: Some(bug), is_asked: false, ..self }
    }

    /// The same while somebody asks which is the real one.
    #[must_use]
    pub fn asked(self) -> Self {
        Self { is_asked: true, ..self }
    }
}

/// A world in which one move is begun and one write is made, and nothing goes wrong.
const CALM: Budget = Budget {
    moves: 1,
    cancels: 0,
    crashes: 0,
    reboots: 0,
    timeouts: 0,
    backups: 0,
    restores: 0,
    writes: 1,
    desires: 0,
    destroys: 0,
    forgets: 0,
    deaths: 0,
};

/// One move, cancelled or not, while agents die and calls go astray.
pub const ONE_MOVE: Scope = Scope::new(2, 1, Budget { cancels: 1, crashes: 1, timeouts: 1, ..CALM });
/// One move, cancelled or not, while a host goes down.
pub const HOST_DOWN: Scope = Scope::new(2, 1, Budget { cancels: 1, reboots: 1, ..CALM });
/// One move of a machine with two volumes.
pub const TWO_VOLUMES: Scope = Scope::new(2, 2, Budget { cancels: 1, crashes: 1, ..CALM });
/// Two moves: there and back, or again after one was undone, also while the disk still follows.
pub const THERE_AND_BACK: Scope = Scope::new(2, 1, Budget { moves: 2, crashes: 1, ..CALM });
/// Two moves among three workers.
pub const THREE_WORKERS: Scope = Scope::new(3, 1, Budget { moves: 2, ..CALM });
/// One move, and records of either worker that come back from a backup.
pub const BACKUP: Scope = Scope::new(2, 1, Budget { cancels: 1, backups: 1, restores: 1, ..CALM });
/// Two moves, there and back, and records from a backup; nothing is written.
pub const BACKUP_OF_THERE_AND_BACK: Scope =
    Scope::new(2, 1, Budget { moves: 2, backups: 1, restores: 1, writes: 0, ..CALM });
/// One move of a machine without volumes, and records of either worker from a backup.
pub const BACKUP_WITHOUT_VOLUMES: Scope =
    Scope::new(2, 0, Budget { cancels: 1, backups: 1, restores: 1, writes: 0, ..CALM });
/// One move, cancelled or not, of a machine that its owner stops and starts.
pub const STOPPED_AND_STARTED: Scope =
    Scope::new(2, 1, Budget { cancels: 1, crashes: 1, desires: 2, ..CALM });
/// Two moves, there and back, of a machine that its owner destroys at some time.
pub const DESTROYED: Scope = Scope::new(2, 1, Budget { moves: 2, crashes: 1, destroys: 1, ..CALM });
/// Two moves, there and back, of which each worker may forget the one that brought the machine, while late calls arrive again.
pub const FORGOTTEN: Scope = Scope::new(2, 1, Budget { moves: 2, cancels: 1, forgets: 1, ..CALM });
/// One move of a machine that is destroyed, while the record of it may be forgotten and late calls arrive again.
pub const FORGOTTEN_OF_DESTROYED: Scope =
    Scope::new(2, 1, Budget { timeouts: 1, destroys: 1, forgets: 1, ..CALM });
/// Two moves, one of them cancelled, and records from a backup: more than tests search whole.
pub const BACKUP_OF_TWO_MOVES: Scope =
    Scope::new(2, 1, Budget { moves: 2, cancels: 1, backups: 1, restores: 1, ..CALM });

/// One warm move, cancelled or not, while agents die and calls go astray.
pub const WARM: Scope = ONE_MOVE.warm();
/// One warm move, cancelled or not, while a host goes down.
pub const WARM_HOST_DOWN: Scope = HOST_DOWN.warm();
/// Two warm moves: there and back, or again after one was undone.
pub const WARM_TWICE: Scope = Scope::new(2, 1, Budget { moves: 2, cancels: 1, ..CALM }).warm();
/// One warm move, cancelled or not, and records of either worker from a backup.
pub const WARM_BACKUP: Scope = BACKUP.warm();

/// One live move, cancelled or not, while agents die, and what waits for the memory dies.
pub const LIVE: Scope = Scope::new(2, 1, Budget { cancels: 1, crashes: 1, deaths: 1, ..CALM }).live();
/// One live move, cancelled or not, while calls go astray and what waits for the memory dies.
pub const LIVE_ASTRAY: Scope = Scope::new(2, 1, Budget { cancels: 1, timeouts: 1, deaths: 1, ..CALM }).live();
/// One live move, cancelled or not, while a host goes down.
pub const LIVE_HOST_DOWN: Scope = HOST_DOWN.live();
/// One live move whose disks are copied ahead, and beside the memory, while agents die.
pub const LIVE_WARM: Scope = Scope::new(2, 1, Budget { crashes: 1, ..CALM }).live().warm();
/// One live move of a machine without volumes, cancelled or not, while agents die.
pub const LIVE_WITHOUT_VOLUMES: Scope =
    Scope::new(2, 0, Budget { cancels: 1, crashes: 1, writes: 0, ..CALM }).live();
/// One live move of a machine that its owner stops and starts.
pub const LIVE_STOPPED_AND_STARTED: Scope = Scope::new(2, 1, Budget { desires: 2, ..CALM }).live();
/// Two live moves: there and back, while what waits for the memory dies: more than tests search whole.
pub const LIVE_TWICE: Scope = Scope::new(2, 1, Budget { moves: 2, deaths: 1, ..CALM }).live();

/// The worlds that are searched with `cargo xtask model`, each with what it is.
pub const ALL: &[(&str, Scope)] = &[
    ("one move, cancelled or not; agents die, calls go astray", ONE_MOVE),
    ("one move, cancelled or not; a host goes down", HOST_DOWN),
    ("one move of two volumes, cancelled or not; agents die", TWO_VOLUMES),
    ("two moves, there and back; agents die", THERE_AND_BACK),
    ("two moves among three workers", THREE_WORKERS),
    ("one move, cancelled or not; the machine is stopped and started, agents die", STOPPED_AND_STARTED),
    ("two moves, there and back; the machine is destroyed, agents die", DESTROYED),
    ("two moves, there and back, one cancelled; what has arrived is forgotten", FORGOTTEN),
    ("one move; the machine is destroyed, what has arrived is forgotten", FORGOTTEN_OF_DESTROYED),
    ("one move, cancelled or not; records from a backup", BACKUP),
    ("one warm move, cancelled or not; agents die, calls go astray", WARM),
    ("one warm move, cancelled or not; a host goes down", WARM_HOST_DOWN),
    ("one warm move, cancelled or not; records from a backup", WARM_BACKUP),
    ("two warm moves, one cancelled", WARM_TWICE),
    ("one live move, cancelled or not; agents die, what waits for memory dies", LIVE),
    ("one live move, cancelled or not; calls go astray, what waits for memory dies", LIVE_ASTRAY),
    ("one live move, cancelled or not; a host goes down", LIVE_HOST_DOWN),
    ("one live move whose disks are copied ahead and beside the memory; agents die", LIVE_WARM),
    ("one live move without volumes, cancelled or not; agents die", LIVE_WITHOUT_VOLUMES),
    ("one live move; the machine is stopped and started", LIVE_STOPPED_AND_STARTED),
    ("two live moves, there and back; what waits for memory dies", LIVE_TWICE),
    (
        "one warm move of two volumes, cancelled or not; agents die",
        Scope::new(2, 2, Budget { cancels: 1, crashes: 1, ..CALM }).warm(),
    ),
    (
        "two moves of two volumes, one cancelled; calls go astray",
        Scope::new(2, 2, Budget { moves: 2, cancels: 1, timeouts: 1, ..CALM }),
    ),
    (
        "two moves, one cancelled; two agents die, a call goes astray",
        Scope::new(2, 1, Budget { moves: 2, cancels: 1, crashes: 2, timeouts: 1, ..CALM }),
    ),
    (
        "two moves among three workers, one cancelled; agents die",
        Scope::new(3, 1, Budget { moves: 2, cancels: 1, crashes: 1, writes: 2, ..CALM }),
    ),
    ("one move without volumes, cancelled or not; records from a backup", BACKUP_WITHOUT_VOLUMES),
    ("two moves, there and back, nothing written; records from a backup", BACKUP_OF_THERE_AND_BACK),
    ("two moves, one cancelled; records from a backup", BACKUP_OF_TWO_MOVES),
    (
        "two moves among three workers; records from a backup",
        Scope::new(3, 1, Budget { moves: 2, backups: 1, restores: 1, ..CALM }),
    ),
    ("three moves among three workers", Scope::new(3, 1, Budget { moves: 3, writes: 2, ..CALM })),
];
