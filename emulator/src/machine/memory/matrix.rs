//! Matrices of 8 by 8.

use crate::ir::{Address, Operand, Reg, Space};
use crate::machine::{Engine, Step};
use crate::models;

use super::Place;

impl Engine<'_, '_> {
    /// `ldmatrix`
    pub(crate) fn load_matrix(
        &mut self,
        w: usize,
        pc: u32,
        mask: u32,
        dst: &[Reg],
        address: &Address,
        transposed: bool,
    ) -> Step {
        let rows = self.matrix_rows(w, pc, mask, dst.len(), address, false)?;
        let matrices: Vec<_> = rows
            .chunks(8)
            .map(|rows| {
                std::array::from_fn::<[u16; 8], 8, _>(|row| {
                    let Place::Shared { cta, at } = rows[row] else {
                        unreachable!("matrices are in shared memory")
                    };
                    let smem = &self.cluster.ctas[cta].smem[at as usize..];
                    std::array::from_fn(|column| u16::from_le_bytes([smem[2 * column], smem[2 * column + 1]]))
                })
            })
            .collect();
        for (reg, matrix) in dst.iter().zip(&matrices) {
            let value = std::array::from_fn(|lane| {
                let [low, high] = models::matrix::elements(lane as u32, transposed)
                    .map(|(row, column)| u64::from(matrix[row as usize][column as usize]));
                low | high << 16
            });
            self.write(w, *reg, &value, mask);
        }
        Ok(())
    }

    /// `stmatrix`
    pub(crate) fn store_matrix(
        &mut self,
        w: usize,
        pc: u32,
        mask: u32,
        address: &Address,
        src: &[Reg],
        transposed: bool,
    ) -> Step {
        for reg in src {
            self.require_written(w, pc, mask, *reg);
        }
        let rows = self.matrix_rows(w, pc, mask, src.len(), address, true)?;
        for (reg, rows) in src.iter().zip(rows.chunks(8)) {
            let value = self.value(w, &Operand::Reg(*reg));
            for (lane, value) in value.into_iter().enumerate() {
                for (half, (row, column)) in
                    models::matrix::elements(lane as u32, transposed).into_iter().enumerate()
                {
                    let Place::Shared { cta, at } = rows[row as usize] else {
                        unreachable!("matrices are in shared memory")
                    };
                    let element = Place::Shared { cta, at: at + 2 * column };
                    self.set_bytes(element, 2, value >> (16 * half) & 0xFFFF);
                }
            }
        }
        Ok(())
    }

    /// Where the rows of `matrices` matrices are: row r of matrix i as lane 8i + r says. Notes the accesses, each by
    /// that lane: the instruction belongs to the whole warp.
    pub(super) fn matrix_rows(
        &mut self,
        w: usize,
        pc: u32,
        mask: u32,
        matrices: usize,
        address: &Address,
        write: bool,
    ) -> Step<Vec<Place>> {
        let addresses = self.addresses(w, pc, mask, address)?;
        let mut rows = Vec::with_capacity(8 * matrices);
        let mut passes = Vec::with_capacity(8 * matrices);
        for lane in 0..8 * matrices as u32 {
            let place = self.place(w, pc, Space::SharedCta, addresses[lane as usize], 16)?;
            let record = self.by_lane(w, pc, lane, write, false);
            self.note(w, lane, place, 16, record);
            rows.push(place);
            if let Place::Shared { at, .. } = place {
                passes.push((at, 16));
            }
        }
        self.count_shared(&passes, write);
        Ok(rows)
    }
}
