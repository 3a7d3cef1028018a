//! One cache for all processes of a machine, with nothing to run.

pub mod codec;
pub mod decoded;
