//! Recorded histories, and the rule by which they are judged: once a set or delete has returned, no get that starts later
//! returns the older value. The judge knows nothing of caches: it compares times.
//!
//! Each operation is recorded with CLOCK_MONOTONIC before its call and after its return; each value is written once. Then
//! 1. a get may return `v` only if the set of `v` began before the get ended;
//! 2. and only if no other write of the key began after the set of `v` had ended and itself ended before the get began;
//! 3. and reads never go back: once a finished get returned a newer value, no get that starts later returns an older one.
//!
//! A miss is always right. A delete, a clear or a refused set is a write of nothing.

use std::collections::HashMap;

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// A value was written.
    Set(u64),
    /// What was there was removed.
    Removed,
    /// A value was read.
    Got(u64),
}

/// One operation on one key.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    pub key: u64,
    pub done: Done,
    pub begin_ns: u64,
    pub end_ns: u64,
}

impl Record {
    pub const WORDS: usize = 5;

    pub fn to_words(self) -> [u64; Self::WORDS] {
        let (kind, value) = match self.done {
            Done::Set(value) => (1, value),
            Done::Removed => (2, 0),
            Done::Got(value) => (3, value),
        };
        [self.key, kind, value, self.begin_ns, self.end_ns]
    }

    pub fn from_words(words: [u64; Self::WORDS]) -> Record {
        let [key, kind, value, begin_ns, end_ns] = words;
        let done = match kind {
            1 => Done::Set(value),
            2 => Done::Removed,
            _ => Done::Got(value),
        };
        Record { key, done, begin_ns, end_ns }
    }
}

/// Judges a history; what is wrong with it, at most one line for each key.
pub fn judge(history: &[Record]) -> Vec<String> {
    let mut keys: HashMap<u64, Vec<Record>> = HashMap::new();
    history.iter().for_each(|record| keys.entry(record.key).or_default().push(*record));
    keys.into_iter()
        .filter_map(|(key, records)| judge_key(records).err().map(|wrong| format!("key {key}: {wrong}")))
        .collect()
}

fn judge_key(records: Vec<Record>) -> Result<(), String> {
    let (mut gets, mut writes): (Vec<Record>, Vec<Record>) =
        records.into_iter().partition(|record| matches!(record.done, Done::Got(_)));
    let sets: HashMap<u64, Record> = writes
        .iter()
        .filter_map(|write| match write.done {
            Done::Set(value) => Some((value, *write)),
            _ => None,
        })
        .collect();
    writes.sort_by_key(|write| write.begin_ns);
    // Of the writes from a place on, the one that ended first.
    let mut first_ended: Vec<Record> = writes.clone();
    for place in (1..first_ended.len()).rev() {
        if first_ended[place].end_ns < first_ended[place - 1].end_ns {
            first_ended[place - 1] = first_ended[place];
        }
    }
    gets.sort_by_key(|get| get.begin_ns);
    let mut finished: Vec<Record> = gets.clone();
    finished.sort_by_key(|get| get.end_ns);
    let mut finished = finished.into_iter().peekable();
    // The latest begin of a set whose value a finished get returned.
    let mut newest: Option<(u64, Record)> = None;
    for get in &gets {
        let Done::Got(value) = get.done else { continue };
        let set = sets.get(&value).ok_or_else(|| format!("{get:?} returned what nobody wrote"))?;
        if set.begin_ns > get.end_ns {
            return Err(format!("{get:?} returned what was written later, by {set:?}"));
        }
        let later = writes.partition_point(|write| write.begin_ns <= set.end_ns);
        if let Some(write) = first_ended.get(later).filter(|write| write.end_ns < get.begin_ns) {
            return Err(format!("{get:?} returned the value of {set:?} after {write:?} had returned"));
        }
        while let Some(done) = finished.next_if(|done| done.end_ns < get.begin_ns) {
            let Done::Got(seen) = done.done else { continue };
            let began = sets.get(&seen).map_or(0, |set| set.begin_ns);
            if newest.is_none_or(|(newest, _)| began > newest) {
                newest = Some((began, done));
            }
        }
        if let Some((_, newer)) = newest.filter(|(began, _)| *began > set.end_ns) {
            return Err(format!("{get:?} went back to the value of {set:?} after {newer:?}"));
        }
    }
    Ok(())
}
