//! One cache for all processes of a machine, with nothing to run.
