//! Compiles the kernels and embeds them: PTX, and machine code if there is an assembler.

use flashcore_ptx_builder::{Entry, embed, entries};

fn main() {
    embed(&["product"], &entries().collect::<Vec<Entry>>());
}
