//! A tier is a server itself: what each operation changes or reads, and what it owes when nobody knows what became of it.

use std::collections::BTreeMap;

use super::Tier;
use crate::entry::Incr;
use crate::error::Error;
use crate::store::far::names;
use crate::store::far::server::{Foreign, Held, Item, Left, Lifetime, Mark, Put, Server};

impl Server for Tier {
    fn title(&self) -> String {
        self.server.title()
    }

    fn place_of(&self, name: &[u8]) -> usize {
        self.server.place_of(name)
    }

    fn largest_value_bytes(&self) -> usize {
        self.server.largest_value_bytes()
    }

    fn is_lasting(&self) -> bool {
        self.server.is_lasting()
    }

    fn get(&self, names: &[&[u8]]) -> Result<Vec<Option<Held>>, Error> {
        self.read(names, |names| self.ask(|| has_values(names), |server| server.get(names)))
    }

    fn foreign(&self, names: &[&[u8]]) -> Result<Vec<Option<Foreign>>, Error> {
        self.read(names, |names| self.ask(|| has_values(names), |server| server.foreign(names)))
    }

    fn set(&self, items: &[Item<'_>]) -> Result<Vec<Put>, Error> {
        if !self.is_fleet() || items.len() < 2 {
            return self.change(&names_of(items), |server| server.set(items));
        }
        match self.ask(|| false, |server| server.set(items)) {
            Err(error) if error.is_outage() => self.by_place(
                items,
                |item| item.name,
                error,
                |items| self.change(&names_of(items), |server| server.set(items)),
            ),
            result => result,
        }
    }

    fn add(&self, items: &[Item<'_>]) -> Result<Vec<Put>, Error> {
        self.require_settled(&names_of(items))?;
        self.ask(|| has_values(&names_of(items)), |server| server.add(items))
    }

    fn swap(&self, item: &Item<'_>, mark: &Mark) -> Result<Put, Error> {
        self.require_settled(&[item.name])?;
        self.change(&[item.name], |server| server.swap(item, mark))
    }

    fn remove(&self, names: &[&[u8]]) -> Result<Vec<bool>, Error> {
        if !self.is_fleet() || names.len() < 2 {
            return self.change(names, |server| server.remove(names));
        }
        match self.ask(|| false, |server| server.remove(names)) {
            Err(error) if error.is_outage() => {
                self.by_place(names, |name| name, error, |names| self.change(names, |server| server.remove(names)))
            }
            result => result,
        }
    }

    fn remove_marked(&self, name: &[u8], mark: &Mark) -> Result<bool, Error> {
        self.ask(|| false, |server| server.remove_marked(name, mark))
    }

    fn incr(&self, name: &[u8], delta: i64) -> Result<Incr, Error> {
        self.require_settled(&[name])?;
        self.ask(|| has_values(&[name]), |server| server.incr(name, delta))
    }

    fn raise(&self, items: &[(&[u8], i64, Lifetime)]) -> Result<(), Error> {
        self.ask(|| false, |server| server.raise(items))
    }

    fn touch(&self, names: &[&[u8]], lifetime: Lifetime) -> Result<Vec<bool>, Error> {
        self.require_settled(names)?;
        self.ask(|| has_values(names), |server| server.touch(names, lifetime))
    }

    fn left(&self, name: &[u8]) -> Result<Left, Error> {
        self.require_settled(&[name])?;
        self.ask(|| has_values(&[name]), |server| server.left(name))
    }

    fn empty(&self) -> Result<(), Error> {
        self.ask(|| false, |server| server.empty())
    }

    fn scan(&self, beginning: &[u8], each: &mut dyn FnMut(&[u8]) -> bool) -> Result<(), Error> {
        self.ask(|| false, |server| server.scan(beginning, each))
    }
}

/// What stands for what was not done with a name.
trait Undone {
    const UNDONE: Self;
}

impl Undone for Put {
    const UNDONE: Put = Put::Held;
}

impl Undone for bool {
    const UNDONE: bool = false;
}

impl Tier {
    /// Does with those of each place what could not be done with all; an error where it could be done nowhere.
    fn by_place<'n, I: Copy, T: Undone + Copy>(
        &self,
        all: &[I],
        name: impl Fn(&I) -> &'n [u8],
        error: Error,
        some: impl Fn(&[I]) -> Result<Vec<T>, Error>,
    ) -> Result<Vec<T>, Error> {
        let mut places: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (at, one) in all.iter().enumerate() {
            places.entry(self.server.place_of(name(one))).or_default().push(at);
        }
        let mut done = vec![T::UNDONE; all.len()];
        let mut is_any_up = false;
        for positions in places.values() {
            let those: Vec<I> = positions.iter().map(|at| all[*at]).collect();
            if let Ok(results) = some(&those) {
                is_any_up = true;
                positions.iter().zip(results).for_each(|(at, result)| done[*at] = result);
            }
        }
        if is_any_up { Ok(done) } else { Err(error) }
    }
}

fn has_values(names: &[&[u8]]) -> bool {
    names.iter().any(|name| names::holds_value(name))
}

fn names_of<'i>(items: &[Item<'i>]) -> Vec<&'i [u8]> {
    items.iter().map(|item| item.name).collect()
}
