//! Layouts against CUTLASS's canonical ones, written out as CuTe layouts.

use super::*;

const SWIZZLES: [Swizzle; 4] = [Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128];

/// A mode of a CuTe layout: `(shape..):(stride..)`, innermost first.
type Mode = Vec<(u32, u32)>;

fn along(mode: &Mode, mut coordinate: u32) -> u32 {
    let mut offset = 0;
    for &(shape, stride) in mode {
        offset += coordinate % shape * stride;
        coordinate /= shape;
    }
    assert_eq!(coordinate, 0, "the coordinate is inside");
    offset
}

/// The layouts beside `make_gmma_desc` of `mma_traits_sm90_gmma.hpp`, in bytes: T is a chunk of 16, LBO and SBO are the
/// two offsets.
fn canonical(descriptor: &Descriptor, mn_major: bool, bytes: u32, extent: u32) -> [Mode; 2] {
    let (t, lbo, sbo) = (16 / bytes, descriptor.leading, descriptor.stride);
    let w = descriptor.swizzle.width() / 16;
    match (mn_major, descriptor.swizzle) {
        // ((8,m),(T,2)):((1T,SBO),(1,LBO))
        (false, Swizzle::None) => [vec![(8, 16), (extent / 8, sbo)], vec![(t, bytes), (2, lbo)]],
        // Swizzle<..> o ((8,m),(T,2)):((wT,SBO),(1,T))
        (false, _) => [vec![(8, 16 * w), (extent / 8, sbo)], vec![(t, bytes), (2, 16)]],
        // ((T,1,m),(8,k)):((1,T,SBO),(1T,LBO))
        (true, Swizzle::None) => [vec![(t, bytes), (extent / t, sbo)], vec![(8, 16), (2, lbo)]],
        // Swizzle<..> o ((T,w,m),(8,k)):((1,T,LBO),(wT,SBO))
        (true, _) => [vec![(t, bytes), (w, 16), (extent.div_ceil(t * w), lbo)], vec![(8, 16 * w), (2, sbo)]],
    }
}

fn encode(descriptor: &Descriptor) -> u64 {
    let field = |bytes: u32| u64::from(bytes / 16);
    let code = match descriptor.swizzle {
        Swizzle::None => 0,
        Swizzle::B128 => 1,
        Swizzle::B64 => 2,
        Swizzle::B32 => 3,
    };
    field(descriptor.start) | field(descriptor.leading) << 16 | field(descriptor.stride) << 32 | code << 62
}

/// Every element of an operand is where CuTe says, and is gathered into its place.
fn agrees(descriptor: &Descriptor, mn_major: bool, bytes: u32, extent: u32) {
    assert_eq!(Descriptor::decode(encode(descriptor)).as_ref(), Ok(descriptor));
    let layout = operand(descriptor, mn_major, bytes, extent).unwrap();
    let [outer_mode, k_mode] = canonical(descriptor, mn_major, bytes, extent);
    // Each byte of memory is a hash of its address.
    let byte = |address: u32| (address.wrapping_mul(0x9E37_79B1) >> 24) as u8;
    let matrix = layout.gather(|address| std::array::from_fn(|i| byte(address + i as u32)));
    for (outer, row) in matrix.rows.iter().enumerate() {
        for (at, &seen) in row.iter().enumerate() {
            let offset =
                along(&outer_mode, outer as u32) + along(&k_mode, at as u32 / bytes) + at as u32 % bytes;
            let address = descriptor.swizzle.apply(descriptor.start + offset);
            assert_eq!(seen, byte(address), "{descriptor:?} {mn_major} {bytes}: byte {at} of row {outer}");
        }
    }
    assert_eq!(layout.chunks().len(), 2 * extent as usize);
    let mut addresses: Vec<u32> = layout.chunks().iter().map(|chunk| chunk.address).collect();
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), 2 * extent as usize, "chunks do not overlap");
}

#[test]
fn operands_are_cutes() {
    for swizzle in SWIZZLES {
        let width = swizzle.width();
        for extent in [8, 64, 80, 256] {
            let k_major = match swizzle {
                Swizzle::None => [(128, 256), (16 * extent + 128, 128)],
                _ => [(0, 8 * width), (0x7F0, 16 * width)],
            };
            for (leading, stride) in k_major {
                for in_row in (0..width.max(32)).step_by(32) {
                    for bytes in [1, 2, 4] {
                        let descriptor = Descriptor { start: 0x4000 + in_row, leading, stride, swizzle };
                        agrees(&descriptor, false, bytes, extent);
                    }
                }
            }
            let mn_major = match swizzle {
                Swizzle::None => [(128, 256), (16 * extent + 128, 128)],
                _ => [(16 * width, 8 * width), (8 * width, 8 * width * (2 * extent / width + 1))],
            };
            for (leading, stride) in mn_major {
                agrees(&Descriptor { start: 0x2000, leading, stride, swizzle }, true, 2, extent);
            }
        }
    }
}

/// The tile of attention: 64 columns of f16 a row of 128 bytes, rows one after the other.
#[test]
fn a_slab_of_128_bytes() {
    let slab = Descriptor { start: 0x400, leading: 0, stride: 1024, swizzle: Swizzle::B128 };
    let chunks = operand(&slab, false, 2, 64).unwrap();
    assert_eq!(chunks.chunks()[0], Chunk { address: 0x400, outer: 0, k: 0 });
    assert_eq!(chunks.chunks()[2 * 9 + 1], Chunk { address: 0x400 + 1024 + 128, outer: 9, k: 8 });
    let next = operand(&Descriptor { start: 0x420, ..slab }, false, 2, 64).unwrap();
    assert_eq!(next.chunks()[2], Chunk { address: 0x480 + (2 ^ 1) * 16, outer: 1, k: 0 });
}

#[test]
fn refuses_what_nobody_documents() {
    for bit in (14..16).chain(30..32).chain(46..49).chain(52..62) {
        let descriptor = 1 << bit;
        let error = DescriptorError::Reserved { descriptor, bits: descriptor };
        assert_eq!(Descriptor::decode(descriptor), Err(error));
    }
    let error = DescriptorError::BaseOffset { descriptor: 5 << 49, offset: 5 };
    assert_eq!(Descriptor::decode(5 << 49), Err(error));

    let slab = Descriptor { start: 0x400, leading: 0, stride: 1024, swizzle: Swizzle::B128 };
    let unaligned = |what, bytes| Err(DescriptorError::Unaligned { what, bytes, period: 1024 });
    let at = |descriptor, mn_major| operand(&descriptor, mn_major, 2, 80);
    assert_eq!(at(Descriptor { start: 0x480, ..slab }, false), unaligned("start address", 0x480));
    assert_eq!(at(Descriptor { stride: 512, ..slab }, false), unaligned("stride offset", 512));
    assert_eq!(at(Descriptor { leading: 64, ..slab }, true), unaligned("leading offset", 64));
    let leaves = |start, bytes| Err(DescriptorError::LeavesRow { start, bytes, width: 128 });
    assert_eq!(at(Descriptor { start: 0x470, ..slab }, false), leaves(112, 32));
    assert_eq!(at(Descriptor { start: 0x410, ..slab }, true), leaves(16, 128));
    assert_eq!(operand(&slab, true, 1, 64), Err(DescriptorError::MnMajor { bytes: 1 }));
    for (extent, bytes) in [(0, 2), (12, 2), (264, 2), (64, 8)] {
        assert_eq!(operand(&slab, false, bytes, extent), Err(DescriptorError::Shape { extent, bytes }));
    }
}
