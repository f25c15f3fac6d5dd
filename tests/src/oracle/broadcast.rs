//! Tensors beside Q, K and V: one number, or one bit, for each score, or for many scores at once.

/// A contiguous (batch, heads, seqlen_q, seqlen_kv) tensor that stands for a larger one: where a size is 1, the same
/// element serves every index.
#[derive(Clone, Debug, PartialEq)]
pub struct Broadcast<T> {
    /// Sizes, in the order of the indices.
    pub sizes: [usize; 4],
    /// The elements, the last index fastest.
    pub data: Vec<T>,
}

impl<T: Copy> Broadcast<T> {
    /// A tensor of `sizes`.
    ///
    /// # Panics
    /// If `data` is not as long as `sizes` say.
    pub fn new(sizes: [usize; 4], data: Vec<T>) -> Self {
        assert_eq!(sizes.iter().product::<usize>(), data.len(), "elements of a tensor of sizes {sizes:?}");
        Broadcast { sizes, data }
    }

    /// The same for every sequence, query and key: one element for each query head.
    pub fn per_head(data: Vec<T>) -> Self {
        Self::new([1, data.len(), 1, 1], data)
    }

    /// The same for every query and key: `data` is (batch, heads).
    ///
    /// # Panics
    /// If `data` does not divide into `batch` rows.
    pub fn per_sequence_and_head(batch: usize, data: Vec<T>) -> Self {
        let heads = data.len().checked_div(batch).unwrap_or(0);
        Self::new([batch, heads, 1, 1], data)
    }

    /// The element at `index`.
    ///
    /// # Panics
    /// If an index is beyond a size other than 1.
    pub fn get(&self, index: [usize; 4]) -> T {
        let place = index.iter().zip(self.sizes).fold(0, |place, (&i, size)| {
            assert!(size == 1 || i < size, "index {index:?} of a tensor of sizes {:?}", self.sizes);
            place * size + if size == 1 { 0 } else { i }
        });
        self.data[place]
    }
}
