//! Every family of opcodes: what decodes, to what, and what is refused.

mod accepted;
mod decoded;
mod refused;

use flashcore_emulator::ir::{Module, Op};

const HEAD: &str = ".version 8.0\n.target sm_90a\n.address_size 64\n\
    .extern .shared .align 128 .b8 smem[];\n\
    .visible .entry k(.param .u64 a, .param .align 64 .b8 map[128])\n{\n\
    .reg .pred p<4>, q;\n.reg .b16 h<8>;\n.reg .b32 r<160>;\n.reg .b64 d<8>;\n.reg .f32 f<8>;\n.reg .f64 g<4>;\n";

fn decode(statement: &str) -> Result<Op, String> {
    let text = format!("{HEAD}L: {statement}\nret;\n}}\n");
    match Module::parse(&text) {
        Ok(module) => Ok(module.kernels[0].code[0].op.clone()),
        Err(error) => Err(error.what.to_string()),
    }
}

fn op(statement: &str) -> Op {
    decode(statement).unwrap_or_else(|why| panic!("{statement}: {why}"))
}
