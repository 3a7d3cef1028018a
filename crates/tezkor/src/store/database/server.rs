//! The database as a [`Server`]: takes batches apart where a database limits them, and reads what the statements answered.

use std::sync::OnceLock;

use super::connection::{Access, Cell, Connection, Outcome, Statement};
use super::dialect::Dialect;
use super::statements::{From, ROW_PARAMETERS, Upsert, Writer, left_ms};
use super::table::{Address, Content, HEAD_BYTES, Row, lifetime_ms, name_of};
use super::tidy::{ROWS_AT_ONCE, Tidying};
use crate::entry::Incr;
use crate::error::Error;
use crate::store::far::server::{Held, Item, Left, Lifetime, Mark, Put, Server};
use crate::store::segment::os;

/// The most rows of a statement, whatever the database allows: longer ones gain nothing.
const MOST_ROWS: usize = 1000;
/// Names are listed so many at a time.
const LISTED_ROWS: usize = 500;
/// What the statement itself and the quotes around a value may need.
const SPARE_BYTES: usize = 64 << 10;

/// A table of a database.
pub struct DatabaseServer<C> {
    connection: C,
    table: String,
    most_entries: Option<u64>,
    tidying: Tidying,
    writer: OnceLock<Writer>,
}

impl<C: Connection> DatabaseServer<C> {
    /// Over a table that [`super::creation`] made. With `most_entries`, rows that would expire next go when there are more than so many
    /// (and a tenth).
    pub fn new(connection: C, table: impl Into<String>, most_entries: Option<u64>) -> Result<Self, Error> {
        let tidying = Tidying::new(random()?, most_entries);
        Ok(Self { connection, table: table.into(), most_entries, tidying, writer: OnceLock::new() })
    }

    /// What it was given.
    pub fn connection(&self) -> &C {
        &self.connection
    }

    fn writer(&self) -> Result<&Writer, Error> {
        if let Some(writer) = self.writer.get() {
            return Ok(writer);
        }
        let dialect = self.connection.dialect()?;
        Ok(self.writer.get_or_init(|| Writer::new(dialect, &self.table)))
    }

    fn run(&self, access: Access, statements: &[Statement<'_>]) -> Result<Vec<Outcome>, Error> {
        if statements.is_empty() {
            return Ok(Vec::new());
        }
        let outcomes = self.connection.run(access, statements)?;
        if outcomes.len() == statements.len() || access == Access::Tidy {
            return Ok(outcomes);
        }
        Err(self.confused(&format!("answered {} of {} statements", outcomes.len(), statements.len())))
    }

    fn run_one(&self, access: Access, statement: Statement<'_>) -> Result<Outcome, Error> {
        Ok(self.run(access, &[statement])?.pop().unwrap_or_default())
    }

    fn confused(&self, what: &str) -> Error {
        Error::outage(format!(
            "{} {what} about table {}; was the table made by createcachetable of this version?",
            self.connection.title(),
            self.table
        ))
    }

    /// The place in the batch of the row that begins with this cell. A row that nobody asked for is a lie.
    fn place(&self, batch: &[(usize, &Address<'_>)], key: Option<&Cell>) -> Result<usize, Error> {
        let key = key.and_then(Cell::bytes).ok_or_else(|| self.confused("answered a row without a name"))?;
        let found = batch.binary_search_by(|(_, address)| address.key.as_ref().cmp(key));
        found.map_err(|_| self.confused("answered a row that was not asked for"))
    }

    /// Writes rows and tells, for each, whether it is there; tidies up after that.
    fn write(&self, rows: &[Row<'_>], upsert: Upsert) -> Result<Vec<bool>, Error> {
        let writer = self.writer()?;
        let sizes = |place: usize| rows[place].content.length() + rows[place].address.rest.len();
        let addresses: Vec<_> = rows.iter().map(|row| row.address).collect();
        let batches = batches(writer.dialect(), &addresses, ROW_PARAMETERS, &sizes);
        let asks_marks = upsert == Upsert::Absent && !writer.dialect().insert_returns();
        let mut statements = Vec::with_capacity(batches.len() * 2);
        for batch in &batches {
            let rows: Vec<_> = batch.iter().map(|(place, _)| &rows[*place]).collect();
            statements.push(writer.upsert(&rows, upsert));
            if asks_marks {
                statements.push(writer.marks(&plain(batch)));
            }
        }
        let outcomes = self.run(Access::Write, &statements)?;
        let mut done = vec![upsert != Upsert::Absent; rows.len()];
        if upsert == Upsert::Absent {
            for (batch, outcome) in
                batches.iter().zip(outcomes.iter().skip(usize::from(asks_marks)).step_by(1 + usize::from(asks_marks)))
            {
                for row in &outcome.rows {
                    let (place, _) = batch[self.place(batch, row.first())?];
                    done[place] = row.get(1).and_then(Cell::number) == Some(rows[place].mark);
                }
            }
        }
        self.tidy(rows.len() as u64);
        Ok(done)
    }

    /// Removes what has expired and what is too much. That nothing comes of it is of no matter: the next one does more.
    fn tidy(&self, rows: u64) {
        let due = self.tidying.wrote(rows);
        let Ok(writer) = self.writer() else { return };
        if due.sweeps > 0 {
            let _ = self.run(Access::Tidy, &[writer.sweep(ROWS_AT_ONCE * due.sweeps.min(5))]);
        }
        if let (true, Some(most)) = (due.counts, self.most_entries) {
            // No more are counted than a cull removes: a table that is much too large shrinks step by step.
            let room = most.saturating_add((most / 5).max(ROWS_AT_ONCE * 5));
            let counted = self.run(Access::Tidy, &[writer.size(room)]);
            let size = counted.ok().and_then(|outcomes| outcomes.first()?.rows.first()?.first()?.number());
            let excess = size.map_or(0, |size| (size as u64).saturating_sub(most));
            if excess > 0 {
                let _ = self.run(Access::Tidy, &[writer.cull(excess)]);
            }
        }
    }

    /// Which of the names a statement for many of them changed.
    fn changed<'n>(
        &self,
        addresses: &'n [Address<'n>],
        has_rows: bool,
        statement: impl Fn(&Writer, &[&'n Address<'n>]) -> Statement<'n>,
    ) -> Result<Vec<bool>, Error> {
        let writer = self.writer()?;
        let all: Vec<_> = addresses.iter().collect();
        let mut changed = vec![false; addresses.len()];
        for batch in batches(writer.dialect(), &all, 1, &|_| 0) {
            let some = plain(&batch);
            if let [(place, _)] = batch[..] {
                changed[place] = self.run_one(Access::Write, statement(writer, &some))?.changed > 0;
                continue;
            }
            // Where the change does not tell its rows, they are held and told before it.
            let statements = if has_rows {
                vec![statement(writer, &some)]
            } else {
                vec![writer.hold(&some), statement(writer, &some)]
            };
            for row in self.run(Access::Write, &statements)?.into_iter().next().unwrap_or_default().rows {
                changed[batch[self.place(&batch, row.first())?].0] = true;
            }
        }
        Ok(changed)
    }

    /// The items that fit; the names of the others are removed, so that no old value stays behind.
    fn fitting<'i>(&self, items: &'i [Item<'i>]) -> Result<(Vec<&'i Item<'i>>, bool), Error> {
        let largest = self.largest_value_bytes();
        let (fitting, large): (Vec<&Item<'_>>, Vec<&Item<'_>>) =
            items.iter().partition(|item| item.bytes.len() <= largest);
        if !large.is_empty() {
            let names: Vec<_> = large.iter().map(|item| item.name).collect();
            self.remove(&names)?;
        }
        Ok((fitting, !large.is_empty()))
    }

    fn put(&self, items: &[Item<'_>], upsert: Upsert) -> Result<Vec<Put>, Error> {
        let (fitting, some_are_large) = self.fitting(items)?;
        let addresses: Vec<_> = fitting.iter().map(|item| Address::of(item.name)).collect();
        let first_mark = random_mark()?;
        let rows: Vec<_> = fitting
            .iter()
            .zip(&addresses)
            .zip(first_mark..)
            .map(|((item, address), mark)| Row {
                address,
                content: Content::of(item.bytes),
                mark,
                lifetime_ms: lifetime_ms(item.lifetime),
            })
            .collect();
        let mut done = self.write(&rows, upsert)?.into_iter().map(|done| if done { Put::Done } else { Put::Held });
        if !some_are_large {
            return Ok(done.collect());
        }
        let largest = self.largest_value_bytes();
        let put = |item: &Item<'_>| if item.bytes.len() > largest { Some(Put::TooLarge) } else { done.next() };
        Ok(items.iter().map(put).map(|put| put.unwrap_or(Put::TooLarge)).collect())
    }
}

impl<C: Connection> Server for DatabaseServer<C> {
    fn title(&self) -> String {
        format!("table {} in {}", self.table, self.connection.title())
    }

    fn is_lasting(&self) -> bool {
        self.connection.is_lasting()
    }

    fn largest_value_bytes(&self) -> usize {
        self.writer().map_or(1 << 20, |writer| {
            // Drivers that write values into the text of the statement need two characters for a byte.
            writer.dialect().most_bytes.saturating_sub(SPARE_BYTES) / 2
        })
    }

    fn get(&self, names: &[&[u8]]) -> Result<Vec<Option<Held>>, Error> {
        let writer = self.writer()?;
        let addresses: Vec<_> = names.iter().map(|name| Address::of(name)).collect();
        let all: Vec<_> = addresses.iter().collect();
        let mut held = vec![None; names.len()];
        for batch in batches(writer.dialect(), &all, 1, &|_| 0) {
            for row in self.run_one(Access::Read, writer.read(&plain(&batch)))?.rows {
                let (place, address) = batch[self.place(&batch, row.first())?];
                let Ok([_, rest, number, value, mark]) = <[Cell; 5]>::try_from(row) else {
                    return Err(self.confused("answered a row of another width"));
                };
                let mark = mark.number().ok_or_else(|| self.confused("answered a row without a mark"))?;
                if rest.bytes() != Some(address.rest) {
                    continue;
                }
                let bytes = match (number, value) {
                    (Cell::Number(number), _) => number.to_string().into_bytes(),
                    (_, Cell::Bytes(bytes)) => bytes,
                    _ => return Err(self.confused("answered a row without a value")),
                };
                held[place] = Some(Held { bytes, mark: Mark::new(&mark.to_le_bytes()) });
            }
        }
        Ok(held)
    }

    fn set(&self, items: &[Item<'_>]) -> Result<Vec<Put>, Error> {
        self.put(items, Upsert::Always)
    }

    fn add(&self, items: &[Item<'_>]) -> Result<Vec<Put>, Error> {
        self.put(items, Upsert::Absent)
    }

    fn swap(&self, item: &Item<'_>, mark: &Mark) -> Result<Put, Error> {
        if item.bytes.len() > self.largest_value_bytes() {
            return Ok(if self.remove_marked(item.name, mark)? { Put::TooLarge } else { Put::Held });
        }
        let Some(mark) = number_of(mark) else { return Ok(Put::Held) };
        let address = Address::of(item.name);
        let row = Row {
            address: &address,
            content: Content::of(item.bytes),
            mark: random_mark()?,
            lifetime_ms: lifetime_ms(item.lifetime),
        };
        let outcome = self.run_one(Access::Write, self.writer()?.swap(&row, mark))?;
        self.tidy(1);
        Ok(if outcome.changed > 0 { Put::Done } else { Put::Held })
    }

    fn remove(&self, names: &[&[u8]]) -> Result<Vec<bool>, Error> {
        let addresses: Vec<_> = names.iter().map(|name| Address::of(name)).collect();
        let has_rows = self.writer()?.dialect().delete_returns();
        self.changed(&addresses, has_rows, |writer, batch| writer.remove(batch))
    }

    fn remove_marked(&self, name: &[u8], mark: &Mark) -> Result<bool, Error> {
        let Some(mark) = number_of(mark) else { return Ok(false) };
        let address = Address::of(name);
        Ok(self.run_one(Access::Write, self.writer()?.remove_marked(&address, mark))?.changed > 0)
    }

    fn incr(&self, name: &[u8], delta: i64) -> Result<Incr, Error> {
        let (writer, address) = (self.writer()?, Address::of(name));
        let mut statements = vec![writer.count(&address, delta)];
        let dialect = writer.dialect();
        if !dialect.is_mysql() && !dialect.update_returns() {
            statements.push(writer.look(&address));
        }
        let outcomes = self.run(Access::Write, &statements)?;
        let (Some(first), Some(last)) = (outcomes.first(), outcomes.last()) else { return Ok(Incr::Missing) };
        if first.changed > 0 || (dialect.update_returns() && !first.rows.is_empty()) {
            let sum = if dialect.is_mysql() {
                Some(first.last_id)
            } else {
                last.rows.first().and_then(|row| row.first()?.number())
            };
            return sum.map(Incr::Value).ok_or_else(|| self.confused("answered a sum that is no number"));
        }
        let there = self.run_one(Access::Write, writer.look(&address))?;
        Ok(if there.rows.is_empty() { Incr::Missing } else { Incr::NotACount })
    }

    fn raise(&self, items: &[(&[u8], i64, Lifetime)]) -> Result<(), Error> {
        let addresses: Vec<_> = items.iter().map(|(name, ..)| Address::of(name)).collect();
        let first_mark = random_mark()?;
        let rows: Vec<_> = items
            .iter()
            .zip(&addresses)
            .zip(first_mark..)
            .map(|(((_, number, lifetime), address), mark)| Row {
                address,
                content: Content::Number(*number),
                mark,
                lifetime_ms: lifetime_ms(*lifetime),
            })
            .collect();
        self.write(&rows, Upsert::Raise).map(drop)
    }

    fn touch(&self, names: &[&[u8]], lifetime: Lifetime) -> Result<Vec<bool>, Error> {
        let addresses: Vec<_> = names.iter().map(|name| Address::of(name)).collect();
        let has_rows = self.writer()?.dialect().update_returns();
        self.changed(&addresses, has_rows, |writer, batch| writer.touch(batch, lifetime_ms(lifetime)))
    }

    fn left(&self, name: &[u8]) -> Result<Left, Error> {
        let address = Address::of(name);
        let outcome = self.run_one(Access::Read, self.writer()?.look(&address))?;
        let Some(row) = outcome.rows.first() else { return Ok(Left::Absent) };
        let left = row.get(1).and_then(Cell::number).ok_or_else(|| self.confused("answered a row without a time"))?;
        Ok(left_ms(left).map_or(Left::Never, |left| Left::Time(std::time::Duration::from_millis(left))))
    }

    fn empty(&self) -> Result<(), Error> {
        Err(Error::unsupported(format!("{} is emptied by removing what is ours", self.title())))
    }

    fn scan(&self, beginning: &[u8], each: &mut dyn FnMut(&[u8]) -> bool) -> Result<(), Error> {
        let writer = self.writer()?;
        // Of a longer name only so much is in the order of keys.
        let head = &beginning[..beginning.len().min(HEAD_BYTES)];
        let end = next(head);
        let mut last: Option<Vec<u8>> = None;
        loop {
            let from = last.as_deref().map_or(From::At(head), From::After);
            let rows = self.run_one(Access::Write, writer.list(from, end.as_deref(), LISTED_ROWS))?.rows;
            for row in &rows {
                let [Cell::Bytes(key), Cell::Bytes(rest)] = &row[..] else {
                    return Err(self.confused("answered a row without a name"));
                };
                let name = name_of(key, rest);
                if name.starts_with(beginning) && !each(&name) {
                    return Ok(());
                }
            }
            match rows.into_iter().next_back().and_then(|row| row.into_iter().next()) {
                Some(Cell::Bytes(key)) if last.as_ref().is_none_or(|last| key > *last) => last = Some(key),
                _ => return Ok(()),
            }
        }
    }
}

/// The first bytes after all that begin so, if there are any.
fn next(beginning: &[u8]) -> Option<Vec<u8>> {
    let length = beginning.iter().rposition(|byte| *byte != 0xff)? + 1;
    let mut next = beginning[..length].to_vec();
    next[length - 1] += 1;
    Some(next)
}

fn random() -> Result<u64, Error> {
    os::random().map_err(|error| Error::io("the operating system gave no random bits", error))
}

/// Counting adds to a mark: it leaves room for that.
fn random_mark() -> Result<i64, Error> {
    Ok((random()? >> 2) as i64)
}

fn number_of(mark: &Mark) -> Option<i64> {
    Some(i64::from_le_bytes(mark.bytes().try_into().ok()?))
}

fn plain<'a, 'n>(batch: &[(usize, &'a Address<'n>)]) -> Vec<&'a Address<'n>> {
    batch.iter().map(|(_, address)| *address).collect()
}

/// Takes a batch apart: no statement is too long or names a row twice, and each has its rows in one order, so that workers which write
/// the same rows do not wait for each other in a circle.
fn batches<'a, 'n>(
    dialect: &Dialect,
    addresses: &[&'a Address<'n>],
    parameters: usize,
    sizes: &dyn Fn(usize) -> usize,
) -> Vec<Vec<(usize, &'a Address<'n>)>> {
    let mut sorted: Vec<_> = addresses.iter().copied().enumerate().collect();
    sorted.sort_by(|(_, one), (_, other)| one.key.cmp(&other.key));
    let most_rows = (dialect.most_parameters.saturating_sub(8) / parameters).clamp(1, MOST_ROWS);
    let most_bytes = dialect.most_bytes.saturating_sub(SPARE_BYTES) / 2;
    let mut batches = Vec::new();
    let (mut batch, mut bytes, mut again): (Vec<(usize, &Address<'_>)>, usize, Vec<_>) = (Vec::new(), 0, Vec::new());
    // Of equal keys the first comes into this round, the others into the next, in their order.
    while !sorted.is_empty() {
        for (place, address) in sorted.drain(..) {
            if batch.last().is_some_and(|(_, last)| last.key == address.key) {
                again.push((place, address));
                continue;
            }
            let size = sizes(place) + address.key.len();
            if !batch.is_empty() && (batch.len() == most_rows || bytes + size > most_bytes) {
                batches.push(std::mem::take(&mut batch));
                bytes = 0;
            }
            batch.push((place, address));
            bytes += size;
        }
        if !batch.is_empty() {
            batches.push(std::mem::take(&mut batch));
            bytes = 0;
        }
        sorted = std::mem::take(&mut again);
    }
    batches
}
