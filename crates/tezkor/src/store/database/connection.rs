//! What the database store needs of a database: a connection that carries out statements. It is given one and never opens any: under
//! Django it is Django's own, so that routers, transactions and test databases behave as everywhere else.

use super::dialect::Dialect;
use crate::error::Error;

/// What a statement is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It reads: a replica will do.
    Read,
    /// It writes, or must see what was written last.
    Write,
    /// It tidies up: left undone while the caller has a transaction open, whose locks would last until its end.
    Tidy,
}

/// A value in a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parameter<'p> {
    /// NULL.
    Nothing,
    /// A whole number.
    Number(i64),
    /// Bytes.
    Bytes(&'p [u8]),
    /// PostgreSQL: an array of bytes.
    Several(Vec<&'p [u8]>),
}

/// A value in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    /// NULL.
    Nothing,
    /// A whole number.
    Number(i64),
    /// Bytes.
    Bytes(Vec<u8>),
}

impl Cell {
    /// The number, if it is one.
    pub fn number(&self) -> Option<i64> {
        match self {
            Cell::Number(number) => Some(*number),
            Cell::Nothing | Cell::Bytes(_) => None,
        }
    }

    /// The bytes, if it has any.
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Cell::Bytes(bytes) => Some(bytes),
            Cell::Nothing | Cell::Number(_) => None,
        }
    }
}

/// A statement with the values for its holes, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement<'p> {
    /// Its text, with a [`Dialect::hole`] for each parameter.
    pub text: String,
    /// What fills the holes.
    pub parameters: Vec<Parameter<'p>>,
    /// Whether it answers with rows.
    pub has_rows: bool,
}

/// What a statement answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The rows, in no order.
    pub rows: Vec<Vec<Cell>>,
    /// How many rows it inserted, fitted for an update, or removed.
    pub changed: u64,
    /// MySQL and MariaDB: what `LAST_INSERT_ID` was given.
    pub last_id: i64,
}

/// Why statements were not carried out, or why that is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The database is away, slow, or refused: the text says what it said, without the values.
    Outage(String),
    /// A setting is wrong; the text names it and the fix.
    Setting(String),
    /// The caller's transaction is broken, and answers nothing until it is rolled back.
    Unasked(String),
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Outage(text) => Error::outage(text),
            Failure::Setting(text) => Error::setting(text),
            Failure::Unasked(text) => Error::unasked(text),
        }
    }
}

/// A database.
pub trait Connection: Send + Sync {
    /// Names it in messages, without any secret: `database "default"`.
    fn title(&self) -> String;

    /// How it wants its statements.
    fn dialect(&self) -> Result<Dialect, Failure>;

    /// Carries out the statements in order; several of them wholly or not at all. An outcome for each, or for none of them where
    /// [`Access::Tidy`] was left undone.
    ///
    /// A statement that fails leaves the caller's transaction as it was before.
    fn run(&self, access: Access, statements: &[Statement<'_>]) -> Result<Vec<Outcome>, Failure>;

    /// Whether what is written now stays written: not inside a transaction of the caller.
    fn is_lasting(&self) -> bool {
        true
    }
}
