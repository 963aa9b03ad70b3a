//! NBD URIs: what is shown is what was meant, for any name and path, and no text makes the parser panic.

use ferry_nbd::{Address, Uri};
use proptest::prelude::*;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

fn any_address() -> impl Strategy<Value = Address> {
    let host = prop_oneof![
        "[a-z0-9.-]{1,20}",
        "[0-9a-f]{1,4}(:[0-9a-f]{1,4}){1,7}(%[a-z0-9]{1,8})?",
        Just("bücher.example".to_owned()),
        Just("100%".to_owned()),
    ];
    let path = proptest::collection::vec(1..=255u8, 1..107);
    prop_oneof![
        (host, 1..=u16::MAX).prop_map(|(host, port)| Address::Tcp { host, port }),
        path.prop_map(|bytes| Address::Unix { socket: OsString::from_vec(bytes).into() }),
    ]
}

proptest! {
    #[test]
    fn what_is_shown_is_understood_as_it_was_meant(address in any_address(), export in "\\PC{0,60}", tls in any::<bool>()) {
        let uri = Uri { address, export, tls };
        prop_assert_eq!(uri.to_string().parse(), Ok(uri));
    }

    #[test]
    fn no_text_makes_the_parser_panic_and_what_it_accepts_it_shows_again(
        text in prop_oneof!["\\PC{0,60}", "nbds?(\\+unix)?://[\\[\\]:%/?=&a0-9.]{0,40}(socket=[%/a0-9]{0,9})?"],
    ) {
        if let Ok(uri) = text.parse::<Uri>() {
            prop_assert_eq!(uri.to_string().parse(), Ok(uri));
        }
    }
}
