//! Writing entries: always, where nothing is, where something is, or where it is unchanged; and what an entry is as bytes.

use std::time::Duration;

use super::names::{self, Kind};
use super::record::{Record, Tags};
use super::server::{Item, Lifetime, Mark, Put};
use super::{FarStore, MOST_TRIES, fresh_id};
use crate::entry::{CODEC_COUNT, Stamp, Terms, Timeout, Value, When, Written};
use crate::error::Error;
use crate::key::Key;
use crate::store::Write;

/// A number whose load took less is one to the server too.
const DEAR_US: u32 = 1_000;

impl FarStore {
    /// Writes entries; what came of each. See [`Store::write`].
    pub(super) fn put(&self, writes: &[Write<'_>], when: When<'_>) -> Result<Vec<Written>, Error> {
        let birth = self.birth(writes)?;
        let mut results = vec![Written::Held; writes.len()];
        let mut items = Vec::with_capacity(writes.len());
        for (place, write) in writes.iter().enumerate() {
            match write.terms.timeout {
                Timeout::After(time) if time.is_zero() => {
                    results[place] = self.put_nothing(&write.key, when)?;
                }
                _ if write.value.length() > self.largest_value_bytes() => {
                    self.server.remove(&[&names::of_key(&write.key, Kind::Entry)])?;
                    results[place] = Written::Refused;
                }
                timeout => {
                    let name = names::of_key(&write.key, Kind::Entry);
                    let bytes = pack(
                        &name,
                        write.value,
                        &write.terms,
                        Origin { birth, cost_us: 0, now_unix_ms: self.now_unix_ms() },
                    );
                    items.push((place, name, bytes, lifetime(timeout, write.terms.stale)));
                }
            }
        }
        let batch: Vec<Item<'_>> =
            items.iter().map(|(_, name, bytes, lifetime)| Item { name, bytes, lifetime: *lifetime }).collect();
        let puts = match when {
            When::Always => self.server.set(&batch)?,
            When::Absent => self.add(&batch)?,
            When::Present => batch.iter().map(|item| self.replace(item)).collect::<Result<_, _>>()?,
            When::Unchanged(stamp) => {
                batch.iter().map(|item| self.server.swap(item, &stamp.mark())).collect::<Result<_, _>>()?
            }
        };
        let is_refused =
            results.iter().any(|written| matches!(written, Written::Refused)) || puts.contains(&Put::TooLarge);
        if let (true, Some(tier)) = (is_refused, &self.tier) {
            tier.tell_refused();
        }
        for ((place, _, bytes, _), put) in items.iter().zip(puts) {
            results[*place] = match put {
                Put::Done => Written::Stored(Stamp::of_mark(&Mark::of_value(bytes))),
                Put::Held => Written::Held,
                Put::TooLarge => Written::Refused,
            };
        }
        Ok(results)
    }

    /// What a write with a timeout of zero does: a set removes, the others act as if what they wrote had expired at once.
    pub(super) fn put_nothing(&self, key: &Key<'_>, when: When<'_>) -> Result<Written, Error> {
        let name = names::of_key(key, Kind::Entry);
        Ok(match when {
            When::Always => {
                self.server.remove(&[&name])?;
                Written::Removed
            }
            When::Absent if self.look(key)?.is_none() => Written::Removed,
            When::Unchanged(stamp) if self.server.remove_marked(&name, &stamp.mark())? => Written::Removed,
            When::Present if self.server.remove(&[&name])?[0] => Written::Removed,
            _ => Written::Held,
        })
    }

    /// Where nothing is, or nothing that may be read: a placeholder, what has expired or was invalidated.
    pub(super) fn add(&self, items: &[Item<'_>]) -> Result<Vec<Put>, Error> {
        let mut puts = self.server.add(items)?;
        for (item, put) in items.iter().zip(&mut puts).filter(|(_, put)| **put == Put::Held) {
            for _ in 0..MOST_TRIES {
                let Some(held) = self.server.get(&[item.name])?.remove(0) else {
                    *put = self.server.add(&[*item])?[0];
                    if *put == Put::Held { continue } else { break }
                };
                if self.is_fresh(item.name, &held)? {
                    break;
                }
                *put = self.server.swap(item, &held.mark)?;
                if *put != Put::Held {
                    break;
                }
            }
        }
        Ok(puts)
    }

    /// Only where something is.
    pub(super) fn replace(&self, item: &Item<'_>) -> Result<Put, Error> {
        for _ in 0..MOST_TRIES {
            let Some(held) = self.server.get(&[item.name])?.remove(0) else { return Ok(Put::Held) };
            if !self.is_fresh(item.name, &held)? {
                return Ok(Put::Held);
            }
            match self.server.swap(item, &held.mark)? {
                Put::Held => {}
                put => return Ok(put),
            }
        }
        Ok(Put::Held)
    }
}

/// Where and when an entry comes from.
#[derive(Clone, Copy)]
pub(crate) struct Origin {
    pub(crate) birth: u64,
    pub(crate) cost_us: u32,
    pub(crate) now_unix_ms: u64,
}

/// The bytes of an entry: of a count, if nothing else has to be kept, the text of its number.
pub(crate) fn pack(name: &[u8], value: Value<'_>, terms: &Terms<'_>, origin: Origin) -> Vec<u8> {
    let Origin { birth, cost_us, now_unix_ms } = origin;
    let number;
    let (codec, value): (u8, &[u8]) = match value {
        Value::Count(count) => {
            number = count.to_string();
            (CODEC_COUNT, number.as_bytes())
        }
        Value::Bytes { codec, bytes } => (codec, bytes),
    };
    // What was dear to load keeps its cost, for an early refresh.
    if codec == CODEC_COUNT && terms.tags.is_empty() && terms.stale.is_zero() && cost_us < DEAR_US {
        return value.to_vec();
    }
    let packed = Tags::pack(terms.tags);
    let is_expiry_known = !terms.stale.is_zero() || cost_us > 0;
    let record = Record {
        codec,
        has_value: true,
        is_loading: false,
        id: fresh_id(),
        birth,
        expires_unix_ms: if is_expiry_known { expiry(terms.timeout, now_unix_ms) } else { 0 },
        stale_ms: u64::try_from(terms.stale.as_millis()).unwrap_or(u64::MAX).min((1 << 48) - 1),
        cost_us,
        tags: Tags::of(&packed),
        value,
    };
    record.pack(name)
}

pub(super) fn expiry(timeout: Timeout, now_unix_ms: u64) -> u64 {
    match timeout {
        Timeout::After(time) => now_unix_ms.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
        Timeout::Never | Timeout::Keep => 0,
    }
}

/// How long the server keeps an entry: until nobody may serve it any more.
pub(crate) fn lifetime(timeout: Timeout, stale: Duration) -> Lifetime {
    match timeout {
        Timeout::Never => Lifetime::Never,
        Timeout::Keep => Lifetime::Keep,
        Timeout::After(time) => Lifetime::After(time.saturating_add(stale).max(Duration::from_millis(1))),
    }
}
