//! The directory of unpacked images: what lies there, what of it machines use, and how the rest goes.
//!
//! Invariants: an image is renamed before it is removed, so that nothing half removed is taken for one that is whole; and none is
//! removed while one is unpacked.

use super::image::{self, UNPACKED, UNPACKING};
use super::made::Made;
use crate::drivers::DriverError;
use crate::drivers::init::Inside;
use crate::drivers::isolated::PLAN;
use crate::host::blocking;
use crate::lying::{self, Place};
use ferry_api::{MachineSpec, OciSource, OciSpec};
use ferry_crossing::garbage::{self, Named, Verdict};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use tokio::sync::{Mutex, MutexGuard};

/// How many hexadecimal digits a digest has.
const DIGEST_DIGITS: usize = 64;
/// The unit of `st_blocks`.
const STAT_BLOCK_BYTES: u64 = 512;

/// Where a worker unpacks images.
#[derive(Debug)]
pub struct Images {
    dir: PathBuf,
    /// One is unpacked, or removed, at a time.
    changing: Mutex<()>,
}

/// While this is there no image is unpacked.
pub(crate) struct Held<'a>(#[expect(dead_code, reason = "it is held")] MutexGuard<'a, ()>);

impl Images {
    pub(super) fn at(dir: PathBuf) -> Self {
        Self { dir, changing: Mutex::default() }
    }

    /// What the container of a machine is made of, without its volumes; unpacks its image if that is not done.
    pub(super) async fn made(&self, oci: OciSpec, user: Option<String>) -> Result<Made, DriverError> {
        let dir = self.dir.clone();
        let _one_at_a_time = self.changing.lock().await;
        blocking(move || Made::of(&dir, &oci, user.as_deref())).await
    }

    /// Waits until no image is unpacked, and lets none be.
    pub(crate) async fn hold(&self) -> Held<'_> {
        Held(self.changing.lock().await)
    }

    /// Whether one may be unpacked at this moment.
    pub(crate) fn is_changing(&self) -> bool {
        self.changing.try_lock().is_err()
    }

    /// All that lies there.
    ///
    /// # Errors
    /// The system refuses.
    pub(crate) async fn lying(&self) -> io::Result<Vec<Place>> {
        let dir = self.dir.clone();
        blocking(move || {
            let mut places = Vec::new();
            for path in lying::entries(&dir)? {
                let Some(found) = lying::place(path, None)? else { continue };
                let bytes = if found.is_elsewhere { 0 } else { tree_bytes(&found.path)? };
                places.push(Place { bytes, ..found });
            }
            Ok(places)
        })
        .await
    }

    /// The unpacked images that a machine is made of, or would be if it started now; `dir` is its directory, if it has one.
    pub(crate) async fn used_by(&self, spec: &MachineSpec, dir: Option<PathBuf>) -> BTreeSet<PathBuf> {
        let images = self.dir.clone();
        let from = spec.driver.as_oci().map(|oci| oci.from.clone());
        let Some(OciSource::Image { path, tag }) = from else { return BTreeSet::new() };
        blocking(move || {
            // A layout that is not there says nothing; what was unpacked of it before, the machine's plan says.
            let by_layout = image::place_of_image(&images, &path, tag.as_deref()).ok();
            let by_plan = dir.and_then(|dir| unpacked_by_plan(&dir));
            by_layout.into_iter().chain(by_plan).collect()
        })
        .await
    }

    /// Removes something that lies there.
    ///
    /// # Errors
    /// The system refuses.
    pub(crate) async fn remove(&self, _held: &Held<'_>, path: PathBuf) -> io::Result<()> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let aside = self.dir.join(format!("{UNPACKING}{name}"));
        blocking(move || match named(&path) {
            Named::Unpacked => {
                image::remove(&aside)?;
                fs::rename(&path, &aside)?;
                image::remove(&aside)
            }
            Named::HalfUnpacked | Named::Otherwise => image::remove(&path),
        })
        .await
    }
}

/// What becomes of something that lies there.
pub(crate) fn judge(place: &Place, used: &BTreeSet<PathBuf>, is_changing: bool) -> Verdict {
    garbage::image(named(&place.path), place.is_elsewhere, used.contains(&place.path), is_changing)
}

pub(crate) fn named(path: &Path) -> Named {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let digest = name.strip_prefix(UNPACKED).unwrap_or_default();
    if digest.len() == DIGEST_DIGITS && digest.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        Named::Unpacked
    } else if name.starts_with(UNPACKING) {
        Named::HalfUnpacked
    } else {
        Named::Otherwise
    }
}

/// The unpacked image that the keeper of a machine was told of when it was last started.
fn unpacked_by_plan(dir: &Path) -> Option<PathBuf> {
    let inside: Inside = serde_json::from_slice(&fs::read(dir.join(PLAN)).ok()?).ok()?;
    Some(inside.overlay?.lower.parent()?.to_owned())
}

/// Bytes of the filesystem that a directory and all below it occupy.
fn tree_bytes(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for path in lying::entries(dir)? {
        let found = match path.symlink_metadata() {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => continue,
            found => found?,
        };
        bytes += found.blocks() * STAT_BLOCK_BYTES;
        if found.is_dir() {
            bytes += tree_bytes(&path)?;
        }
    }
    Ok(bytes)
}
