//! Division by what only the launch knows: the host turns the divisor into a factor, once. Pure.

/// A divisor of numbers below 2³¹, 1 to 2³¹ itself: a multiplication and a shift in the kernel, which has no
/// instruction for division (Granlund and Montgomery 1994).
///
/// 0 is the divisor of launches that have nothing to do; its quotients are 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Divisor {
    /// What is divided by.
    pub value: u32,
    /// 2^(31 + shift) / value, rounded up.
    multiplier: u32,
    /// log2 of the value, rounded up.
    shift: u32,
}

impl Divisor {
    /// Division by `value`.
    ///
    /// # Panics
    /// If it is above 2³¹.
    pub const fn new(value: u32) -> Self {
        if value == 0 {
            return Divisor { value, multiplier: 0, shift: 0 };
        }
        // value <= 2^shift < 2 * value, so that the multiplier fits in 32 bits. Its excess over the exact fraction is
        // less than 1 / value * 2^(31 + shift), too little to carry a number below 2^31 over to the next quotient.
        let shift = value.next_power_of_two().trailing_zeros();
        let multiplier = (1u64 << (31 + shift)).div_ceil(value as u64) as u32;
        Divisor { value, multiplier, shift }
    }

    /// `x / self`, for `x` below 2³¹.
    #[inline(always)]
    pub const fn quotient(&self, x: u32) -> u32 {
        // SAFETY: `new` makes no other.
        unsafe { core::hint::assert_unchecked(self.shift < 32) };
        // The high half of a product; doubled, since the multiplier is a fraction of 31 bits.
        (((2 * x) as u64 * self.multiplier as u64) >> 32) as u32 >> self.shift
    }

    /// `(x / self, x % self)`, for `x` below 2³¹.
    #[inline(always)]
    pub const fn split(&self, x: u32) -> (u32, u32) {
        let quotient = self.quotient(x);
        (quotient, x - quotient * self.value)
    }
}
