//! A kernel: its memory, its scopes and its branches.

use std::collections::{HashMap, HashSet};

use super::line::Result;
use super::names::{Name, Names};
use super::operands::wrong_operand;
use crate::ir::{Guard, Instruction, Kernel, Op, Param, Position, Reg, SharedSymbol};
use crate::ptx::{
    At, DirectiveValues, File, Function, Item, OperandKind, ParseError, ParseErrorKind, Statement, ValueKind,
    Variable, VariableSpace, Word,
};

/// Decodes a kernel of `file`.
pub(super) fn decode<'a>(file: &File<'a>, function: &Function<'a>) -> Result<Kernel> {
    let mut names = Names::new();
    let params = params(function, &mut names)?;
    names.open();
    let (shared, static_shared_bytes) = shared_memory(file, function, &mut names)?;
    let mut kernel = Kernel {
        name: function.name.text.to_owned(),
        params,
        max_threads: None,
        required_threads: None,
        min_ctas: None,
        max_registers: None,
        cluster: None,
        shared,
        static_shared_bytes,
        local_bytes: 0,
        registers: Default::default(),
        code: Vec::new(),
    };
    function.directives.iter().try_for_each(|directive| apply(directive, &mut kernel))?;
    names.open();
    let mut body =
        Body { names, scopes: vec![None], open: vec![0], labels: HashMap::new(), jumps: Vec::new() };
    body.decode(function, &mut kernel)?;
    kernel.registers = body.names.counts;
    Ok(kernel)
}

fn params<'a>(function: &Function<'a>, names: &mut Names<'a>) -> Result<Vec<Param>> {
    let mut params = Vec::new();
    let mut end = 0;
    for variable in &function.params {
        let bytes = variable.bytes.unwrap_or_default();
        let offset = place(&mut end, variable, bytes, "bytes of parameters")?;
        names.declare(variable.name, Name::Param(offset))?;
        params.push(Param { name: variable.name.text.to_owned(), offset, bytes, align: variable.align });
    }
    Ok(params)
}

/// Lays out the shared memory that the kernel names: what has a size in the order of declaration, then the dynamic.
fn shared_memory<'a>(
    file: &File<'a>,
    function: &Function<'a>,
    names: &mut Names<'a>,
) -> Result<(Vec<SharedSymbol>, u32)> {
    let used = used_names(function);
    let of_module = file.variables.iter().filter(|variable| used.contains(variable.name.text));
    let of_kernel = function.body.iter().filter_map(|item| match item {
        Item::Variable(variable) if variable.space == VariableSpace::Shared => Some(variable),
        _ => None,
    });
    let (sized, dynamic): (Vec<_>, Vec<_>) = of_module.chain(of_kernel).partition(|v| v.bytes.is_some());
    let mut end = 0;
    let mut symbols = Vec::new();
    for variable in sized {
        let offset = place(&mut end, variable, variable.bytes.unwrap_or_default(), "bytes of shared memory")?;
        symbols.push((variable, offset));
    }
    // All dynamic symbols are the same memory.
    if let Some(strictest) = dynamic.iter().max_by_key(|variable| variable.align) {
        place(&mut end, strictest, 0, "bytes of shared memory")?;
    }
    symbols.extend(dynamic.into_iter().map(|variable| (variable, end)));
    let mut shared = Vec::new();
    for (Variable { name, align, bytes, .. }, offset) in symbols {
        names.declare(*name, Name::Shared(offset))?;
        shared.push(SharedSymbol { name: name.text.to_owned(), offset, bytes: *bytes, align: *align });
    }
    Ok((shared, end))
}

/// Aligns `end`, adds `bytes` and gives where they start.
fn place(end: &mut u32, variable: &Variable, bytes: u32, what: &'static str) -> Result<u32> {
    let start = u64::from(*end).next_multiple_of(u64::from(variable.align));
    let found = start + u64::from(bytes);
    match (u32::try_from(start), u32::try_from(found)) {
        (Ok(start), Ok(stop)) => {
            *end = stop;
            Ok(start)
        }
        _ => {
            let limit = u64::from(u32::MAX);
            Err(ParseError::new(variable.name.at, ParseErrorKind::TooMany { what, found, limit }))
        }
    }
}

/// Names that operands mention.
fn used_names<'a>(function: &Function<'a>) -> HashSet<&'a str> {
    let statements = function.body.iter().filter_map(|item| match item {
        Item::Statement(statement) => Some(statement),
        _ => None,
    });
    let values =
        statements.flat_map(|statement| &statement.operands).filter_map(|operand| match &operand.kind {
            OperandKind::Value(value) | OperandKind::Sum(value, _) => Some(value),
            OperandKind::Address(address) => Some(&address.base),
            _ => None,
        });
    values
        .filter_map(|value| match value.kind {
            ValueKind::Name(name, None) if !name.starts_with('%') => Some(name),
            _ => None,
        })
        .collect()
}

/// Performance directives.
fn apply(directive: &DirectiveValues, kernel: &mut Kernel) -> Result<()> {
    let DirectiveValues { name, values } = directive;
    let extent = match values[..] {
        [x] => Some([x, 1, 1]),
        [x, y] => Some([x, y, 1]),
        [x, y, z] => Some([x, y, z]),
        _ => None,
    };
    let one = if let [value] = values[..] { Some(value) } else { None };
    let known = match name.text {
        "maxntid" => set(&mut kernel.max_threads, extent),
        "reqntid" => set(&mut kernel.required_threads, extent),
        "reqnctapercluster" => set(&mut kernel.cluster, extent),
        "minnctapersm" => set(&mut kernel.min_ctas, one),
        "maxnreg" => set(&mut kernel.max_registers, one),
        // A launch with clusters is what `.reqnctapercluster` asks for, too.
        "explicitcluster" => values.is_empty(),
        _ => false,
    };
    if known {
        return Ok(());
    }
    Err(ParseError::new(name.at, ParseErrorKind::Directive { text: format!(".{}", name.text) }))
}

/// Sets what was not set before; false if there is no value, or was one.
fn set<T>(place: &mut Option<T>, value: Option<T>) -> bool {
    let fresh = place.is_none() && value.is_some();
    *place = value;
    fresh
}

/// The body of a kernel while it is decoded.
struct Body<'a> {
    names: Names<'a>,
    /// Of each scope that was ever opened, the one around it.
    scopes: Vec<Option<usize>>,
    /// Scopes that are open, outermost first.
    open: Vec<usize>,
    /// Instruction behind each label, by scope and name.
    labels: HashMap<(usize, &'a str), u32>,
    /// Branches: index, scope and label.
    jumps: Vec<(usize, usize, Word<'a>)>,
}

impl<'a> Body<'a> {
    fn decode(&mut self, function: &Function<'a>, kernel: &mut Kernel) -> Result<()> {
        let mut source = None;
        for item in &function.body {
            match item {
                Item::Open => {
                    self.names.open();
                    self.scopes.push(Some(self.scope()));
                    self.open.push(self.scopes.len() - 1);
                }
                Item::Close => {
                    self.names.close();
                    self.open.pop();
                }
                Item::Registers(decl) => self.names.declare_registers(decl)?,
                Item::Variable(variable) => {
                    // Shared memory is laid out already.
                    if variable.space == VariableSpace::Local {
                        let bytes = variable.bytes.unwrap_or_default();
                        let offset =
                            place(&mut kernel.local_bytes, variable, bytes, "bytes of local memory")?;
                        self.names.declare(variable.name, Name::Local(offset))?;
                    }
                }
                Item::Label(label) => self.label(*label, kernel.code.len())?,
                Item::Source(file, line) => source = Some((*file, *line)),
                Item::Statement(statement) => {
                    let instruction = self.instruction(statement, kernel.code.len(), source)?;
                    kernel.code.push(instruction);
                }
            }
        }
        self.end(function.end, kernel, source);
        self.resolve(kernel)
    }

    fn scope(&self) -> usize {
        self.open.last().copied().unwrap_or_default()
    }

    fn label(&mut self, label: Word<'a>, index: usize) -> Result<()> {
        match self.labels.insert((self.scope(), label.text), index as u32) {
            None => Ok(()),
            Some(_) => {
                Err(ParseError::new(label.at, ParseErrorKind::DuplicateName { name: label.text.to_owned() }))
            }
        }
    }

    fn instruction(
        &mut self,
        statement: &Statement<'a>,
        index: usize,
        source: Option<(u32, u32)>,
    ) -> Result<Instruction> {
        let guard = statement.guard.map(|(word, negated)| self.guard(word, negated)).transpose()?;
        let At { line, column } = statement.opcode.at;
        let op = match statement.opcode.text {
            "bra" => self.branch(statement, index)?,
            _ => super::decode(statement, &self.names)?,
        };
        Ok(Instruction { guard, op, at: Position { line, column, source } })
    }

    fn guard(&self, word: Word, negated: bool) -> Result<Guard> {
        let name = word.text.to_owned();
        match self.names.get(word.text) {
            Some(Name::Register(Reg::Pred(predicate), _)) => Ok(Guard { predicate, negated }),
            Some(_) => {
                let expected = "a predicate".to_owned();
                Err(ParseError::new(word.at, ParseErrorKind::Operand { found: name, expected }))
            }
            None => Err(ParseError::new(word.at, ParseErrorKind::UnknownName { name })),
        }
    }

    fn branch(&mut self, statement: &Statement<'a>, index: usize) -> Result<Op> {
        let mut line = super::Line::new(statement, &self.names);
        let uniform = line.flag("uni");
        let operand = line.operand()?;
        let label = match operand.kind {
            OperandKind::Value(value) => match value.kind {
                ValueKind::Name(text, None) => Word { text, at: value.at },
                _ => return wrong_operand(operand, "a label"),
            },
            _ => return wrong_operand(operand, "a label"),
        };
        line.finish()?;
        self.jumps.push((index, self.scope(), label));
        // Where to is known at the end.
        Ok(Op::Branch { target: 0, uniform })
    }

    /// Running into the end of a kernel is a `ret`; so that no index is beyond the last instruction, it gets one.
    fn end(&self, at: At, kernel: &mut Kernel, source: Option<(u32, u32)>) {
        let end = kernel.code.len() as u32;
        let leaves = kernel.code.last().is_some_and(|last| {
            last.guard.is_none() && matches!(last.op, Op::Exit | Op::Trap | Op::Branch { .. })
        });
        if !leaves || self.labels.values().any(|index| *index == end) {
            let at = Position { line: at.line, column: at.column, source };
            kernel.code.push(Instruction { guard: None, op: Op::Exit, at });
        }
    }

    /// Gives branches their targets; a label is looked for from the scope of its branch outwards.
    fn resolve(&self, kernel: &mut Kernel) -> Result<()> {
        for (index, scope, label) in &self.jumps {
            let mut outwards = std::iter::successors(Some(*scope), |scope| self.scopes[*scope]);
            let found = outwards.find_map(|scope| self.labels.get(&(scope, label.text)));
            let (Some(found), Op::Branch { target, .. }) = (found, &mut kernel.code[*index].op) else {
                let name = label.text.to_owned();
                return Err(ParseError::new(label.at, ParseErrorKind::UnknownLabel { name }));
            };
            *target = *found;
        }
        Ok(())
    }
}
