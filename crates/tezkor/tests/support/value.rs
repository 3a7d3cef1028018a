//! Values that describe themselves: whose they are, in which version, how long, and a stream of bytes that follows from these.
//! A byte that is not of this value, or not of this key, is found.

/// Values shorter than this hold the stream of their key and length alone: there is no room for a version.
pub const SHORTEST_WITH_VERSION: usize = 32;

/// Mixes the bits of a number (the finisher of splitmix64).
pub fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ (number >> 31)
}

/// The codec number that values of a key are written under: another one is a value of another key.
pub fn codec(key: u64) -> u8 {
    1 + (mix(key) % 60) as u8
}

/// The name of a key, of a length that depends on it.
pub fn name(key: u64) -> Vec<u8> {
    let mut name = format!("test:1:{key}").into_bytes();
    name.resize(name.len() + (mix(key) % 40) as usize, b'.');
    name
}

/// Writes a value into `bytes`.
pub fn fill(bytes: &mut Vec<u8>, key: u64, version: u64, length: usize) {
    bytes.clear();
    bytes.reserve(length + 8);
    let version = if length < SHORTEST_WITH_VERSION { 0 } else { version };
    let mut state = seed(key, version, length);
    if length >= SHORTEST_WITH_VERSION {
        for word in [key, version, length as u64, checksum(key, version, length)] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
    }
    while bytes.len() < length {
        bytes.extend_from_slice(&step(&mut state).to_le_bytes());
    }
    bytes.truncate(length);
}

/// The version of a value, or what is wrong with it.
pub fn check(bytes: &[u8], key: u64) -> Result<u64, String> {
    let length = bytes.len();
    let word = |at: usize| {
        let chunk = bytes.get(at * 8..at * 8 + 8).and_then(|chunk| chunk.try_into().ok());
        chunk.map_or(0, u64::from_le_bytes)
    };
    let (version, start) = if length < SHORTEST_WITH_VERSION { (0, 0) } else { (word(1), SHORTEST_WITH_VERSION) };
    if start > 0 && (word(0), word(2), word(3)) != (key, length as u64, checksum(key, version, length)) {
        return Err(format!(
            "key {key}, {length} bytes: says it is of key {}, version {version}, {} bytes",
            word(0),
            word(2)
        ));
    }
    let mut state = seed(key, version, length);
    let (chunks, rest) = bytes[start..].as_chunks::<8>();
    for (place, chunk) in chunks.iter().enumerate() {
        if u64::from_le_bytes(*chunk) != step(&mut state) {
            return Err(format!("key {key}, version {version}, {length} bytes: torn at byte {}", start + place * 8));
        }
    }
    if rest != &step(&mut state).to_le_bytes()[..rest.len()] {
        return Err(format!("key {key}, version {version}, {length} bytes: torn at its end"));
    }
    Ok(version)
}

fn seed(key: u64, version: u64, length: usize) -> u64 {
    mix(key ^ mix(version ^ mix(length as u64)))
}

fn checksum(key: u64, version: u64, length: usize) -> u64 {
    mix(!seed(key, version, length))
}

fn step(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
    *state ^ (*state >> 29)
}
