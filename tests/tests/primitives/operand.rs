//! How wgmma reads an operand out of shared memory: PTX ISA, "Matrix Descriptor Format" and "Strides".

use crate::pattern::Pattern;

/// Bytes of an element: 16-bit types only.
const SIZE: u32 = 2;
/// Elements of a 16-byte chunk.
const T: u32 = 16 / SIZE;

/// Which dimension is contiguous: K, or the other one (M of A, N of B).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Major {
    K,
    Mn,
}

/// A matrix of `mn` x 16 elements in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Operand {
    pub(crate) major: Major,
    pub(crate) pattern: Pattern,
    /// Byte address of the first element, from a 1024-byte boundary.
    pub(crate) start: u32,
    /// "Leading dimension byte offset".
    pub(crate) leading: u32,
    /// "Stride dimension byte offset".
    pub(crate) stride: u32,
}

impl Operand {
    /// Neighbouring groups of 8 rows (K-major) or 8 k (MN-major) next to each other.
    pub(crate) fn tight(major: Major, pattern: Pattern) -> Self {
        let width = pattern.width();
        let (leading, stride) = match (major, pattern) {
            (_, Pattern::None) => (128, 256),
            (Major::K, _) => (0, 8 * width),
            (Major::Mn, _) => (16 * width, 8 * width),
        };
        Operand { major, pattern, start: 0, leading, stride }
    }

    /// The two offsets the other way round in size, with gaps. The one that the hardware ignores is nonsense.
    pub(crate) fn spread(major: Major, pattern: Pattern, mn: u32) -> Self {
        let width = pattern.width();
        let (leading, stride) = match (major, pattern) {
            (_, Pattern::None) => (16 * mn + 128, 128),
            (Major::K, _) => (0x7F0, 16 * width),
            (Major::Mn, _) => (8 * width, 8 * width * (SIZE * mn / width + 1)),
        };
        Operand { major, pattern, start: 0, leading, stride }
    }

    /// The same, `bytes` further on.
    pub(crate) fn advanced(self, bytes: u32) -> Self {
        Operand { start: self.start + bytes, ..self }
    }

    /// The descriptor, but for the start address in its low bits.
    pub(crate) fn descriptor(&self) -> u64 {
        let offset = |bytes: u32| u64::from((bytes & 0x3_FFFF) >> 4);
        offset(self.leading) << 16 | offset(self.stride) << 32 | self.pattern.descriptor_code() << 62
    }

    /// What a descriptor and the start address say.
    pub(crate) fn decode(descriptor: u64, start: u32, major: Major) -> Self {
        let offset = |from: u32| ((descriptor >> from & 0x3FFF) << 4) as u32;
        let pattern = Pattern::ALL.into_iter().find(|pattern| pattern.descriptor_code() == descriptor >> 62);
        Operand {
            major,
            pattern: pattern.expect("two bits, four patterns"),
            start,
            leading: offset(16),
            stride: offset(32),
        }
    }

    /// Byte address of element (mn, k).
    pub(crate) fn address(&self, mn: u32, k: u32) -> u32 {
        let (leading, stride, width) = (self.leading, self.stride, self.pattern.width());
        let chunks = width / 16;
        let offset = match (self.major, self.pattern) {
            (Major::K, Pattern::None) => {
                mn / 8 * stride + mn % 8 * 16 + k * SIZE / 16 * leading + k * SIZE % 16
            }
            (Major::K, _) => mn / 8 * stride + mn % 8 * width + k * SIZE,
            (Major::Mn, Pattern::None) => SIZE * (mn % T) + mn / T * stride + 16 * (k % 8) + k / 8 * leading,
            (Major::Mn, _) => {
                let chunk = 16 * (mn / T % chunks) + mn / (T * chunks) * leading;
                SIZE * (mn % T) + chunk + k % 8 * width + k / 8 * stride
            }
        };
        self.pattern.apply(self.start + offset)
    }

    /// Bytes from the 1024-byte boundary to the end of a matrix of `mn` rows, in whole patterns.
    pub(crate) fn extent(&self, mn: u32) -> u32 {
        let elements = (0..mn).flat_map(|mn| (0..16).map(move |k| (mn, k)));
        let last = elements.map(|(mn, k)| self.address(mn, k)).max().unwrap_or(0);
        (last + SIZE).next_multiple_of(1024)
    }
}

/// A CuTe layout of two nested modes, `((shape..),(shape..)):((stride..),(stride..))`, in elements.
struct Cute {
    mn: Vec<(u32, u32)>,
    k: Vec<(u32, u32)>,
}

impl Cute {
    /// The canonical layouts that CUTLASS writes beside `make_gmma_desc` (`mma_traits_sm90_gmma.hpp`).
    fn canonical(operand: &Operand, mn: u32) -> Self {
        let (leading, stride) = (operand.leading / SIZE, operand.stride / SIZE);
        let chunks = operand.pattern.width() / 16;
        let (mn, k) = match (operand.major, operand.pattern) {
            // ((8,m),(T,2)):((1T,SBO),(1,LBO))
            (Major::K, Pattern::None) => (vec![(8, T), (mn / 8, stride)], vec![(T, 1), (2, leading)]),
            // ((8,m),(T,2)):((2T,SBO),(1,T)), with 4T and 8T for the wider swizzles
            (Major::K, _) => (vec![(8, chunks * T), (mn / 8, stride)], vec![(T, 1), (2, T)]),
            // ((T,1,m),(8,k)):((1,T,SBO),(1T,LBO))
            (Major::Mn, Pattern::None) => {
                (vec![(T, 1), (1, T), (mn / T, stride)], vec![(8, T), (2, leading)])
            }
            // ((T,2,m),(8,k)):((1,T,LBO),(2T,SBO)), with 4 and 8 for the wider swizzles
            (Major::Mn, _) => {
                (vec![(T, 1), (chunks, T), (mn / (T * chunks), leading)], vec![(8, chunks * T), (2, stride)])
            }
        };
        Cute { mn, k }
    }

    fn offset(&self, mn: u32, k: u32) -> u32 {
        let along = |modes: &[(u32, u32)], mut coordinate: u32| {
            let mut offset = 0;
            for &(shape, stride) in modes {
                offset += coordinate % shape * stride;
                coordinate /= shape;
            }
            assert_eq!(coordinate, 0, "the coordinate is inside");
            offset
        };
        along(&self.mn, mn) + along(&self.k, k)
    }
}

/// The closed forms of [`Operand::address`] against CUTLASS's layout strings.
pub(crate) fn addresses_are_cutes() -> Result<(), String> {
    const MN: u32 = 64;
    for major in [Major::K, Major::Mn] {
        for pattern in Pattern::ALL {
            for operand in [Operand::tight(major, pattern), Operand::spread(major, pattern, MN)] {
                let cute = Cute::canonical(&operand, MN);
                for (mn, k) in (0..MN).flat_map(|mn| (0..16).map(move |k| (mn, k))) {
                    let expected = pattern.apply(SIZE * cute.offset(mn, k));
                    let address = operand.address(mn, k);
                    if address != expected {
                        return Err(format!(
                            "{operand:?}: ({mn}, {k}) is at {address}, CuTe says {expected}"
                        ));
                    }
                }
            }
        }
    }
    Ok(())
}

/// What goes into a descriptor comes out again.
pub(crate) fn descriptors_decode() -> Result<(), String> {
    for major in [Major::K, Major::Mn] {
        for pattern in Pattern::ALL {
            let operand = Operand::spread(major, pattern, 256).advanced(96);
            let decoded = Operand::decode(operand.descriptor(), operand.start, major);
            if decoded != operand {
                return Err(format!("{operand:?} became {decoded:?}"));
            }
        }
    }
    Ok(())
}
