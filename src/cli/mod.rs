//! The command line: one file a subcommand, each reads, calls the library, prints.

pub mod load;
