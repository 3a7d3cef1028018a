//! Writing: append a record to the worker's open segment, then lead the index to it by one swap.
//! It never leaves an older value behind a write that was refused, and never changes anything under a condition that fails.

use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed};

use super::alloc::{Reserved, Worker};
use super::counters::Counter;
use super::index::Inserted;
use super::layout::{UNIT_WORDS, segment, worker};
use super::read::Located;
use super::record::{self, FROZEN, HEADER_WORDS, Header, Kind, NEVER_MS};
use super::region::Region;
use super::slot;
use super::state::{self, NOBODY, Queue, State};
use super::words::{Buffer, Ordering, Word, copy_in};
use crate::entry::{CODEC_COUNT, Incr, Stamp, Value, When, Written};
use crate::key::Key;

/// Tries before a write that always loses its race is refused. Each loss means that another write won.
const MOST_TRIES: u32 = 10_000;

/// What is written beside key and value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms<'t> {
    pub(crate) expires_ms: u64,
    pub(crate) now_ms: u64,
    /// The Ledger's sequence before the load began; the present one for a plain set.
    pub(crate) birth: u64,
    pub(crate) cost_us: u32,
    pub(crate) stale_until_ms: u64,
    pub(crate) tags: &'t [&'t [u8]],
    pub(crate) tag_hashes: &'t [u64],
}

/// The engine's own condition beside those of a caller: that one slot still holds one word.
#[derive(Clone, Copy)]
enum Rule<'s> {
    When(When<'s>),
    Exactly { position: usize, word: u64 },
}

/// Where a record was published.
struct Published {
    position: usize,
    replaced: u64,
}

impl Region {
    /// Writes an entry. The expiry and the size are the caller's to check.
    pub(crate) fn write(
        &self,
        worker: &Worker,
        key: &Key<'_>,
        value: Value<'_>,
        terms: Terms<'_>,
        when: When<'_>,
    ) -> Written {
        if !matches!(when, When::Always) && !self.holds(key, when, terms.now_ms) {
            self.count(worker.row(), Counter::Held, 1);
            return Written::Held;
        }
        let written = self.write_by(worker, key, value, terms, Rule::When(when));
        match written {
            Written::Stored(_) => self.count(worker.row(), Counter::Sets, 1),
            Written::Held => self.count(worker.row(), Counter::Held, 1),
            _ => {
                self.count(worker.row(), Counter::Refused, 1);
                self.remove(key, terms.now_ms);
            }
        }
        written
    }

    fn write_by(&self, worker: &Worker, key: &Key<'_>, value: Value<'_>, terms: Terms<'_>, rule: Rule<'_>) -> Written {
        let number;
        let (kind, codec, bytes): (_, _, &[u8]) = match value {
            Value::Count(count) if record::fits_count(count) => (Kind::Count, CODEC_COUNT, &[]),
            Value::Count(count) => {
                number = count.to_le_bytes();
                (Kind::Plain, CODEC_COUNT, &number)
            }
            Value::Bytes { codec, bytes } => (Kind::Plain, codec, bytes),
        };
        if bytes.len() > self.geometry.largest_value() {
            return Written::Refused;
        }
        let id =
            u64::from(worker.owner.row) << 48 | (self.worker(worker.row())[worker::ENTRIES].add(1) & ((1 << 48) - 1));
        let mut header = Header {
            kind,
            header_words: HEADER_WORDS,
            dependencies: terms.tag_hashes.len(),
            units: 0,
            hash: key.low,
            id,
            expiry_word: terms.expires_ms,
            stale_until_ms: terms.stale_until_ms,
            codec,
            flags: 0,
            birth: terms.birth,
            created_ms: terms.now_ms,
            writer: worker.owner.row,
            epoch: self.epoch,
            cost_us: terms.cost_us,
            key_length: key.bytes.len() + 8,
            prefix_row: key.space.prefix_row,
            location_row: key.space.location_row,
            value_length: bytes.len(),
            checksum: 0,
        };
        let mut middle = Vec::with_capacity(header.key_words() + terms.tag_hashes.len() + 1);
        pack_middle(&mut middle, key, &terms);
        let value_words = if kind == Kind::Count { 1 } else { bytes.len().div_ceil(8) };
        let words = HEADER_WORDS + middle.len() + value_words;
        header.units = words.div_ceil(UNIT_WORDS);
        let change = self.ledger().change();
        let reserved = if header.units <= self.geometry.segment_units() {
            self.append(worker, &mut header, &middle, value, bytes, terms.now_ms)
        } else {
            self.append_large(worker, &mut header, &middle, bytes, terms.now_ms)
        };
        let Some(reserved) = reserved else { return Written::Refused };
        let new = slot::pack(slot::fingerprint(key.low), reserved.segment, reserved.generation, reserved.offset);
        let published = self.publish(worker, key, new, rule, terms.now_ms);
        if let Some((head, queue)) = reserved.large {
            self.settle_large(worker, head, matches!(published, Some(Some(_))).then_some(queue));
        }
        match published {
            Some(Some(published)) => {
                self.free_large(worker, published.replaced);
                Written::Stored(Stamp {
                    region_id: self.id,
                    position: published.position,
                    identity: slot::identity(new),
                    generation: reserved.generation,
                    id,
                    birth: terms.birth,
                    prefix_row: key.space.prefix_row,
                    expires_ms: terms.expires_ms.min(NEVER_MS),
                    change,
                    dependencies: !terms.tag_hashes.is_empty(),
                })
            }
            Some(None) => Written::Held,
            None => Written::Refused,
        }
    }

    fn append(
        &self,
        worker: &Worker,
        header: &mut Header,
        middle: &[u64],
        value: Value<'_>,
        bytes: &[u8],
        now_ms: u64,
    ) -> Option<Appended<'_>> {
        let queue = if self.is_ghost(header.hash) { Queue::Main } else { Queue::Small };
        let reserved = match queue {
            Queue::Main => self.reserve(worker, Queue::Main, header.units, now_ms),
            _ => None,
        };
        let reserved = match reserved {
            Some(reserved) => reserved,
            None => self.reserve(worker, Queue::Small, header.units, now_ms)?,
        };
        let record = reserved.record();
        header.checksum = self.checksum(header, middle, bytes);
        header.store(record, reserved.salt());
        put(&record[HEADER_WORDS..], middle);
        let value_at = HEADER_WORDS + middle.len();
        match value {
            Value::Count(count) if header.kind == Kind::Count => {
                record[value_at].store(record::salted_count(count, reserved.salt()), Ordering::Relaxed);
            }
            _ => copy_in(&record[value_at..], bytes),
        }
        record[0].store(header.shape(), Ordering::Relaxed);
        Some(Appended {
            segment: reserved.segment,
            generation: reserved.generation,
            offset: reserved.offset,
            large: None,
            _reserved: Some(reserved),
        })
    }

    /// A value that does not fit a segment gets segments of its own: the head begins with the record, the others follow.
    fn append_large(
        &self,
        worker: &Worker,
        header: &mut Header,
        middle: &[u64],
        bytes: &[u8],
        now_ms: u64,
    ) -> Option<Appended<'_>> {
        let value_words = bytes.len().div_ceil(8);
        let list_at = HEADER_WORDS + middle.len();
        let segment_words = self.geometry.segment_words;
        // Each member takes two words of the head for itself.
        let members = (1..self.geometry.segments).find(|count| {
            value_words <= segment_words.saturating_sub(list_at + 1 + 2 * count) + count * segment_words
        })?;
        let head = self.take(worker, now_ms)?;
        let mut taken = Vec::with_capacity(members);
        for _ in 0..members {
            match self.take(worker, now_ms) {
                Some(segment) => taken.push(segment),
                None => {
                    taken.into_iter().chain([head]).for_each(|segment| self.release(segment));
                    return None;
                }
            }
        }
        header.kind = Kind::Large;
        header.units = self.geometry.segment_units();
        let generation = self.generation(head);
        let mut list = Vec::with_capacity(middle.len() + 1 + 2 * members);
        list.extend_from_slice(middle);
        list.push(members as u64);
        list.extend(taken.iter().flat_map(|segment| [*segment as u64, self.generation(*segment)]));
        header.checksum = self.checksum(header, &list, bytes);
        let record = self.segment(head);
        record[0].store(record::hole(header.units), Ordering::Relaxed);
        header.store(record, record::salt(generation, head, 0));
        put(&record[HEADER_WORDS..], &list);
        let first_at = HEADER_WORDS + list.len();
        let (first, mut rest) = bytes.split_at(((segment_words - first_at) * 8).min(bytes.len()));
        copy_in(&record[first_at..], first);
        for segment in &taken {
            let (part, more) = rest.split_at((segment_words * 8).min(rest.len()));
            copy_in(self.segment(*segment), part);
            self.join_chain(*segment, head, generation);
            rest = more;
        }
        self.meta(head, segment::RECORDS).store(1, Ordering::Relaxed);
        record[0].store(header.shape(), Ordering::Relaxed);
        let queue = if self.is_ghost(header.hash) { Queue::LargeMain } else { Queue::LargeSmall };
        Some(Appended { segment: head, generation, offset: 0, large: Some((head, queue)), _reserved: None })
    }

    /// From here on the member lives as long as the head's segment keeps its generation.
    fn join_chain(&self, member: usize, head: usize, generation: u64) {
        self.meta(member, segment::HEAD).store(head as u64, Ordering::SeqCst);
        self.meta(member, segment::HEAD_GENERATION).store(generation, Ordering::SeqCst);
        self.meta(member, segment::STATE).store(state::pack(State::Chain, Queue::LargeSmall, NOBODY), Ordering::SeqCst);
    }

    /// Puts the head of a published large value into its queue, or frees one that was not published.
    fn settle_large(&self, worker: &Worker, head: usize, published: Option<Queue>) {
        let Some(queue) = published else { return self.release(head) };
        let open = state::pack(State::Open, Queue::Small, worker.owner);
        let stamp = self.header(super::layout::header::STAMP).add(1) + 1;
        self.meta(head, segment::STAMP).store(stamp, Ordering::SeqCst);
        let _ = self.meta(head, segment::STATE).replace(open, state::pack(State::Sealed, queue, worker.owner));
    }

    /// Frees the segments of a large value that its slot no longer leads to; those of other values wait for their eviction.
    fn free_large(&self, worker: &Worker, word: u64) {
        let head = slot::segment(word);
        if word == 0 || head >= self.geometry.segments {
            return;
        }
        let state_word = self.meta(head, segment::STATE);
        let found = state_word.load(Ordering::SeqCst);
        let is_large = state::state(found) == State::Sealed && state::queue(found).is_large();
        if !is_large || !slot::is_of_generation(word, self.generation(head)) {
            return;
        }
        let evicting = state::pack(State::Evicting, state::queue(found), worker.owner);
        if state_word.replace(found, evicting).is_err() {
            return;
        }
        if slot::is_of_generation(word, self.generation(head)) {
            self.recycle(head);
        } else {
            state_word.store(found, Ordering::SeqCst);
        }
    }

    fn checksum(&self, header: &Header, middle: &[u64], bytes: &[u8]) -> u64 {
        let padding = &[0; 8][..bytes.len().next_multiple_of(8) - bytes.len()];
        if bytes.len() <= 4096 {
            // One pass over a copy is faster than a streaming hash for short values.
            let mut all = Vec::with_capacity(64 + middle.len() * 8 + bytes.len() + 8);
            all.extend_from_slice(bytemuck::cast_slice(&header.checked()));
            all.extend_from_slice(bytemuck::cast_slice(middle));
            all.extend_from_slice(bytes);
            all.extend_from_slice(padding);
            return xxh3_64_with_seed(&all, self.seed);
        }
        let mut sum = Xxh3::with_seed(self.seed);
        sum.update(bytemuck::cast_slice(&header.checked()));
        sum.update(bytemuck::cast_slice(middle));
        sum.update(bytes);
        sum.update(padding);
        sum.digest()
    }

    /// Whether a condition holds now; `publish` decides.
    fn holds(&self, key: &Key<'_>, when: When<'_>, now_ms: u64) -> bool {
        let found = self.find(key).filter(|located| self.is_live(key, located, now_ms));
        match when {
            When::Always => true,
            When::Absent => found.is_none(),
            When::Present => found.is_some(),
            When::Unchanged(stamp) => found.is_some_and(|located| self.is_same(&located, stamp)),
        }
    }

    fn is_same(&self, located: &Located<'_>, stamp: &Stamp) -> bool {
        stamp.region_id == self.id && located.header.id == stamp.id
    }

    /// Leads the index to a record. `Some(None)`: the rule did not hold; `None`: it lost every race.
    fn publish(
        &self,
        worker: &Worker,
        key: &Key<'_>,
        new: u64,
        rule: Rule<'_>,
        now_ms: u64,
    ) -> Option<Option<Published>> {
        for attempt in 0..MOST_TRIES {
            if let Rule::Exactly { position, word } = rule {
                let swapped = self.swap(position, word, |current| slot::with_frequency(new, slot::frequency(current)));
                return Some(swapped.then_some(Published { position, replaced: word }));
            }
            let Rule::When(when) = rule else { return None };
            // "Changed while looking" is never "absent".
            let Ok(located) = self.locate(key) else { continue };
            let live = located.as_ref().filter(|located| self.is_live(key, located, now_ms));
            let holds = match when {
                When::Always => true,
                When::Absent => live.is_none(),
                When::Present => live.is_some(),
                When::Unchanged(stamp) => live.is_some_and(|located| self.is_same(located, stamp)),
            };
            if !holds {
                return Some(None);
            }
            // Another key of the same fingerprint is replaced as well: this is a cache.
            let mut occupied = None;
            self.occupied(key.low, |slot| {
                occupied = Some(slot);
                true
            });
            match (located, occupied) {
                (Some(located), Some(slot)) if slot::identity(located.word) != slot::identity(slot.word) => continue,
                (_, Some(slot)) => {
                    let swapped = self
                        .swap(slot.position, slot.word, |current| slot::with_frequency(new, slot::frequency(current)));
                    if swapped {
                        return Some(Some(Published { position: slot.position, replaced: slot.word }));
                    }
                }
                (Some(_), None) => continue,
                (None, None) => match self.insert(key.low, new) {
                    Inserted::Stored { position, displaced } => {
                        if displaced != 0 && self.generation_of(displaced).is_some() {
                            self.count(worker.row(), Counter::EvictedEntries, 1);
                        }
                        return Some(Some(Published { position, replaced: displaced }));
                    }
                    Inserted::Again => back_off(attempt, worker.row()),
                },
            }
        }
        None
    }

    /// Removes an entry; whether there was one that could be read before its key was invalidated.
    pub(crate) fn remove(&self, key: &Key<'_>, now_ms: u64) -> bool {
        for _ in 0..MOST_TRIES {
            let Ok(located) = self.locate(key) else { continue };
            let Some(located) = located else { return false };
            let Header { birth, prefix_row, .. } = located.header;
            let live = located.expires_ms().is_some_and(|expires_ms| now_ms < expires_ms)
                && self.ledger().are_rows_fresh(birth, [key.space.location_row, prefix_row])
                && self.ledger().are_tags_fresh(birth, located.dependencies());
            if self.swap(located.position, located.word, |_| 0) {
                self.free_large_unowned(located.word);
                return live;
            }
        }
        false
    }

    /// As `free_large`, for a caller that may have no worker slot: the head is left to its eviction when it cannot be owned.
    fn free_large_unowned(&self, word: u64) {
        let head = slot::segment(word);
        if head < self.geometry.segments
            && state::queue(self.meta(head, segment::STATE).load(Ordering::SeqCst)).is_large()
        {
            // Nothing leads there any more, so its turn comes first.
            self.meta(head, segment::STAMP).store(0, Ordering::SeqCst);
        }
    }

    /// Changes when an entry expires; whether there is one. Longer is done in place; shorter writes the entry anew, since
    /// decoded copies take their own expiry as a lower bound.
    pub(crate) fn touch(
        &self,
        worker: &Worker,
        key: &Key<'_>,
        expires_ms: u64,
        now_ms: u64,
        buffer: &mut Buffer,
    ) -> bool {
        for _ in 0..MOST_TRIES {
            let Ok(located) = self.locate(key) else { continue };
            let Some(located) = located else { return false };
            if !self.is_live(key, &located, now_ms) {
                return false;
            }
            let old = located.header.expiry_word;
            let longer = located.expires_ms().is_some_and(|current| current <= expires_ms);
            if longer && old & FROZEN == 0 {
                let new = record::salted_expiry(expires_ms.min(NEVER_MS), located.salt());
                if located.expiry().replace(old, new).is_ok() && self.still_holds(located.position, located.word) {
                    self.count(worker.row(), Counter::Touches, 1);
                    return true;
                }
                continue;
            }
            match self.rewrite(worker, key, &located, expires_ms, None, now_ms, buffer) {
                Written::Stored(_) => {
                    self.count(worker.row(), Counter::Touches, 1);
                    return true;
                }
                Written::Held => {}
                _ => return self.give_up(worker, &located),
            }
        }
        false
    }

    /// There is no room for an entry that has to be written anew: it goes, rather than stay with what was asked to change.
    fn give_up(&self, worker: &Worker, located: &Located<'_>) -> bool {
        self.count(worker.row(), Counter::Refused, 1);
        self.swap(located.position, located.word, |_| 0)
    }

    /// Adds to a count in place.
    pub(crate) fn add_to_count(
        &self,
        worker: &Worker,
        key: &Key<'_>,
        delta: i64,
        now_ms: u64,
        buffer: &mut Buffer,
    ) -> Incr {
        for _ in 0..MOST_TRIES {
            let Ok(located) = self.locate(key) else { continue };
            let Some(located) = located else { return Incr::Missing };
            if !self.is_live(key, &located, now_ms) {
                return Incr::Missing;
            }
            if located.header.codec != CODEC_COUNT {
                return Incr::NotACount;
            }
            let word = located.value_at().and_then(|at| located.record.get(at));
            let in_place = word.filter(|_| located.header.kind == Kind::Count);
            if let Some(word) = in_place {
                let old = word.load(Ordering::SeqCst);
                let Some(number) = record::count(old, located.salt()) else {
                    // Recycled under this thread, or damaged: a damaged one is removed, so that this ends.
                    self.swap(located.position, located.word, |_| 0);
                    continue;
                };
                let Some(sum) = number.checked_add(delta) else { return Incr::NotACount };
                if old & FROZEN == 0 && record::fits_count(sum) {
                    let new = record::salted_count(sum, located.salt());
                    if word.replace(old, new).is_ok() {
                        self.raise_frequency(located.position, located.word);
                        self.count(worker.row(), Counter::Counts, 1);
                        return Incr::Value(sum);
                    }
                    continue;
                }
            }
            // Frozen by an evictor, or too large for a word: written anew, if the slot still leads here.
            let Ok((_, number)) = self.freeze_and_copy(&located, buffer) else { continue };
            // Read after the freeze: a touch may have lengthened it in place until then.
            let word = located.expiry().load(Ordering::SeqCst);
            let Some(expires_ms) = record::expires_ms(word, located.salt()) else { continue };
            let Some(sum) = number.checked_add(delta) else { return Incr::NotACount };
            match self.rewrite(worker, key, &located, expires_ms, Some(sum), now_ms, buffer) {
                Written::Stored(_) => {
                    self.count(worker.row(), Counter::Counts, 1);
                    return Incr::Value(sum);
                }
                Written::Held => {}
                _ => {
                    self.give_up(worker, &located);
                    return Incr::Missing;
                }
            }
        }
        Incr::Missing
    }

    /// Freezes what is changed in place, so that nothing is lost between this copy and the swap of the slot.
    fn freeze_and_copy(&self, located: &Located<'_>, buffer: &mut Buffer) -> Result<(u8, i64), ()> {
        located.expiry().set_bits(FROZEN);
        if located.header.kind == Kind::Count
            && let Some(word) = located.value_at().and_then(|at| located.record.get(at))
        {
            word.set_bits(FROZEN);
        }
        let copied = self.copy(located, buffer).map_err(|_| ());
        let same = self.generation(located.segment) == located.generation;
        copied.and_then(|found| if same { Ok(found) } else { Err(()) })
    }

    /// Writes an entry anew with another expiry or count, if its slot still leads to what was located.
    #[allow(clippy::too_many_arguments)]
    fn rewrite(
        &self,
        worker: &Worker,
        key: &Key<'_>,
        located: &Located<'_>,
        expires_ms: u64,
        count: Option<i64>,
        now_ms: u64,
        buffer: &mut Buffer,
    ) -> Written {
        let Ok((codec, number)) = self.freeze_and_copy(located, buffer) else { return Written::Held };
        let dependencies: Vec<u64> = located.dependencies().collect();
        let tags = self.tag_names(located);
        let names: Vec<&[u8]> = tags.iter().map(Vec::as_slice).collect();
        let terms = Terms {
            expires_ms,
            now_ms,
            birth: located.header.birth,
            cost_us: located.header.cost_us,
            stale_until_ms: located.header.stale_until_ms,
            tags: &names,
            tag_hashes: &dependencies,
        };
        let value = match codec {
            CODEC_COUNT => Value::Count(count.unwrap_or(number)),
            _ => Value::Bytes { codec, bytes: buffer.bytes() },
        };
        let rule = Rule::Exactly { position: located.position, word: located.word };
        self.write_by(worker, key, value, terms, rule)
    }

    /// The tag names of an entry.
    pub(crate) fn tag_names(&self, located: &Located<'_>) -> Vec<Vec<u8>> {
        if located.header.dependencies == 0 {
            return Vec::new();
        }
        let at = located.header.dependencies_at() + located.header.dependencies;
        let Some(value_at) = located.value_at() else { return Vec::new() };
        let mut words = Vec::new();
        super::words::copy_out(&located.record[at..value_at], &mut words);
        let bytes: &[u8] = bytemuck::cast_slice(words.get(1..).unwrap_or_default());
        let mut rest = &bytes[..(words.first().copied().unwrap_or(0) as usize).min(bytes.len())];
        let mut names = Vec::new();
        while let Some((length, after)) = rest.split_first_chunk::<2>() {
            let length = usize::from(u16::from_le_bytes(*length));
            let Some((name, more)) = after.split_at_checked(length) else { break };
            names.push(name.to_vec());
            rest = more;
        }
        names
    }
}

/// A record that no slot leads to yet; its segment is not recycled while this lives.
struct Appended<'r> {
    segment: usize,
    generation: u64,
    offset: usize,
    large: Option<(usize, Queue)>,
    _reserved: Option<Reserved<'r>>,
}

/// Key, dependencies and tag names, as words.
fn pack_middle(middle: &mut Vec<u64>, key: &Key<'_>, terms: &Terms<'_>) {
    middle.push(key.space.location);
    pack_bytes(middle, key.bytes);
    if terms.tag_hashes.is_empty() {
        return;
    }
    middle.extend_from_slice(terms.tag_hashes);
    let mut names = Vec::new();
    for tag in terms.tags {
        names.extend_from_slice(&(tag.len() as u16).to_le_bytes());
        names.extend_from_slice(tag);
    }
    middle.push(names.len() as u64);
    pack_bytes(middle, &names);
}

fn pack_bytes(to: &mut Vec<u64>, bytes: &[u8]) {
    let (whole, rest) = bytes.as_chunks::<8>();
    to.extend(whole.iter().map(|chunk| u64::from_le_bytes(*chunk)));
    if !rest.is_empty() {
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        to.push(u64::from_le_bytes(last));
    }
}

fn put(to: &[Word], words: &[u64]) {
    for (target, word) in to.iter().zip(words) {
        target.store(*word, Ordering::Relaxed);
    }
}

/// Waits a little, differently in each worker, after losing a race for a slot.
fn back_off(attempt: u32, row: usize) {
    #[cfg(any(loom, shuttle))]
    {
        let _ = (attempt, row);
        super::schedules::atomic::yield_now();
    }
    #[cfg(not(any(loom, shuttle)))]
    for _ in 0..(attempt.min(64) * (1 + row as u32 % 7)) {
        std::hint::spin_loop();
    }
}
