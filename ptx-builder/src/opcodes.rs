//! Counting the instructions that must neither be lost nor duplicated.

use flashcore_kernels::entry::Opcodes;

use crate::statements::{Statement, statements};

/// Counts the synchronising and tensor instructions in the PTX of one entry.
pub fn count(ptx: &str) -> Opcodes {
    let mut counts = Opcodes::default();
    for opcode in statements(ptx).iter().map(Statement::opcode) {
        let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| opcode.starts_with(prefix));
        let counter = if starts(&["wgmma.mma_async."]) {
            &mut counts.wgmma
        } else if starts(&["cp.async.bulk.tensor."]) {
            // The modifiers name the destination first: `.shared::cluster.global` loads.
            if opcode.contains(".global.shared") { &mut counts.tma_store } else { &mut counts.tma_load }
        } else if starts(&["bar.arrive", "bar.cta.arrive", "barrier.arrive", "barrier.cta.arrive"]) {
            &mut counts.bar_arrive
        } else if starts(&["bar.sync", "bar.cta.sync", "barrier.sync", "barrier.cta.sync"]) {
            &mut counts.bar_sync
        } else if starts(&["setmaxnreg."]) {
            &mut counts.setmaxnreg
        } else {
            continue;
        };
        *counter += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_family_is_counted_once() {
        let ptx = "\
            wgmma.fence.sync.aligned; wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {%r1}, %rd1, %rd2, 1, 1, 1, 0, 0;\n\
            cp.async.bulk.tensor.4d.shared::cta.global.tile.mbarrier::complete_tx::bytes [%r1], [%rd1, {%r2}], [%r3];\n\
            @p cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r1], [%rd1, {%r2}], [%r3];\n\
            cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group [%rd1, {%r2}], [%r1];\n\
            bar.sync 0;\n\
            barrier.cta.sync.aligned 1, 256;\n\
            bar.cta.arrive.aligned 2, 256;\n\
            setmaxnreg.dec.sync.aligned.u32 24;\n\
            // setmaxnreg.inc.sync.aligned.u32 240;\n";
        let expected =
            Opcodes { wgmma: 1, tma_load: 2, tma_store: 1, bar_sync: 2, bar_arrive: 1, setmaxnreg: 1 };
        assert_eq!(count(ptx), expected);
    }
}
