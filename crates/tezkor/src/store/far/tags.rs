//! Tags on a server: numbers of one sequence. An entry is fresh if none of its tags has a number above its birth.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::names::{self, Kind};
use super::server::{Held, Item, Lifetime, Server};
use super::write::lifetime;
use super::{FarStore, MOST_TRIES, Seen, fresh_id, record, seen};
use crate::entry::Incr;
use crate::error::Error;
use crate::key::{Key, Space};
use crate::store::Write;

/// A tag that no entry names any more is forgotten after this long; entries that live longer renew it.
const TAG_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);
/// One write in so many renews the lifetime of its tags.
const TAG_RENEWAL: u64 = 64;

impl FarStore {
    /// Whether the tags of each are no newer than its birth. The tags belong to the prefix that `name` lies in.
    pub(crate) fn are_tags_fresh(&self, name: &[u8], entries: &[&Seen<'_>]) -> Result<Vec<bool>, Error> {
        if entries.iter().all(|entry| entry.record.tags.is_empty()) {
            return Ok(vec![true; entries.len()]);
        }
        let beginning = names::beginning_of_tags(name);
        let wanted: BTreeSet<&[u8]> = entries.iter().flat_map(|entry| entry.record.tags.iter()).collect();
        let tag_names: Vec<Vec<u8>> = wanted.iter().map(|tag| [&beginning, *tag, b"}"].concat()).collect();
        let sequence_name = names::sequence_beside(name);
        let all: Vec<&[u8]> = std::iter::once(&sequence_name).chain(&tag_names).map(Vec::as_slice).collect();
        let numbers: Vec<Option<u64>> = self.server.get(&all)?.iter().map(sequence_in).collect();
        // Of a sequence that was lost and begun anew by a clock that is behind: nobody knows what was invalidated since.
        let Some(sequence) = numbers[0] else { return Ok(vec![false; entries.len()]) };
        let invalidated: BTreeMap<&[u8], u64> =
            wanted.into_iter().zip(&numbers[1..]).filter_map(|(tag, number)| Some((tag, (*number)?))).collect();
        let is_fresh = |entry: &&Seen<'_>| {
            let birth = entry.record.birth;
            let mut tags = entry.record.tags.iter();
            birth <= sequence && tags.all(|tag| invalidated.get(tag).is_some_and(|number| *number <= birth))
        };
        Ok(entries.iter().map(|entry| entry.record.tags.is_empty() || is_fresh(entry)).collect())
    }

    /// The birth of writes with tags, which are all of one location; the tags exist afterwards.
    pub(super) fn birth(&self, writes: &[Write<'_>]) -> Result<u64, Error> {
        let tagged = || writes.iter().filter(|write| !write.terms.tags.is_empty());
        let Some(first) = tagged().next() else { return Ok(0) };
        let tags: BTreeSet<Vec<u8>> =
            tagged().flat_map(|write| write.terms.tags.iter().map(|tag| names::of_tag(write.key.space, tag))).collect();
        let longest =
            tagged().map(|write| lifetime(write.terms.timeout, write.terms.stale)).max_by_key(
                |lifetime| match lifetime {
                    Lifetime::After(time) => *time,
                    _ => Duration::MAX,
                },
            );
        let tags: Vec<Vec<u8>> = tags.into_iter().collect();
        Ok(self.with_tags(first.key.space, &tags, longest.unwrap_or(Lifetime::Never))?.0)
    }

    /// The sequence, and that of each tag; a tag that the server does not know is created with the present one.
    pub(crate) fn with_tags(
        &self,
        space: Space,
        tags: &[Vec<u8>],
        longest: Lifetime,
    ) -> Result<(u64, Vec<u64>), Error> {
        let sequence_name = names::of_sequence(space);
        let all: Vec<&[u8]> = std::iter::once(&sequence_name).chain(tags).map(Vec::as_slice).collect();
        let found = self.server.get(&all)?;
        let sequence = match sequence_in(&found[0]) {
            Some(sequence) => self.saw(sequence),
            None => self.begin_sequence(&sequence_name)?,
        };
        let known: Vec<Option<u64>> = found[1..].iter().map(sequence_in).collect();
        let text = sequence.to_string();
        let tag_lifetime = match longest {
            Lifetime::After(time) if time <= TAG_LIFETIME / 2 => Lifetime::After(TAG_LIFETIME),
            _ => Lifetime::Never,
        };
        let missing: Vec<Item<'_>> = tags
            .iter()
            .zip(&known)
            .filter(|(_, known)| known.is_none())
            .map(|(name, _)| Item { name, bytes: text.as_bytes(), lifetime: tag_lifetime })
            .collect();
        if !missing.is_empty() {
            self.server.add(&missing)?;
        }
        let is_renewal = tag_lifetime == Lifetime::Never || fresh_id().is_multiple_of(TAG_RENEWAL);
        if is_renewal && missing.len() < tags.len() {
            let renewed: Vec<(&[u8], i64, Lifetime)> = tags.iter().map(|name| (&name[..], 0, tag_lifetime)).collect();
            self.server.raise(&renewed)?;
        }
        // One that somebody else created meanwhile is of the present too.
        Ok((sequence, known.into_iter().map(|known| known.unwrap_or(sequence)).collect()))
    }

    /// Begins a sequence that the server does not know, or has lost: above all numbers that were given out before, which grow more
    /// slowly than the microseconds since 1970.
    pub(super) fn begin_sequence(&self, name: &[u8]) -> Result<u64, Error> {
        let first = self.time.now_us();
        self.server.add(&[Item { name, bytes: first.to_string().as_bytes(), lifetime: Lifetime::Never }])?;
        let found = self.server.get(&[name])?.remove(0);
        Ok(sequence_in(&found).unwrap_or(first))
    }

    /// The last number of the sequence that this process has seen. It never waits, and may be behind: a load that takes it for
    /// its birth is taken for older than it is, never for younger.
    pub fn known_sequence(&self) -> u64 {
        self.known.load(Ordering::SeqCst)
    }

    pub(super) fn saw(&self, sequence: u64) -> u64 {
        self.known.fetch_max(sequence, Ordering::SeqCst);
        sequence
    }

    /// The sequence of invalidations of a location: the birth of a load that begins now.
    pub fn sequence(&self, space: Space) -> Result<u64, Error> {
        Ok(self.with_tags(space, &[], Lifetime::Never)?.0)
    }

    /// Raises tags, of these names on the server, above all births so far.
    pub(super) fn raise_tags(&self, space: Space, tags: &[&[u8]]) -> Result<(), Error> {
        let sequence = self.next_number(&names::of_sequence(space))?;
        let raised: Vec<_> = tags.iter().map(|name| (*name, sequence as i64, Lifetime::After(TAG_LIFETIME))).collect();
        self.server.raise(&raised)
    }

    pub(super) fn next_number(&self, name: &[u8]) -> Result<u64, Error> {
        for _ in 0..MOST_TRIES {
            if let Incr::Value(number) = self.server.incr(name, 1)? {
                return Ok(number as u64);
            }
            self.begin_sequence(name)?;
        }
        Err(Error::outage(format!("{} keeps no numbers", self.server.title())))
    }

    /// The tags of an entry, whether fresh or not.
    pub fn tags(&self, key: &Key<'_>) -> Result<Vec<Vec<u8>>, Error> {
        let name = names::of_key(key, Kind::Entry);
        let held = self.server.get(&[&name])?.remove(0);
        let seen = held.as_ref().and_then(|held| seen(&name, held));
        Ok(seen.map(|seen| seen.record.tags.iter().map(<[u8]>::to_vec).collect()).unwrap_or_default())
    }
}

/// Invalidates a tag by its name on a server, after an outage.
pub(crate) fn invalidate(server: &dyn Server, tag: &[u8]) -> Result<(), Error> {
    match server.incr(&names::sequence_beside(tag), 1)? {
        Incr::Value(sequence) => server.raise(&[(tag, sequence, Lifetime::After(TAG_LIFETIME))]),
        // Without a sequence no entry with tags is fresh; the next one is above all births.
        _ => server.remove(&[tag]).map(drop),
    }
}

/// A number of the sequence.
pub(super) fn sequence_in(held: &Option<Held>) -> Option<u64> {
    u64::try_from(record::number(&held.as_ref()?.bytes)?).ok()
}
