//! Any bytes in a region's file, of any length: it is attached to, or replaced, and work goes on. The first bytes of the input say
//! how the file is cut and whether the checksum of its header is made right; the others go over what a good region has there.
#![no_main]

use std::fs;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use tezkor::store::segment::SegmentStore;
use tezkor::{Buffer, Timeout, Value, When, Written};
use xxhash_rust::xxh3::xxh3_64;

/// Where the checksum of the header stands: it covers all before it.
const CHECKSUM_AT: usize = 96;

/// A directory to work in, and the bytes of a good region with an entry.
fn good() -> &'static (PathBuf, Vec<u8>) {
    static GOOD: OnceLock<(PathBuf, Vec<u8>)> = OnceLock::new();
    GOOD.get_or_init(|| {
        let parent = std::env::current_dir().expect("a directory").join("artifacts/header.work");
        let _ = fs::remove_dir_all(&parent);
        fs::create_dir_all(&parent).expect("a directory");
        let store = SegmentStore::at_for_fuzzing(&parent);
        work(&store);
        store.detach();
        let bytes = fs::read(parent.join("tezkor/fuzz.region")).expect("the region");
        (parent, bytes)
    })
}

fn work(store: &SegmentStore) {
    let space = store.space(b"fuzz", b"");
    let (key, count) = (store.key(space, b"key"), store.key(space, b"count"));
    let mut buffer = Buffer::new();
    if store.read(&key, &mut buffer).is_some() {
        assert_eq!(buffer.bytes(), b"value", "a value that was never set");
    }
    let value = Value::Bytes { codec: 1, bytes: b"value" };
    if let Written::Stored(_) = store.write(&key, value, Timeout::After(Duration::from_secs(60)).into(), When::Always) {
        store.has(&key);
    }
    store.count(&count, 1);
    store.stats();
    store.validate();
}

fuzz_target!(|input: &[u8]| {
    let (parent, good) = good();
    let Some(([cut, at_low, at_high, flags], damage)) = input.split_first_chunk::<4>() else { return };
    let mut bytes = good.clone();
    let at = (usize::from(*at_low) | usize::from(*at_high) << 8) * 8 % bytes.len();
    let damage = &damage[..damage.len().min(bytes.len() - at)];
    bytes[at..at + damage.len()].copy_from_slice(damage);
    if flags & 1 == 1 {
        let checksum = xxh3_64(&bytes[..CHECKSUM_AT]);
        bytes[CHECKSUM_AT..CHECKSUM_AT + 8].copy_from_slice(&checksum.to_le_bytes());
    }
    if *cut > 0 {
        bytes.resize(bytes.len() / 255 * usize::from(255 - cut), 0);
    }
    let path = parent.join("tezkor/fuzz.region");
    let _ = fs::remove_file(&path);
    let mut options = fs::File::options();
    let written = options.write(true).create_new(true).mode(0o600).open(&path).and_then(|mut file| {
        file.set_permissions(fs::Permissions::from_mode(if flags & 2 == 2 { 0o644 } else { 0o600 }))?;
        std::io::Write::write_all(&mut file, &bytes)
    });
    written.expect("a file");
    let store = SegmentStore::at_for_fuzzing(parent);
    work(&store);
    store.detach();
});
