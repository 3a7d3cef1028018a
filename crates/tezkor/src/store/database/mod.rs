//! A database as a server: names and values in one table, one statement for a whole batch.
//!
//! It never opens a connection, holds no transaction beyond a call, and waits for no COUNT over the table: what has expired is a miss
//! at once, and goes in small batches that follow writes.
//!
//! Read `table.rs` first, then `statements.rs`. The statements run on a [`Connection`] that it is given.

mod connection;
mod dialect;
mod server;
mod statements;
mod table;
mod tidy;

pub use connection::{Access, Cell, Connection, Failure, Outcome, Parameter, Statement};
pub use dialect::{Dialect, Vendor};
pub use server::DatabaseServer;
pub use table::creation;
