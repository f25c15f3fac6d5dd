//! Boxes against a copy element by element.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const ELEMENTS: [Element; 10] = [
    Element::U8,
    Element::U16,
    Element::U32,
    Element::S32,
    Element::U64,
    Element::S64,
    Element::F16,
    Element::Bf16,
    Element::F32,
    Element::F64,
];

/// A matrix of f16 with 40 columns and 10 rows, in boxes of 32 by 4.
fn matrix() -> TensorMap {
    TensorMap {
        address: 0x1000,
        element: Element::F16,
        dims: vec![40, 10],
        strides: vec![96],
        box_dims: vec![32, 4],
        element_strides: vec![1, 1],
        swizzle: Swizzle::B64,
        oob_fill: OobFill::Zero,
    }
}

/// Offset in shared memory (before the swizzle) of each byte of a box, and where it is in global memory.
fn bytes(pieces: &[Piece]) -> BTreeMap<u32, Option<u64>> {
    let mut bytes = BTreeMap::new();
    for piece in pieces {
        assert!((1..=16).contains(&piece.bytes), "{piece:?}");
        for i in 0..piece.bytes {
            let before = bytes.insert(piece.offset + i, piece.global.map(|global| global + u64::from(i)));
            assert_eq!(before, None, "byte {} twice", piece.offset + i);
        }
    }
    bytes
}

/// The same, element by element; stores see whole chunks at the end of a row.
fn expected(map: &TensorMap, coordinates: &[i32], store: bool) -> BTreeMap<u32, Option<u64>> {
    let size = u64::from(map.element.bytes());
    let mut row_end = map.dims[0] * size;
    if store {
        row_end = row_end.div_ceil(16) * 16;
    }
    let pitch = match map.swizzle {
        Swizzle::None => map.box_dims[0] * map.element.bytes(),
        swizzle => swizzle.width(),
    };
    let mut rows = vec![(0, Some(map.address))];
    for (dimension, &coordinate) in coordinates.iter().enumerate().skip(1) {
        let stride = map.element_strides[dimension];
        let steps = map.box_dims[dimension].div_ceil(stride);
        rows = (0..steps)
            .flat_map(|step| {
                let at = i64::from(coordinate) + i64::from(step * stride);
                let inside = (0..map.dims[dimension] as i64).contains(&at);
                let before = rows.len() as u32;
                let moved = at as u64 * u64::from(inside) * map.strides[dimension - 1];
                rows.iter()
                    .map(|&(row, address)| {
                        (row + step * before, address.filter(|_| inside).map(|a| a + moved))
                    })
                    .collect::<Vec<_>>()
            })
            .collect();
    }
    let mut bytes = BTreeMap::new();
    for (row, address) in rows {
        for byte in 0..map.box_dims[0] * map.element.bytes() {
            let at = i64::from(coordinates[0]) * size as i64 + i64::from(byte);
            let global =
                address.filter(|_| (0..row_end as i64).contains(&at)).map(|address| address + at as u64);
            if global.is_some() || !store {
                bytes.insert(row * pitch + byte, global);
            }
        }
    }
    bytes
}

prop_compose! {
    fn maps()(
        rank in 1..=5usize,
        element in prop::sample::select(&ELEMENTS[..]),
        swizzle in prop::sample::select(&[Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128][..]),
        chunks in 1..=8u32,
        dims in prop::collection::vec(1..40u64, 5),
        gaps in prop::collection::vec(0..3u64, 5),
        box_dims in prop::collection::vec(1..5u32, 5),
        element_strides in prop::collection::vec(1..4u32, 5),
        places in prop::collection::vec(-20..45i32, 5),
    ) -> (TensorMap, Vec<i32>) {
        let elements = 16 / element.bytes();
        let chunks = if swizzle == Swizzle::None { chunks } else { chunks.min(swizzle.width() / 16) };
        let mut strides = Vec::new();
        let mut extent = dims[0] * u64::from(element.bytes());
        for dimension in 1..rank {
            extent = extent.next_multiple_of(16) + 16 * gaps[dimension];
            strides.push(extent);
            extent *= dims[dimension];
        }
        let mut box_dims = box_dims[..rank].to_vec();
        box_dims[0] = chunks * elements;
        let mut coordinates = places[..rank].to_vec();
        coordinates[0] = coordinates[0].div_euclid(elements as i32) * elements as i32;
        let map = TensorMap {
            address: 1 << 40,
            element,
            dims: dims[..rank].to_vec(),
            strides,
            box_dims,
            element_strides: element_strides[..rank].to_vec(),
            swizzle,
            oob_fill: OobFill::Zero,
        };
        (map, coordinates)
    }
}

proptest! {
    #[test]
    fn boxes_are_their_elements((map, coordinates) in maps()) {
        let load = map.boxed(&coordinates).unwrap();
        prop_assert_eq!(bytes(&load), expected(&map, &coordinates, false));
        prop_assert_eq!(load.iter().map(|piece| piece.bytes).sum::<u32>(), map.dense_bytes());
        let end = load.iter().map(|piece| piece.offset + piece.bytes).max();
        prop_assert_eq!(end, Some(map.shared_bytes()));
        let positive: Vec<i32> = coordinates.iter().map(|c| c.max(&0)).copied().collect();
        let store = map.boxed_for_store(&positive).unwrap();
        prop_assert_eq!(bytes(&store), expected(&map, &positive, true));
    }
}

#[test]
fn rows_end_inside_of_chunks() {
    let map = TensorMap { dims: vec![36, 10], ..matrix() };
    let load = map.boxed(&[32, 9]).unwrap();
    assert_eq!(load[0], Piece { offset: 0, bytes: 8, global: Some(0x1000 + 9 * 96 + 64) });
    assert_eq!(load[1], Piece { offset: 8, bytes: 8, global: None });
    assert_eq!(load[2], Piece { offset: 16, bytes: 16, global: None });
    let store = map.boxed_for_store(&[32, 9]).unwrap();
    assert_eq!(store, [Piece { offset: 0, bytes: 16, global: Some(0x1000 + 9 * 96 + 64) }]);
}

#[test]
fn swizzles_permute_chunks() {
    // Row 1 of 128 bytes: chunk c goes to c ^ 1; with 64 bytes rows 2 and 3 have line number 1.
    assert_eq!(Swizzle::B128.apply(0x400 + 128 + 16 * 6 + 3), 0x400 + 128 + 16 * 7 + 3);
    assert_eq!(Swizzle::B64.apply(2 * 64 + 16), 2 * 64);
    assert_eq!(Swizzle::B64.apply(4 * 64 + 16), 4 * 64 + 48);
    assert_eq!(Swizzle::B32.apply(128), 128 + 16);
    assert_eq!(Swizzle::B32.apply(256), 256);
    for swizzle in [Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128] {
        for address in 0..4096 {
            assert_eq!(swizzle.apply(swizzle.apply(address)), address);
            assert_eq!(swizzle.apply(address + swizzle.period()), swizzle.apply(address) + swizzle.period());
        }
    }
    let alignments = [Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128]
        .map(|swizzle| TensorMap { swizzle, ..matrix() }.alignment());
    assert_eq!(alignments, [128, 256, 512, 1024]);
}

#[test]
fn fills_are_zeros_or_nans() {
    assert_eq!(matrix().fill(), [0; 16]);
    let fill = |element| TensorMap { element, oob_fill: OobFill::Nan, ..matrix() }.fill();
    assert_eq!(fill(Element::F16)[..4], [0xF7, 0x7F, 0xF7, 0x7F]);
    assert!(f32::from_le_bytes(fill(Element::F32)[4..8].try_into().unwrap()).is_nan());
    assert!(f64::from_le_bytes(fill(Element::F64)[..8].try_into().unwrap()).is_nan());
}

#[test]
fn refuses_what_the_driver_refuses() {
    type Change = fn(&mut TensorMap);
    let range =
        |what, dimension, value, least, most| TensorMapError::Range { what, dimension, value, least, most };
    let cases: [(Change, TensorMapError); 14] = [
        (|m| m.dims.clear(), TensorMapError::Rank { rank: 0 }),
        (|m| m.dims = vec![1; 6], TensorMapError::Rank { rank: 6 }),
        (|m| m.strides.clear(), TensorMapError::Lengths { what: "strides", given: 0, needed: 1 }),
        (|m| m.box_dims.push(1), TensorMapError::Lengths { what: "box dimensions", given: 3, needed: 2 }),
        (
            |m| m.element_strides.clear(),
            TensorMapError::Lengths { what: "element strides", given: 0, needed: 2 },
        ),
        (|m| m.address = 0x1008, TensorMapError::Multiple { what: "the address", value: 0x1008 }),
        (|m| m.strides[0] = 88, TensorMapError::Multiple { what: "a stride", value: 88 }),
        (|m| m.strides[0] = 1 << 40, range("the stride", 1, 1 << 40, 0, (1 << 40) - 1)),
        (|m| m.dims[1] = 0, range("the size", 1, 0, 1, 1 << 32)),
        (|m| m.box_dims[1] = 257, range("the box", 1, 257, 1, 256)),
        (|m| m.element_strides[1] = 9, range("the element stride", 1, 9, 1, 8)),
        (|m| m.box_dims[0] = 20, TensorMapError::Multiple { what: "a row of the box in bytes", value: 40 }),
        (|m| m.box_dims[0] = 40, TensorMapError::Width { bytes: 80, width: 64 }),
        (
            |m| (m.element, m.oob_fill) = (Element::U16, OobFill::Nan),
            TensorMapError::Fill { element: Element::U16 },
        ),
    ];
    assert_eq!(matrix().check(), Ok(()));
    for (change, error) in cases {
        let mut map = matrix();
        change(&mut map);
        assert_eq!(map.check(), Err(error.clone()));
        assert_eq!(map.boxed(&[0, 0]), Err(CoordinateError::Map(error)));
    }
}

#[test]
fn refuses_coordinates() {
    let map = matrix();
    assert_eq!(map.boxed(&[0]), Err(CoordinateError::Count { given: 1, rank: 2 }));
    assert_eq!(map.boxed(&[4, 0]), Err(CoordinateError::Unaligned { coordinate: 4, elements: 8 }));
    assert_eq!(
        map.boxed_for_store(&[0, -1]),
        Err(CoordinateError::Negative { dimension: 1, coordinate: -1 })
    );
    // Far away everything is outside.
    for far in [i32::MIN, i32::MAX - 7] {
        let pieces = map.boxed(&[far / 8 * 8, far]).unwrap();
        assert!(pieces.iter().all(|piece| piece.global.is_none()));
    }
}
