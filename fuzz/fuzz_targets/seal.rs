//! Any bytes are refused or were sealed by us for this very binding; what is sealed opens, and no longer once a bit of it differs.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

#[allow(dead_code)]
#[path = "../../crates/tezkor-py/src/seal.rs"]
mod seal;

use seal::{Binding, Seal};

static SEAL: LazyLock<Seal> = LazyLock::new(|| Seal::new(&["new", "old"]).expect("two texts"));
static OLD: LazyLock<Seal> = LazyLock::new(|| Seal::new(&["old"]).expect("a text"));

fuzz_target!(|input: &[u8]| {
    let [codec, key, header, flip, rest @ ..] = input else { return };
    let (full_key, rest) = rest.split_at(rest.len().min(usize::from(*key % 16)));
    let (header, payload) = rest.split_at(rest.len().min(usize::from(*header % 16)));
    let binding = Binding { full_key, codec: *codec, header };

    // Nobody guesses a tag of 16 bytes.
    assert!(SEAL.verify(&binding, payload).is_err());
    assert!(SEAL.decrypt(&binding, payload).is_err());

    for writer in [&*SEAL, &*OLD] {
        let mut signed = payload.to_vec();
        writer.sign(&binding, &mut signed);
        assert_eq!(SEAL.verify(&binding, &signed), Ok(payload));
        let mut encrypted = payload.to_vec();
        writer.encrypt(&binding, &mut encrypted).expect("random bytes");
        assert_eq!(SEAL.decrypt(&binding, &encrypted).as_deref(), Ok(payload));

        assert!(SEAL.decrypt(&binding, &signed).is_err());
        assert!(SEAL.verify(&binding, &encrypted).is_err());
        let moved = Binding { codec: codec ^ 1, ..binding };
        assert!(SEAL.verify(&moved, &signed).is_err());
        assert!(SEAL.decrypt(&moved, &encrypted).is_err());
        for sealed in [&mut signed, &mut encrypted] {
            let at = usize::from(*flip) * 31 % (sealed.len() * 8);
            sealed[at / 8] ^= 1 << (at % 8);
        }
        assert!(SEAL.verify(&binding, &signed).is_err());
        assert!(SEAL.decrypt(&binding, &encrypted).is_err());
    }
});
