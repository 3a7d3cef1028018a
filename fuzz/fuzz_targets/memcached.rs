//! Any bytes from a memcached: they are a reply, the beginning of one, or foreign. What is read does not depend on how the bytes were
//! cut, no size that is only promised is believed, and what follows a reply does not change it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tezkor::store::memcached::wire::{Code, Decoded, decode};

/// More than the largest value and its line.
const MOST: usize = (1 << 30) + 4096;

fuzz_target!(|input: &[u8]| {
    let mut rest = input;
    loop {
        match decode(rest) {
            Decoded::More(needed) => {
                assert!(needed > rest.len() && needed <= MOST);
                return;
            }
            Decoded::Foreign => return,
            Decoded::Reply(reply, whole) => {
                assert!(whole <= rest.len() && reply.value.len() <= whole);
                assert!(reply.value.is_empty() || matches!(reply.code, Code::Value | Code::Error));
                assert_eq!(decode(&rest[..whole]), Decoded::Reply(reply, whole));
                for cut in (0..whole).rev().take(64) {
                    let Decoded::More(needed) = decode(&rest[..cut]) else { panic!("cut at {cut} of {whole}") };
                    assert!(needed > cut && needed <= whole);
                }
                rest = &rest[whole..];
            }
        }
    }
});
