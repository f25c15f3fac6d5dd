//! Arguments of a kernel in words.

use std::str::FromStr;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::{Buffer, WorkloadError};
use crate::{Device, Element, OobFill, Swizzle, TensorMap};

/// An argument of a kernel.
///
/// | text | what the kernel gets |
/// |---|---|
/// | `u32:5`, `s32:-5`, `u64:5`, `f32:1.5` | that value |
/// | `in:BYTES` | address of random bytes |
/// | `in-u32:COUNT`, `in-f32:COUNT`, `in-f16:COUNT`, ... | address of that many small random numbers |
/// | `out:BYTES`, `zeros:BYTES` | address of memory to write, unwritten or zero |
/// | `map:f16:64x128:box=64x64:swizzle=128` | tensor map of a tensor of small random numbers, outermost dimension first |
/// | `map-out:...`, `map-zeros:...` | the same of a tensor to write |
#[derive(Clone, Debug, PartialEq)]
pub enum Argument {
    /// The bytes of a value.
    Value(Vec<u8>),
    /// The address of memory.
    Memory {
        /// Its size in bytes.
        bytes: usize,
        /// What it holds.
        content: Content,
    },
    /// A tensor map; its address is set when the tensor is allocated.
    Map {
        /// The map.
        map: TensorMap,
        /// What the tensor holds.
        content: Content,
    },
}

/// What memory holds before a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Any bytes.
    Random,
    /// Small numbers: multiples of 1/8 from -2 to 2, or integers below 1000 (bytes: below 256). Sums of a few
    /// thousand products of them are exact in f32.
    Numbers(Number),
    /// Nothing: it is an output.
    Unwritten,
    /// Zeros; it is an output too.
    Zeros,
}

/// Types of numbers in memory: those of tensors, and FP8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    /// A type that a tensor map may have.
    Element(Element),
    /// FP8 with 4 exponent bits: multiples of 1/2 from -2 to 2.
    E4m3,
}

/// Words that are no argument.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ArgumentError {
    /// Not one of the kinds.
    #[error(
        "`{kind}` is no kind of argument; u32, s32, u64, f32, in, in-TYPE, out, zeros, map, map-out, map-zeros are"
    )]
    Kind {
        /// What stands before the first colon.
        kind: String,
    },
    /// Not a value of its kind.
    #[error("`{value}` is not {wanted}")]
    Value {
        /// What was given.
        value: String,
        /// What should have been.
        wanted: &'static str,
    },
}

/// Most bytes of an argument's memory: more is a slip of the pen.
const MOST_BYTES: u64 = 1 << 32;

fn parse<T: FromStr>(value: &str, wanted: &'static str) -> Result<T, ArgumentError> {
    value.parse().map_err(|_| ArgumentError::Value { value: value.to_owned(), wanted })
}

impl FromStr for Argument {
    type Err = ArgumentError;

    fn from_str(text: &str) -> Result<Self, ArgumentError> {
        let (kind, value) = text.split_once(':').unwrap_or((text, ""));
        let value_of = |bytes: &[u8]| Ok(Argument::Value(bytes.to_vec()));
        let memory = |count: &str, size: u32, content| {
            let wanted = "a number of at least one and at most 4 GiB";
            let bytes = parse::<u64>(count, wanted)?.checked_mul(u64::from(size));
            match bytes.filter(|bytes| (1..=MOST_BYTES).contains(bytes)) {
                Some(bytes) => Ok(Argument::Memory { bytes: bytes as usize, content }),
                None => Err(ArgumentError::Value { value: count.to_owned(), wanted }),
            }
        };
        match kind {
            "u32" => value_of(&parse::<u32>(value, "a u32")?.to_le_bytes()),
            "s32" => value_of(&parse::<i32>(value, "an s32")?.to_le_bytes()),
            "u64" => value_of(&parse::<u64>(value, "a u64")?.to_le_bytes()),
            "f32" => value_of(&parse::<f32>(value, "an f32")?.to_le_bytes()),
            "in" => memory(value, 1, Content::Random),
            "out" => memory(value, 1, Content::Unwritten),
            "zeros" => memory(value, 1, Content::Zeros),
            "map" => map(value, None),
            "map-out" => map(value, Some(Content::Unwritten)),
            "map-zeros" => map(value, Some(Content::Zeros)),
            _ => match kind.strip_prefix("in-").and_then(number) {
                Some(number) => memory(value, number.bytes(), Content::Numbers(number)),
                None => Err(ArgumentError::Kind { kind: kind.to_owned() }),
            },
        }
    }
}

const ELEMENTS: &[(&str, Element)] = &[
    ("u8", Element::U8),
    ("u16", Element::U16),
    ("u32", Element::U32),
    ("s32", Element::S32),
    ("u64", Element::U64),
    ("s64", Element::S64),
    ("f16", Element::F16),
    ("bf16", Element::Bf16),
    ("f32", Element::F32),
    ("f64", Element::F64),
];

fn number(name: &str) -> Option<Number> {
    let element = ELEMENTS.iter().find(|(known, _)| *known == name).map(|(_, element)| *element);
    element.map(Number::Element).or_else(|| (name == "e4m3").then_some(Number::E4m3))
}

/// `f16:64x128:box=64x64:swizzle=128`. Dimensions and box are written outermost first, as tensors are.
fn map(text: &str, content: Option<Content>) -> Result<Argument, ArgumentError> {
    let mut parts = text.split(':');
    let (name, shape) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
    let wrong = |value: &str, wanted| ArgumentError::Value { value: value.to_owned(), wanted };
    let element = match number(name) {
        Some(Number::Element(element)) => element,
        _ => return Err(wrong(name, "a type of elements such as f16")),
    };
    let dims: Vec<u64> = extents(shape)?;
    let (mut boxed, mut swizzle) = (dims.iter().map(|&dim| dim.min(256) as u32).collect(), Swizzle::None);
    for part in parts {
        match part.split_once('=') {
            Some(("box", shape)) => boxed = extents(shape)?,
            Some(("swizzle", "0")) => swizzle = Swizzle::None,
            Some(("swizzle", "32")) => swizzle = Swizzle::B32,
            Some(("swizzle", "64")) => swizzle = Swizzle::B64,
            Some(("swizzle", "128")) => swizzle = Swizzle::B128,
            _ => return Err(wrong(part, "box=ROWSxCOLUMNS or swizzle=0, 32, 64 or 128")),
        }
    }
    let mut strides = Vec::new();
    let mut bytes = u64::from(element.bytes());
    for dim in &dims {
        bytes = bytes
            .checked_mul(*dim)
            .filter(|bytes| (1..=MOST_BYTES).contains(bytes))
            .ok_or_else(|| wrong(shape, "a shape of at least one element and at most 4 GiB"))?;
        strides.push(bytes);
    }
    strides.pop();
    let element_strides = vec![1; dims.len()];
    let content = content.unwrap_or(Content::Numbers(Number::Element(element)));
    let oob_fill = OobFill::Zero;
    let map =
        TensorMap { address: 0, element, dims, strides, box_dims: boxed, element_strides, swizzle, oob_fill };
    Ok(Argument::Map { map, content })
}

/// `64x128`, innermost first.
fn extents<T: FromStr>(text: &str) -> Result<Vec<T>, ArgumentError> {
    text.split('x').rev().map(|number| parse(number, "a shape such as 64x128")).collect()
}

impl Number {
    fn bytes(self) -> u32 {
        match self {
            Number::Element(element) => element.bytes(),
            Number::E4m3 => 1,
        }
    }

    /// Appends a small random number.
    fn draw(self, rng: &mut SmallRng, bytes: &mut Vec<u8>) {
        let integer: u16 = rng.random_range(0..1000);
        let eighths = f32::from(rng.random_range(-16..=16i8)) / 8.0;
        match self {
            Number::E4m3 => {
                bytes.push([0, 0x30, 0x38, 0x3C, 0x40, 0xB0, 0xB8, 0xBC, 0xC0][usize::from(integer) % 9])
            }
            Number::Element(Element::F16) => bytes.extend(half::f16::from_f32(eighths).to_le_bytes()),
            Number::Element(Element::Bf16) => bytes.extend(half::bf16::from_f32(eighths).to_le_bytes()),
            Number::Element(Element::F32) => bytes.extend(eighths.to_le_bytes()),
            Number::Element(Element::F64) => bytes.extend(f64::from(eighths).to_le_bytes()),
            Number::Element(element) => {
                bytes.extend(&u64::from(integer).to_le_bytes()[..element.bytes() as usize])
            }
        }
    }
}

impl Content {
    /// The bytes, if there are any yet.
    fn fill(self, bytes: usize, rng: &mut SmallRng) -> Option<Vec<u8>> {
        match self {
            Content::Unwritten => None,
            Content::Zeros => Some(vec![0; bytes]),
            Content::Random => {
                let mut filled = vec![0; bytes];
                rng.fill(&mut filled[..]);
                Some(filled)
            }
            Content::Numbers(number) => {
                let mut filled = Vec::with_capacity(bytes);
                while filled.len() < bytes {
                    number.draw(rng, &mut filled);
                }
                Some(filled)
            }
        }
    }
}

impl Argument {
    /// The bytes of the parameter, and the memory behind it if there is any.
    pub(super) fn prepare(
        &self,
        device: &mut Device,
        index: usize,
        seed: u64,
    ) -> Result<(Vec<u8>, Option<Buffer>), WorkloadError> {
        let mut rng = SmallRng::seed_from_u64(seed.wrapping_mul(0x9E37_79B9).wrapping_add(index as u64));
        let mut allocate = |bytes: usize, content: Content| -> Result<Buffer, WorkloadError> {
            let address = device.alloc(bytes as u64)?;
            let before = content.fill(bytes, &mut rng);
            if let Some(before) = &before {
                device.write(address, before)?;
            }
            let output = matches!(content, Content::Unwritten | Content::Zeros);
            Ok(Buffer { argument: index, address, bytes, before, output })
        };
        match self {
            Argument::Value(bytes) => Ok((bytes.clone(), None)),
            Argument::Memory { bytes, content } => {
                let buffer = allocate(*bytes, *content)?;
                Ok((buffer.address.to_le_bytes().to_vec(), Some(buffer)))
            }
            Argument::Map { map, content } => {
                let bytes = map.dims.iter().product::<u64>() * u64::from(map.element.bytes());
                let buffer = allocate(bytes as usize, *content)?;
                let map = TensorMap { address: buffer.address, ..map.clone() };
                let words = device
                    .encode_tensor_map(&map)
                    .map_err(|why| WorkloadError::TensorMap { argument: index, why })?;
                Ok((words.into_iter().flat_map(u64::to_le_bytes).collect(), Some(buffer)))
            }
        }
    }
}
