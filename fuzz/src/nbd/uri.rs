//! NBD URIs.

use ferry_nbd::Uri;

/// What is understood reads back as it is shown.
pub fn run(bytes: &[u8]) {
    let Some(uri) = std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<Uri>().ok()) else { return };
    let shown = uri.to_string();
    let again: Uri = shown.parse().unwrap_or_else(|error| panic!("{uri:?} is shown as {shown}: {error}"));
    assert_eq!(again, uri, "shown as {shown}");
    assert_eq!(again.to_string(), shown);
}
