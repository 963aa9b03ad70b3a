//! The model's volume grows, as a shell makes it grow: first the file, then the engine.

use ferry_engine::{Command, Geometry};

use crate::world::World;

impl World {
    pub fn grow(&mut self, size_bytes: u64) {
        let len = usize::try_from(size_bytes).unwrap();
        self.store.set_len(len.max(self.store.len()));
        self.command(Command::Grow { size_bytes });
    }

    pub fn grown(&mut self, geometry: Geometry) {
        let len = usize::try_from(geometry.size_bytes()).unwrap();
        assert!(len >= self.source.len(), "a volume never shrinks");
        self.oracle.grown(len);
        self.source.resize(len, 0);
        self.fetches.resize(usize::try_from(geometry.block_count()).unwrap(), 0);
        self.geometry = geometry;
    }
}
