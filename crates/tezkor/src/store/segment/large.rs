//! Large values: a record that has whole segments for itself. The head's segment holds the record, the others go on with its bytes.
//! They are never copied: a large value survives by moving its head to another queue, and is freed by raising one generation.

use super::alloc::Worker;
use super::layout::segment;
use super::record::{self, HEADER_WORDS, Header, Kind};
use super::region::Region;
use super::slot;
use super::state::{self, NOBODY, Owner, Queue, State};
use super::words::{Ordering, copy_in, fence};
use super::write::{Appended, CHECKED, put};

impl Region {
    /// A value that does not fit a segment gets segments of its own: the head begins with the record, the others follow.
    pub(crate) fn append_large(
        &self,
        worker: &Worker,
        header: &mut Header,
        mut checked: Vec<u64>,
        bytes: &[u8],
        now_ms: u64,
    ) -> Option<Appended<'_>> {
        let value_words = bytes.len().div_ceil(8);
        let list_at = HEADER_WORDS + checked.len() - CHECKED;
        let segment_words = self.geometry.segment_words;
        // Each member takes two words of the head for itself.
        let members = (1..self.geometry.segments).find(|count| {
            let in_head = segment_words.checked_sub(list_at + 1 + 2 * count);
            in_head.is_some_and(|in_head| value_words <= in_head + count * segment_words)
        })?;
        // Of a large queue from the start: a thread of this process that still knows such a segment as the one to append to
        // finds that it is not.
        let head = self.take(worker, Queue::LargeSmall, now_ms)?;
        let mut taken = Vec::with_capacity(members);
        for _ in 0..members {
            match self.take(worker, Queue::LargeSmall, now_ms) {
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
        checked.push(members as u64);
        checked.extend(taken.iter().flat_map(|segment| [*segment as u64, self.generation(*segment)]));
        header.checksum = self.checksum(header, &mut checked, bytes);
        let record = self.segment(head);
        // As in `reserve_in`.
        fence(Ordering::Release);
        record[0].store(record::hole(header.units), Ordering::Relaxed);
        header.store(record, record::salt(generation, head, 0));
        put(&record[HEADER_WORDS..], &checked[CHECKED..]);
        let first_at = HEADER_WORDS + checked.len() - CHECKED;
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

    /// From here on the member lives as long as the head's segment keeps its generation. Its state word is one of this life
    /// alone: whoever found it orphaned before, and takes it only after this, finds another word.
    fn join_chain(&self, member: usize, head: usize, generation: u64) {
        self.meta(member, segment::HEAD).store(head as u64, Ordering::SeqCst);
        self.meta(member, segment::HEAD_GENERATION).store(generation, Ordering::SeqCst);
        let life = Owner { incarnation: self.generation(member) as u32, ..NOBODY };
        self.meta(member, segment::STATE).store(state::pack(State::Chain, Queue::LargeSmall, life), Ordering::SeqCst);
    }

    /// Puts the head of a published large value into its queue, or frees one that was not published.
    pub(crate) fn settle_large(&self, worker: &Worker, head: usize, published: Option<Queue>) {
        let Some(queue) = published else { return self.release(head) };
        let open = state::pack(State::Open, Queue::LargeSmall, worker.owner);
        let stamp = self.header(super::layout::header::STAMP).next();
        self.meta(head, segment::STAMP).store(stamp, Ordering::SeqCst);
        let _ = self.meta(head, segment::STATE).replace(open, state::pack(State::Sealed, queue, worker.owner));
    }

    /// Frees the segments of a large value that its slot no longer leads to; those of other values wait for their eviction.
    pub(crate) fn free_large(&self, worker: &Worker, word: u64) {
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

    /// As `free_large`, for a caller that may have no worker slot: the head is left to its eviction when it cannot be owned.
    pub(crate) fn free_large_unowned(&self, word: u64) {
        let head = slot::segment(word);
        if head >= self.geometry.segments || !slot::is_of_generation(word, self.generation(head)) {
            return;
        }
        if state::queue(self.meta(head, segment::STATE).load(Ordering::SeqCst)).is_large() {
            // Nothing leads there any more, so its turn comes first.
            self.meta(head, segment::STAMP).store(0, Ordering::SeqCst);
        }
    }
}
