//! The same from the files of workers alone, whether their agents run or not.

use super::disk::{Disk, Lying, Wanted};
use super::unasked;
use crate::config::volume_dir;
use crate::fences::Fences;
use crate::identity;
use crate::records::{RecordsAtRest, RecordsError};
use crate::volumes::files;
use ferry_api::{ApiError, AskTestimony, ErrorCode, Testimony, Truth, TruthRef, VolumeKey, WorkerName};
use ferry_crossing::truth::{resolve, to_ask, truth as judge_all};
use ferry_volume::{LastState, StoreError};
use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

/// The state directory of a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDir {
    /// The worker, if a person says which; else the directory does.
    pub worker: Option<WorkerName>,
    /// Where it is.
    pub dir: PathBuf,
}

/// Which is the real one, by the files of workers alone. Nothing is changed, no lock is taken, and agents may run.
///
/// # Errors
/// A directory is none of a worker, or does not say of which; the reference means nothing or several things.
pub fn truth_at_rest(dirs: &[StateDir], of: &TruthRef) -> Result<Truth, ApiError> {
    let workers = dirs.iter().map(AtRest::open).collect::<Result<Vec<_>, _>>()?;
    let names: BTreeSet<&WorkerName> = workers.iter().map(|worker| &worker.name).collect();
    if names.len() < workers.len() {
        let message = "two of these state directories are of the same worker; give each worker once";
        return Err(ApiError::new(ErrorCode::InvalidRequest, message));
    }
    let by_name = AskTestimony { named: Some(of.clone()), subjects: Vec::new() };
    let told: Vec<Testimony> = workers.iter().map(|worker| worker.tells(by_name.clone())).collect();
    let subjects = resolve(of, &told)?;
    let ask = to_ask(&subjects);
    let told: Vec<Testimony> = workers.iter().map(|worker| worker.tells(ask.clone())).collect();
    let silent = unasked(&subjects, &told, &[], "its state directory was not given");
    Ok(judge_all(&subjects, &told, silent))
}

/// A worker whose files are read.
struct AtRest {
    name: WorkerName,
    dir: PathBuf,
    fences: Fences,
    /// Or why they cannot be read, in one sentence.
    records: Result<RecordsAtRest, String>,
}

impl Disk for AtRest {
    fn fences(&self) -> &Fences {
        &self.fences
    }

    fn copies(&self) -> io::Result<Vec<VolumeKey>> {
        files::copies(&self.dir)
    }

    fn last_state(&self, copy: VolumeKey) -> Result<Option<LastState>, StoreError> {
        ferry_volume::last_state(&volume_dir(&self.dir, copy))
    }
}

impl AtRest {
    fn open(given: &StateDir) -> Result<Self, ApiError> {
        let dir = given.dir.clone();
        let records = RecordsAtRest::open(&dir).map_err(|error| ApiError::from(error).message);
        let is_of_a_worker =
            ["records.db", "handed-over", "volumes"].iter().any(|name| dir.join(name).exists());
        if !is_of_a_worker {
            let message =
                format!("{} is not the state directory of a worker; give its state_dir", dir.display());
            return Err(ApiError::new(ErrorCode::InvalidRequest, message));
        }
        let name = match &given.worker {
            Some(name) => name.clone(),
            None => identity::of(&dir)?,
        };
        let fences = Fences::of_state_dir(&dir);
        Ok(Self { name, dir, fences, records })
    }

    fn tells(&self, ask: AskTestimony) -> Testimony {
        let wanted = Wanted::from(ask);
        let told = match &self.records {
            Ok(records) => self.tells_by(records, &wanted).map_err(|error| ApiError::from(error).message),
            Err(sentence) => Err(sentence.clone()),
        };
        told.unwrap_or_else(|sentence| {
            let mut lying = Lying::about(self, wanted.subjects());
            lying.trouble(sentence);
            lying.told_alone(&self.name)
        })
    }

    fn tells_by(&self, records: &RecordsAtRest, wanted: &Wanted) -> Result<Testimony, RecordsError> {
        let subjects = wanted.found_in(records.connection())?.subjects(wanted);
        let lying = Lying::about(self, &subjects);
        lying.told_with(&self.name, wanted, records.connection())
    }
}
