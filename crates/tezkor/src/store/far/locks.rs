//! Locks and rate limits on a far store. A holder that dies is not known of: its lock is free when its time is over.

use std::time::Duration;

use super::names::{self, Kind};
use super::record::number;
use super::server::{Held, Item, Left, Lifetime, Put};
use super::{FarStore, MOST_TRIES};
use crate::entry::Incr;
use crate::error::Error;
use crate::key::Key;
use crate::store::segment::locks::{Locking, Rate};

/// How long a lock is held for which no time was given: nobody would free it if its holder died.
pub const LONGEST_LOCK: Duration = Duration::from_secs(3600);

impl FarStore {
    /// Takes a lock if nobody has it: until it is released, and this long at most ([`LONGEST_LOCK`] for `None`).
    pub fn lock(&self, key: &Key<'_>, most: Option<Duration>) -> Result<Locking, Error> {
        let name = names::of_key(key, Kind::Lock);
        if self.server.get(&[&name])?[0].is_some() {
            return Ok(Locking::Taken);
        }
        let token = self.next_number(&names::of_tokens(key.space()))?;
        let lifetime = Lifetime::After(most.unwrap_or(LONGEST_LOCK));
        let put = self.server.add(&[Item { name: &name, bytes: token.to_string().as_bytes(), lifetime }])?[0];
        Ok(if put == Put::Done { Locking::Held(token) } else { Locking::Taken })
    }

    /// Gives a lock back; whether it was still the caller's.
    pub fn unlock(&self, key: &Key<'_>, token: u64) -> Result<bool, Error> {
        match self.holder(key, token)? {
            Some(held) => self.server.remove_marked(&names::of_key(key, Kind::Lock), &held.mark),
            None => Ok(false),
        }
    }

    /// Has a lock last this long from now on; whether it still is the caller's.
    pub fn extend_lock(&self, key: &Key<'_>, token: u64, most: Option<Duration>) -> Result<bool, Error> {
        let Some(held) = self.holder(key, token)? else { return Ok(false) };
        let name = names::of_key(key, Kind::Lock);
        let item = Item { name: &name, bytes: &held.bytes, lifetime: Lifetime::After(most.unwrap_or(LONGEST_LOCK)) };
        Ok(self.server.swap(&item, &held.mark)? == Put::Done)
    }

    /// Whether a lock is the one of this token.
    pub fn owns_lock(&self, key: &Key<'_>, token: u64) -> Result<bool, Error> {
        Ok(self.holder(key, token)?.is_some())
    }

    /// Whether somebody has a lock.
    pub fn is_locked(&self, key: &Key<'_>) -> Result<bool, Error> {
        Ok(self.server.get(&[&names::of_key(key, Kind::Lock)])?[0].is_some())
    }

    fn holder(&self, key: &Key<'_>, token: u64) -> Result<Option<Held>, Error> {
        let held = self.server.get(&[&names::of_key(key, Kind::Lock)])?.remove(0);
        Ok(held.filter(|held| number(&held.bytes) == Some(token as i64)))
    }

    /// Uses a rate limit once: at most `limit` uses in each window of this length, which begins with its first use.
    pub fn use_rate(&self, key: &Key<'_>, limit: u64, period: Duration) -> Result<Rate, Error> {
        // Limits of one key for several periods are several limits.
        let full = [key.bytes(), format!("@{}", period.as_millis()).as_bytes()].concat();
        let name = names::of_key(&Key { bytes: &full, ..*key }, Kind::Rate);
        for _ in 0..MOST_TRIES {
            let used = match self.server.incr(&name, 1)? {
                Incr::Value(used) => used as u64,
                Incr::Missing => {
                    let first = Item { name: &name, bytes: b"1", lifetime: Lifetime::After(period) };
                    if self.server.add(&[first])?[0] != Put::Done {
                        continue;
                    }
                    return Ok(Rate {
                        is_allowed: limit > 0,
                        remaining: limit.saturating_sub(1),
                        resets_after: period,
                    });
                }
                Incr::NotACount => {
                    self.server.remove(&[&name])?;
                    continue;
                }
            };
            let resets_after = match self.server.left(&name)? {
                Left::Time(left) => left,
                Left::Absent => Duration::ZERO,
                Left::Never => period,
            };
            return Ok(Rate { is_allowed: used <= limit, remaining: limit.saturating_sub(used), resets_after });
        }
        Err(Error::outage(format!("{} loses a count again and again", self.server.title())))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::fixture::Memory;
    use super::*;
    use crate::store::Store;

    #[test]
    fn a_lock_has_one_holder_and_is_kept_by_its_token() {
        let store = FarStore::new(Arc::new(Memory::default()));
        let key = store.key(store.space(b"", b""), b"door");
        let Ok(Locking::Held(token)) = store.lock(&key, None) else { panic!("nobody has it") };
        assert_eq!(store.lock(&key, None).expect("it answers"), Locking::Taken);
        store.clear(key.space()).expect("it answers");
        assert!(store.is_locked(&key).expect("it answers"), "clear leaves locks alone");
        assert!(!store.unlock(&key, token + 1).expect("it answers"));
        assert!(store.extend_lock(&key, token, Some(Duration::from_millis(20))).expect("it answers"));
        assert!(store.owns_lock(&key, token).expect("it answers"));
        std::thread::sleep(Duration::from_millis(30));
        assert!(!store.extend_lock(&key, token, None).expect("it answers"), "its time is over");
        let Ok(Locking::Held(next)) = store.lock(&key, None) else { panic!("its time is over") };
        assert!(next > token);
        assert!(!store.unlock(&key, token).expect("it answers"), "it is another's");
        assert!(store.unlock(&key, next).expect("it answers"));
    }

    #[test]
    fn a_rate_limit_is_exact_between_threads() {
        let store = FarStore::new(Arc::new(Memory::default()));
        let key = store.key(store.space(b"", b""), b"logins");
        let hour = Duration::from_secs(3600);
        let allowed = std::sync::atomic::AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        let rate = store.use_rate(&key, 150, hour).expect("it answers");
                        allowed.fetch_add(u64::from(rate.is_allowed), std::sync::atomic::Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(allowed.into_inner(), 150);
        let short = store.key(key.space(), b"short");
        let uses = |_| store.use_rate(&short, 2, Duration::from_millis(30)).expect("it answers").is_allowed;
        assert_eq!([0; 3].map(uses), [true, true, false]);
        std::thread::sleep(Duration::from_millis(50));
        assert!(uses(0));
    }
}
