//! Each gate refuses what it is for, and leaves the rest alone.

use flashcore_emulator::lint::Code;

use super::*;

/// A clean kernel of two warpgroups, one of which multiplies.
const PRODUCT: &str = include_str!("../../testdata/product.ptx");
const ENTRY: Entry = Entry {
    symbol: "product",
    threads: 256,
    cluster: 1,
    min_ctas: 1,
    smem_bytes: 1024,
    max_registers: 168,
    spill_limit: 0,
    public_pointers: &[],
    takes_tickets: false,
    opcodes: Some(OPCODES),
};
const OPCODES: Opcodes = Opcodes {
    wgmma: 1,
    tma_load: 0,
    tma_store: 0,
    bar_sync: 2,
    bar_arrive: 0,
    setmaxnreg_inc: 1,
    setmaxnreg_dec: 1,
    cluster_arrive: 0,
    cluster_wait: 0,
    stmatrix: 0,
    elect: 0,
};
const LOG: &str = "\
    ptxas info    : 0 bytes gmem\n\
    ptxas info    : Compiling entry function 'product' for 'sm_90a'\n\
    ptxas info    : Function properties for product\n    \
        0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n\
    ptxas info    : Used 168 registers, used 16 barriers\n";

/// The verdict on the kernel in which `from`, which stands there once, is `to`.
fn with(from: &str, to: &str) -> Verdict {
    assert_eq!(PRODUCT.matches(from).count(), 1, "{from}");
    Verdict::on_ptx(&ENTRY, &PRODUCT.replace(from, to))
}

fn with_log(from: &str, to: &str) -> Verdict {
    assert_eq!(LOG.matches(from).count(), 1, "{from}");
    let mut verdict = Verdict::default();
    verdict.on_machine_code(&ENTRY, &LOG.replace(from, to));
    verdict
}

/// The one broken rule.
fn only(verdict: Verdict) -> GateError {
    let [error] = verdict.broken.as_slice() else { panic!("one broken rule expected: {verdict:#?}") };
    error.clone()
}

/// The codes of lints that are broken; no other gate is.
fn codes(verdict: Verdict) -> Vec<Code> {
    let code = |error: GateError| match error {
        GateError::Lint(finding) => finding.code,
        other => panic!("{other}"),
    };
    let mut codes: Vec<_> = verdict.broken.into_iter().map(code).collect();
    codes.dedup();
    codes
}

#[test]
fn a_clean_kernel_passes() {
    let mut verdict = Verdict::on_ptx(&ENTRY, PRODUCT);
    verdict.on_machine_code(&ENTRY, LOG);
    assert_eq!((verdict.broken, verdict.warnings), (vec![], vec![]));
    assert_eq!(verdict.opcodes["bar.sync"], 2);
}

#[test]
fn a_depot_is_refused() {
    let verdict =
        with("\t.reg .pred \t%p<3>;", "\t.local .align 8 .b8 \t__local_depot0[64];\n\t.reg .pred \t%p<3>;");
    assert_eq!(codes(verdict), [Code::S01]);
}

#[test]
fn a_product_without_its_wait_is_refused() {
    let error = only(with("\twgmma.wait_group.sync.aligned \t0;\n", ""));
    let GateError::Lint(finding) = &error else { panic!("{error}") };
    assert_eq!(finding.code, Code::S02);
    let line = |text: &str| 1 + PRODUCT.lines().position(|line| line.contains(text)).unwrap() as u32;
    // The line of the wait is gone.
    assert_eq!(finding.here.as_ref().unwrap().line, line("add.rn.ftz") - 1);
    assert_eq!(finding.there.as_ref().unwrap().line, line("wgmma.mma_async"));
    assert!(error.to_string().starts_with("error[S02 register-in-flight]: "), "{error}");
}

#[test]
fn registers_are_reallocated_only_with_launch_bounds() {
    assert_eq!(codes(with(".maxntid 256, 1, 1\n", "")), [Code::S03]);
}

#[test]
fn a_barrier_that_lanes_reach_apart_is_refused() {
    assert_eq!(codes(with("%p1, %r3, 0", "%p1, %r1, 0")), [Code::S04]);
}

#[test]
fn exact_reciprocals_are_refused_and_subnormals_are_mentioned() {
    assert_eq!(codes(with("add.rn.ftz.f32 \t%r8, %r4, %r5", "rcp.rn.ftz.f32 \t%r8, %r4")), [Code::S05]);
    let verdict = with("add.rn.ftz.f32", "add.rn.f32");
    let warned: Vec<_> = verdict.warnings.iter().map(|finding| finding.code).collect();
    assert_eq!((verdict.broken, warned), (vec![], vec![Code::S05]));
}

#[test]
fn control_flow_by_data_is_refused() {
    let branch = "\tsetp.gt.f32 \t%p2, %r8, 0f00000000;\n\t@%p2 bra \t$L__BB0_3;\n\tst.global.b32";
    assert_eq!(codes(with("\tst.global.b32", branch)), [Code::S06]);
}

#[test]
fn other_targets_are_refused() {
    assert_eq!(codes(with(".target sm_90a", ".target sm_90")), [Code::S07]);
}

#[test]
fn a_panic_is_refused() {
    let error = only(with("$L__BB0_3:\n", "$L__BB0_3:\n\t@%p1 trap;\n"));
    assert!(error.to_string().contains("S08") && error.to_string().contains("trap"), "{error}");
}

#[test]
fn barriers_of_half_a_warp_are_refused() {
    assert!(
        codes(with("aligned.u32 \t24;\n\tbar.sync \t0, 256", "aligned.u32 \t24;\n\tbar.sync \t0, 240"))
            .contains(&Code::S09)
    );
}

#[test]
fn a_duplicated_or_lost_instruction_is_refused() {
    let error = only(with("\t24;\n", "\t24;\n\tbar.sync \t0, 256;\n"));
    assert_eq!(error.to_string(), "product: the PTX has 3 bar.sync instead of 2");
    let error = only(with("\tsetmaxnreg.dec.sync.aligned.u32 \t24;\n", ""));
    assert_eq!(error.to_string(), "product: the PTX has 0 setmaxnreg.dec instead of 1");
}

#[test]
fn what_is_not_understood_is_refused() {
    let error = only(with("\tret;", "\tfrobnicate.b32 \t%r1;\n\tret;"));
    let line = 1 + PRODUCT.lines().position(|line| line == "\tret;").unwrap();
    let expected = format!("product: the PTX cannot be checked: {line}:2: the opcode `frobnicate");
    assert!(error.to_string().starts_with(&expected), "{error}");
}

#[test]
fn every_weakening_note_is_refused() {
    for note in ["(C7508)", "(C7510)", "(C7514)", "(C7517)", "(C7519)", "(C7520)"] {
        let error = only(with_log("0 bytes gmem", &format!("{note} something is serialized")));
        assert!(error.to_string().contains(note) && error.to_string().contains("product"), "{error}");
    }
}

#[test]
fn spills_and_stack_are_refused() {
    for (clean, spilled) in
        [("0 bytes spill stores", "8 bytes spill stores"), ("0 bytes stack", "16 bytes stack")]
    {
        assert_eq!(codes(with_log(clean, spilled)), [Code::S10]);
    }
}

#[test]
fn silence_of_ptxas_is_refused() {
    let error = only(with_log("0 bytes stack frame, ", ""));
    assert!(matches!(error, GateError::Silent { .. }), "{error}");
}

#[test]
fn too_many_registers_are_refused() {
    let message = only(with_log("Used 168", "Used 170")).to_string();
    assert_eq!(message, "product: 170 registers a thread, at most 168 fit a CTA of 256 threads");
}

#[test]
fn too_much_shared_memory_is_refused() {
    let message = only(with_log("16 barriers", "16 barriers, 232448 bytes smem")).to_string();
    assert!(message.contains("232448 bytes of static and 1024 bytes of dynamic"), "{message}");
}

#[test]
fn slow_paths_of_arithmetic_are_refused() {
    const DIVISION: &[u8] = include_bytes!("../../testdata/division.cubin");
    let mut verdict = Verdict::default();
    verdict.on_cubin(&ENTRY, b"\x7fELF\0.text.product\0product\0");
    assert_eq!(verdict.broken, []);
    verdict.on_cubin(&ENTRY, DIVISION);
    let GateError::SlowPath { kernel, function } = only(verdict) else { panic!("a slow path") };
    assert_eq!(
        (kernel, function.as_str()),
        ("product", "$__internal_0_$__cuda_sm3x_div_rn_noftz_f32_slowpath")
    );
}
