//! The stock binary: the whole service with the three sample entity types.
//!
//! A binary with types of your own is this file with other types in it.

use std::process::ExitCode;

use perennial::node::Node;
use perennial::samples::{Account, Airport, Counter};

fn main() -> ExitCode {
    perennial::cli::main(
        Node::builder()
            .entity(Counter)
            .entity(Account)
            .entity(Airport),
    )
}
