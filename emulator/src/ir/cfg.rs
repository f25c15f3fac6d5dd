//! The control-flow graph of a kernel: blocks, and which of them all paths go through.

use std::ops::Range;

use super::{Kernel, Op};

/// Instructions that run one after another: entered only at the first, left only behind the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Indices of its instructions; never empty.
    pub code: Range<u32>,
    /// Blocks that may follow. None, or fewer than the branch has ways, where the kernel may end.
    pub successors: Vec<usize>,
    /// Blocks that it may follow.
    pub predecessors: Vec<usize>,
}

/// The control-flow graph of a kernel.
#[derive(Clone, Debug)]
pub struct Cfg {
    blocks: Vec<Block>,
    /// Block of each instruction.
    block_of: Vec<usize>,
    dominators: Tree,
    post_dominators: Tree,
    /// Blocks that paths lead to, each before those that it leads to, but for loops.
    order: Vec<usize>,
    reachable: Vec<bool>,
}

impl Cfg {
    /// The graph of a kernel.
    pub fn of(kernel: &Kernel) -> Cfg {
        let code = &kernel.code;
        let mut starts = vec![false; code.len() + 1];
        starts[0] = true;
        for (index, instruction) in code.iter().enumerate() {
            if let Op::Branch { target, .. } = instruction.op {
                starts[target as usize] = true;
            }
            starts[index + 1] |= matches!(instruction.op, Op::Branch { .. } | Op::Exit | Op::Trap);
        }
        let mut block_of = Vec::with_capacity(code.len());
        let mut blocks: Vec<Block> = Vec::new();
        for (index, start) in (0..).zip(&starts[..code.len()]) {
            if *start {
                blocks.push(Block { code: index..index, successors: Vec::new(), predecessors: Vec::new() });
            }
            let last = blocks.len() - 1;
            blocks[last].code.end = index + 1;
            block_of.push(last);
        }
        for block in 0..blocks.len() {
            for successor in successors(kernel, &blocks[block].code, &block_of) {
                blocks[block].successors.push(successor);
                blocks[successor].predecessors.push(block);
            }
        }
        let mut order = post_order(blocks.len(), 0, |block| &blocks[block].successors);
        let dominators = Tree::of(&order, blocks.len(), |block| &blocks[block].predecessors);
        order.reverse();
        let mut reachable = vec![false; blocks.len()];
        order.iter().for_each(|block| reachable[*block] = true);
        let post_dominators = post_dominators(kernel, &blocks);
        Cfg { blocks, block_of, dominators, post_dominators, order, reachable }
    }

    /// Its blocks, in the order of the text; the kernel starts with the first.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// The block of an instruction.
    pub fn block_of(&self, instruction: u32) -> usize {
        self.block_of[instruction as usize]
    }

    /// The blocks that paths lead to, each before those that it leads to, but for the branches back of loops.
    pub fn order(&self) -> &[usize] {
        &self.order
    }

    /// Whether any path leads to a block.
    pub fn is_reachable(&self, block: usize) -> bool {
        self.reachable[block]
    }

    /// The last block that every path to `block` goes through before it; none for the first block, and for blocks
    /// that no path leads to.
    pub fn immediate_dominator(&self, block: usize) -> Option<usize> {
        self.dominators.parent(block).filter(|parent| *parent < self.blocks.len())
    }

    /// The first block that every path from `block` goes through after it; none if that is the end of the kernel.
    pub fn immediate_post_dominator(&self, block: usize) -> Option<usize> {
        self.post_dominators.parent(block).filter(|parent| *parent < self.blocks.len())
    }

    /// Whether every path to `block` goes through `dominator`, or they are the same.
    pub fn dominates(&self, dominator: usize, block: usize) -> bool {
        std::iter::successors(Some(block), |block| self.immediate_dominator(*block)).any(|b| b == dominator)
    }

    /// Where the lanes that a branch parts come together again: the first instruction of the immediate post-dominator
    /// of its block, none if that is the end of the kernel.
    pub fn reconvergence(&self, branch_index: u32) -> Option<u32> {
        let block = self.immediate_post_dominator(self.block_of(branch_index))?;
        Some(self.blocks[block].code.start)
    }
}

/// Blocks that may follow the one of these instructions.
fn successors(kernel: &Kernel, block: &Range<u32>, block_of: &[usize]) -> Vec<usize> {
    let last = &kernel.code[block.end as usize - 1];
    let next = block_of.get(block.end as usize).copied();
    let (taken, falls_through) = match last.op {
        Op::Branch { target, .. } => (Some(block_of[target as usize]), last.guard.is_some()),
        Op::Exit | Op::Trap => (None, last.guard.is_some()),
        _ => (None, true),
    };
    let next = next.filter(|next| falls_through && Some(*next) != taken);
    next.into_iter().chain(taken).collect()
}

/// Dominators of the graph turned round, with a node more: the end of the kernel.
fn post_dominators(kernel: &Kernel, blocks: &[Block]) -> Tree {
    let end = blocks.len();
    // What follows each block in the kernel comes before it in the graph turned round, and the other way round.
    let mut after: Vec<Vec<usize>> = blocks.iter().map(|block| block.successors.clone()).collect();
    let mut before: Vec<Vec<usize>> = blocks.iter().map(|block| block.predecessors.clone()).collect();
    before.push(Vec::new());
    after.push(Vec::new());
    for (number, block) in blocks.iter().enumerate() {
        let last = &kernel.code[block.code.end as usize - 1].op;
        if matches!(last, Op::Exit | Op::Trap) || block.successors.is_empty() {
            after[number].push(end);
            before[end].push(number);
        }
    }
    let order = post_order(end + 1, end, |block| &before[block]);
    Tree::of(&order, end + 1, |block| &after[block])
}

/// Nodes that a walk from `root` meets, each behind those that it leads to.
fn post_order<'a>(nodes: usize, root: usize, next: impl Fn(usize) -> &'a [usize]) -> Vec<usize> {
    let mut order = Vec::with_capacity(nodes);
    let mut seen = vec![false; nodes];
    // Nodes on the way, and how many of their successors were tried.
    let mut path = vec![(root, 0)];
    seen[root] = true;
    while let Some((node, tried)) = path.last_mut() {
        match next(*node).get(*tried) {
            Some(&successor) => {
                *tried += 1;
                if !std::mem::replace(&mut seen[successor], true) {
                    path.push((successor, 0));
                }
            }
            None => {
                order.push(*node);
                path.pop();
            }
        }
    }
    order
}

/// A dominator tree.
#[derive(Clone, Debug)]
struct Tree {
    parents: Vec<Option<usize>>,
    root: usize,
}

impl Tree {
    /// "A Simple, Fast Dominance Algorithm" (Cooper, Harvey, Kennedy): of all predecessors that have a dominator yet,
    /// the nearest common one, until nothing changes. `order` is the post-order of a walk from the root.
    fn of<'a>(order: &[usize], nodes: usize, predecessors: impl Fn(usize) -> &'a [usize]) -> Tree {
        let mut rank = vec![0; nodes];
        order.iter().enumerate().for_each(|(at, node)| rank[*node] = at);
        let root = order.last().copied().unwrap_or_default();
        let mut parents = vec![None; nodes];
        parents[root] = Some(root);
        let mut changed = true;
        while changed {
            changed = false;
            for &node in order.iter().rev().skip(1) {
                let known = predecessors(node).iter().copied().filter(|node| parents[*node].is_some());
                let parent = known.reduce(|a, b| common(a, b, &rank, &parents));
                changed |= parents[node] != parent;
                parents[node] = parent;
            }
        }
        Tree { parents, root }
    }

    fn parent(&self, node: usize) -> Option<usize> {
        self.parents[node].filter(|_| node != self.root)
    }
}

/// The nearest node above both: whichever is further from the root in the order goes up.
fn common(mut a: usize, mut b: usize, rank: &[usize], parents: &[Option<usize>]) -> usize {
    while a != b {
        let lower = if rank[a] < rank[b] { &mut a } else { &mut b };
        match parents[*lower] {
            Some(parent) => *lower = parent,
            None => break,
        }
    }
    a
}
