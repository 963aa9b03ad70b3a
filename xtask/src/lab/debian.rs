//! Debian's packages, fetched by an apt with files of its own, so that the host's stays as it is, and unpacked without
//! being installed. What was unpacked stays for the next time.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::bench::processes;

/// The kernel for virtual machines: small, and everything a guest needs is a module of it.
const KERNEL: &str = "linux-image-cloud-amd64";
/// What one kernel is split into, in newer packages.
const KERNEL_PARTS: &[&str] = &["image", "binary", "modules"];

/// One suite of Debian, such as `trixie`.
pub struct Suite {
    name: &'static str,
    /// Where everything is kept.
    kept: PathBuf,
}

/// A kernel and its modules.
pub struct Kernel {
    pub version: String,
    files: PathBuf,
}

impl Suite {
    /// A suite whose packages are kept in `kept`.
    pub fn new(name: &'static str, kept: &Path) -> Self {
        Self { name, kept: kept.to_path_buf() }
    }

    fn apt_dir(&self) -> PathBuf {
        self.kept.join(format!("apt-{}", self.name))
    }

    /// The kernel that the suite asks for today, or did when it was fetched first.
    pub fn kernel(&self) -> anyhow::Result<Kernel> {
        let files = self.kept.join(format!("kernel-{}", self.name));
        if !files.exists() {
            self.update()?;
            let wanted = self.apt("depends", &[KERNEL])?;
            let named = wanted.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
            let version = named.with_context(|| format!("{KERNEL} of {} depends on no kernel", self.name))?;
            let parts = KERNEL_PARTS.iter().map(|part| format!("linux-{part}-{version}"));
            let there = self.apt("pkgnames", &["linux-"])?;
            let parts: Vec<String> = parts.filter(|part| there.lines().any(|name| name == part)).collect();
            self.unpack(&parts, &files)?;
        }
        let image = find(&files, &|name| name.starts_with("vmlinuz"))?;
        let version = match image.file_name().and_then(|name| name.to_str()) {
            Some("vmlinuz") => image.parent().and_then(Path::file_name).and_then(|name| name.to_str()),
            other => other.and_then(|name| name.strip_prefix("vmlinuz-")),
        };
        let version = version.context("a kernel's file has no version in its name")?.to_owned();
        Ok(Kernel { version, files })
    }

    /// The file `name` of a package.
    pub fn file(&self, package: &str, name: &str) -> anyhow::Result<PathBuf> {
        let files = self.kept.join(format!("{package}-{}", self.name));
        if !files.exists() {
            self.update()?;
            self.unpack(&[package.to_owned()], &files)?;
        }
        find(&files, &|found| found == name)
    }

    /// Reads what the suite has, from where the host has its Debian from.
    fn update(&self) -> anyhow::Result<()> {
        let format = "--format=$(LABEL) $(REPO_URI)";
        let said =
            processes::run("apt-get", &["indextargets", format]).context("the lab needs Debian's apt")?;
        let mirror = said.stdout.lines().find_map(|line| line.strip_prefix("Debian "));
        let mirror = mirror.context("this host's apt knows no mirror of Debian")?;
        let dir = self.apt_dir();
        for below in ["lists/partial", "cache/archives/partial", "none"] {
            std::fs::create_dir_all(dir.join(below)).context("cannot make a directory")?;
        }
        let keys = "/usr/share/keyrings/debian-archive-keyring.gpg";
        let (sources, suite) = (dir.join("sources.list"), self.name);
        std::fs::write(sources, format!("deb [signed-by={keys}] {mirror} {suite} main\n"))?;
        std::fs::write(dir.join("status"), "")?;
        let options = [
            ("Dir::Etc::SourceList", "sources.list"),
            ("Dir::Etc::SourceParts", "none"),
            ("Dir::Etc::PreferencesParts", "none"),
            ("Dir::State::Lists", "lists"),
            ("Dir::State::Status", "status"),
            ("Dir::Cache", "cache"),
        ];
        let line = |(option, file): (&str, &str)| format!("{option} \"{}\";\n", dir.join(file).display());
        let root = "APT::Sandbox::User \"root\";\n";
        std::fs::write(dir.join("apt.conf"), options.map(line).concat() + root)?;
        let script = format!("{} apt-get update -qq", self.with_config());
        processes::run("sh", &["-c", &script]).map(|_| ())
    }

    fn with_config(&self) -> String {
        format!("APT_CONFIG='{}'", self.apt_dir().join("apt.conf").display())
    }

    fn apt(&self, question: &str, about: &[&str]) -> anyhow::Result<String> {
        let script = format!("{} apt-cache {question} {}", self.with_config(), about.join(" "));
        Ok(processes::run("sh", &["-c", &script])?.stdout)
    }

    /// Puts the files of packages in `files`, all or none.
    fn unpack(&self, packages: &[String], files: &Path) -> anyhow::Result<()> {
        if packages.is_empty() {
            bail!("the suite {} has none of the packages that are needed", self.name);
        }
        let fresh = tempfile::tempdir_in(&self.kept).context("cannot make a temporary directory")?;
        let script = format!(
            "cd '{}' && {} apt-get download -qq {} && for deb in *.deb; do dpkg-deb -x $deb files; done",
            fresh.path().display(),
            self.with_config(),
            packages.join(" ")
        );
        processes::run("sh", &["-c", &script])?;
        std::fs::rename(fresh.path().join("files"), files).context("cannot keep a package's files")
    }
}

impl Kernel {
    /// The image that boots.
    pub fn image(&self) -> anyhow::Result<PathBuf> {
        find(&self.files, &|name| name.starts_with("vmlinuz"))
    }

    /// The bytes of a module; none if the kernel has it built in, or not at all.
    pub fn module(&self, name: &str) -> anyhow::Result<Option<Vec<u8>>> {
        let (plain, packed) = (format!("{name}.ko"), format!("{name}.ko.xz"));
        let Ok(path) = find(&self.files, &|found| found == plain || found == packed) else { return Ok(None) };
        if path.extension().is_some_and(|ending| ending == "ko") {
            return Ok(Some(std::fs::read(path)?));
        }
        let fresh = tempfile::NamedTempFile::new().context("cannot make a temporary file")?;
        let script = format!("xz -dc '{}' > '{}'", path.display(), fresh.path().display());
        processes::run("sh", &["-c", &script])?;
        Ok(Some(std::fs::read(fresh.path())?))
    }
}

/// The first file below `dir` whose name is `wanted`.
fn find(dir: &Path, wanted: &dyn Fn(&str) -> bool) -> anyhow::Result<PathBuf> {
    let mut dirs = vec![dir.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).with_context(|| format!("cannot look at {}", dir.display()))? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                dirs.push(entry.path());
            } else if entry.file_name().to_str().is_some_and(wanted) {
                return Ok(entry.path());
            }
        }
    }
    bail!("a file is missing below {}; remove that directory and try again", dir.display())
}
