//! Names of special registers.

use crate::ir::{Special, Type};

/// The special register of an axis.
type OfAxis = fn(u8) -> Special;

/// Special registers with components `.x`, `.y` and `.z`.
const VECTORS: &[(&str, OfAxis)] = &[
    ("%tid", Special::Tid),
    ("%ntid", Special::Ntid),
    ("%ctaid", Special::Ctaid),
    ("%nctaid", Special::Nctaid),
    ("%clusterid", Special::Clusterid),
    ("%nclusterid", Special::Nclusterid),
    ("%cluster_ctaid", Special::ClusterCtaid),
    ("%cluster_nctaid", Special::ClusterNctaid),
];

const SCALARS: &[(&str, Special, Type)] = &[
    ("%laneid", Special::Laneid, Type::U32),
    ("%warpid", Special::Warpid, Type::U32),
    ("%nwarpid", Special::Nwarpid, Type::U32),
    ("%smid", Special::Smid, Type::U32),
    ("%nsmid", Special::Nsmid, Type::U32),
    ("%cluster_ctarank", Special::ClusterCtarank, Type::U32),
    ("%cluster_nctarank", Special::ClusterNctarank, Type::U32),
    ("%is_explicit_cluster", Special::IsExplicitCluster, Type::Pred),
    ("%lanemask_eq", Special::LanemaskEq, Type::U32),
    ("%lanemask_le", Special::LanemaskLe, Type::U32),
    ("%lanemask_lt", Special::LanemaskLt, Type::U32),
    ("%lanemask_ge", Special::LanemaskGe, Type::U32),
    ("%lanemask_gt", Special::LanemaskGt, Type::U32),
    ("%clock", Special::Clock(false), Type::U32),
    ("%clock_hi", Special::Clock(true), Type::U32),
    ("%clock64", Special::Clock64, Type::U64),
    ("%globaltimer", Special::Globaltimer, Type::U64),
    ("%dynamic_smem_size", Special::DynamicSmemSize, Type::U32),
    ("%total_smem_size", Special::TotalSmemSize, Type::U32),
];

/// The special register of this name, and its type.
pub(super) fn special(name: &str, component: Option<&str>) -> Option<(Special, Type)> {
    match component {
        None => SCALARS.iter().find(|(n, ..)| *n == name).map(|(_, special, ty)| (*special, *ty)),
        Some(component) => {
            let axis = match component {
                "x" => 0,
                "y" => 1,
                "z" => 2,
                _ => return None,
            };
            let (_, special) = VECTORS.iter().find(|(n, _)| *n == name)?;
            Some((special(axis), Type::U32))
        }
    }
}
