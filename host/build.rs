//! Compiles the kernels and embeds them: PTX, and machine code if there is an assembler.

use flashcore_ptx_builder::{Entry, embed, entries};

fn main() {
    embed(&["f16", "bf16"], &entries().collect::<Vec<Entry>>());
}
