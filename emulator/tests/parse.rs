//! Files, declarations, scopes and control flow; and where errors point.

use flashcore_emulator::ir::{Cfg, Kernel, Module, Op, Operand, Param, Reg, SharedSymbol};

const HEAD: &str = ".version 8.0\n.target sm_90a, debug\n.address_size 64\n";

fn module(text: &str) -> Module {
    let text = format!("{HEAD}{text}");
    Module::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn kernel(text: &str) -> Kernel {
    module(text).kernels.remove(0)
}

fn body(text: &str) -> Kernel {
    kernel(&format!(".entry k()\n{{\n{text}\n}}\n"))
}

fn error(text: &str) -> String {
    Module::parse(&format!("{HEAD}{text}")).expect_err(text).to_string()
}

#[test]
fn a_kernel_as_compilers_write_it() {
    let module = module(
        "// a comment\n\t.file\t1 \"src/lib.rs\"\n.file 2 \"asm.rs\", 1700000000, 123\n\
         .visible .entry attention( /* two\nlines */\n\
         \t.param .u64 .ptr .global .align 16 attention_param_0,\n\
         \t.param .align 64 .b8 attention_param_1[128],\n\t.param .b32 attention_param_2\n)\n\
         .maxntid 384, 1, 1\n.minnctapersm 1\n.maxnreg 168\n.reqnctapercluster 2\n.explicitcluster\n\
         .pragma \"nounroll\";\n\
         {\n\t.reg .b32 \t%r<3>;\n\t.loc\t1 42 9\n\tmov.u32 %r1, 7; mov.u32\n\t\t%r2,\n8;\n\
         \t.loc 2 7 1, function_name $L__info_string0, inlined_at 1 43 5\n\tret;\n}\n\
         \t.section\t.debug_abbrev\n\t{\n.b8 1\n$L__x: .b32 .debug_info-4\n\t}\n",
    );
    assert_eq!((module.version, module.target.as_str()), ((8, 0), "sm_90a"));
    assert_eq!(module.files, [(1, "src/lib.rs".to_owned()), (2, "asm.rs".to_owned())]);
    let kernel = module.kernel("attention").expect("the kernel");
    assert!(module.kernel("other").is_none());
    let param =
        |n, offset, bytes, align| Param { name: format!("attention_param_{n}"), offset, bytes, align };
    assert_eq!(kernel.params, [param(0, 0, 8, 8), param(1, 64, 128, 64), param(2, 192, 4, 4)]);
    assert_eq!(kernel.param_bytes(), 196);
    assert_eq!((kernel.max_threads, kernel.required_threads), (Some([384, 1, 1]), None));
    assert_eq!((kernel.min_ctas, kernel.max_registers), (Some(1), Some(168)));
    assert_eq!(kernel.cluster, Some([2, 1, 1]));
    let places: Vec<_> = kernel.code.iter().map(|i| (i.at.line, i.at.column, i.at.source)).collect();
    assert_eq!(places, [(22, 2, Some((1, 42))), (22, 18, Some((1, 42))), (26, 2, Some((2, 7)))]);
}

#[test]
fn shared_memory_is_laid_out_in_order_and_dynamic_memory_starts_behind() {
    let text = ".extern .shared .align 128 .b8 dynamic[];\n.shared .b64 unused[100];\n.shared .align 8 .b64 bars[3];\n\
        .entry k() {\n.shared .b32 one;\n.shared .align 32 .b16 table[2][3];\n.reg .b32 %r<3>;\n\
        st.shared.b32 [one], %r1;\nst.shared.b32 [table+4], %r1;\nmov.u32 %r2, dynamic;\nmov.u32 %r2, bars+8;\n}\n";
    let kernel = kernel(text);
    let symbol =
        |name: &str, offset, bytes, align| SharedSymbol { name: name.to_owned(), offset, bytes, align };
    let expected = [
        symbol("bars", 0, Some(24), 8),
        symbol("one", 24, Some(4), 4),
        symbol("table", 32, Some(12), 32),
        symbol("dynamic", 128, None, 128),
    ];
    assert_eq!(kernel.shared, expected);
    assert_eq!(kernel.static_shared_bytes, 128);
    let Op::Alu(mov) = &kernel.code[2].op else { panic!("{:?}", kernel.code[2]) };
    assert_eq!(mov.src[0], Operand::Shared(128));
}

#[test]
fn local_memory_is_summed() {
    let kernel = body(
        ".local .align 16 .b8 __local_depot0[20];\n.local .b64 more;\n.reg .b64 %SP;\n\
         mov.b64 %SP, more;\nst.local.b64 [more+-8], %SP;",
    );
    assert_eq!(kernel.local_bytes, 32);
    let Op::Alu(mov) = &kernel.code[0].op else { panic!() };
    assert_eq!(mov.src[0], Operand::Imm(24));
}

#[test]
fn scopes_have_registers_and_labels_of_their_own() {
    let kernel = body(
        ".reg .pred p;\n.reg .b32 a<2>;\n\
         { .reg .pred p; .reg .b32 a1; W: setp.eq.s32 p, a0, a1; @p bra W; @!p bra OUT; }\n\
         { .reg .pred p; W: setp.eq.s32 p, a0, a1; @p bra W; }\n\
         OUT: @p ret;",
    );
    let guards: Vec<_> = kernel.code.iter().map(|i| i.guard.map(|g| (g.predicate, g.negated))).collect();
    let expected = [None, Some((1, false)), Some((1, true)), None, Some((2, false)), Some((0, false)), None];
    assert_eq!(guards, expected, "and a `ret` at the end");
    let second_sources: Vec<_> = kernel
        .code
        .iter()
        .filter_map(|i| if let Op::Alu(alu) = &i.op { Some(alu.src[1]) } else { None })
        .collect();
    assert_eq!(second_sources, [Operand::Reg(Reg::Narrow(2)), Operand::Reg(Reg::Narrow(1))]);
    let targets: Vec<_> = kernel
        .code
        .iter()
        .filter_map(|i| if let Op::Branch { target, .. } = i.op { Some(target) } else { None })
        .collect();
    assert_eq!(targets, [0, 5, 3]);
    assert_eq!((kernel.registers.predicates, kernel.registers.narrow, kernel.registers.wide), (3, 3, 0));
}

#[test]
fn a_label_at_the_end_is_a_ret() {
    let kernel = body(".reg .pred p;\n@p bra END;\nbra END;\nEND:");
    assert!(matches!(kernel.code[0].op, Op::Branch { target: 2, .. }));
    assert!(matches!(kernel.code[2].op, Op::Exit));
    assert_eq!(body("trap;").code.len(), 1, "nothing follows what leaves anyway");
    assert_eq!(body("").code.len(), 1);
}

#[test]
fn errors_say_where() {
    let in_body = |text: &str| error(&format!(".entry k() {{\n.reg .b32 r<4>;\n.reg .pred p;\n{text}\n}}\n"));
    let cases = [
        (in_body("mov.b32 r0, 1;\n  add.s32 r0, r1, ?;"), "8:19: the character '?' does not belong here"),
        (in_body("/* no end"), "7:1: this comment has no end"),
        (in_body(".pragma \"no end\n;"), "7:9: this string has no end"),
        (in_body("mov.b32 r0, 0x;"), "7:13: `0x` is not a number of up to 64 bits"),
        (in_body("mov.b32 r0, 0f1234567;"), "7:13: `0f1234567` is not a number of up to 64 bits"),
        (
            in_body("mov.b32 r0, 18446744073709551616;"),
            "7:13: `18446744073709551616` is not a number of up to 64 bits",
        ),
        (in_body("mov.b32 r0, 08;"), "7:13: `08` is not a number of up to 64 bits"),
        (in_body("mov.b32 r0 r1;"), "7:12: `,` or `;` expected, found `r1`"),
        (
            in_body("{ mov.b32 r0, r1;"),
            "9:1: an instruction, a label, a declaration or `}` expected, found the end of the text",
        ),
        (in_body("mov.b32 r0, {};"), "7:14: an operand expected, found `}`"),
        (in_body(".param .b32 x;"), "7:1: a call (.param in a body) is not supported"),
        (in_body(".reg .b128 x;"), "7:6: a register of type .b128 is not supported"),
        (in_body(".branchtargets L;"), "7:1: the directive `.branchtargets` is not known here"),
        (in_body("// é\nadd.s32 é r0, r1, r2;"), "8:9: the character 'é' does not belong here"),
        (in_body("/* é */ frob r0;"), "7:9: the opcode `frob` is not known"),
        (in_body("add.s32.ftz r0, r1, r2;"), "7:8: `add` does not take `.ftz` here"),
        (in_body("add.s32 r0, r1,\n  x;"), "8:3: `x` is not declared"),
        (in_body("@r1 mov.b32 r0, r1;"), "7:2: a predicate expected as operand, found `r1`"),
        (in_body("@q mov.b32 r0, r1;"), "7:2: `q` is not declared"),
        (in_body(".reg .b32 r<2>;"), "7:11: `r` is declared twice"),
        (in_body(".reg .b32 p;"), "7:11: `p` is declared twice"),
        (in_body(".reg .b32 r3;"), "7:11: `r3` is declared twice"),
        (in_body("L: ret;\nL: ret;"), "8:1: `L` is declared twice"),
        (in_body("{ L: ret; }\nbra L;"), "8:5: there is no label `L` in sight"),
        (in_body(".reg .b32 x<65532>;"), "7:11: 65536 registers of a class are too many; at most 65535"),
        (in_body(&"{".repeat(65)), "7:65: 65 nested scopes are too many; at most 64"),
        (in_body(".shared .align 3 .b8 x[4];"), "7:16: 3 is not an alignment: a power of two"),
        (in_body(".local .b8 x[];"), "7:12: `x`, an array without a size, is not supported"),
        (
            in_body(".shared .b64 x[99999999999];"),
            "7:14: 799999999992 bytes of a variable are too many; at most 4294967295",
        ),
        (in_body(".loc 1 4294967296 0;"), "7:8: 4294967296 is not a line below 2^32"),
        (error(".func f() {}"), "4:1: a function that is no kernel (.func) is not supported"),
        (
            error(".visible .global .b32 x = 1;"),
            "4:10: a variable in global or constant memory is not supported",
        ),
        (error(".section .text {}"), "4:10: the section `.text` is not supported"),
        (error(".entry k() .maxntid 1, 1, 1, 1 {}"), "4:12: the directive `.maxntid` is not known here"),
        (error(".entry k() .maxnreg 8 .maxnreg 8 {}"), "4:23: the directive `.maxnreg` is not known here"),
        (error(".entry k(.param .b32 a, .param .b32 a) {}"), "4:37: `a` is declared twice"),
        (error(".entry k(.param .b32 a"), "4:23: `,` or `)` expected, found the end of the text"),
    ];
    for (found, expected) in cases {
        assert_eq!(found, expected);
    }
    let whole = |text: &str| Module::parse(text).expect_err(text).to_string();
    assert_eq!(whole(""), "1:1: `.version` expected, found the end of the text");
    assert_eq!(whole(".version 8"), "1:11: a version such as 8.0 expected, found the end of the text");
    assert_eq!(whole(".version 8.0 .target sm_90a, x"), "1:30: the target option `x` is not supported");
    assert_eq!(
        whole(".version 8.0 .target sm_90a .address_size 32"),
        "1:43: an address size of 32 bits is not supported"
    );
}

/// Blocks of the kernel below: 0 head; 1 loop; 2 one way; 3 other way; 4 join; 5 trap; 6 end.
const GRAPH: &str = ".reg .pred p<4>;\n\
    bar.sync 0;\n\
    LOOP: bar.sync 1;\n@p0 bra OTHER;\n\
    bar.sync 2;\nbra JOIN;\n\
    OTHER: bar.sync 3;\n\
    JOIN: @p1 bra LOOP;\n\
    @p2 bra END;\n\
    trap;\n\
    END: ret;";

#[test]
fn lanes_meet_at_the_immediate_post_dominator() {
    let kernel = body(GRAPH);
    let cfg = Cfg::of(&kernel);
    let blocks: Vec<_> = cfg.blocks().iter().map(|block| block.code.clone()).collect();
    assert_eq!(blocks, [0..1, 1..3, 3..5, 5..6, 6..7, 7..8, 8..9, 9..10]);
    assert_eq!(cfg.reconvergence(2), Some(6), "both ways meet at JOIN");
    assert_eq!(cfg.reconvergence(6), Some(7), "a loop is left behind it");
    assert_eq!(cfg.reconvergence(7), None, "one way ends, the other too");
    assert_eq!(cfg.immediate_dominator(4), Some(1));
    assert_eq!(cfg.immediate_dominator(0), None);
    assert!(cfg.dominates(1, 6) && cfg.dominates(1, 1) && !cfg.dominates(2, 4));
    assert_eq!(cfg.blocks()[1].predecessors, [0, 4]);
}

#[test]
fn graphs_of_odd_shapes_have_reconvergence_where_there_is_one() {
    let forever = Cfg::of(&body(".reg .pred p;\nL: @p bra M;\nM: bra L;\nbar.sync 0;"));
    assert_eq!(forever.reconvergence(0), None, "nothing leads to the end");
    assert!(!forever.is_reachable(2) && forever.is_reachable(1));
    assert_eq!(forever.immediate_dominator(2), None);
    let guarded_end = Cfg::of(&body(".reg .pred p<2>;\n@p0 bra L;\n@p1 ret;\nL: bar.sync 0;"));
    assert_eq!(guarded_end.reconvergence(0), None, "some lanes may end before L");
    let itself = Cfg::of(&body(".reg .pred p;\nL: @p bra L;\nret;"));
    assert_eq!(itself.reconvergence(0), Some(1));
    let next = Cfg::of(&body(".reg .pred p;\n@p bra L;\nL: ret;"));
    assert_eq!((next.reconvergence(0), &next.blocks()[0].successors[..]), (Some(1), &[1][..]));
}
