//! Names on the wire. memcached takes 1 to 250 bytes without spaces and control characters; a name that is so is sent as it is, so that
//! other clients find it; another goes as base64, which memcached decodes; one too long for that goes as a digest.
//!
//! Two names never meet: what memcached holds is the name itself, or [`DIGESTED`] and 256 bits of hash, and a name that begins as a
//! digest does is always digested itself.

use xxhash_rust::xxh3::xxh3_128_with_seed;

/// The most that memcached takes, in base64 too.
const LONGEST: usize = 250;
/// What base64 leaves of that.
const LONGEST_ENCODED: usize = LONGEST / 4 * 3;
/// Begins all digests. No plain name can have the NUL.
const DIGESTED: &[u8] = b"\0d:";
/// Seeds of the two halves of a digest.
const SEEDS: [u64; 2] = [0x7E2C_0DE5_A11C_0DE5, 0x0B57_AC1E_0B57_AC1E];

/// A name as it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name<'n> {
    Plain(&'n [u8]),
    Encoded(&'n [u8]),
    Digest([u8; 35]),
}

impl<'n> Name<'n> {
    pub(super) fn of(name: &'n [u8]) -> Name<'n> {
        let is_plain = |byte: &u8| *byte > b' ' && *byte != 0x7F;
        if name.len() <= LONGEST && !name.is_empty() && name.iter().all(is_plain) {
            Name::Plain(name)
        } else if name.len() <= LONGEST_ENCODED && !name.is_empty() && !name.starts_with(DIGESTED) {
            Name::Encoded(name)
        } else {
            let mut digest = [0; 35];
            digest[..3].copy_from_slice(DIGESTED);
            digest[3..19].copy_from_slice(&xxh3_128_with_seed(name, SEEDS[0]).to_be_bytes());
            digest[19..].copy_from_slice(&xxh3_128_with_seed(name, SEEDS[1]).to_be_bytes());
            Name::Digest(digest)
        }
    }

    /// How many bytes it takes on the wire.
    pub(super) fn sent_bytes(&self) -> usize {
        match self {
            Name::Plain(name) => name.len(),
            Name::Encoded(name) => name.len().div_ceil(3) * 4,
            Name::Digest(digest) => digest.len().div_ceil(3) * 4,
        }
    }

    /// Writes the key, and returns the flag that says how to read it.
    pub(super) fn write(&self, out: &mut Vec<u8>) -> &'static [u8] {
        match self {
            Name::Plain(name) => {
                out.extend_from_slice(name);
                return b"";
            }
            Name::Encoded(name) => encode(name, out),
            Name::Digest(digest) => encode(digest, out),
        }
        b" b"
    }
}

/// Base64 of RFC 4648, with padding.
fn encode(bytes: &[u8], out: &mut Vec<u8>) {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let word = byte(0) << 16 | byte(1) << 8 | byte(2);
        let letter = |at: usize| LETTERS[(word >> (18 - 6 * at) & 63) as usize];
        let padded = [letter(0), letter(1), letter(2), letter(3)];
        out.extend_from_slice(&padded[..=chunk.len()]);
        out.extend_from_slice(&b"=="[..3 - chunk.len()]);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn sent(name: &[u8]) -> String {
        let mut out = Vec::new();
        let flag = Name::of(name).write(&mut out);
        out.extend_from_slice(flag);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn a_name_is_sent_as_it_is_where_memcached_takes_it() {
        assert_eq!(sent(b":1:key"), ":1:key");
        assert_eq!(sent("ключ".as_bytes()), "ключ");
        assert_eq!(sent(&[b'k'; 250]), "k".repeat(250));
    }

    #[test]
    fn others_are_sent_as_base64_of_the_rfc() {
        for (name, expected) in [("a b", "YSBi b"), (" ", "IA== b"), ("fo\n", "Zm8K b"), ("foob\r", "Zm9vYg0= b")] {
            assert_eq!(sent(name.as_bytes()), expected);
        }
        assert_eq!(sent(&[0xFF, 0xFE, 0]), "//4A b");
        assert_eq!(sent(&[b' '; 186]).len(), 248 + 2);
    }

    #[test]
    fn no_two_names_meet_and_all_fit() {
        let digest = |name| match Name::of(name) {
            Name::Digest(digest) => digest,
            other => panic!("{other:?}"),
        };
        let long = [b'k'; 251];
        let names: Vec<Vec<u8>> = vec![
            b"".to_vec(),
            long.to_vec(),
            digest(&long).to_vec(),
            digest(&digest(&long)).to_vec(),
            vec![b' '; 187],
            vec![b' '; 186],
            b"\0".to_vec(),
            b"\0d:".to_vec(),
            b"IA==".to_vec(),
            b" ".to_vec(),
        ];
        let all: HashSet<String> = names.iter().map(|name| sent(name)).collect();
        assert_eq!(all.len(), names.len());
        for name in &all {
            let key = name.strip_suffix(" b").unwrap_or(name);
            assert!((1..=250).contains(&key.len()) && !key.contains(char::is_whitespace), "{name}");
        }
    }
}
