//! The operator and its command line, in one binary.
fn main() {}
