//! Certificates for the cells with TLS, signed by an authority of the bench's own, named as all contenders name them.

use std::path::{Path, PathBuf};

use anyhow::Context;

use super::processes;

const SUBJECT_NAMES: &str = "subjectAltName=DNS:localhost,IP:127.0.0.1";

/// Makes a directory of them; gives it back.
pub fn make(dir: &Path) -> anyhow::Result<PathBuf> {
    std::fs::create_dir(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let path = |name: String| dir.join(name).display().to_string();
    let authority = (path("ca-cert.pem".to_owned()), path("ca-key.pem".to_owned()));
    let key =
        ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
    let own = ["-subj", "/CN=bench", "-keyout", &authority.1, "-out", &authority.0];
    processes::run("openssl", &[&key[..], &own[..]].concat())?;
    for side in ["server", "client"] {
        let (certificate, own_key) = (path(format!("{side}-cert.pem")), path(format!("{side}-key.pem")));
        let subject = format!("/CN={side}");
        let signed = [
            "-subj",
            &subject,
            "-addext",
            SUBJECT_NAMES,
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-CA",
            &authority.0,
            "-CAkey",
            &authority.1,
            "-keyout",
            &own_key,
            "-out",
            &certificate,
        ];
        processes::run("openssl", &[&key[..], &signed[..]].concat())?;
    }
    Ok(dir.to_owned())
}
