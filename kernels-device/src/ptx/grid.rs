//! Grids that overlap (*programmatic dependent launch*): the next kernel of the stream starts in SMs that this one has
//! left, and waits for it only where it must.

use core::arch::asm;

/// `griddepcontrol.wait` (ISA 9.7.13.13): waits until the grid before, if this one may overlap with it, has completed,
/// and sees all that it wrote.
///
/// # Safety
/// No thread of the grid touches memory that other grids use, unless it comes after this one's wait. At least one
/// thread of every grid waits: otherwise the next grid could overlap with the one before too.
#[inline(always)]
pub unsafe fn wait_for_previous_grid() {
    // SAFETY: the caller's.
    unsafe { asm!("griddepcontrol.wait;", options(nostack)) };
}

/// `griddepcontrol.launch_dependents` (ISA 9.7.13.13): this CTA does not mind if the next grid starts. It does once
/// all CTAs have said so, or ended; one thread speaks for its CTA. The next grid's wait is still for the end of this
/// one, so that nothing need be written yet.
#[inline(always)]
pub fn launch_dependents() {
    // SAFETY: what the next grid may do early is up to its own wait.
    unsafe { asm!("griddepcontrol.launch_dependents;", options(nostack)) };
}
