//! Documents that share a sequence do not see each other: query i sees key j if both are of the same document.
//!
//! Tiles of keys are visited whether any of their keys is seen or not. For documents that lie one behind the other,
//! packed sequences do better: see `flashcore::Sequences`.

use flashcore_kernels::attention_kernels;
use flashcore_kernels::score_mod::{Key, Numbers, Query, ScoreMod};

/// The function.
pub struct Documents;

/// The document of each token of each sequence, (batch, seqlen).
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Ids(pub Numbers<i32>);

/// The document of a query, and where those of the keys of its sequence lie.
#[derive(Clone, Copy)]
pub struct Of {
    document: i32,
    keys: Numbers<i32>,
}

impl ScoreMod for Documents {
    type Args = Ids;
    type Row = Of;
    const MASKS: bool = true;

    #[inline(always)]
    fn row(ids: &Ids, query: &Query) -> Of {
        let keys = ids.0.skip(query.batch * query.keys);
        // SAFETY: who makes `Ids` vouches for one for each token.
        Of { document: unsafe { keys.get(query.index) }, keys }
    }

    #[inline(always)]
    fn sees(_: &Ids, query: Of, key: Key) -> bool {
        // SAFETY: as above.
        unsafe { query.keys.get(key.index) == query.document }
    }
}

attention_kernels! {
    Documents: documents_hd64_f16 = (64, F16), documents_hd128_f16 = (128, F16),
}
