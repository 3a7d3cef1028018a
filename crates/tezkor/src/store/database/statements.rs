//! The statements, each for a whole batch. They are written here and nowhere else; nothing from outside is ever part of a text, but the
//! name of the table, which is quoted.

use super::connection::{Parameter, Statement};
use super::dialect::{Dialect, Vendor};
use super::table::{Address, Content, FOREVER_MS, KEEP_MS, Row};

/// Parameters of a row in an upsert.
pub(super) const ROW_PARAMETERS: usize = 6;

/// Writes statements for one table of one database.
#[derive(Clone, Debug)]
pub(super) struct Writer {
    dialect: Dialect,
    table: String,
}

/// What an upsert does where there is a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Upsert {
    /// It replaces the row.
    Always,
    /// It replaces the row if that has expired. It answers with the names of the rows that are there, and their marks.
    Absent,
    /// It raises its number.
    Raise,
}

/// A statement in the making.
struct Draft<'p> {
    vendor: Vendor,
    hole: &'static str,
    text: String,
    parameters: Vec<Parameter<'p>>,
}

impl<'p> Draft<'p> {
    fn text(&mut self, text: &str) -> &mut Self {
        self.text.push_str(text);
        self
    }

    fn fill(&mut self, parameter: Parameter<'p>) -> &mut Self {
        self.text.push_str(self.hole);
        self.parameters.push(parameter);
        self
    }

    fn number(&mut self, number: i64) -> &mut Self {
        self.fill(Parameter::Number(number))
    }

    fn content(&mut self, content: Content<'p>) -> &mut Self {
        let (number, value) = match content {
            Content::Number(number) => (Parameter::Number(number), Parameter::Nothing),
            Content::Bytes(bytes) => (Parameter::Nothing, Parameter::Bytes(bytes)),
        };
        self.fill(number).text(", ").fill(value)
    }

    fn one(&mut self, address: &'p Address<'_>) -> &mut Self {
        self.text(" WHERE name = ").fill(Parameter::Bytes(&address.key))
    }

    fn any(&mut self, addresses: &[&'p Address<'_>]) -> &mut Self {
        if let [address] = addresses {
            return self.one(address);
        }
        if self.vendor == Vendor::Postgresql {
            // One text for batches of all sizes, and a third of the time.
            let keys = addresses.iter().map(|address| address.key.as_ref()).collect();
            return self.text(" WHERE name = ANY(").fill(Parameter::Several(keys)).text(")");
        }
        self.text(" WHERE name IN (");
        for (place, address) in addresses.iter().enumerate() {
            self.text(if place == 0 { "" } else { ", " }).fill(Parameter::Bytes(&address.key));
        }
        self.text(")")
    }

    fn rows(self) -> Statement<'p> {
        Statement { text: self.text, parameters: self.parameters, has_rows: true }
    }

    fn no_rows(self) -> Statement<'p> {
        Statement { text: self.text, parameters: self.parameters, has_rows: false }
    }
}

impl Writer {
    pub(super) fn new(dialect: Dialect, name: &str) -> Self {
        Self { table: dialect.quoted(name), dialect }
    }

    pub(super) fn dialect(&self) -> &Dialect {
        &self.dialect
    }

    fn draft<'p>(&self, text: &str) -> Draft<'p> {
        let text = text.replace("NOW", self.dialect.now()).replace("TABLE", &self.table);
        Draft { vendor: self.dialect.vendor, hole: self.dialect.hole, text, parameters: Vec::new() }
    }

    /// The difference, since no index fits that: nearly all rows live, and PostgreSQL takes the index of `expires` for a good one.
    fn is_live(&self) -> String {
        format!(" AND expires - {} > 0", self.dialect.now())
    }

    /// name, rest, number, value, mark of each that lives.
    pub(super) fn read<'p>(&self, addresses: &[&'p Address<'_>]) -> Statement<'p> {
        let mut draft = self.draft("SELECT name, rest, number, value, mark FROM TABLE");
        draft.any(addresses).text(&self.is_live());
        draft.rows()
    }

    pub(super) fn upsert<'p>(&self, rows: &[&'p Row<'_>], upsert: Upsert) -> Statement<'p> {
        let alias = if self.dialect.is_mysql() { "" } else { " AS held" };
        let mut draft =
            self.draft(&format!("INSERT INTO TABLE{alias} (name, rest, number, value, mark, expires) VALUES "));
        let after = format!(" + {})", self.dialect.now());
        for (place, row) in rows.iter().enumerate() {
            draft.text(if place == 0 { "(" } else { ", (" });
            draft
                .fill(Parameter::Bytes(&row.address.key))
                .text(", ")
                .fill(Parameter::Bytes(row.address.rest))
                .text(", ");
            draft.content(row.content).text(", ").number(row.mark).text(", ").number(row.lifetime_ms).text(&after);
        }
        draft.text(if self.dialect.is_mysql() {
            " ON DUPLICATE KEY UPDATE "
        } else {
            " ON CONFLICT (name) DO UPDATE SET "
        });
        match upsert {
            Upsert::Always => draft.text(&self.replacement(rows)),
            Upsert::Absent => draft.text(&self.replacement_of_expired()),
            Upsert::Raise => draft.text(&self.raise()),
        };
        if upsert == Upsert::Absent && self.dialect.insert_returns() {
            draft.text(" RETURNING name, mark");
            return draft.rows();
        }
        draft.no_rows()
    }

    // MySQL assigns from left to right and reads what it has assigned: `expires`, which the others depend on, comes last.

    fn assignments(&self, value_of: impl Fn(&str) -> String, expires: &str) -> String {
        let mut text = String::new();
        for column in ["rest", "number", "value", "mark"] {
            text.push_str(&format!("{column} = {}, ", value_of(column)));
        }
        text + "expires = " + expires
    }

    fn replacement(&self, rows: &[&Row<'_>]) -> String {
        let (new, now) = (self.dialect.offered("expires"), self.dialect.now());
        let keeps = rows.iter().any(|row| row.lifetime_ms == KEEP_MS);
        let old = format!("{}expires", self.dialect.held());
        let kept = format!("CASE WHEN {new} >= {KEEP_MS} AND {old} > {now} THEN {old} ELSE {new} END");
        self.assignments(|column| self.dialect.offered(column), if keeps { &kept } else { &new })
    }

    fn replacement_of_expired(&self) -> String {
        let now = self.dialect.now();
        if !self.dialect.is_mysql() {
            let every = self.assignments(|column| self.dialect.offered(column), "excluded.expires");
            return format!("{every} WHERE held.expires <= {now}");
        }
        let either = |column: &str| format!("IF(expires <= {now}, {}, {column})", self.dialect.offered(column));
        self.assignments(either, &either("expires"))
    }

    fn raise(&self) -> String {
        let (old, now, larger) = (self.dialect.held(), self.dialect.now(), self.dialect.larger());
        let number = self.dialect.offered("number");
        let expires = self.dialect.offered("expires");
        let value_of = |column: &str| match column {
            "number" => {
                format!("CASE WHEN {old}expires > {now} AND {old}number > {number} THEN {old}number ELSE {number} END")
            }
            _ => self.dialect.offered(column),
        };
        let kept = format!(
            "CASE WHEN {old}expires <= {now} THEN {expires} WHEN {expires} >= {KEEP_MS} THEN {old}expires \
             ELSE {larger}({old}expires, {expires}) END"
        );
        self.assignments(value_of, &kept)
    }

    /// name, mark of each, as the transaction has left them.
    pub(super) fn marks<'p>(&self, addresses: &[&'p Address<'_>]) -> Statement<'p> {
        let mut draft = self.draft("SELECT name, mark FROM TABLE");
        draft.any(addresses);
        draft.rows()
    }

    pub(super) fn swap<'p>(&self, row: &Row<'p>, mark: i64) -> Statement<'p> {
        let mut draft = self.draft("UPDATE TABLE SET number = ");
        let (number, value) = match row.content {
            Content::Number(number) => (Parameter::Number(number), Parameter::Nothing),
            Content::Bytes(bytes) => (Parameter::Nothing, Parameter::Bytes(bytes)),
        };
        draft.fill(number).text(", value = ").fill(value).text(", mark = ").number(row.mark);
        if row.lifetime_ms != KEEP_MS {
            draft.text(", expires = ").number(row.lifetime_ms).text(" + ").text(self.dialect.now());
        }
        draft.one(row.address).text(" AND mark = ").number(mark).text(&self.is_live());
        draft.no_rows()
    }

    /// Where DELETE answers with its rows, it answers with their names.
    pub(super) fn remove<'p>(&self, addresses: &[&'p Address<'_>]) -> Statement<'p> {
        let mut draft = self.draft("DELETE FROM TABLE");
        draft.any(addresses).text(&self.is_live());
        if self.dialect.delete_returns() && addresses.len() > 1 {
            draft.text(" RETURNING name");
            return draft.rows();
        }
        draft.no_rows()
    }

    pub(super) fn remove_marked<'p>(&self, address: &'p Address<'_>, mark: i64) -> Statement<'p> {
        let mut draft = self.draft("DELETE FROM TABLE");
        draft.one(address).text(" AND mark = ").number(mark).text(&self.is_live());
        draft.no_rows()
    }

    /// The names that live, held for the rest of the transaction.
    pub(super) fn hold<'p>(&self, addresses: &[&'p Address<'_>]) -> Statement<'p> {
        let mut draft = self.draft("SELECT name FROM TABLE");
        draft.any(addresses).text(&self.is_live());
        // In SQLite the whole database is held by the first write of a transaction, which comes next.
        draft.text(if self.dialect.vendor == Vendor::Sqlite { "" } else { " FOR UPDATE" });
        draft.rows()
    }

    /// Where UPDATE answers with its rows, it answers with the sum; in MySQL and MariaDB the sum is the last id.
    pub(super) fn count<'p>(&self, address: &'p Address<'_>, delta: i64) -> Statement<'p> {
        let mut draft = self.draft("UPDATE TABLE SET number = ");
        if self.dialect.is_mysql() {
            draft.text("CAST(LAST_INSERT_ID(number + ").number(delta).text(") AS SIGNED)");
        } else {
            draft.text("number + ").number(delta);
        }
        draft.text(", mark = mark + 1").one(address).text(&self.is_live());
        // Sums outside of these would not fit.
        let (bound, limit) =
            if delta >= 0 { (" AND number <= ", i64::MAX - delta) } else { (" AND number >= ", i64::MIN - delta) };
        draft.text(bound).number(limit);
        if self.dialect.update_returns() {
            draft.text(" RETURNING number");
            return draft.rows();
        }
        draft.no_rows()
    }

    /// number, and how long it lives on.
    pub(super) fn look<'p>(&self, address: &'p Address<'_>) -> Statement<'p> {
        let mut draft = self.draft("SELECT number, expires - NOW FROM TABLE");
        draft.one(address).text(&self.is_live());
        draft.rows()
    }

    /// Where UPDATE answers with its rows, it answers with their names.
    pub(super) fn touch<'p>(&self, addresses: &[&'p Address<'_>], lifetime_ms: i64) -> Statement<'p> {
        let mut draft = self.draft("UPDATE TABLE SET expires = ");
        draft.number(lifetime_ms).text(" + ").text(self.dialect.now()).any(addresses).text(&self.is_live());
        if self.dialect.update_returns() && addresses.len() > 1 {
            draft.text(" RETURNING name");
            return draft.rows();
        }
        draft.no_rows()
    }

    /// name, rest of those from a key on (or after it) and before an end, in their order.
    pub(super) fn list<'p>(&self, from: From<'p>, end: Option<&'p [u8]>, limit: usize) -> Statement<'p> {
        let mut draft = self.draft("SELECT name, rest FROM TABLE WHERE name ");
        match from {
            From::At(key) => draft.text(">= ").fill(Parameter::Bytes(key)),
            From::After(key) => draft.text("> ").fill(Parameter::Bytes(key)),
        };
        if let Some(end) = end {
            draft.text(" AND name < ").fill(Parameter::Bytes(end));
        }
        draft.text(&self.is_live()).text(&format!(" ORDER BY name LIMIT {limit}"));
        draft.rows()
    }

    /// Removes some rows that have expired.
    pub(super) fn sweep(&self, limit: u64) -> Statement<'static> {
        self.remove_first("expires <= NOW", limit)
    }

    /// How many rows there are, counted no further than this.
    pub(super) fn size(&self, limit: u64) -> Statement<'static> {
        self.draft(&format!("SELECT COUNT(*) FROM (SELECT 1 FROM TABLE LIMIT {limit}) AS counted")).rows()
    }

    /// Removes rows that would expire next, but none of the coming minute: those go by themselves, and locks are among them.
    pub(super) fn cull(&self, limit: u64) -> Statement<'static> {
        self.remove_first("expires > NOW + 60000", limit)
    }

    fn remove_first(&self, which: &str, limit: u64) -> Statement<'static> {
        let draft = match self.dialect.vendor {
            Vendor::Mysql | Vendor::Mariadb => {
                self.draft(&format!("DELETE FROM TABLE WHERE {which} ORDER BY expires LIMIT {limit}"))
            }
            Vendor::Sqlite | Vendor::Postgresql => {
                // What another worker is about to change or remove is left to it.
                let unheld = if self.dialect.vendor == Vendor::Postgresql { " FOR UPDATE SKIP LOCKED" } else { "" };
                self.draft(&format!(
                    "DELETE FROM TABLE WHERE name IN \
                     (SELECT name FROM TABLE WHERE {which} ORDER BY expires LIMIT {limit}{unheld})"
                ))
            }
        };
        draft.no_rows()
    }
}

/// Where a list begins.
#[derive(Clone, Copy, Debug)]
pub(super) enum From<'k> {
    At(&'k [u8]),
    After(&'k [u8]),
}

/// How long a row lives on that has so many milliseconds left; `None` for ever.
pub(super) fn left_ms(milliseconds: i64) -> Option<u64> {
    (milliseconds < FOREVER_MS / 2).then(|| milliseconds.max(0) as u64)
}
