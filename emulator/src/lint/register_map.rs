//! A value for each register of a kernel.

use std::ops::{Index, IndexMut};

use crate::ir::{Reg, RegisterCounts};

/// A value for each register, predicates and wide registers included.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct RegisterMap<T> {
    values: Vec<T>,
    narrow: usize,
    wide: usize,
}

impl<T: Clone> RegisterMap<T> {
    /// Joins each value with that of `other`; whether `join` changed any.
    pub(super) fn join(&mut self, other: &Self, join: impl Fn(&mut T, &T) -> bool) -> bool {
        self.values.iter_mut().zip(&other.values).fold(false, |grew, (one, other)| join(one, other) | grew)
    }

    pub(super) fn new(counts: RegisterCounts, value: T) -> Self {
        let narrow = usize::from(counts.predicates);
        let wide = narrow + usize::from(counts.narrow);
        RegisterMap { values: vec![value; wide + usize::from(counts.wide)], narrow, wide }
    }

    fn place(&self, reg: Reg) -> usize {
        match reg {
            Reg::Pred(number) => usize::from(number),
            Reg::Narrow(number) => self.narrow + usize::from(number),
            Reg::Wide(number) => self.wide + usize::from(number),
        }
    }
}

impl<T: Clone> Index<Reg> for RegisterMap<T> {
    type Output = T;

    fn index(&self, reg: Reg) -> &T {
        &self.values[self.place(reg)]
    }
}

impl<T: Clone> IndexMut<Reg> for RegisterMap<T> {
    fn index_mut(&mut self, reg: Reg) -> &mut T {
        let place = self.place(reg);
        &mut self.values[place]
    }
}
