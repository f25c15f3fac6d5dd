//! Generators keep what they promise.

use flashcore::Dtype;
use flashcore_tests::side_inputs::{
    Lengths, alibi_slopes, bias, bitmap, checkerboard, cu_seqlens, hiding_bias, keep, key_ranges, prefixes,
    random_slopes, ranges_of_documents, seqused, sinks,
};
use flashcore_tests::values::round;

#[test]
fn lengths() {
    let draw = |lengths: Lengths| lengths.draw(300, 1);
    assert_eq!(draw(Lengths::Equal(7)), [7; 300]);
    let uniform = draw(Lengths::Uniform { longest: 20 });
    assert_eq!((uniform.iter().min(), uniform.iter().max()), (Some(&1), Some(&20)));
    let served = draw(Lengths::SERVED);
    assert!(served.iter().all(|length| (64..=8192).contains(length)));
    // Half of the doublings lie below 64 * 2^3.5.
    let short = served.iter().filter(|&&length| length < 724).count();
    assert!((120..180).contains(&short), "{short}");
    let zeros = draw(Lengths::WithZeros { longest: 9 });
    assert!((95..=100).contains(&zeros.iter().filter(|&&length| length == 0).count()));
    assert_eq!((zeros[0], zeros[299]), (0, 0));
    assert!(Lengths::WithZeros { longest: 9 }.draw(2, 1).iter().any(|&length| length > 0));
    let ones = draw(Lengths::WithOnes { longest: 1000 });
    assert!((150..160).contains(&ones.iter().filter(|&&length| length == 1).count()));
    for lengths in [Lengths::SERVED, Lengths::WithZeros { longest: 9 }, Lengths::WithOnes { longest: 9 }] {
        assert!(lengths.draw(0, 1).is_empty());
        assert_eq!(lengths.draw(50, 4), lengths.draw(50, 4));
        assert_ne!(lengths.draw(50, 4), lengths.draw(50, 5));
    }
}

#[test]
fn offsets_and_parts() {
    assert_eq!(cu_seqlens(&[3, 0, 4]), [0, 3, 3, 7]);
    assert_eq!(cu_seqlens(&[]), [0]);
    let room = [10; 400];
    let used = seqused(&room, 1);
    assert!(used.iter().all(|used| (0..=10).contains(used)));
    assert!(used.contains(&0) && used.contains(&10) && used.contains(&5));
    assert_eq!(prefixes(&[0; 5], 1), [0; 5]);
}

#[test]
fn slopes() {
    let eight =
        [1.0 / 2.0, 1.0 / 4.0, 1.0 / 8.0, 1.0 / 16.0, 1.0 / 32.0, 1.0 / 64.0, 1.0 / 128.0, 1.0 / 256.0];
    assert_eq!(alibi_slopes(8), eight);
    let sixteen = alibi_slopes(16);
    assert!((sixteen[0] - 0.5f32.sqrt()).abs() < 1e-6 && sixteen[15] == 1.0 / 256.0);
    let random = random_slopes(3, 4, 1);
    assert_eq!(random.sizes, [3, 4, 1, 1]);
    assert!(random.data.iter().all(|slope| (0.0..0.3).contains(slope)));
}

#[test]
fn biases_are_the_same_in_every_element_type() {
    let bias = bias([2, 3, 50, 40], 1);
    for &number in &bias.data {
        for dtype in [Dtype::F16, Dtype::Bf16] {
            assert_eq!(round(dtype, f64::from(number)), f64::from(number));
        }
    }
    let deviation = (bias.data.iter().map(|x| x * x).sum::<f32>() / bias.data.len() as f32).sqrt();
    assert!((0.97..1.03).contains(&deviation), "{deviation}");
    let hiding = hiding_bias([1, 2, 50, 40], 0.25, 1);
    let hidden = hiding.data.iter().filter(|&&x| x == f32::NEG_INFINITY).count();
    assert!((900..1100).contains(&hidden) && hiding.data.iter().all(|&x| x == 0.0 || x.is_infinite()));
}

#[test]
fn the_rest() {
    let ranges = key_ranges(400, 30, 1);
    assert!(ranges.iter().all(|range| range.start <= range.end && range.end <= 30));
    assert!(ranges.iter().any(|range| range.is_empty()) && ranges.contains(&(0..30)));
    assert_eq!(ranges_of_documents(&[2, 0, 3]), [0..2, 0..2, 2..5, 2..5, 2..5]);
    assert_eq!(ranges_of_documents(&[]), []);
    let [dark, light] = [true, false];
    assert_eq!(checkerboard([1, 2, 2, 3]).data, [[dark, light, dark, light, dark, light]; 2].concat());
    assert!(checkerboard([1, 1, 4, 0]).data.is_empty());
    let tiles = bitmap([2, 2, 30, 30], 0.3, 1);
    assert!((1000..1160).contains(&tiles.data.iter().filter(|&&visible| visible).count()));
    let sinks = sinks(100, 1);
    assert!(sinks.iter().all(|sink| sink.is_finite()) && sinks.iter().any(|&sink| sink > 1.0));
    let kept = |seed| {
        let keep = keep(0.3, seed);
        (0..10_000).map(|i| keep(i / 5000, i / 500 % 10, i / 20 % 25, i % 20)).collect::<Vec<bool>>()
    };
    assert!((6850..7150).contains(&kept(1).iter().filter(|&&kept| kept).count()));
    assert_eq!(kept(1), kept(1));
    assert_ne!(kept(1), kept(2));
}
