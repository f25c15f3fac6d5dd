//! Facts of the machine code that the library carries.

use flashcore::kernels::{IMAGES, image};
use flashcore_emulator::ir::{Kernel, Module};
use flashcore_kernels::config::Variant;
use flashcore_kernels::entry::{DROPOUT_MASK, FWD, MERGE, MergeVariant, entries};
use flashcore_kernels::params::{DropoutMaskParams, FwdParams, MergeParams, TensorMap};

/// The kernel of this name, decoded.
fn decoded(symbol: &'static str) -> Kernel {
    let module = Module::parse(image(symbol).expect("embedded").ptx).expect("PTX that is understood");
    module.kernel(symbol).expect("its kernel").clone()
}

/// The kernel of a variant, decoded.
fn kernel(variant: &Variant) -> Kernel {
    decoded(variant.symbol)
}

#[test]
fn every_variant_is_embedded_once() {
    for entry in entries() {
        let images = IMAGES.iter().filter(|image| image.symbol == entry.symbol);
        assert_eq!(images.count(), 1, "{}", entry.symbol);
        assert!(image(entry.symbol).is_ok());
    }
}

#[test]
fn each_file_holds_its_own_entry_only() {
    for image in IMAGES {
        let entries: Vec<&str> = image.ptx.lines().filter(|line| line.contains(".entry")).collect();
        assert_eq!(entries.len(), 1, "{}", image.symbol);
        let name = entries[0].split(".entry").nth(1).unwrap().trim().trim_end_matches('(');
        assert_eq!(name, image.symbol);
        assert!(image.ptx.contains(".target sm_90a"), "{}", image.symbol);
    }
}

#[test]
fn parameters_are_what_the_host_passes() {
    for variant in FWD {
        let kernel = kernel(variant);
        let (maps, [params, biases @ ..]) = kernel.params.split_at(4) else { panic!("parameters") };
        assert_eq!(biases.len(), usize::from(variant.has_bias_tiles()), "{}", variant.symbol);
        for map in maps.iter().chain(biases) {
            assert_eq!((map.bytes as usize, map.align), (size_of::<TensorMap>(), 64), "{}", map.name);
        }
        assert_eq!(params.bytes as usize, size_of::<FwdParams>(), "{}", params.name);
    }
    for variant in MERGE {
        let [params] = &decoded(variant.symbol).params[..] else { panic!("one parameter") };
        assert_eq!(params.bytes as usize, size_of::<MergeParams>(), "{}", params.name);
    }
    let [params] = &decoded(DROPOUT_MASK.symbol).params[..] else { panic!("one parameter") };
    assert_eq!(params.bytes as usize, size_of::<DropoutMaskParams>(), "{}", params.name);
}

#[test]
fn launch_bounds_are_the_variants() {
    for variant in FWD {
        let kernel = kernel(variant);
        assert_eq!(kernel.max_threads, Some([variant.threads(), 1, 1]), "{}", variant.symbol);
        let cluster = variant.cluster_ctas();
        assert_eq!(kernel.cluster, (cluster > 1).then_some([cluster, 1, 1]), "{}", variant.symbol);
    }
    for variant in MERGE {
        let kernel = decoded(variant.symbol);
        assert_eq!(kernel.max_threads, Some([MergeVariant::THREADS, 1, 1]), "{}", variant.symbol);
        assert_eq!(kernel.cluster, None, "{}", variant.symbol);
    }
    let kernel = decoded(DROPOUT_MASK.symbol);
    assert_eq!((kernel.max_threads, kernel.cluster), (Some([DROPOUT_MASK.threads, 1, 1]), None));
}

/// A merge is as fast as memory only if memory is accessed in the largest pieces, and chunks of one lane do not wait
/// for each other: both states are loaded before either is looked at.
#[test]
fn merges_move_sixteen_bytes_at_a_time() {
    for variant in MERGE {
        let ptx = image(variant.symbol).expect("embedded").ptx;
        let accesses: Vec<&str> = ptx
            .lines()
            .map(str::trim)
            .filter(|line| line.contains(".global.") || line.starts_with("bar.warp.sync"))
            .map(|line| line.split_whitespace().next().unwrap_or_default())
            .collect();
        let (number, chunk) = ("ld.global.f32", "ld.global.v4.b32");
        let stores = ["st.global.f32", "st.global.v4.b32"];
        let first = [number, number, chunk, chunk, "bar.warp.sync"];
        assert_eq!(accesses, [&first[..], &stores, &[chunk, chunk]].concat(), "{}", variant.symbol);
    }
}

#[test]
fn consumers_and_producer_trade_registers_as_the_variant_says() {
    for variant in FWD {
        let ptx = image(variant.symbol).expect("embedded").ptx;
        let (producer, consumer) = variant.role_registers();
        for (direction, registers) in [("dec", producer), ("inc", consumer)] {
            let instruction = format!("setmaxnreg.{direction}.sync.aligned.u32");
            let given: Vec<&str> = ptx
                .lines()
                .filter_map(|line| line.trim().strip_prefix(&instruction))
                .map(str::trim)
                .collect();
            assert_eq!(given, [format!("{registers};")], "{}", variant.symbol);
        }
    }
}

/// A product of QKᵀ is 64 x block_n, or narrower in a short first step, one of PV 64 x a consumer's columns of V, all
/// in the variant's element type.
#[test]
fn products_have_the_shapes_of_the_tile() {
    for variant in FWD {
        let ptx = image(variant.symbol).expect("embedded").ptx;
        let name = variant.dtype.name();
        let short = (variant.has_short_step() || variant.has_short_ends()).then(|| variant.short_n());
        let allowed: Vec<_> = [variant.tile.block_n, variant.value_columns()]
            .into_iter()
            .chain(short)
            .map(|n| format!("wgmma.mma_async.sync.aligned.m64n{n}k16.f32.{name}.{name}"))
            .collect();
        let products: Vec<&str> = ptx.lines().filter(|line| line.contains("wgmma.mma_async")).collect();
        for product in &products {
            assert!(
                allowed.iter().any(|shape| product.contains(shape.as_str())),
                "{}: {product}",
                variant.symbol
            );
        }
        for shape in &allowed {
            assert!(
                products.iter().any(|product| product.contains(shape.as_str())),
                "{}: no {shape}",
                variant.symbol
            );
        }
    }
}

#[test]
fn cubins_are_cuda_elf_files() {
    const EM_CUDA: [u8; 2] = 190u16.to_le_bytes();
    for image in IMAGES {
        if let Some(cubin) = image.cubin {
            assert_eq!(
                (&cubin[..4], &cubin[18..20]),
                (b"\x7fELF".as_slice(), EM_CUDA.as_slice()),
                "{}",
                image.symbol
            );
            let symbol = image.symbol.as_bytes();
            assert!(cubin.windows(symbol.len()).any(|window| window == symbol), "{}", image.symbol);
        }
    }
}
