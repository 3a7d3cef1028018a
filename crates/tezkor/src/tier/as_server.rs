//! A tier is a server itself: what each operation changes or reads, and what it owes when nobody knows what became of it.

use super::Tier;
use crate::entry::Incr;
use crate::error::Error;
use crate::store::far::names;
use crate::store::far::server::{Foreign, Held, Item, Left, Lifetime, Mark, Put, Server};

impl Server for Tier {
    fn title(&self) -> String {
        self.server.title()
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
            Err(error) if error.is_outage() => self.each(items, error, |item| {
                self.change(&[item.name], |server| server.set(std::slice::from_ref(item))).map(|puts| puts[0])
            }),
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
            Err(error) if error.is_outage() => self
                .each(names, error, |name| self.change(&[name], |server| server.remove(&[name])).map(|were| were[0])),
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
    /// Does with each what could not be done with all; an error where it could be done with none.
    fn each<I, T: Undone>(
        &self,
        all: &[I],
        error: Error,
        one: impl Fn(&I) -> Result<T, Error>,
    ) -> Result<Vec<T>, Error> {
        let done: Vec<Result<T, Error>> = all.iter().map(one).collect();
        if done.iter().all(Result::is_err) {
            return Err(error);
        }
        Ok(done.into_iter().map(|done| done.unwrap_or(T::UNDONE)).collect())
    }
}

fn has_values(names: &[&[u8]]) -> bool {
    names.iter().any(|name| names::holds_value(name))
}

fn names_of<'i>(items: &[Item<'i>]) -> Vec<&'i [u8]> {
    items.iter().map(|item| item.name).collect()
}
