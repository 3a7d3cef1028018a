//! What things are called on a server. Entries, tags and the rest never meet each other, nor anything that is not ours.
//!
//! ```text
//! tz:{L.P:full key}      an entry      L: location, 8 digits, nothing where a server has one (the usual case)
//! tz:{L.P#tag}           a tag         P: prefix, 12 digits, nothing for an empty one
//! tz:{L.P!full key}      a lock        (digits are hexadecimal, of the name's hash, on which all machines agree)
//! tz:{L.P%full key}      a rate limit
//! tz:{L.=sequence}       the sequence of invalidations
//! tz:{L.=tokens}         the fencing tokens of locks
//! ```
//!
//! The braces have a cluster keep what belongs to one name on one node.

use std::io::Write;

use crate::key::{Key, Space, name_hash};

/// What a name is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Entry = b':' as isize,
    Tag = b'#' as isize,
    Lock = b'!' as isize,
    Rate = b'%' as isize,
}

/// The space of a prefix within a location. An empty location stands for all of the server.
pub(crate) fn space(location: &[u8], prefix: &[u8]) -> Space {
    let of = |kind, name: &[u8]| if name.is_empty() { 0 } else { name_hash(kind, name) };
    let (location, prefix) = (of(b'l', location), of(b'p', prefix));
    Space {
        region_id: 0,
        seed: 0,
        location: location as u64,
        location_high: (location >> 64) as u64,
        prefix: [prefix as u64, (prefix >> 64) as u64],
        location_row: 0,
        prefix_row: 0,
    }
}

fn digits(name: &mut Vec<u8>, hash: u64, bits: u32) {
    if hash != 0 {
        // Writing to memory does not fail.
        let _ = write!(name, "{:0width$x}", hash >> (64 - bits), width = bits as usize / 4);
    }
}

/// How all names of a location begin.
pub(crate) fn of_location(space: Space) -> Vec<u8> {
    let mut name = b"tz:{".to_vec();
    digits(&mut name, space.location, 32);
    name.push(b'.');
    name
}

/// How all names of a kind in a prefix begin.
pub(crate) fn of_prefix(space: Space, kind: Kind) -> Vec<u8> {
    let mut name = of_location(space);
    digits(&mut name, space.prefix[0], 48);
    name.push(kind as u8);
    name
}

/// The name of a key's entry, lock or rate limit.
pub(crate) fn of_key(key: &Key<'_>, kind: Kind) -> Vec<u8> {
    of_text(key.space, kind, key.bytes)
}

/// The name of a tag.
pub(crate) fn of_tag(space: Space, tag: &[u8]) -> Vec<u8> {
    of_text(space, Kind::Tag, tag)
}

fn of_text(space: Space, kind: Kind, text: &[u8]) -> Vec<u8> {
    let mut name = of_prefix(space, kind);
    name.extend_from_slice(text);
    name.push(b'}');
    name
}

/// The name of a location's sequence.
pub(crate) fn of_sequence(space: Space) -> Vec<u8> {
    [&of_location(space)[..], b"=sequence}"].concat()
}

/// The name of a location's fencing tokens.
pub(crate) fn of_tokens(space: Space) -> Vec<u8> {
    [&of_location(space)[..], b"=tokens}"].concat()
}

/// How the tags begin that an entry of this name may have.
pub(crate) fn beginning_of_tags(name: &[u8]) -> Vec<u8> {
    let end = name.iter().position(|byte| *byte == Kind::Entry as u8).map_or(name.len(), |at| at + 1);
    // The first colon stands behind `tz`.
    let end = name[end..].iter().position(|byte| *byte == Kind::Entry as u8).map_or(name.len(), |at| end + at);
    [&name[..end], &[Kind::Tag as u8]].concat()
}

/// The name of the sequence of the location that a name lies in.
pub(crate) fn sequence_beside(name: &[u8]) -> Vec<u8> {
    [location_of(name), b"=sequence}"].concat()
}

/// Whether a name is one of an entry.
pub(crate) fn is_entry(name: &[u8]) -> bool {
    let after_prefix = name.iter().skip(4).position(|byte| !byte.is_ascii_hexdigit() && *byte != b'.');
    after_prefix.is_some_and(|at| name[4 + at] == Kind::Entry as u8)
}

/// How all names of the location begin that a name lies in.
pub(crate) fn location_of(name: &[u8]) -> &[u8] {
    let end = name.iter().position(|byte| *byte == b'.').map_or(name.len(), |at| at + 1);
    &name[..end]
}

/// Whether a name may hold a value that is older than a change of it: one of an entry, or of another library.
pub(crate) fn holds_value(name: &[u8]) -> bool {
    is_entry(name) || !name.starts_with(b"tz:{")
}

/// Whether a name of another library that begins so is of a version: `prefix:1:key`.
pub(crate) fn is_of_a_version(name: &[u8], beginning: &[u8]) -> bool {
    let rest = name.strip_prefix(beginning).unwrap_or_default();
    rest.iter().position(|byte| *byte == b':').is_some_and(|end| rest[..end].iter().all(u8::is_ascii_digit))
}

/// The full key of a name that begins so.
pub(crate) fn full_key<'n>(name: &'n [u8], beginning: &[u8]) -> Option<&'n [u8]> {
    name.strip_prefix(beginning)?.strip_suffix(b"}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_never_meet() {
        let spaces = [(&b""[..], &b""[..]), (b"", b"shop"), (b"other", b""), (b"other", b"shop")];
        let texts = [&b""[..], b":1:k", b"}", b"{", b"#", b".=sequence", b"shop:1:k"];
        let mut seen = std::collections::BTreeSet::new();
        for (location, prefix) in spaces {
            let space = space(location, prefix);
            for text in texts {
                let key = Key::new(space, 0, text);
                for kind in [Kind::Entry, Kind::Tag, Kind::Lock, Kind::Rate] {
                    let name = of_key(&key, kind);
                    assert_eq!(full_key(&name, &of_prefix(space, kind)), Some(text));
                    assert_eq!(is_entry(&name), kind == Kind::Entry);
                    assert!(seen.insert(name));
                }
            }
            assert!(!is_entry(&of_sequence(space)));
            seen.insert(of_sequence(space));
            assert_eq!(
                beginning_of_tags(&of_key(&Key::new(space, 0, b"a:b#c"), Kind::Entry)),
                of_prefix(space, Kind::Tag)
            );
        }
        assert_eq!(seen.len(), spaces.len() * texts.len() * 4 + 2);
        assert_eq!(of_key(&Key::new(space(b"", b""), 0, b":1:k"), Kind::Entry), b"tz:{.::1:k}");
    }
}
