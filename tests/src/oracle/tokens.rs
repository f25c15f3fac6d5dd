//! Where sequences lie in a tensor: each in a row of its own, or one behind the other; all of it, or its first tokens.

use flashcore::Shape;

/// The tokens of one sequence: those at `start..start + len` of row `batch` of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// Index of the row along the tensor's batch.
    pub batch: usize,
    /// First token, along the tensor's seqlen.
    pub start: usize,
    /// Number of tokens.
    pub len: usize,
}

impl Tokens {
    /// Sequence b is all of row b.
    pub fn dense(shape: Shape) -> Vec<Tokens> {
        (0..shape.batch).map(|batch| Tokens { batch, start: 0, len: shape.seqlen }).collect()
    }

    /// Sequence b is tokens `cu_seqlens[b]..cu_seqlens[b + 1]` of the only row of a (1, total, heads, head_dim)
    /// tensor.
    ///
    /// # Panics
    /// If `cu_seqlens` is empty, negative, or falls.
    pub fn packed(cu_seqlens: &[i32]) -> Vec<Tokens> {
        assert!(!cu_seqlens.is_empty(), "cu_seqlens has one element more than there are sequences");
        let span = |pair: &[i32]| {
            let [start, end] = [pair[0], pair[1]].map(|bound| usize::try_from(bound).expect("not negative"));
            Tokens { batch: 0, start, len: end.checked_sub(start).expect("cu_seqlens do not fall") }
        };
        cu_seqlens.windows(2).map(span).collect()
    }

    /// The first `seqused[b]` tokens of sequence b.
    ///
    /// # Panics
    /// If there are not as many sequences, or one has fewer tokens.
    pub fn used(sequences: &[Tokens], seqused: &[i32]) -> Vec<Tokens> {
        assert_eq!(sequences.len(), seqused.len(), "sequences");
        let shorten = |(&sequence, &used): (&Tokens, &i32)| {
            let len = usize::try_from(used).expect("not negative");
            assert!(len <= sequence.len, "{len} tokens used of {}", sequence.len);
            Tokens { len, ..sequence }
        };
        sequences.iter().zip(seqused).map(shorten).collect()
    }
}
