//! MAX_ENTRIES and CULL_FREQUENCY as Django's LocMemCache means them: how many entries a location may have, and which
//! leave. Only used where a cache asks for it: the engine itself is bounded in bytes.
//!
//! Like there, an expired entry counts until somebody asks for it, and when the limit is reached one entry in
//! CULL_FREQUENCY leaves, the longest unused first.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

/// The keys of a location, by their last use.
#[derive(Default)]
pub struct Order {
    by_key: HashMap<Arc<[u8]>, u64>,
    by_use: BTreeMap<u64, Arc<[u8]>>,
    uses: u64,
}

/// Several caches of a process with one location share its order.
static ORDERS: Mutex<Option<HashMap<String, Arc<Mutex<Order>>>>> = Mutex::new(None);

/// The order of a location.
pub fn order_of(location: &str) -> Arc<Mutex<Order>> {
    let mut orders = ORDERS.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(orders.get_or_insert_default().entry(location.to_owned()).or_default())
}

impl Order {
    /// Forgets all keys that fit.
    pub fn forget_all(&mut self, fits: impl Fn(&[u8]) -> bool) {
        let gone: Vec<Arc<[u8]>> = self.by_key.keys().filter(|key| fits(key)).cloned().collect();
        for key in gone {
            self.forget(&key);
        }
    }

    /// Makes room for a write; returns the keys that have to leave, or `None` for all.
    pub fn cull(&mut self, max_entries: usize, cull_frequency: usize) -> Option<Vec<Arc<[u8]>>> {
        if self.by_key.len() < max_entries {
            return Some(Vec::new());
        }
        if cull_frequency == 0 {
            self.clear();
            return None;
        }
        let mut leaving = Vec::new();
        for _ in 0..self.by_key.len() / cull_frequency {
            if let Some((_, key)) = self.by_use.pop_first() {
                self.by_key.remove(&key);
                leaving.push(key);
            }
        }
        Some(leaving)
    }

    /// Notes a write of a key, or a read.
    pub fn note(&mut self, key: &[u8]) {
        self.uses += 1;
        let key = match self.by_key.get_key_value(key) {
            Some((key, use_before)) => {
                self.by_use.remove(use_before);
                Arc::clone(key)
            }
            None => Arc::from(key),
        };
        self.by_use.insert(self.uses, Arc::clone(&key));
        self.by_key.insert(key, self.uses);
    }

    /// Notes that a key is gone.
    pub fn forget(&mut self, key: &[u8]) {
        if let Some(last_use) = self.by_key.remove(key) {
            self.by_use.remove(&last_use);
        }
    }

    /// Notes that all are gone.
    pub fn clear(&mut self) {
        self.by_key.clear();
        self.by_use.clear();
    }
}
