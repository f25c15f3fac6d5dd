//! Input that no sane person writes: absurd addresses, sizes and shapes. They get an error or a finding, and are never
//! a reason to panic.

use flashcore_emulator::ir::Module;
use flashcore_emulator::workload::{Argument, Workload};
use flashcore_emulator::{Code, Device, DeviceError, Launch, Limits, Options, Report};

/// A module of one kernel without parameters but those of `head`.
fn module(head: &str, body: &str) -> Module {
    let text = format!(
        ".version 8.0
.target sm_90a
.address_size 64
.extern .shared .align 128 .b8 memory[];
.visible .entry kernel{head}
{{
    .reg .b32 r<4>;
    .reg .b64 d<4>;
    {body}
    ret;
}}"
    );
    Module::parse(&text).unwrap_or_else(|error| panic!("{error}"))
}

/// A launch of one warp.
const WARP: Launch<'_> =
    Launch { grid: [1; 3], block: [32, 1, 1], cluster: [1; 3], shared_bytes: 0, params: &[] };

fn launch(module: &Module, launch: &Launch<'_>) -> Result<Report, DeviceError> {
    Device::new(Limits::h200()).launch(module, &module.kernels[0], launch, &Options::default())
}

/// The launch runs, and is stopped with a finding of this code.
fn check_stopped(module: &Module, shape: &Launch<'_>, code: Code) {
    let report = launch(module, shape).expect("the launch is allowed");
    assert!(!report.completed);
    assert!(report.findings.iter().any(|finding| finding.code == code), "{code:?} is not among\n{report}");
}

#[test]
fn a_parameter_before_the_first() {
    let params: [&[u8]; 1] = [&[5; 8]];
    let shape = Launch { params: &params, ..WARP };
    for body in ["ld.param.u32 r1, [p+-4];", "mov.b64 d1, -4; ld.param.u32 r1, [d1];"] {
        check_stopped(&module("(.param .u64 p)", body), &shape, Code::E31);
    }
}

#[test]
fn a_bulk_copy_over_the_end_of_the_address_space() {
    let body = "mov.u32 r1, memory;
        mbarrier.init.shared.b64 [r1], 1;
        fence.mbarrier_init.release.cluster;
        add.u32 r2, r1, 128;
        mov.b64 d1, -16;
        cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [r2], [d1], 32, [r1];";
    let shape = Launch { block: [1; 3], shared_bytes: 1024, ..WARP };
    check_stopped(&module("()", body), &shape, Code::E31);
}

#[test]
fn the_last_bytes_of_the_address_space() {
    for body in [
        "mov.b64 d1, -4; ld.global.v4.u32 {r0, r1, r2, r3}, [d1+-12];",
        "mov.b64 d1, -8; mov.b64 d2, 0; st.global.u64 [d1], d2;",
        "mov.b64 d1, -4; atom.global.add.u32 r1, [d1], 1;",
    ] {
        check_stopped(&module("()", body), &WARP, Code::E31);
    }
    // In shared memory they would be another CTA's.
    for body in [
        "mov.b32 r1, -16; ld.shared.v4.u32 {r0, r1, r2, r3}, [r1];",
        "mov.b32 r1, -8; mov.b64 d2, 0; st.shared.u64 [r1], d2;",
        "mov.b32 r1, -8; mbarrier.init.shared.b64 [r1], 1;",
        "ld.shared.u32 r1, [memory+-4096];",
    ] {
        check_stopped(&module("()", body), &WARP, Code::E33);
    }
}

#[test]
fn more_static_shared_memory_than_can_be_counted() {
    let text = ".version 8.0 .target sm_90a .address_size 64
        .shared .b8 a[4294967295];
        .shared .b8 b[4294967295];
        .entry kernel() { .reg .b32 r; mov.u32 r, a; mov.u32 r, b; ret; }";
    assert!(Module::parse(text).is_err());
}

/// Bounds that no kernel can have; they only promise, so the launch is one as any other.
#[test]
fn absurd_promises() {
    for head in [
        "() .minnctapersm 134217728",
        "() .minnctapersm 4294967295",
        "() .maxntid 65536, 65536, 1",
        "() .maxntid 4294967295, 4294967295, 4294967295",
        "() .maxnreg 1",
    ] {
        let report = launch(&module(head, ""), &WARP).expect("the launch is allowed");
        assert!(report.completed && report.findings.is_empty(), "{head}: {report}");
    }
}

#[test]
fn absurd_shapes_are_refused() {
    let most = u32::MAX;
    let refused = [
        Launch { grid: [most; 3], ..WARP },
        Launch { grid: [1 << 31, 1, 1], ..WARP },
        Launch { grid: [1 << 30, 65535, 65535], ..WARP },
        Launch { grid: [1, 65536, 1], ..WARP },
        Launch { grid: [0, 1, 1], ..WARP },
        Launch { block: [most; 3], ..WARP },
        Launch { block: [1 << 16, 1 << 16, 1], ..WARP },
        Launch { block: [1 << 31, 2, 1], ..WARP },
        Launch { block: [0, 1, 1], ..WARP },
        Launch { cluster: [most; 3], ..WARP },
        Launch { cluster: [1 << 16, 1 << 16, 1], ..WARP },
        Launch { grid: [65535; 3], cluster: [65535; 3], ..WARP },
        Launch { cluster: [2, 1, 1], ..WARP },
        Launch { shared_bytes: most, ..WARP },
    ];
    let module = module("()", "");
    for shape in refused {
        let result = launch(&module, &shape);
        assert!(matches!(result, Err(DeviceError::Launch { .. })), "{shape:?}: {result:?}");
    }
}

#[test]
fn absurd_arguments_are_refused() {
    for text in [
        "in:18446744073709551615",
        "in-f64:4611686018427387904",
        "out:0",
        "map:f16:4294967296x4294967296",
        "map:u64:18446744073709551615x2x2",
        "map:f16:0x64",
        "map:f16:64x64:box=99999999999x64",
    ] {
        assert!(text.parse::<Argument>().is_err(), "{text}");
    }
    for text in ["// launch: --grid 1,1,1,1", "// launch: --block 4294967296", "// launch: --shared -1"] {
        assert!(Workload::of_comment(text).is_err(), "{text}");
    }
}

/// Maps that can be written down, but that the driver refuses.
#[test]
fn absurd_maps_are_refused() {
    for map in ["map:f16:64x64:box=4294967295x4294967295", "map:f16:64x64:box=0x64", "map:u8:2x2x2x2x2x2x16"]
    {
        let argument = map.parse::<Argument>().expect("the map can be written down");
        let workload = Workload { args: vec![argument], ..Workload::default() };
        assert!(workload.prepare(&mut Device::new(Limits::h200()), 0).is_err(), "{map}");
    }
}
