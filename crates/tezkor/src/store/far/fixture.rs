//! A server in the memory of a test, whose clock can be turned: for what stands above servers. Servers themselves are tested as they are.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use super::record::number;
use super::server::{Held, Item, Left, Lifetime, Mark, Put, Server};
use crate::clock::wall_ms;
use crate::entry::Incr;
use crate::error::Error;

/// Values and when they expire.
#[derive(Default)]
pub(crate) struct Memory {
    values: Mutex<Values>,
    /// 0: the machine's clock.
    now_ms: AtomicU64,
    is_away: AtomicBool,
    asked_in_vain: AtomicU64,
    is_in_transaction: AtomicBool,
    is_fleet: AtomicBool,
    /// What happens when something has been removed and nobody knows yet.
    after_removal: Mutex<Option<Call>>,
}

type Values = BTreeMap<Vec<u8>, (Vec<u8>, Option<u64>)>;

type Call = Box<dyn FnOnce(&Memory) + Send>;

const LARGEST: usize = 1 << 20;

impl Memory {
    pub(crate) fn set_time(&self, unix_ms: u64) {
        self.now_ms.store(unix_ms, Ordering::SeqCst);
    }

    pub(crate) fn follow_the_clock(&self) {
        self.set_time(0);
    }

    /// From here on it answers nobody.
    pub(crate) fn go_away(&self) {
        self.is_away.store(true, Ordering::SeqCst);
    }

    pub(crate) fn come_back(&self) {
        self.is_away.store(false, Ordering::SeqCst);
    }

    /// Whether what is done may be undone again.
    pub(crate) fn set_in_transaction(&self, is_in_transaction: bool) {
        self.is_in_transaction.store(is_in_transaction, Ordering::SeqCst);
    }

    /// Two servers, of which the second one goes away and comes back.
    pub(crate) fn become_fleet(&self) {
        self.is_fleet.store(true, Ordering::SeqCst);
    }

    /// Does this once, after the next removal and before its answer.
    pub(crate) fn after_removal(&self, call: impl FnOnce(&Memory) + Send + 'static) {
        *self.after_removal.lock().expect("no test panics with it") = Some(Box::new(call));
    }

    /// How often it was asked while it was away.
    pub(crate) fn asked_in_vain(&self) -> u64 {
        self.asked_in_vain.load(Ordering::SeqCst)
    }

    fn now(&self) -> u64 {
        match self.now_ms.load(Ordering::SeqCst) {
            0 => wall_ms(),
            now => now,
        }
    }

    /// What has not expired, for those who ask for these names.
    fn live(&self, names: &[&[u8]]) -> Result<MutexGuard<'_, Values>, Error> {
        let is_asked = !self.is_fleet() || names.iter().any(|name| self.place_of(name) == 1);
        if is_asked && self.is_away.load(Ordering::SeqCst) {
            self.asked_in_vain.fetch_add(1, Ordering::SeqCst);
            return Err(Error::outage("memory is away"));
        }
        let now = self.now();
        let mut values = self.values.lock().expect("no test panics with it");
        values.retain(|_, (_, expires)| expires.is_none_or(|expires| now < expires));
        Ok(values)
    }

    fn expiry(&self, lifetime: Lifetime, old: Option<&(Vec<u8>, Option<u64>)>) -> Option<u64> {
        match lifetime {
            Lifetime::Never => None,
            Lifetime::After(time) => Some(self.now().saturating_add(time.as_millis() as u64)),
            Lifetime::Keep => old.and_then(|(_, expires)| *expires),
        }
    }

    fn put(&self, values: &mut Values, item: &Item<'_>) -> Put {
        if item.bytes.len() > LARGEST {
            values.remove(item.name);
            return Put::TooLarge;
        }
        let expires = self.expiry(item.lifetime, values.get(item.name));
        values.insert(item.name.to_vec(), (item.bytes.to_vec(), expires));
        Put::Done
    }
}

impl Server for Memory {
    fn title(&self) -> String {
        "memory".into()
    }

    fn largest_value_bytes(&self) -> usize {
        LARGEST
    }

    fn is_lasting(&self) -> bool {
        !self.is_in_transaction.load(Ordering::SeqCst)
    }

    fn is_fleet(&self) -> bool {
        self.is_fleet.load(Ordering::SeqCst)
    }

    fn place_of(&self, name: &[u8]) -> usize {
        name.iter().map(|byte| usize::from(*byte)).sum::<usize>() % 2
    }

    fn is_partly_up(&self) -> bool {
        self.is_fleet()
    }

    fn get(&self, names: &[&[u8]]) -> Result<Vec<Option<Held>>, Error> {
        let values = self.live(names)?;
        let held = |(bytes, _): &(Vec<u8>, _)| Held { bytes: bytes.clone(), mark: Mark::of_value(bytes) };
        Ok(names.iter().map(|name| values.get(*name).map(held)).collect())
    }

    fn set(&self, items: &[Item<'_>]) -> Result<Vec<Put>, Error> {
        let mut values = self.live(&names_of(items))?;
        Ok(items.iter().map(|item| self.put(&mut values, item)).collect())
    }

    fn add(&self, items: &[Item<'_>]) -> Result<Vec<Put>, Error> {
        let mut values = self.live(&names_of(items))?;
        let add =
            |item: &Item<'_>| if values.contains_key(item.name) { Put::Held } else { self.put(&mut values, item) };
        Ok(items.iter().map(add).collect())
    }

    fn swap(&self, item: &Item<'_>, mark: &Mark) -> Result<Put, Error> {
        let mut values = self.live(&[item.name])?;
        let is_same = values.get(item.name).is_some_and(|(bytes, _)| Mark::of_value(bytes) == *mark);
        Ok(if is_same { self.put(&mut values, item) } else { Put::Held })
    }

    fn remove(&self, names: &[&[u8]]) -> Result<Vec<bool>, Error> {
        let mut values = self.live(names)?;
        let were = names.iter().map(|name| values.remove(*name).is_some()).collect();
        drop(values);
        let after = self.after_removal.lock().expect("no test panics with it").take();
        if let Some(after) = after {
            after(self);
        }
        Ok(were)
    }

    fn remove_marked(&self, name: &[u8], mark: &Mark) -> Result<bool, Error> {
        let mut values = self.live(&[name])?;
        let is_same = values.get(name).is_some_and(|(bytes, _)| Mark::of_value(bytes) == *mark);
        Ok(is_same && values.remove(name).is_some())
    }

    fn incr(&self, name: &[u8], delta: i64) -> Result<Incr, Error> {
        let mut values = self.live(&[name])?;
        let Some((bytes, _)) = values.get_mut(name) else { return Ok(Incr::Missing) };
        let Some(sum) = number(bytes).and_then(|number| number.checked_add(delta)) else { return Ok(Incr::NotACount) };
        *bytes = sum.to_string().into_bytes();
        Ok(Incr::Value(sum))
    }

    fn raise(&self, items: &[(&[u8], i64, Lifetime)]) -> Result<(), Error> {
        let mut values = self.live(&items.iter().map(|(name, ..)| *name).collect::<Vec<_>>())?;
        for (name, to, lifetime) in items {
            let old = values.get(*name);
            let (present, expires) = (old.and_then(|(bytes, _)| number(bytes)), self.expiry(*lifetime, old));
            let expires = match old {
                Some((_, old)) => old.zip(expires).map(|(old, new)| old.max(new)),
                None => expires,
            };
            let value = present.map_or(*to, |present| present.max(*to));
            values.insert(name.to_vec(), (value.to_string().into_bytes(), expires));
        }
        Ok(())
    }

    fn touch(&self, names: &[&[u8]], lifetime: Lifetime) -> Result<Vec<bool>, Error> {
        let expires = self.expiry(lifetime, None);
        let mut values = self.live(names)?;
        let touch = |name: &&[u8]| values.get_mut(*name).map(|value| value.1 = expires).is_some();
        Ok(names.iter().map(touch).collect())
    }

    fn left(&self, name: &[u8]) -> Result<Left, Error> {
        let now = self.now();
        Ok(match self.live(&[name])?.get(name) {
            None => Left::Absent,
            Some((_, None)) => Left::Never,
            Some((_, Some(expires))) => Left::Time(Duration::from_millis(expires - now)),
        })
    }

    fn empty(&self) -> Result<(), Error> {
        if !self.is_fleet() {
            return Err(Error::unsupported("memory is emptied by removing what is ours"));
        }
        self.live(&[b"\x01"])?.clear();
        Ok(())
    }

    fn scan(&self, beginning: &[u8], each: &mut dyn FnMut(&[u8]) -> bool) -> Result<(), Error> {
        let found: Vec<Vec<u8>> =
            self.live(&[b"\x01"])?.keys().filter(|name| name.starts_with(beginning)).cloned().collect();
        let _ = found.iter().all(|name| each(name));
        Ok(())
    }
}

fn names_of<'i>(items: &[Item<'i>]) -> Vec<&'i [u8]> {
    items.iter().map(|item| item.name).collect()
}
