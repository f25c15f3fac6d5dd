//! Boxes of a tensor between global and shared memory: PTX ISA, "Tensors" and `cp.async.bulk.tensor`.

use flashcore_kernels::layout::slab_offset;
use rand::{RngCore, SeedableRng, rngs::StdRng};

use crate::call::{Bytes, Call, Element, MARGIN, Outcome, Tensor};
use crate::case::{Case, Labelled, difference};
use crate::operand::{Major, Operand};
use crate::pattern::Pattern;

/// What the destination of a copy holds before.
const BEFORE: u8 = 0xA5;

/// Bytes from row to row of a box in shared memory: with a swizzle its width, however narrow the rows are.
fn pitch(tensor: &Tensor) -> u32 {
    if tensor.pattern == Pattern::None {
        tensor.box_dims[0] * tensor.element.bytes()
    } else {
        tensor.pattern.width()
    }
}

/// Bytes of shared memory that a box takes, with what lies between its rows.
fn padded_bytes(tensor: &Tensor) -> u32 {
    tensor.box_dims[1..].iter().product::<u32>() * pitch(tensor)
}

/// (offset in global memory, if inside of the tensor; byte address in shared memory) of each element of the box at
/// `coordinates`. Shared addresses count from a 1024-byte boundary.
fn elements(tensor: &Tensor, coordinates: &[i32]) -> Vec<(Option<usize>, usize)> {
    let size = tensor.element.bytes();
    (0..tensor.box_dims.iter().product())
        .map(|element: u32| {
            let (row, column) = (element / tensor.box_dims[0], element % tensor.box_dims[0]);
            let mut rest = element;
            let mut global = Some(MARGIN as i64);
            for (dim, &box_dim) in tensor.box_dims.iter().enumerate() {
                let at = i64::from(coordinates[dim]) + i64::from(rest % box_dim);
                rest /= box_dim;
                let stride = if dim == 0 { size.into() } else { tensor.strides_bytes[dim - 1] };
                let inside = (0..tensor.dims[dim] as i64).contains(&at);
                global = global.filter(|_| inside).map(|global| global + at * stride as i64);
            }
            (
                global.map(|global| global as usize),
                tensor.pattern.apply(row * pitch(tensor) + column * size) as usize,
            )
        })
        .collect()
}

/// What fills elements outside of the tensor: zeros, or a NaN (of a payload that nobody documents).
fn fill(tensor: &Tensor) -> &'static [u8] {
    match (tensor.nan_fill, tensor.element) {
        (false, element) => &[0; 4][..element.bytes() as usize],
        (true, Element::F16) => &[0xFF, 0x7F],
        (true, Element::F32) => &[0xFF, 0xFF, 0xFF, 0x7F],
        (true, Element::U8) => panic!("bytes have no NaN"),
    }
}

/// Shared memory after a load of the box at the call's coordinates.
fn loaded(call: &Call, tensor: &Tensor) -> Vec<u8> {
    let size = tensor.element.bytes() as usize;
    let mut shared = call.input.0[..call.bytes as usize].to_vec();
    for (global, at) in elements(tensor, &call.words) {
        let value = global.map_or(fill(tensor), |global| &tensor.memory.0[global..global + size]);
        shared[at..at + size].copy_from_slice(value);
    }
    shared
}

/// Global memory after a store of the box in shared memory. Stores write chunks of 16 bytes: the last one of a row of
/// the tensor is written whole, also where the row ends inside of it.
fn stored(call: &Call, tensor: &Tensor) -> Vec<u8> {
    let size = tensor.element.bytes() as usize;
    let mut memory = tensor.memory.0.clone();
    let mut chunks = tensor.clone();
    chunks.dims[0] = chunks.dims[0].next_multiple_of(16 / size as u64);
    for (global, at) in elements(&chunks, &call.words) {
        if let Some(global) = global {
            memory[global..global + size].copy_from_slice(&call.input.0[at..at + size]);
        }
    }
    memory
}

/// What `call`, of a symbol of this file, must give.
pub(crate) fn predict(call: &Call) -> Outcome {
    let tensor = call.tensor.as_ref().expect("a tensor");
    if call.symbol.starts_with("probe_tma_store") {
        let memory = stored(call, tensor);
        let memory = (memory != tensor.memory.0).then_some(Bytes(memory));
        return Outcome { output: Bytes::default(), memory };
    }
    let shared = loaded(call, tensor);
    // Both CTAs of a cluster receive a multicast.
    let copies = if call.symbol == "probe_tma_multicast" { 2 } else { 1 };
    Outcome { output: Bytes(shared.repeat(copies)), memory: None }
}

/// As byte by byte, but any NaN fills as well as another.
pub(crate) fn judge_load(call: &Call, seen: &Outcome) -> Result<(), String> {
    let tensor = call.tensor.as_ref().expect("a tensor");
    let (size, fill) = (tensor.element.bytes() as usize, fill(tensor));
    let expected = predict(call);
    let mut canonical = seen.clone();
    if tensor.nan_fill && seen.output.0.len() == expected.output.0.len() {
        let pairs = canonical.output.0.chunks_mut(size).zip(expected.output.0.chunks(size));
        for (seen, _) in pairs.filter(|(seen, expected)| *expected == fill && is_nan(tensor.element, seen)) {
            seen.copy_from_slice(fill);
        }
    }
    if canonical == expected { Ok(()) } else { Err(difference(&expected, &canonical)) }
}

fn is_nan(element: Element, bytes: &[u8]) -> bool {
    match (element, bytes) {
        (Element::F16, &[low, high]) => half::f16::from_le_bytes([low, high]).is_nan(),
        (Element::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]).is_nan(),
        _ => false,
    }
}

/// A tensor that holds [`BEFORE`], with gaps after its rows, and a box with rows of `row_bytes`.
fn tensor(rank: usize, element: Element, pattern: Pattern, row_bytes: u32) -> Tensor {
    let row = row_bytes / element.bytes();
    let dims = [u64::from(row) + 5, 12, 3, 2, 2][..rank].to_vec();
    let mut strides_bytes = Vec::new();
    let mut extent = dims[0] * u64::from(element.bytes());
    for dim in &dims[1..] {
        let stride = extent.next_multiple_of(16) + 16;
        strides_bytes.push(stride);
        extent = stride * dim;
    }
    Tensor {
        element,
        dims,
        strides_bytes,
        box_dims: [row, 9, 2, 2, 2][..rank].to_vec(),
        pattern,
        nan_fill: false,
        memory: Bytes(vec![BEFORE; extent as usize + 2 * MARGIN]),
    }
}

/// Where a box lies along each dimension of its tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Inside,
    /// Across the first element.
    Low,
    /// Across the last element.
    High,
    /// Across the first element in even dimensions, across the last one in odd ones.
    Mixed,
    /// Ends just before the outermost dimension.
    Before,
    /// Starts just behind the innermost dimension.
    Behind,
    Far,
    FarBelow,
}

impl Place {
    const ALL: [Place; 8] = [
        Place::Inside,
        Place::Low,
        Place::High,
        Place::Mixed,
        Place::Before,
        Place::Behind,
        Place::Far,
        Place::FarBelow,
    ];
    /// Stores must not start at negative coordinates.
    const OF_STORES: [Place; 4] = [Place::Inside, Place::High, Place::Behind, Place::Far];

    fn coordinates(self, tensor: &Tensor) -> [i32; 5] {
        let mut coordinates = [0; 5];
        let last = tensor.dims.len() - 1;
        for (dim, coordinate) in coordinates[..=last].iter_mut().enumerate() {
            let (size, box_size) = (tensor.dims[dim] as i32, tensor.box_dims[dim].cast_signed());
            let (inside, low, high) =
                ((size - box_size) / 2, -((box_size + 1) / 3), size - (box_size + 1) / 2);
            *coordinate = match self {
                Place::Low => low,
                Place::High => high,
                Place::Mixed if dim % 2 == 0 => low,
                Place::Mixed => high,
                Place::Before if dim == last => -box_size,
                Place::Behind if dim == 0 => size,
                Place::Far => 1 << 30,
                Place::FarBelow => -(1 << 30),
                Place::Inside | Place::Before | Place::Behind => inside,
            };
        }
        // A box must start at a multiple of 16 bytes in its row; the hardware takes anything else for an illegal
        // instruction.
        let chunk = (16 / tensor.element.bytes()).cast_signed();
        coordinates[0] = coordinates[0].div_euclid(chunk) * chunk;
        if self == Place::Behind {
            coordinates[0] += chunk;
        }
        coordinates
    }
}

/// Bytes of shared memory in play: more than the box has.
fn shared_bytes(tensor: &Tensor) -> u32 {
    (2 * padded_bytes(tensor)).next_multiple_of(1024)
}

/// Random bytes, different for each number of them.
fn randomise(bytes: &mut [u8]) {
    StdRng::seed_from_u64(bytes.len() as u64).fill_bytes(bytes);
}

/// A load of random bytes into memory that holds [`BEFORE`].
fn load(symbol: &str, mut tensor: Tensor, words: [i32; 5]) -> Call {
    randomise(&mut tensor.memory.0);
    let bytes = shared_bytes(&tensor);
    Call {
        symbol: symbol.into(),
        desc_a: tensor.box_bytes().into(),
        bytes,
        words,
        input: Bytes(vec![BEFORE; bytes as usize]),
        output_bytes: bytes as usize,
        tensor: Some(tensor),
        ..Call::default()
    }
}

/// A store of random bytes into memory that holds [`BEFORE`].
fn store(symbol: &str, tensor: Tensor, words: [i32; 5]) -> Call {
    let bytes = shared_bytes(&tensor);
    let mut input = vec![BEFORE; bytes as usize];
    // Where the box is, in whole lines.
    randomise(&mut input[..padded_bytes(&tensor).next_multiple_of(128) as usize]);
    Call { symbol: symbol.into(), bytes, words, input: Bytes(input), tensor: Some(tensor), ..Call::default() }
}

/// Widths of a box's rows that a pattern allows: its own, or, without one, any multiple of 16 bytes. Narrower rows of a
/// pattern are tried by [`narrow`].
fn row_bytes(pattern: Pattern) -> u32 {
    if pattern == Pattern::None { 48 } else { pattern.width() }
}

/// Whether the answer is kept: each pattern once, and each rank with another pattern.
fn is_recorded(rank: usize, element: Element, pattern: Pattern) -> bool {
    let kept = [(3, Pattern::B64), (4, Pattern::B128), (5, Pattern::B32)];
    element == Element::F16 && (rank == 2 || kept.contains(&(rank, pattern)))
}

/// Which way a box goes.
#[derive(Clone, Copy, Debug)]
enum Direction {
    Load,
    Store,
}

impl Direction {
    /// The places that are tried, and the one whose answer is kept.
    fn places(self) -> (&'static [Place], Place) {
        match self {
            Direction::Load => (&Place::ALL, Place::Mixed),
            Direction::Store => (&Place::OF_STORES, Place::High),
        }
    }

    fn call(self, tensor: &Tensor, place: Place) -> Call {
        let (rank, words) = (tensor.dims.len(), place.coordinates(tensor));
        match self {
            Direction::Load => load(&format!("probe_tma_load_{rank}d"), tensor.clone(), words),
            Direction::Store => store(&format!("probe_tma_store_{rank}d"), tensor.clone(), words),
        }
    }
}

fn copies(direction: Direction, rank: usize, element: Element) -> Vec<(Labelled, Call)> {
    let (places, kept) = direction.places();
    let mut calls = Vec::new();
    for pattern in Pattern::ALL {
        let tensor = tensor(rank, element, pattern, row_bytes(pattern));
        for &place in places {
            let record = is_recorded(rank, element, pattern) && place == kept;
            let label = format!("{pattern:?}-{place:?}").to_lowercase();
            calls.push((Labelled { label, record }, direction.call(&tensor, place)));
        }
    }
    calls
}

/// Rows narrower than their pattern: they lie as far apart as full ones.
fn narrow() -> Vec<(Labelled, Call)> {
    let mut calls = Vec::new();
    for (pattern, row_bytes) in
        [(Pattern::B32, 16), (Pattern::B64, 32), (Pattern::B128, 32), (Pattern::B128, 64)]
    {
        let tensor = tensor(2, Element::F16, pattern, row_bytes);
        for direction in [Direction::Load, Direction::Store] {
            let label = format!("{direction:?}-{pattern:?}-{row_bytes}").to_lowercase();
            calls.push((Labelled { label, record: true }, direction.call(&tensor, Place::Inside)));
        }
    }
    calls
}

fn nan_fill(element: Element) -> Vec<(Labelled, Call)> {
    let mut calls = Vec::new();
    for pattern in Pattern::ALL {
        let tensor = Tensor { nan_fill: true, ..tensor(2, element, pattern, row_bytes(pattern)) };
        for place in Place::ALL {
            let record = pattern == Pattern::None && place == Place::Mixed;
            let label = format!("{pattern:?}-{place:?}").to_lowercase();
            calls.push((Labelled { label, record }, Direction::Load.call(&tensor, place)));
        }
    }
    calls
}

fn multicast() -> Vec<(Labelled, Call)> {
    let tensor = tensor(2, Element::F16, Pattern::B128, 128);
    let call = |place: Place| {
        let call = load("probe_tma_multicast", tensor.clone(), place.coordinates(&tensor));
        Call { output_bytes: 2 * call.output_bytes, ..call }
    };
    let labelled =
        |place| Labelled { label: format!("{place:?}").to_lowercase(), record: place == Place::Mixed };
    Place::ALL.into_iter().map(|place| (labelled(place), call(place))).collect()
}

/// The cases of this file.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for direction in [Direction::Load, Direction::Store] {
        for rank in 2..=5 {
            for element in [Element::U8, Element::F16, Element::F32] {
                let name = format!("tma_{direction:?}_{rank}d_{element:?}").to_lowercase();
                cases.push(Case::new(name, move || copies(direction, rank, element)));
            }
        }
    }
    for element in [Element::F16, Element::F32] {
        let name = format!("tma_nan_fill_{element:?}").to_lowercase();
        cases.push(Case::new(name, move || nan_fill(element)));
    }
    cases.push(Case::new("tma_narrow", narrow));
    cases.push(Case::new("tma_multicast", multicast));
    cases
}

/// A matrix of 16-bit elements, and the shared memory that a load of its box at `column` fills, as high as the matrix.
fn load_of_matrix(pattern: Pattern, columns: u32, rows: u32, column: u32) -> (Vec<u16>, Vec<u8>) {
    let row_bytes = 2 * columns;
    let tensor = Tensor {
        element: Element::F16,
        dims: vec![columns.into(), rows.into()],
        strides_bytes: vec![row_bytes.into()],
        box_dims: vec![pattern.width() / 2, rows],
        pattern,
        nan_fill: false,
        memory: Bytes(vec![0; MARGIN + (row_bytes * rows) as usize]),
    };
    let call = load("probe_tma_load_2d", tensor, [column.cast_signed(), 0, 0, 0, 0]);
    let tensor = call.tensor.as_ref().expect("a load has a tensor");
    let matrix = tensor.memory.0[MARGIN..].as_chunks().0.iter().map(|&bytes| u16::from_le_bytes(bytes));
    (matrix.collect(), loaded(&call, tensor))
}

fn element(shared: &[u8], at: u32) -> u16 {
    u16::from_le_bytes([shared[at as usize], shared[at as usize + 1]])
}

/// Boxes that TMA loads are operands that wgmma reads, K-major and MN-major: the two models know nothing of each other.
pub(crate) fn loads_are_operands() -> Result<(), String> {
    for pattern in Pattern::ALL {
        let columns = pattern.width() / 2;
        // Rows are M or N, columns are K; without a swizzle a box is 8 columns, the other 8 lie in the next box.
        let (matrix, mut shared) = load_of_matrix(pattern, 2 * columns, 64, 0);
        let mut operand = Operand::tight(Major::K, pattern);
        if pattern == Pattern::None {
            shared.truncate(1024);
            shared.extend(load_of_matrix(pattern, 2 * columns, 64, 8).1);
            (operand.leading, operand.stride) = (1024, 128);
        }
        for (row, k) in (0..64).flat_map(|row| (0..16).map(move |k| (row, k))) {
            if element(&shared, operand.address(row, k)) != matrix[(row * 2 * columns + k) as usize] {
                return Err(format!("{pattern:?}, K-major: element ({row}, {k})"));
            }
        }
        // Rows are K, columns are M or N.
        let (matrix, shared) = load_of_matrix(pattern, columns, 16, 0);
        let operand = Operand::tight(Major::Mn, pattern);
        for (k, mn) in (0..16).flat_map(|k| (0..columns).map(move |mn| (k, mn))) {
            if element(&shared, operand.address(mn, k)) != matrix[(k * columns + mn) as usize] {
                return Err(format!("{pattern:?}, MN-major: element ({mn}, {k})"));
            }
        }
    }
    Ok(())
}

/// A box of 64 columns is a slab of `layout.rs`.
pub(crate) fn boxes_are_slabs() -> Result<(), String> {
    let rows = 80;
    let (matrix, shared) = load_of_matrix(Pattern::B128, 64, rows, 0);
    for (row, column) in (0..rows).flat_map(|row| (0..64).map(move |column| (row, column))) {
        if element(&shared, slab_offset(rows, row, column)) != matrix[(row * 64 + column) as usize] {
            return Err(format!("element ({row}, {column})"));
        }
    }
    Ok(())
}
