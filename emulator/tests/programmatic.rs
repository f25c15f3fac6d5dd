//! Programmatic dependent launch: a kernel that starts before the one ahead of it has ended.

use flashcore_emulator::ir::Module;
use flashcore_emulator::{Code, Device, Launch, Limits, Options, Report};

/// A kernel of 64 threads that runs `body` with the address of its thread's word in `%rd2`.
fn kernel(body: &str) -> Module {
    let text = format!(
        ".version 8.0
.target sm_90a
.address_size 64
.visible .entry kernel(.param .u64 kernel_param_0)
.maxntid 64, 1, 1
{{
    .reg .b32 %r<4>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd0, [kernel_param_0];
    mov.u32 %r0, %tid.x;
    mul.wide.u32 %rd1, %r0, 4;
    add.s64 %rd2, %rd0, %rd1;
    {body}
    ret;
}}"
    );
    Module::parse(&text).expect("the kernel is well-formed")
}

/// Runs a kernel that writes its words, then `body`, which need not wait for it to end.
fn run_behind(body: &str) -> Report {
    let mut device = Device::new(Limits::h200());
    let buffer = device.alloc(256).unwrap();
    let mut launch = |module: &Module, programmatic| {
        let params: [&[u8]; 1] = [&buffer.to_le_bytes()];
        let launch =
            Launch { grid: [1; 3], block: [64, 1, 1], cluster: [1; 3], shared_bytes: 0, params: &params };
        let options = Options { programmatic, ..Options::default() };
        device.launch(module, &module.kernels[0], &launch, &options).unwrap()
    };
    let first = launch(&kernel("griddepcontrol.launch_dependents; st.global.u32 [%rd2], %r0;"), false);
    assert!(first.is_clean(), "{first}");
    launch(&kernel(body), true)
}

#[test]
fn waiting_first_is_clean() {
    let report = run_behind("griddepcontrol.wait; ld.global.u32 %r1, [%rd2]; st.global.u32 [%rd2], %r1;");
    assert!(report.findings.is_empty(), "{report}");
}

#[test]
fn one_thread_may_wait_for_all() {
    let report = run_behind(
        ".reg .pred p; setp.ne.u32 p, %r0, 0; @p bra $behind; griddepcontrol.wait;
        $behind: bar.sync 0; ld.global.u32 %r1, [%rd2];",
    );
    assert!(report.findings.is_empty(), "{report}");
}

#[test]
fn reading_ahead_of_the_wait_is_found() {
    let report = run_behind("ld.global.u32 %r1, [%rd2]; griddepcontrol.wait;");
    assert!(report.has(Code::E50), "{report}");
}

#[test]
fn writing_without_a_wait_is_found() {
    let report = run_behind("st.global.u32 [%rd2], %r0;");
    assert!(report.has(Code::E50), "{report}");
}
