//! Any bytes unpack to what they say or are an error, in bounded memory; what is packed unpacks.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[allow(dead_code)]
#[path = "../../crates/tezkor-py/src/codec/compress.rs"]
mod compress;

use compress::{Method, pack, unpack};

fuzz_target!(|input: &[u8]| {
    let Some((choice, payload)) = input.split_first() else { return };
    let method = if choice & 1 == 0 { Method::Lz4 } else { Method::Zstd };
    let _ = unpack(method, payload);
    if let Some(packed) = pack(method, payload) {
        assert_eq!(unpack(method, &packed).as_deref(), Ok(payload));
    }
});
