//! Which server a key lives on, exactly as other clients of the same servers decide it. It never looks at who is alive: the keys of a
//! dead server are outages, not somebody else's, so that a server that comes back has nothing older than what others were told.

use super::hashes::{md5, murmur3, one_at_a_time};
use super::settings::{Address, DEFAULT_PORT, Place, Placement};

/// Points on libmemcached's ring for each server.
const POINTS: u32 = 100;
/// Points on its weighted ring for each server of average weight, four from each digest.
const WEIGHTED_POINTS: u32 = 160;

/// Places keys.
#[derive(Debug)]
pub(super) struct Ring {
    servers: usize,
    rule: Rule,
}

#[derive(Debug)]
enum Rule {
    /// The names of the servers, as pymemcache has them.
    Rendezvous(Vec<String>),
    /// Points with their servers, in order, and what hashes a key onto them.
    Points(Vec<(u32, u32)>, fn(&[u8]) -> u32),
    Modula,
}

impl Ring {
    pub(super) fn new(places: &[Place], placement: Placement) -> Ring {
        let rule = match placement {
            Placement::Rendezvous => Rule::Rendezvous(places.iter().map(|place| plain_name(&place.address)).collect()),
            Placement::Ketama => Rule::Points(points(places), one_at_a_time),
            Placement::KetamaWeighted => Rule::Points(weighted_points(places), first_word),
            Placement::Modula => Rule::Modula,
        };
        Ring { servers: places.len(), rule }
    }

    /// The number of the server that this key lives on.
    pub(super) fn server_of(&self, key: &[u8]) -> usize {
        if self.servers == 1 {
            return 0;
        }
        match &self.rule {
            Rule::Rendezvous(names) => highest(names, key),
            Rule::Points(points, hash) => {
                let hash = hash(key);
                let at = points.partition_point(|(point, _)| *point < hash);
                points[if at == points.len() { 0 } else { at }].1 as usize
            }
            Rule::Modula => one_at_a_time(key) as usize % self.servers,
        }
    }
}

/// Rendezvous hashing: the server whose name, with the key, has the highest hash; of equal ones the last name of the alphabet.
fn highest(names: &[String], key: &[u8]) -> usize {
    // pymemcache hashes characters. A key that is no text cannot be a key of pymemcache's; each byte is one character.
    let text = std::str::from_utf8(key);
    let score = |name: &str| {
        let start = name.chars().chain(['-']).map(u32::from);
        match text {
            Ok(text) => murmur3(start.chain(text.chars().map(u32::from))),
            Err(_) => murmur3(start.chain(key.iter().map(|byte| u32::from(*byte)))),
        }
    };
    let best = names.iter().enumerate().max_by_key(|(_, name)| (score(name), name.as_str()));
    best.map_or(0, |(number, _)| number)
}

fn plain_name(address: &Address) -> String {
    match address {
        Address::Tcp { host, port } => format!("{host}:{port}"),
        Address::Unix(path) => path.to_string_lossy().into_owned(),
    }
}

/// libmemcached leaves the usual port out, and gives sockets the port 0.
fn ring_name(address: &Address) -> String {
    match address {
        Address::Tcp { host, port: DEFAULT_PORT } => host.clone(),
        Address::Tcp { host, port } => format!("{host}:{port}"),
        Address::Unix(path) => format!("{}:0", path.to_string_lossy()),
    }
}

fn points(places: &[Place]) -> Vec<(u32, u32)> {
    let mut points = Vec::with_capacity(places.len() * POINTS as usize);
    for (number, place) in places.iter().enumerate() {
        let name = ring_name(&place.address);
        points.extend((0..POINTS).map(|point| (one_at_a_time(format!("{name}-{point}").as_bytes()), number as u32)));
    }
    points.sort_by_key(|(point, _)| *point);
    points
}

fn weighted_points(places: &[Place]) -> Vec<(u32, u32)> {
    let total: u64 = places.iter().map(|place| u64::from(place.weight)).sum();
    let mut points = Vec::new();
    for (number, place) in places.iter().enumerate() {
        let name = ring_name(&place.address);
        // In floats of 32 bits, in libmemcached's order, so that it rounds as there.
        let share = place.weight as f32 / total as f32;
        let digests = (share * WEIGHTED_POINTS as f32 / 4.0 * places.len() as f32 + 0.000_000_000_1).floor() as u32;
        for digest in 0..digests {
            let digest = md5(format!("{name}-{digest}").as_bytes());
            points.extend(digest.chunks_exact(4).map(|word| (little_endian(word), number as u32)));
        }
    }
    points.sort_by_key(|(point, _)| *point);
    points
}

fn first_word(key: &[u8]) -> u32 {
    little_endian(&md5(key)[..4])
}

fn little_endian(word: &[u8]) -> u32 {
    word.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memcached::MemcachedSettings;

    /// The keys of tests/vectors/placement.py.
    fn keys() -> Vec<String> {
        let key = |number: usize| match number % 5 {
            0 => format!(":1:key{number}"),
            1 => format!("shop:2:product:{}", number * 7919),
            2 => format!("{number:x}"),
            3 => format!(":1:ключ-{number}"),
            _ => format!(":1:鍵😀é{number}{}", "x".repeat(number % 150)),
        };
        (0..10_000).map(key).collect()
    }

    /// The answers are those of pymemcache 4.0.0 and pylibmc 1.6.3 (libmemcached 1.0.16 and 1.1.4 alike), written by tests/vectors/placement.py.
    #[test]
    fn keys_live_where_pymemcache_and_pylibmc_keep_them() {
        let (answers, keys) = (include_str!("../../../tests/vectors/placement.txt"), keys());
        let mut checked = 0;
        for answer in answers.split("\n\n") {
            let lines: Vec<&str> = answer.lines().collect();
            let [placement, servers, numbers] = lines[..] else { panic!("three lines, not {lines:?}") };
            let settings = MemcachedSettings::new(&[servers]).expect("good servers");
            let ring = Ring::new(&settings.places, Placement::named(placement).expect("a placement"));
            let wrong: Vec<&String> = (keys.iter().zip(numbers.chars()))
                .filter(|(key, number)| number.to_digit(16) != Some(ring.server_of(key.as_bytes()) as u32))
                .map(|(key, _)| key)
                .collect();
            assert!(wrong.is_empty(), "{placement} of {servers}: {} keys, {:?} ...", wrong.len(), wrong.first());
            checked += numbers.len();
        }
        assert_eq!(checked, 130_000);
    }

    #[test]
    fn any_bytes_have_a_place() {
        let settings = MemcachedSettings::new(&["a,b,c"]).expect("good servers");
        for placement in [Placement::Rendezvous, Placement::Ketama, Placement::KetamaWeighted, Placement::Modula] {
            let ring = Ring::new(&settings.places, placement);
            for key in [&b""[..], &[0xFF; 9], &[0; 3], b"\xC3"] {
                assert!(ring.server_of(key) < 3);
            }
        }
    }
}
