//! Far stores: entries, tags, loads and locks on servers that are reached over a network or through a database.

pub mod server;
pub mod server_contract;
