//! OCI images out of this host's own programs, so that a test of containers needs nothing that is not installed.

use super::peers::path_text;
use super::{find, succeed};
use serde_json::{Value, json};
use std::path::Path;

/// Copies what a shell script needs to `root`.
pub fn copy_tools(root: &Path) {
    let tools = ["sh", "id", "ls", "wc", "stat", "touch", "sleep"].map(|tool| find(tool).unwrap());
    let tools: Vec<_> = tools.iter().map(|tool| (tool.as_path(), Path::new("bin"))).collect();
    copy_programs(root, &tools);
}

/// Makes an image layout of that.
pub fn make_layout(layout: &Path) {
    let root = layout.with_extension("root");
    copy_tools(&root);
    pack(&root, layout, Layer::Gzip);
    std::fs::remove_dir_all(&root).unwrap();
}

/// Copies programs with the libraries that they load to `root`, each to the directory there that is named beside it; and makes
/// the `/tmp` and `/etc` that most want.
pub fn copy_programs(root: &Path, programs: &[(&Path, &Path)]) {
    for made in ["tmp", "etc"] {
        std::fs::create_dir_all(root.join(made)).unwrap();
    }
    for (program, place) in programs {
        let place = root.join(place);
        std::fs::create_dir_all(&place).unwrap();
        std::fs::copy(program, place.join(program.file_name().unwrap())).unwrap();
        copy_libraries(root, program);
    }
}

/// Copies what a program or a library loads to the same places below `root`.
pub fn copy_libraries(root: &Path, of: &Path) {
    let loaded = succeed("ldd", &[path_text(of)]);
    for library in loaded.split_whitespace().filter(|word| word.starts_with('/')).map(Path::new) {
        let place = root.join(library.strip_prefix("/").unwrap());
        if !place.exists() {
            std::fs::create_dir_all(place.parent().unwrap()).unwrap();
            std::fs::copy(library, place).unwrap();
        }
    }
}

/// How the layer of an image is packed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    Plain,
    Gzip,
}

/// Makes an image layout of one layer, which is all that is at `root`, at `layout`.
pub fn pack(root: &Path, layout: &Path, how: Layer) {
    let blobs = layout.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let layer = layout.join("layer");
    let (words, media) = match how {
        Layer::Plain => ("-cf", "application/vnd.oci.image.layer.v1.tar"),
        Layer::Gzip => ("-czf", "application/vnd.oci.image.layer.v1.tar+gzip"),
    };
    succeed("tar", &["-C", path_text(root), words, path_text(&layer), "."]);
    let kept = |media: &str, file: &Path| {
        let digest = succeed("sha256sum", &[path_text(file)]);
        let digest = digest.split(' ').next().unwrap();
        let size = file.metadata().unwrap().len();
        std::fs::rename(file, blobs.join(digest)).unwrap();
        json!({ "mediaType": media, "digest": format!("sha256:{digest}"), "size": size })
    };
    let written = |value: Value| {
        let file = layout.join("document");
        std::fs::write(&file, value.to_string()).unwrap();
        file
    };
    let layer = kept(media, &layer);
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = written(json!({ "architecture": architecture, "os": "linux",
        "config": { "Env": ["PATH=/bin:/usr/bin"] }, "rootfs": { "type": "layers", "diff_ids": [] } }));
    let config = kept("application/vnd.oci.image.config.v1+json", &config);
    let manifest = written(json!({ "schemaVersion": 2, "config": config, "layers": [layer] }));
    let manifest = kept("application/vnd.oci.image.manifest.v1+json", &manifest);
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    std::fs::write(layout.join("index.json"), index.to_string()).unwrap();
}
