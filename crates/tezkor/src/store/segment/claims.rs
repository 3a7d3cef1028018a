//! Claims: who runs a load, who holds a lock, how far a rate limit is used up. Three tables of fixed size, which neither
//! eviction nor `clear` touches. Nothing here needs repair: a claim of a worker that died is vacant, and the next one takes it.
//!
//! ```text
//! slot  bit 63      62-24   23-14   13-0
//!       tentative   name    row     nonce        (row 1023: a load that failed, 1022: nobody's)
//! data  token | deadline | waiters | failures    (48 bits; above them the nonce of the claim that it belongs to)
//!       window                                   (of a rate limit: its end 40, uses 24)
//! ```
//!
//! A claim is one swap where the name has a slot whose holder is gone. Where it has none it is two, as in `index`: put the
//! word marked tentative, look through the bucket again, commit. Of two claimants at least one looks after both have put
//! their words, so two commits cannot both succeed. What belongs to a claim is written after the commit, and counts
//! only with the nonce of the slot, so that a claimant that slept writes nothing into another's claim.
//!
//! Two names that agree in bucket and 39 bits are one: one load waits for the other, or one lock, which costs time and no
//! more.

use super::layout::{Geometry, claim, header};
use super::region::Region;
use super::words::{Ordering, Word};

const TENTATIVE: u64 = 1 << 63;
const NAME_AT: u32 = 24;
const NAME: u64 = (1 << 39) - 1;
const ROW_AT: u32 = 14;
const ROW: u64 = 0x3ff;
const NONCE: u64 = 0x3fff;
const NONCE_AT: u32 = 48;
const LOW_48: u64 = (1 << 48) - 1;
/// The row of a load that failed.
const FAILED: u64 = 1023;
/// The row of a rate window.
pub(crate) const NOBODY: u16 = 1022;
/// Tries of a claimant that always loses: each loss means that another won.
const MOST_TRIES: usize = 1_000;
/// The first wait after a load failed, and the longest.
const BACK_OFF_MS: u64 = 100;
const LONGEST_BACK_OFF_MS: u64 = 5_000;
/// How long a process that read the clock may sleep before it uses a rate limit, and still be exact.
const LONGEST_SLEEP_MS: u64 = 60_000;

/// Which table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Table {
    Flights = 0,
    Locks = 1,
    Rates = 2,
}

/// The name of a claim: the two halves of a key's hash.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Name {
    pub(crate) low: u64,
    pub(crate) high: u64,
}

/// A slot and what was seen in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    table: Table,
    /// The slot's word in the region, and the first word of its data.
    slot: usize,
    data: usize,
    word: u64,
    /// The fencing token: larger than all that were given out before.
    pub(crate) token: u64,
}

/// What came of claiming a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claimed {
    Yes(Claim),
    /// Somebody has it, or it failed a short while ago.
    Taken(Claim),
    /// The bucket is full.
    Full,
}

/// What is asked about a holder: the time, the claimant's row, and who lives.
#[derive(Clone, Copy)]
pub(crate) struct Asker<'a> {
    pub(crate) now_ms: u64,
    pub(crate) row: u16,
    /// Whether it has something to serve meanwhile, so that it can wait for the end of a back-off of its own making too.
    pub(crate) is_patient: bool,
    pub(crate) is_alive: &'a dyn Fn(usize) -> bool,
}

fn row_of(word: u64) -> u64 {
    (word >> ROW_AT) & ROW
}

fn pack(name: u64, row: u64, nonce: u64) -> u64 {
    name << NAME_AT | (row & ROW) << ROW_AT | (nonce & NONCE)
}

impl Name {
    /// The bits in the slot; never zero.
    fn bits(self) -> u64 {
        (self.high & NAME).max(1)
    }
}

impl Region {
    /// Claims a name until the deadline (0: for as long as the worker lives).
    pub(crate) fn claim_name(&self, table: Table, name: Name, deadline_ms: u64, asker: Asker<'_>) -> Claimed {
        for _ in 0..MOST_TRIES {
            let Some(seen) = self.seen(table, name) else {
                match self.insert_claim(table, name, deadline_ms, asker) {
                    Some(Some(claim)) => return Claimed::Yes(claim),
                    Some(None) => return Claimed::Full,
                    None => {
                        yield_now();
                        continue;
                    }
                }
            };
            if !self.is_vacant(&seen, asker) {
                return Claimed::Taken(seen);
            }
            let failures = if table == Table::Flights { self.failures(&seen) } else { 0 };
            let word = self.fresh_word(name, asker.row);
            if self.words()[seen.slot].replace(seen.word, word).is_ok() {
                let claim = self.begin_claim(Claim { word, ..seen }, deadline_ms);
                if table == Table::Flights {
                    self.set_data(&claim, claim::FAILURES, failures);
                }
                return Claimed::Yes(claim);
            }
        }
        Claimed::Full
    }

    /// The committed claim of a name.
    pub(crate) fn seen(&self, table: Table, name: Name) -> Option<Claim> {
        self.claim_places(table, name).find_map(|(bucket, place)| {
            let word = self.words()[bucket + place].load(Ordering::SeqCst);
            let ours = word & TENTATIVE == 0 && word >> NAME_AT == name.bits();
            ours.then(|| self.claim_at(table, bucket, place, word))
        })
    }

    /// Whether somebody has, or is about to have, the name: what a set asks about loads of its key.
    #[inline]
    pub(crate) fn is_claimed(&self, table: Table, name: Name) -> bool {
        let bucket = self.claim_bucket(table, name);
        self.words()[bucket..bucket + claim::SLOTS]
            .iter()
            .any(|word| (word.load(Ordering::SeqCst) >> NAME_AT) & NAME == name.bits())
    }

    /// Whether the claim is still as it was seen.
    #[inline]
    pub(crate) fn is_unchanged(&self, claim: &Claim) -> bool {
        self.words()[claim.slot].load(Ordering::SeqCst) == claim.word
    }

    /// Whether a name may be taken over: its holder is dead, its time is over, or its back-off.
    pub(crate) fn is_vacant(&self, claim: &Claim, asker: Asker<'_>) -> bool {
        if claim.table == Table::Rates {
            return is_over(self.words()[claim.data].load(Ordering::SeqCst), asker.now_ms);
        }
        let deadline_ms = self.data_of(claim, claim::DEADLINE).unwrap_or(0);
        match row_of(claim.word) {
            // The process that failed tries again at once if it is asked to; others when the back-off is over. One that
            // lies further ahead than any back-off is of an earlier boot.
            FAILED => {
                let is_over = deadline_ms <= asker.now_ms || deadline_ms > asker.now_ms + LONGEST_BACK_OFF_MS;
                is_over || (!asker.is_patient && self.failures(claim) >> 16 == u64::from(asker.row))
            }
            row => {
                let is_over = deadline_ms != 0 && deadline_ms <= asker.now_ms;
                let is_someones = (row as usize) < self.geometry.workers;
                is_over || !is_someones || (row != u64::from(asker.row) && !(asker.is_alive)(row as usize))
            }
        }
    }

    /// Gives a claim back; whether it was still the caller's.
    pub(crate) fn release_claim(&self, claim: &Claim) -> bool {
        let released = self.words()[claim.slot].replace(claim.word, 0).is_ok();
        self.wake(claim);
        released
    }

    /// Ends a load that failed: others wait for a while, then try one at a time.
    pub(crate) fn fail_claim(&self, claim: &Claim, name: Name, asker: Asker<'_>) {
        let failures = (self.failures(claim) & 0xffff).min(32) + 1;
        let word = self.fresh_word(name, FAILED as u16);
        if self.words()[claim.slot].replace(claim.word, word).is_ok() {
            let failed = Claim { word, ..*claim };
            self.set_data(&failed, claim::FAILURES, failures | u64::from(asker.row) << 16);
            let back_off_ms = (BACK_OFF_MS << (failures - 1).min(16)).min(LONGEST_BACK_OFF_MS);
            self.set_data(&failed, claim::DEADLINE, asker.now_ms + back_off_ms);
        }
        self.wake(claim);
    }

    /// Gives a claim another deadline; whether it is still the caller's.
    pub(crate) fn extend_claim(&self, claim: &Claim, deadline_ms: u64) -> bool {
        self.set_data(claim, claim::DEADLINE, deadline_ms);
        self.is_unchanged(claim)
    }

    /// The claim that has this token.
    pub(crate) fn claim_of_token(&self, table: Table, name: Name, token: u64) -> Option<Claim> {
        let seen = self.seen(table, name)?;
        (self.data_of(&seen, claim::TOKEN) == Some(token) && self.is_unchanged(&seen))
            .then_some(Claim { token, ..seen })
    }

    /// Counts one more who waits for the claim, or one less.
    pub(crate) fn count_waiter(&self, claim: &Claim, more: bool) {
        let word = &self.words()[claim.data + claim::WAITERS];
        loop {
            let found = word.load(Ordering::SeqCst);
            let waiting = self.untag(found, claim.word).unwrap_or(0);
            let count = if more { waiting + 1 } else { waiting.saturating_sub(1) };
            if word.replace(found, tag(count, claim.word)).is_ok() {
                return;
            }
        }
    }

    /// Whether somebody waits for the claim, as far as that is known: one that died waiting counts on.
    pub(crate) fn is_awaited(&self, claim: &Claim) -> bool {
        self.data_of(claim, claim::WAITERS).unwrap_or(0) > 0
    }

    /// The word to sleep on until the claim changes, and what it holds until then.
    pub(crate) fn sleep_on(&self, claim: &Claim) -> (&Word, u64) {
        (&self.words()[claim.slot], claim.word)
    }

    /// Gives back all that a worker which died had claimed.
    pub(crate) fn release_claims_of(&self, row: usize) {
        for table in [Table::Flights, Table::Locks] {
            for bucket in 0..self.geometry.claim_buckets {
                let at = self.claim_bucket_at(table, bucket);
                for place in 0..claim::SLOTS {
                    let word = self.words()[at + place].load(Ordering::SeqCst);
                    if word != 0 && row_of(word) == row as u64 && self.words()[at + place].replace(word, 0).is_ok() {
                        self.wake(&self.claim_at(table, at, place, word));
                    }
                }
            }
        }
    }

    /// Uses a rate window once. `Some((allowed, used, ends_ms))`; `None`: no place for it.
    pub(crate) fn use_rate(
        &self,
        name: Name,
        limit: u64,
        period_ms: u64,
        asker: Asker<'_>,
    ) -> Option<(bool, u64, u64)> {
        let asker = Asker { row: NOBODY, ..asker };
        for _ in 0..MOST_TRIES {
            let claim = match self.seen(Table::Rates, name) {
                Some(seen) => seen,
                None => match self.claim_name(Table::Rates, name, 0, asker) {
                    Claimed::Yes(claim) | Claimed::Taken(claim) => claim,
                    Claimed::Full => return None,
                },
            };
            let window = &self.words()[claim.data];
            let found = window.load(Ordering::SeqCst);
            // A window that ends much later than one that begins now is of another clock: it is over too. A little later ends one
            // that began after the caller had read the clock.
            let longest_ms = period_ms + LONGEST_SLEEP_MS;
            let is_running = !is_over(found, asker.now_ms) && ends_in(found, asker.now_ms) <= longest_ms;
            let (ends_ms, used) = if is_running {
                (asker.now_ms + ends_in(found, asker.now_ms), found & COUNT)
            } else {
                (asker.now_ms + period_ms, 0)
            };
            if used >= limit {
                return Some((false, used, ends_ms));
            }
            if window.replace(found, (ends_ms & ENDS) << COUNT_BITS | (used + 1)).is_ok() && self.is_unchanged(&claim) {
                return Some((true, used + 1, ends_ms));
            }
        }
        None
    }

    /// Gives back all claims, whoever has them: for tests, between which nothing is to be left.
    pub(crate) fn forget_claims(&self) {
        for table in [Table::Flights, Table::Locks, Table::Rates] {
            for bucket in 0..self.claim_buckets(table) {
                let at = self.claim_bucket_at(table, bucket);
                for word in &self.words()[at..at + claim::SLOTS] {
                    word.store(0, Ordering::SeqCst);
                }
            }
        }
    }

    /// The numbers of claims that somebody has, for people.
    pub(crate) fn claims_in_use(&self, table: Table) -> u64 {
        (0..self.claim_buckets(table))
            .map(|bucket| {
                let at = self.claim_bucket_at(table, bucket);
                self.words()[at..at + claim::SLOTS].iter().filter(|word| word.load(Ordering::Relaxed) != 0).count()
                    as u64
            })
            .sum()
    }

    /// Claims a name that has no committed slot. `None`: lost a race; `Some(None)`: the bucket is full.
    fn insert_claim(&self, table: Table, name: Name, deadline_ms: u64, asker: Asker<'_>) -> Option<Option<Claim>> {
        let Some((bucket, place, found)) = self.free_place(table, name, asker) else { return Some(None) };
        let word = self.fresh_word(name, asker.row);
        let slot = &self.words()[bucket + place];
        if slot.replace(found, word | TENTATIVE).is_err() {
            return None;
        }
        for (other, rival) in self.claim_places(table, name).filter(|other| *other != (bucket, place)) {
            let rival = &self.words()[other + rival];
            let found = rival.load(Ordering::SeqCst);
            if (found >> NAME_AT) & NAME != name.bits() {
                continue;
            }
            if found & TENTATIVE == 0 {
                let _ = slot.replace(word | TENTATIVE, 0);
                return None;
            }
            if rival.replace(found, 0).is_err() {
                // It is committed by now, or gone: look again.
                let _ = slot.replace(word | TENTATIVE, 0);
                return None;
            }
        }
        slot.replace(word | TENTATIVE, word).ok()?;
        Some(Some(self.begin_claim(self.claim_at(table, bucket, place, word), deadline_ms)))
    }

    /// A place that a name may take: in the bucket that has more of them.
    fn free_place(&self, table: Table, name: Name, asker: Asker<'_>) -> Option<(usize, usize, u64)> {
        let (mut best, mut most) = (None, 0);
        for bucket in self.claim_buckets_of(table, name) {
            let mut free = (0..claim::SLOTS).filter_map(|place| {
                let word = self.words()[bucket + place].load(Ordering::SeqCst);
                let is_free = word == 0
                    // Of an inserter that died, or is about to find that another came.
                    || word & TENTATIVE != 0
                    || self.is_vacant(&self.claim_at(table, bucket, place, word), asker);
                is_free.then_some((bucket, place, word))
            });
            let first = free.next();
            let count = usize::from(first.is_some()) + free.count();
            if count > most {
                (best, most) = (first, count);
            }
        }
        best
    }

    /// Writes what belongs to a claim that was committed a moment ago. The token is taken here, when nobody else has the claim:
    /// so tokens of a name grow from holder to holder.
    fn begin_claim(&self, claim: Claim, deadline_ms: u64) -> Claim {
        if claim.table == Table::Rates {
            return claim;
        }
        let token = self.header(header::TOKEN).next() & LOW_48;
        self.set_data(&claim, claim::TOKEN, token);
        self.set_data(&claim, claim::DEADLINE, deadline_ms);
        Claim { token, ..claim }
    }

    /// A slot word that no earlier claim of the name had, as far as 14 bits tell.
    fn fresh_word(&self, name: Name, row: u16) -> u64 {
        pack(name.bits(), u64::from(row), self.header(header::TOKEN).next())
    }

    fn failures(&self, claim: &Claim) -> u64 {
        self.data_of(claim, claim::FAILURES).unwrap_or(0)
    }

    fn data_of(&self, claim: &Claim, field: usize) -> Option<u64> {
        self.untag(self.words()[claim.data + field].load(Ordering::SeqCst), claim.word)
    }

    /// Writes what belongs to a claim, unless the slot has another by now.
    fn set_data(&self, claim: &Claim, field: usize, value: u64) {
        let word = &self.words()[claim.data + field];
        loop {
            let found = word.load(Ordering::SeqCst);
            if !self.is_unchanged(claim) || word.replace(found, tag(value, claim.word)).is_ok() {
                return;
            }
        }
    }

    fn untag(&self, data: u64, word: u64) -> Option<u64> {
        (data >> NONCE_AT == word & NONCE).then_some(data & LOW_48)
    }

    fn claim_at(&self, table: Table, bucket: usize, place: usize, word: u64) -> Claim {
        let data_words = if table == Table::Rates { claim::RATE_DATA_WORDS } else { claim::DATA_WORDS };
        let data = bucket + claim::SLOTS + place * data_words;
        Claim { table, slot: bucket + place, data, word, token: 0 }
    }

    fn claim_bucket(&self, table: Table, name: Name) -> usize {
        self.claim_bucket_at(table, (name.low >> 32) as usize % self.claim_buckets(table))
    }

    /// The buckets that a name may be in: a rate limit, of which there are many, has a choice of two, so that a table of which much is
    /// taken still has a place for it (Azar, Broder, Karlin, Upfal: Balanced Allocations, 1994).
    fn claim_buckets_of(&self, table: Table, name: Name) -> impl Iterator<Item = usize> {
        let first = self.claim_bucket(table, name);
        let second = match table {
            Table::Rates => self.claim_bucket_at(table, (name.low as u32) as usize % self.claim_buckets(table)),
            _ => first,
        };
        std::iter::once(first).chain((second != first).then_some(second))
    }

    fn claim_places(&self, table: Table, name: Name) -> impl Iterator<Item = (usize, usize)> {
        self.claim_buckets_of(table, name).flat_map(|bucket| (0..claim::SLOTS).map(move |place| (bucket, place)))
    }

    fn claim_buckets(&self, table: Table) -> usize {
        if table == Table::Rates { self.geometry.rate_buckets } else { self.geometry.claim_buckets }
    }

    fn claim_bucket_at(&self, table: Table, bucket: usize) -> usize {
        let Geometry { claims_at, rates_at, claim_buckets, .. } = self.geometry;
        match table {
            Table::Rates => rates_at + bucket * claim::RATE_BUCKET_WORDS,
            _ => claims_at + (table as usize * claim_buckets + bucket) * claim::BUCKET_WORDS,
        }
    }

    fn wake(&self, claim: &Claim) {
        #[cfg(not(any(loom, shuttle)))]
        super::os::wake_all(&self.words()[claim.slot]);
        #[cfg(any(loom, shuttle))]
        let _ = claim;
    }
}

fn tag(value: u64, word: u64) -> u64 {
    (word & NONCE) << NONCE_AT | (value & LOW_48)
}

// A rate window: its end (40 bits of milliseconds, which wrap) and how often it was used (24 bits).
const COUNT_BITS: u32 = 24;
const COUNT: u64 = (1 << COUNT_BITS) - 1;
const ENDS: u64 = (1 << 40) - 1;
/// The highest limit, and the longest period.
pub(crate) const HIGHEST_RATE_LIMIT: u64 = COUNT;
pub(crate) const LONGEST_RATE_PERIOD_MS: u64 = 366 * 24 * 3600 * 1000;

/// Milliseconds until a window ends; more than half of what fits is in the past.
fn ends_in(window: u64, now_ms: u64) -> u64 {
    (window >> COUNT_BITS).wrapping_sub(now_ms) & ENDS
}

fn is_over(window: u64, now_ms: u64) -> bool {
    let left = ends_in(window, now_ms);
    left == 0 || left > ENDS / 2
}

fn yield_now() {
    #[cfg(any(loom, shuttle))]
    super::schedules::atomic::yield_now();
    #[cfg(not(any(loom, shuttle)))]
    std::thread::yield_now();
}
