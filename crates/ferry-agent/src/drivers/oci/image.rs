//! OCI images: a layout directory, and the root file systems that are unpacked from such, once a worker.
//!
//! ```text
//!  layout/index.json ─▶ manifest ─▶ config, layers        images/sha256-MANIFEST/  rootfs/      unpacked
//!  layout/blobs/sha256/…                                                           image.json   the image's config
//! ```
//!
//! Invariants: what lies under a digest was read from bytes with that digest, and is whole: it is made beside, and renamed.
//! Nothing is written outside of the root that is unpacked, whatever a layer says.

use flate2::read::GzDecoder;
use oci_spec::image::{
    Arch, Descriptor, DigestAlgorithm, ImageConfiguration, ImageIndex, ImageManifest, MediaType, Os,
};
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Component, Path, PathBuf};
use tar::{Archive, Entry, EntryType};

/// The annotation by which a manifest in an index is named.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// A file of this name in a layer takes away all that earlier layers have in its directory; one that begins so, what follows.
const OPAQUE: &str = ".wh..wh..opq";
const WHITEOUT: &str = ".wh.";
/// The most that a manifest, an index or a configuration may have, in bytes.
const DOCUMENT_BYTES_MAX: u64 = 4 << 20;
/// How the directories of unpacked images begin, before the digest; and of those that are being unpacked.
pub(super) const UNPACKED: &str = "sha256-";
pub(super) const UNPACKING: &str = "unpacking-";
/// What is read at a time to check a layer, in bytes.
const PIECE_BYTES: usize = 64 << 10;
/// How deep indexes may lie in each other.
const INDEXES_MAX: u32 = 4;
/// Names in the directory of an unpacked image.
const ROOTFS: &str = "rootfs";
const CONFIG: &str = "image.json";

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A file is not there or cannot be read.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// It is no image layout.
    #[error("{} is no OCI image layout (it has no index.json); copy the image there, as with `skopeo copy … oci:DIR`", path.display())]
    NoLayout {
        /// The directory.
        path: PathBuf,
    },
    /// A document in it is not understood.
    #[error("{} is not understood; copy the image there again", path.display())]
    Document {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        cause: serde_json::Error,
    },
    /// There is no image in it for this worker, or of this tag.
    #[error("the image in {} has none for {wanted}; it has {has}", path.display())]
    NotInIt {
        /// The layout.
        path: PathBuf,
        /// What was looked for.
        wanted: String,
        /// What there is.
        has: String,
    },
    /// It has several, and none is asked for.
    #[error("{} holds several images ({has}); say which one with `tag`", path.display())]
    Several {
        /// The layout.
        path: PathBuf,
        /// What there is.
        has: String,
    },
    /// A blob is not what its digest says.
    #[error("{} is damaged: it does not have the digest that it is named after; copy the image there again", path.display())]
    Damaged {
        /// The blob.
        path: PathBuf,
    },
    /// Something that this program does not know.
    #[error("the image in {} has {what}, which is not known here; convert it with `skopeo copy --format oci`", path.display())]
    Unknown {
        /// The layout.
        path: PathBuf,
        /// What.
        what: String,
    },
    /// A layer reaches outside.
    #[error("a layer of the image in {} writes to {}, through a link; such an image is not used", path.display(), place.display())]
    Escapes {
        /// The layout.
        path: PathBuf,
        /// Where to.
        place: PathBuf,
    },
}

/// An image that is unpacked.
#[derive(Clone, Debug)]
pub(super) struct Unpacked {
    /// Its root file system.
    pub rootfs: PathBuf,
    /// What it says of itself.
    pub config: ImageConfiguration,
}

/// An image layout.
struct Layout<'a> {
    dir: &'a Path,
}

/// Unpacks an image below `images`, unless it is there already.
///
/// # Errors
/// It is not there, is damaged, or has something that is not known.
pub(super) fn unpacked(images: &Path, dir: &Path, tag: Option<&str>) -> Result<Unpacked, ImageError> {
    let layout = Layout { dir };
    let chosen = layout.choose(tag)?;
    let manifest: ImageManifest = layout.document(&chosen)?;
    let place = layout.place(images, &chosen)?;
    if !place.is_dir() {
        layout.unpack(images, &place, &manifest)?;
    }
    let config = parse(&place.join(CONFIG), &read(&place.join(CONFIG))?)?;
    Ok(Unpacked { rootfs: place.join(ROOTFS), config })
}

/// Where the image that is meant is, or would be, unpacked below `images`.
///
/// # Errors
/// The layout does not tell which that is.
pub(super) fn place_of_image(images: &Path, dir: &Path, tag: Option<&str>) -> Result<PathBuf, ImageError> {
    let layout = Layout { dir };
    layout.place(images, &layout.choose(tag)?)
}

impl Layout<'_> {
    fn place(&self, images: &Path, chosen: &Descriptor) -> Result<PathBuf, ImageError> {
        Ok(images.join(format!("{UNPACKED}{}", hex_of(self.dir, chosen)?)))
    }

    /// The manifest that is meant.
    fn choose(&self, tag: Option<&str>) -> Result<Descriptor, ImageError> {
        let path = self.dir.join("index.json");
        if !path.is_file() {
            return Err(ImageError::NoLayout { path: self.dir.to_owned() });
        }
        let mut index: ImageIndex = parse(&path, &read(&path)?)?;
        for depth in 0..INDEXES_MAX {
            // A tag names an image in the outermost index; those within differ by what they run on.
            let tag = tag.filter(|_| depth == 0);
            let found = self.one_of(index.manifests(), tag)?;
            if *found.media_type() != MediaType::ImageIndex {
                return Ok(found);
            }
            index = self.document(&found)?;
        }
        Err(self.unknown("indexes within indexes within indexes"))
    }

    fn one_of(&self, manifests: &[Descriptor], tag: Option<&str>) -> Result<Descriptor, ImageError> {
        let name = |one: &Descriptor| one.annotations().as_ref().and_then(|all| all.get(REF_NAME).cloned());
        let fits = |one: &&Descriptor| {
            one.platform()
                .as_ref()
                .is_none_or(|at| *at.os() == Os::Linux && *at.architecture() == Arch::default())
        };
        let named = |one: &&Descriptor| tag.is_none_or(|tag| name(one).as_deref() == Some(tag));
        let found: Vec<&Descriptor> = manifests.iter().filter(fits).filter(named).collect();
        let path = self.dir.to_owned();
        let has = || {
            let told = |one: &Descriptor| {
                let runs_on = one.platform().as_ref().map(|at| format!("{}/{}", at.os(), at.architecture()));
                name(one).or(runs_on).unwrap_or_else(|| "one without a name".to_owned())
            };
            manifests.iter().map(told).collect::<Vec<_>>().join(", ")
        };
        match found[..] {
            [one] => Ok(one.clone()),
            [] => {
                let tag = tag.map(|tag| format!("tag {tag} on ")).unwrap_or_default();
                Err(ImageError::NotInIt {
                    path,
                    wanted: format!("{tag}linux/{}", Arch::default()),
                    has: has(),
                })
            }
            [_, _, ..] => Err(ImageError::Several { path, has: has() }),
        }
    }

    fn document<T: DeserializeOwned>(&self, of: &Descriptor) -> Result<T, ImageError> {
        let path = self.blob(of)?;
        let bytes = read(&path)?;
        match hex(&Sha256::digest(&bytes)) == hex_of(self.dir, of)? {
            true => parse(&path, &bytes),
            false => Err(ImageError::Damaged { path }),
        }
    }

    fn blob(&self, of: &Descriptor) -> Result<PathBuf, ImageError> {
        Ok(self.dir.join("blobs/sha256").join(hex_of(self.dir, of)?))
    }

    fn unknown(&self, what: impl Into<String>) -> ImageError {
        ImageError::Unknown { path: self.dir.to_owned(), what: what.into() }
    }

    /// Makes the root file system of an image at `place`.
    fn unpack(&self, images: &Path, place: &Path, manifest: &ImageManifest) -> Result<(), ImageError> {
        let failed = |doing| move |cause| ImageError::Io { doing, path: place.to_owned(), cause };
        fs::create_dir_all(images).map_err(failed("make"))?;
        let config: ImageConfiguration = self.document(manifest.config())?;
        // Removed when anything fails; what a crash leaves is beside the finished ones, and told by its name.
        let made = tempfile::Builder::new().prefix(UNPACKING).tempdir_in(images).map_err(failed("make"))?;
        let rootfs = made.path().join(ROOTFS);
        fs::create_dir(&rootfs).map_err(failed("make"))?;
        for layer in manifest.layers() {
            self.verify(layer)?;
            // Twice: what a layer takes away is of earlier ones, wherever in the layer it says so.
            self.each_entry(layer, |entry| take_away(self.dir, &rootfs, entry))?;
            self.each_entry(layer, |entry| put(self.dir, &rootfs, entry))?;
        }
        let text = serde_json::to_vec(&config).expect("a configuration is plain data and always encodes");
        fs::write(made.path().join(CONFIG), text).map_err(failed("write"))?;
        let whole = File::open(made.path()).map_err(failed("open"))?;
        rustix::fs::syncfs(&whole).map_err(|cause| failed("flush")(cause.into()))?;
        fs::rename(made.keep(), place).map_err(failed("rename to"))
    }

    fn verify(&self, layer: &Descriptor) -> Result<(), ImageError> {
        let path = self.blob(layer)?;
        let failed = |cause| ImageError::Io { doing: "read", path: path.clone(), cause };
        let mut file = File::open(&path).map_err(failed)?;
        let (mut hasher, mut piece) = (Sha256::new(), vec![0; PIECE_BYTES]);
        loop {
            match file.read(&mut piece).map_err(failed)? {
                0 => break,
                count => hasher.update(&piece[..count]),
            }
        }
        match hex(&hasher.finalize()) == hex_of(self.dir, layer)? {
            true => Ok(()),
            false => Err(ImageError::Damaged { path }),
        }
    }

    fn each_entry(
        &self,
        layer: &Descriptor,
        mut act: impl FnMut(&mut Entry<'_, Box<dyn Read>>) -> Result<(), ImageError>,
    ) -> Result<(), ImageError> {
        let path = self.blob(layer)?;
        let failed = |cause| ImageError::Io { doing: "unpack", path: path.clone(), cause };
        let file = BufReader::new(File::open(&path).map_err(failed)?);
        let media = layer.media_type();
        let bytes: Box<dyn Read> = if *media == MediaType::ImageLayer {
            Box::new(file)
        } else if *media == MediaType::ImageLayerGzip {
            Box::new(GzDecoder::new(file))
        } else {
            return Err(self.unknown(format!("a layer of type {media}")));
        };
        let mut archive = Archive::new(bytes);
        archive.set_preserve_permissions(true);
        archive.set_preserve_ownerships(rustix::process::geteuid().is_root());
        for entry in archive.entries().map_err(failed)? {
            act(&mut entry.map_err(failed)?)?;
        }
        Ok(())
    }
}

/// Where an entry of a layer lies below `rootfs`, if it is no link that leads there.
fn place_of(layout: &Path, rootfs: &Path, entry: &Entry<'_, Box<dyn Read>>) -> Result<PathBuf, ImageError> {
    let failed = |cause| ImageError::Io { doing: "unpack", path: layout.to_owned(), cause };
    let said = entry.path().map_err(failed)?.into_owned();
    let mut place = rootfs.to_owned();
    for part in said.components() {
        match part {
            Component::Normal(name) => {
                if place.symlink_metadata().is_ok_and(|found| found.is_symlink()) {
                    return Err(ImageError::Escapes { path: layout.to_owned(), place: said });
                }
                place.push(name);
            }
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(ImageError::Escapes { path: layout.to_owned(), place: said });
            }
        }
    }
    Ok(place)
}

/// Takes away what an entry says earlier layers have.
fn take_away(layout: &Path, rootfs: &Path, entry: &mut Entry<'_, Box<dyn Read>>) -> Result<(), ImageError> {
    let place = place_of(layout, rootfs, entry)?;
    let name = place.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let Some(taken) = name.strip_prefix(WHITEOUT) else { return Ok(()) };
    let dir = place.parent().unwrap_or(rootfs).to_owned();
    let failed =
        |cause| ImageError::Io { doing: "take away what a layer does not want in", path: dir.clone(), cause };
    if name != OPAQUE {
        return remove(&dir.join(taken)).map_err(failed);
    }
    match fs::read_dir(&dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        entries => {
            for entry in entries.map_err(failed)? {
                remove(&entry.map_err(failed)?.path()).map_err(failed)?;
            }
            Ok(())
        }
    }
}

/// Puts what an entry holds where it belongs.
fn put(layout: &Path, rootfs: &Path, entry: &mut Entry<'_, Box<dyn Read>>) -> Result<(), ImageError> {
    let place = place_of(layout, rootfs, entry)?;
    let is_whiteout = place.file_name().is_some_and(|name| name.to_string_lossy().starts_with(WHITEOUT));
    let kind = entry.header().entry_type();
    // Devices are the runtime's business.
    if is_whiteout || matches!(kind, EntryType::Block | EntryType::Char | EntryType::Fifo) {
        return Ok(());
    }
    let failed = |cause| ImageError::Io { doing: "unpack", path: place.clone(), cause };
    let is_dir = place.symlink_metadata().is_ok_and(|found| found.is_dir());
    if place != rootfs && !(is_dir && kind == EntryType::Directory) {
        remove(&place).map_err(failed)?;
    }
    match entry.unpack_in(rootfs).map_err(failed)? {
        true => Ok(()),
        false => Err(ImageError::Escapes { path: layout.to_owned(), place }),
    }
}

/// Removes whatever is at `path`, if anything is.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    let removed = match path.symlink_metadata() {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match removed {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ImageError> {
    let failed = |cause| ImageError::Io { doing: "read", path: path.to_owned(), cause };
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(DOCUMENT_BYTES_MAX).read_to_end(&mut bytes))
        .map_err(failed)?;
    Ok(bytes)
}

fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T, ImageError> {
    serde_json::from_slice(bytes).map_err(|cause| ImageError::Document { path: path.to_owned(), cause })
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The digest of a blob in hexadecimal; SHA-256 is the one that is known.
fn hex_of(layout: &Path, of: &Descriptor) -> Result<String, ImageError> {
    let algorithm = of.digest().algorithm();
    match matches!(algorithm, DigestAlgorithm::Sha256) {
        true => Ok(of.digest().digest().to_owned()),
        false => {
            Err(ImageError::Unknown { path: layout.to_owned(), what: format!("a digest of {algorithm}") })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    /// A file of a layer: its name, and what is in it; a name that ends in `/` is a directory, contents `-> x` a link to x.
    type Item<'a> = (&'a str, &'a str);

    fn layer_of(items: &[Item<'_>]) -> Vec<u8> {
        let mut layer = tar::Builder::new(Vec::new());
        for (name, holds) in items {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o755);
            header.set_mtime(1);
            header.set_uid(u64::from(rustix::process::geteuid().as_raw()));
            header.set_gid(u64::from(rustix::process::getegid().as_raw()));
            header.set_size(0);
            // As a hostile layer is written: names are not looked at.
            let bytes = name.trim_end_matches('/').as_bytes();
            header.as_old_mut().name[..bytes.len()].copy_from_slice(bytes);
            if name.ends_with('/') {
                header.set_entry_type(EntryType::Directory);
            } else if let Some(target) = holds.strip_prefix("-> ") {
                header.set_entry_type(EntryType::Symlink);
                header.set_link_name(target).unwrap();
            } else {
                header.set_size(holds.len() as u64);
            }
            header.set_cksum();
            let holds = if holds.starts_with("-> ") { "" } else { holds };
            layer.append(&header, holds.as_bytes()).unwrap();
        }
        layer.into_inner().unwrap()
    }

    /// Writes a layout whose image has these layers; the last one is compressed.
    fn layout_of(dir: &Path, layers: &[&[Item<'_>]]) {
        let blobs = dir.join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        let blob = |media: &str, bytes: &[u8]| {
            let digest = hex(&Sha256::digest(bytes));
            fs::write(blobs.join(&digest), bytes).unwrap();
            serde_json::json!({ "mediaType": media, "digest": format!("sha256:{digest}"), "size": bytes.len() })
        };
        let mut written = Vec::new();
        for (at, items) in layers.iter().enumerate() {
            let plain = layer_of(items);
            if at + 1 < layers.len() {
                written.push(blob("application/vnd.oci.image.layer.v1.tar", &plain));
                continue;
            }
            let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            packed.write_all(&plain).unwrap();
            written.push(blob("application/vnd.oci.image.layer.v1.tar+gzip", &packed.finish().unwrap()));
        }
        let config = serde_json::json!({ "architecture": Arch::default().to_string(), "os": "linux",
            "config": { "Cmd": ["serve"] }, "rootfs": { "type": "layers", "diff_ids": [] } });
        let config = blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
        let manifest = serde_json::json!({ "schemaVersion": 2, "config": config, "layers": written });
        let mut manifest =
            blob("application/vnd.oci.image.manifest.v1+json", manifest.to_string().as_bytes());
        manifest["annotations"] = serde_json::json!({ REF_NAME: "latest" });
        let index = serde_json::json!({ "schemaVersion": 2, "manifests": [manifest] });
        fs::write(dir.join("index.json"), index.to_string()).unwrap();
    }

    fn unpack(layers: &[&[Item<'_>]]) -> Result<(tempfile::TempDir, Unpacked), ImageError> {
        let dir = tempfile::tempdir().unwrap();
        layout_of(dir.path(), layers);
        let images = dir.path().join("images");
        let unpacked = unpacked(&images, dir.path(), None)?;
        Ok((dir, unpacked))
    }

    #[test]
    fn later_layers_change_and_take_away_what_earlier_ones_have() {
        let first: &[Item<'_>] = &[
            ("etc/", ""),
            ("etc/a", "1"),
            ("etc/b", "1"),
            ("var/", ""),
            ("var/old", "1"),
            ("turned/", ""),
            ("turned/x", "1"),
        ];
        // The opaque mark comes after what the same layer has there.
        let second: &[Item<'_>] = &[
            ("etc/a", "2"),
            ("etc/.wh.b", ""),
            ("var/", ""),
            ("var/new", "2"),
            ("var/.wh..wh..opq", ""),
            ("turned", "-> etc"),
        ];
        let (_dir, Unpacked { rootfs, config }) = unpack(&[first, second]).unwrap();
        let read = |name: &str| fs::read_to_string(rootfs.join(name)).ok();
        assert_eq!((read("etc/a"), read("etc/b")), (Some("2".to_owned()), None));
        assert_eq!((read("var/old"), read("var/new")), (None, Some("2".to_owned())));
        assert_eq!(fs::read_link(rootfs.join("turned")).unwrap(), Path::new("etc"));
        assert!(!rootfs.join("var/.wh..wh..opq").exists());
        assert_eq!(rootfs.join("etc/a").metadata().unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(config.config().as_ref().unwrap().cmd(), &Some(vec!["serve".to_owned()]));
    }

    #[test]
    fn an_image_is_unpacked_once_and_nothing_half_done_stays() {
        let (dir, first) = unpack(&[&[("a", "1")]]).unwrap();
        fs::write(first.rootfs.join("a"), "kept").unwrap();
        let images = dir.path().join("images");
        let again = unpacked(&images, dir.path(), Some("latest")).unwrap();
        assert_eq!(fs::read_to_string(again.rootfs.join("a")).unwrap(), "kept");
        assert!(
            matches!(unpacked(&images, dir.path(), Some("other")), Err(ImageError::NotInIt { has, .. }) if has == "latest")
        );
        assert!(matches!(unpacked(&images, &images, None), Err(ImageError::NoLayout { .. })));
    }

    #[test]
    fn a_blob_that_is_not_what_its_digest_says_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        layout_of(dir.path(), &[&[("a", "1")]]);
        let images = dir.path().join("images");
        for blob in fs::read_dir(dir.path().join("blobs/sha256")).unwrap() {
            let blob = blob.unwrap().path();
            let before = fs::read(&blob).unwrap();
            let mut damaged = before.clone();
            // Still JSON, where it is.
            damaged.push(b' ');
            fs::write(&blob, &damaged).unwrap();
            let refused = unpacked(&images, dir.path(), None);
            assert!(matches!(refused, Err(ImageError::Damaged { path }) if path == blob));
            fs::write(&blob, &before).unwrap();
            let left = fs::read_dir(&images).into_iter().flatten().count();
            assert_eq!(left, 0, "something half unpacked is left");
        }
        assert!(unpacked(&images, dir.path(), None).is_ok());
    }

    #[test]
    fn a_layer_that_reaches_outside_is_refused_and_changes_nothing_there() {
        let outside = tempfile::tempdir().unwrap();
        let kept = outside.path().join("kept");
        fs::write(&kept, "1").unwrap();
        let link = format!("-> {}", outside.path().display());
        for item in [("way/new", "2"), ("way/.wh.kept", ""), ("way/.wh..wh..opq", ""), ("../new", "2")] {
            let refused = unpack(&[&[("way", &link)], &[item]]).map(drop);
            assert!(matches!(refused, Err(ImageError::Escapes { .. })), "{item:?} {refused:?}");
        }
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
        assert_eq!(fs::read_to_string(&kept).unwrap(), "1");
    }
}
