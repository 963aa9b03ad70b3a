//! Power loss: a real server's writes and syncs are recorded, and from each prefix of the recording images are made that a
//! disk may leave: of what was not synced any sector may be there or not, in any of its versions, and a file may be shorter.
//! Every image must open, and hold every write that was flushed.

use crate::client::BlockClient;
use crate::control::{Client, Phase};
use crate::directory::{DATA, MAP, UNFLUSHED};
use crate::ring::recorder::{Asked, Recorded, Recording, record};
use crate::{CreateOptions, IoBackend, ServeOptions, SourceUri, create, serve, store};
use ferry_engine::notes::{self, NotesOf};
use ferry_engine::{Blocks, Residence};
use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

const ID: &str = "01JD9Z6M4Q5R6S7T8V9WAXBYCZ";
const SECTOR: usize = 512;
const SIZE_BYTES: u64 = 256 << 10;
const WRITES: u32 = 90;
const WRITES_A_FLUSH: u32 = 6;
/// What the source holds in a sector, beside the sector's number.
const OF_SOURCE: u32 = 0x8000_0000;

/// Deterministic choices from a seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((z ^ (z >> 31)) % sides as u64).unwrap()
    }
}

fn stamped(stamp: u32) -> [u8; SECTOR] {
    std::array::from_fn(|at| stamp.to_le_bytes()[at % 4])
}

/// A file as a disk may have it: of each sector the versions that may be there, oldest first.
struct File {
    sectors: Vec<Vec<[u8; SECTOR]>>,
    /// Shortest and present length.
    lengths: (u64, u64),
}

/// What a sync that has begun makes durable.
struct SyncPoint(Vec<usize>, u64);

impl File {
    fn new(bytes: &[u8]) -> Self {
        let sector = |chunk: &[u8]| {
            let mut sector = [0; SECTOR];
            sector[..chunk.len()].copy_from_slice(chunk);
            vec![sector]
        };
        let len = bytes.len() as u64;
        Self { sectors: bytes.chunks(SECTOR).map(sector).collect(), lengths: (len, len) }
    }

    fn write(&mut self, offset: u64, bytes: &[u8], mut takes: impl FnMut() -> bool) {
        let (start, end) = (offset as usize, offset as usize + bytes.len());
        for sector in start / SECTOR..end.div_ceil(SECTOR) {
            if self.sectors.len() <= sector {
                self.sectors.resize(sector + 1, vec![[0; SECTOR]]);
            }
            if !takes() {
                continue;
            }
            let mut content = *self.sectors[sector].last().unwrap();
            for (index, byte) in content.iter_mut().enumerate() {
                let at = sector * SECTOR + index;
                if (start..end).contains(&at) {
                    *byte = bytes[at - start];
                }
            }
            self.sectors[sector].push(content);
        }
        self.lengths.1 = self.lengths.1.max(end as u64);
    }

    fn sync_begins(&self) -> SyncPoint {
        SyncPoint(self.sectors.iter().map(|versions| versions.len() - 1).collect(), self.lengths.1)
    }

    /// No other sync of the file has ended since this one began, or it covered less.
    fn sync_ends(&mut self, point: &SyncPoint, dropped: &mut Vec<usize>) {
        dropped.resize(self.sectors.len().max(dropped.len()), 0);
        for (sector, &durable) in point.0.iter().enumerate() {
            let fresh = durable.saturating_sub(dropped[sector]);
            self.sectors[sector].drain(..fresh);
            dropped[sector] += fresh;
        }
        self.lengths.0 = self.lengths.0.max(point.1);
    }

    fn image(&self, dice: &mut Dice) -> Vec<u8> {
        let pick = |versions: &Vec<[u8; SECTOR]>, dice: &mut Dice| versions[dice.roll(versions.len())];
        let mut bytes: Vec<u8> = self.sectors.iter().flat_map(|versions| pick(versions, dice)).collect();
        let (shortest, longest) = self.lengths;
        let spare = usize::try_from(longest - shortest).unwrap();
        bytes.resize(shortest as usize + dice.roll(spare + 1), 0);
        bytes
    }
}

/// What the guest did: which stamps each sector got, in order.
#[derive(Default)]
struct Diary {
    stamps: BTreeMap<u64, Vec<u32>>,
}

/// Writes stamped sectors and flushes now and then; marks in the recording what is flushed.
fn be_a_guest(dir: &Path, recording: &Recording) -> Diary {
    let mut guest = BlockClient::connect_unix(&dir.join("guest.sock")).unwrap();
    let (mut dice, mut diary) = (Dice(7), Diary::default());
    for stamp in 1..=WRITES {
        let sectors = SIZE_BYTES as usize / SECTOR;
        let (first, count) = match dice.roll(3) {
            // Whole blocks, parts of blocks, and many blocks.
            0 => (dice.roll(sectors / 8) * 8, 8),
            1 => (dice.roll(sectors), 1),
            _ => (dice.roll(sectors - 80), 1 + dice.roll(79)),
        };
        guest.write_at((first * SECTOR) as u64, &stamped(stamp).repeat(count)).unwrap();
        (first..first + count).for_each(|sector| {
            diary.stamps.entry(sector as u64).or_default().push(stamp);
        });
        if stamp % WRITES_A_FLUSH == 0 {
            guest.flush().unwrap();
            recording.lock().unwrap().push(Recorded::Mark(u64::from(stamp)));
        }
    }
    diary
}

/// Records a clone that hydrates while its guest writes, to its seal.
fn recorded(dir: &Path, source: &Path, io: IoBackend, recording: &Recording) -> Diary {
    let (options, shared) =
        (ServeOptions { dir: dir.to_owned(), io, tls: None, count_heat: true }, recording.clone());
    let server = std::thread::spawn(move || {
        record(&shared);
        serve(&options)
    });
    while Client::connect(dir).is_err() {
        assert!(!server.is_finished(), "the server ended: {:?}", server.join());
        std::thread::yield_now();
    }
    let mut control = Client::connect(dir).unwrap();
    // So that hydration lasts as long as the guest.
    control.set_budget(NonZeroU64::new(SIZE_BYTES / 2)).unwrap();
    let diary = be_a_guest(dir, recording);
    control.set_budget(None).unwrap();
    while !control.status().unwrap().hydration.complete {
        std::thread::yield_now();
    }
    control.seal().unwrap();
    control.shutdown().unwrap();
    server.join().unwrap().unwrap();
    assert!(source.exists());
    diary
}

/// The files after a prefix of a recording, in any order that a disk may choose.
struct Replay {
    files: BTreeMap<u64, (File, Vec<usize>)>,
    under_way: BTreeMap<u64, (u64, Asked, Option<SyncPoint>)>,
    flushed: u64,
}

impl Replay {
    fn step(&mut self, recorded: &Recorded) {
        match recorded {
            Recorded::Begun { number, inode, asked } => {
                let Some((file, _)) = self.files.get(inode) else { return };
                let point = matches!(asked, Asked::Sync).then(|| file.sync_begins());
                let absolute = point.map(|SyncPoint(indices, len)| {
                    let dropped = &self.files[inode].1;
                    let lift = |(at, index): (usize, usize)| index + dropped.get(at).copied().unwrap_or(0);
                    SyncPoint(indices.into_iter().enumerate().map(lift).collect(), len)
                });
                self.under_way.insert(*number, (*inode, asked.clone(), absolute));
            }
            Recorded::Ended { number, bytes } => {
                let Some((inode, asked, point)) = self.under_way.remove(number) else { return };
                let (file, dropped) = self.files.get_mut(&inode).unwrap();
                let bytes = bytes.expect("this disk does not fail");
                match asked {
                    Asked::Write { offset, bytes: content } => {
                        file.write(offset, &content[..bytes as usize], || true);
                    }
                    Asked::Zero { offset, len } => file.write(offset, &vec![0; len as usize], || true),
                    Asked::Sync => file.sync_ends(&point.unwrap(), dropped),
                }
            }
            Recorded::Mark(stamp) => self.flushed = *stamp,
        }
    }

    /// What lies on the disk when power is lost now.
    fn lose_power(&self, inode: u64, dice: &mut Dice) -> Vec<u8> {
        let (file, _) = &self.files[&inode];
        let mut file = File { sectors: file.sectors.clone(), lengths: file.lengths };
        for (of, asked, _) in self.under_way.values().filter(|(of, ..)| *of == inode) {
            assert_eq!(*of, inode);
            match asked {
                Asked::Write { offset, bytes } => file.write(*offset, bytes, || dice.roll(2) == 0),
                Asked::Zero { offset, len } => {
                    file.write(*offset, &vec![0; *len as usize], || dice.roll(2) == 0);
                }
                Asked::Sync => {}
            }
        }
        file.image(dice)
    }
}

/// Opens an image and compares every sector with what it may hold.
fn check(dir: &Path, source: &fs::File, diary: &Diary, flushed: u64, what: &str) {
    let (store, state) = store::open(dir).unwrap_or_else(|e| panic!("{what}: {e}"));
    let data = fs::File::open(dir.join(DATA)).unwrap();
    let mut sector = [0; SECTOR];
    for (range, residence) in state.truth.byte_runs(state.geometry().all_bytes()) {
        let file = if residence == Residence::Local { &data } else { source };
        for number in range.offset() / SECTOR as u64..range.end() / SECTOR as u64 {
            file.read_exact_at(&mut sector, number * SECTOR as u64).unwrap();
            let found = u32::from_le_bytes(sector[..4].try_into().unwrap());
            assert_eq!(sector, stamped(found), "{what}: sector {number} is torn");
            let stamps = diary.stamps.get(&number).map_or(&[][..], Vec::as_slice);
            let is_old = |stamp: &&u32| u64::from(**stamp) <= flushed;
            let must = stamps.iter().take_while(is_old).last();
            let fresh = match must {
                None => found == OF_SOURCE | number as u32 || stamps.contains(&found),
                Some(&must) => found & OF_SOURCE == 0 && found >= must && stamps.contains(&found),
            };
            assert!(fresh, "{what}: sector {number} holds {found:#x}, flushed was {must:?} ({residence:?})");
        }
    }
    assert!(store.noted.is_empty(), "{what}: the notes are of the boot before");
    drop(store);
}

fn every_power_loss_leaves_what_was_flushed(io: IoBackend, direct: bool) {
    let tmp = tempfile::tempdir().unwrap();
    let (dir, image, source) = (tmp.path().join(ID), tmp.path().join("image"), tmp.path().join("source"));
    let sectors = 0..SIZE_BYTES as u32 / SECTOR as u32;
    fs::write(&source, sectors.flat_map(|sector| stamped(OF_SOURCE | sector)).collect::<Vec<u8>>()).unwrap();
    create(&CreateOptions {
        dir: dir.clone(),
        id: ID.to_owned(),
        size_bytes: SIZE_BYTES,
        region_bytes: 64 << 10,
        generation: 1,
        phase: Phase::Open,
        source: Some(SourceUri::File(source.clone())),
        born_from: None,
        base: None,
        device: None,
        direct,
    })
    .unwrap();
    let fresh = |name: &str| {
        let path = dir.join(name);
        (fs::metadata(&path).unwrap().ino(), (File::new(&fs::read(&path).unwrap()), Vec::new()))
    };
    let (data, map) = (fresh(DATA), fresh(MAP));
    let (data_inode, map_inode) = (data.0, map.0);
    let mut replay = Replay { files: BTreeMap::from([data, map]), under_way: BTreeMap::new(), flushed: 0 };
    let recording = Recording::default();
    let diary = recorded(&dir, &source, io, &recording);

    let (recording, source) = (recording.lock().unwrap(), fs::File::open(&source).unwrap());
    fs::create_dir(&image).unwrap();
    fs::copy(dir.join("volume.json"), image.join("volume.json")).unwrap();
    let volume_id = ID.parse::<ulid::Ulid>().unwrap().to_bytes();
    let of = NotesOf { volume_id, generation: 1, boot: crate::sums_file::boot() ^ 1 };
    let (notes_before, _) = notes::compact(of, &[Blocks::between(0, SIZE_BYTES / 4096).unwrap()]);
    let (mut dice, mut images) = (Dice(11), 0);
    for (at, recorded) in recording.iter().enumerate() {
        replay.step(recorded);
        fs::write(image.join(DATA), replay.lose_power(data_inode, &mut dice)).unwrap();
        fs::write(image.join(MAP), replay.lose_power(map_inode, &mut dice)).unwrap();
        // Notes are never synced: any part of them may be there, or nothing.
        let left = &notes_before[..dice.roll(notes_before.len() + 1)];
        fs::write(image.join(UNFLUSHED), left).unwrap();
        check(&image, &source, &diary, replay.flushed, &format!("after event {at} of {}", recording.len()));
        images += 1;
    }
    assert_eq!(replay.flushed, u64::from(WRITES / WRITES_A_FLUSH * WRITES_A_FLUSH));
    assert!(images > 2 * WRITES, "only {images} images were made");
}

#[test]
fn every_power_loss_leaves_what_was_flushed_on_io_uring() {
    every_power_loss_leaves_what_was_flushed(IoBackend::IoUring, false);
}

#[test]
fn every_power_loss_leaves_what_was_flushed_on_poll_and_threads() {
    every_power_loss_leaves_what_was_flushed(IoBackend::Portable, false);
}

#[test]
fn every_power_loss_past_the_page_cache_leaves_what_was_flushed_on_io_uring() {
    every_power_loss_leaves_what_was_flushed(IoBackend::IoUring, true);
}

#[test]
fn every_power_loss_past_the_page_cache_leaves_what_was_flushed_on_poll_and_threads() {
    every_power_loss_leaves_what_was_flushed(IoBackend::Portable, true);
}
