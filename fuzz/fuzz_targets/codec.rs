//! Any bytes are a value or an error; what is a value writes back to bytes that read as the same value.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tezkor::codec::{Value, Writer};

fn written(value: &Value) -> Vec<u8> {
    let mut out = Writer::default();
    value.write(&mut out);
    assert!(!out.overflowed());
    out.into_bytes()
}

fuzz_target!(|payload: &[u8]| {
    let Ok(value) = Value::read(payload) else { return };
    let bytes = written(&value);
    let again = Value::read(&bytes).expect("what was written reads");
    // Bytes are compared, not values: a NaN is not equal to itself.
    assert_eq!(written(&again), bytes);
});
