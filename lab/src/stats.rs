//! What repeated measurements tell, and how surely.

use statrs::distribution::{ContinuousCDF, StudentsT};

/// Number, mean and variance of measurements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Moments {
    pub(crate) count: f64,
    pub(crate) mean: f64,
    pub(crate) variance: f64,
}

impl Moments {
    /// Of two values at least; one alone says nothing of its noise.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let squares = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
        (values.len() >= 2).then(|| Moments { count, mean, variance: squares / (count - 1.0) })
    }

    /// Variance of the mean.
    fn of_mean(&self) -> f64 {
        self.variance / self.count
    }
}

/// Welch's test: whether two classes of measurements, perhaps not equally noisy, have the same mean.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Welch {
    /// How far the second mean is above the first, in standard errors; infinite if neither class has any noise.
    pub(crate) t: f64,
    /// Degrees of freedom.
    pub(crate) freedom: f64,
}

/// The test of `a` against `b`.
pub(crate) fn welch(a: &Moments, b: &Moments) -> Welch {
    let (of_a, of_b) = (a.of_mean(), b.of_mean());
    let apart = b.mean - a.mean;
    let error = (of_a + of_b).sqrt();
    let t = if apart == 0.0 { 0.0 } else { apart / error };
    let freedom = (of_a + of_b).powi(2) / (of_a.powi(2) / (a.count - 1.0) + of_b.powi(2) / (b.count - 1.0));
    Welch { t, freedom: if freedom.is_finite() { freedom } else { a.count + b.count - 2.0 } }
}

impl Welch {
    /// How probable a `t` as far from 0, on either side, is where the means are the same.
    pub(crate) fn p(&self) -> f64 {
        match StudentsT::new(0.0, 1.0, self.freedom) {
            Ok(distribution) => 2.0 * distribution.cdf(-self.t.abs()),
            Err(_) => f64::NAN,
        }
    }
}

/// Benjamini and Hochberg's correction for so many tests at once: of those whose corrected probability is below `q`, a
/// share of `q` at most is chance.
pub(crate) fn corrected(probabilities: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..probabilities.len()).collect();
    order.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]));
    let mut corrected = vec![1.0; probabilities.len()];
    let mut least = 1.0f64;
    for (from_top, &index) in order.iter().enumerate() {
        let rank = probabilities.len() - from_top;
        least = least.min(probabilities[index] * probabilities.len() as f64 / rank as f64);
        corrected[index] = least;
    }
    corrected
}

/// The value that a share of `share` of `sorted` does not exceed.
pub(crate) fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    sorted.get((share * last as f64).round() as usize).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test(a: &[f64], b: &[f64]) -> Welch {
        welch(&Moments::of(a).unwrap(), &Moments::of(b).unwrap())
    }

    #[test]
    fn welch_agrees_with_a_worked_example() {
        let a = [27.5, 21.0, 19.0, 23.6, 17.0, 17.9];
        let b = [27.1, 22.0, 20.8, 23.4, 23.4, 23.5, 25.8, 22.0, 24.8];
        let welch = test(&a, &b);
        assert!((welch.t - 1.511_967_716).abs() < 1e-8, "{welch:?}");
        assert!((welch.freedom - 6.695_531_989).abs() < 1e-8, "{welch:?}");
        assert!((0.17..0.18).contains(&welch.p()), "{}", welch.p());
    }

    #[test]
    fn a_known_quantile_of_t_has_its_probability() {
        // 2.776 is where 5 % lie outside, for 4 degrees of freedom.
        assert!((Welch { t: 2.776, freedom: 4.0 }.p() - 0.05).abs() < 1e-4);
        assert!((Welch { t: -4.5, freedom: 1e6 }.p() - 6.8e-6).abs() < 1e-7);
        assert_eq!(Welch { t: 0.0, freedom: 4.0 }.p(), 1.0);
    }

    #[test]
    fn classes_without_noise_differ_or_do_not() {
        assert_eq!(test(&[1.0, 1.0], &[1.0, 1.0]).t, 0.0);
        let apart = test(&[1.0, 1.0], &[2.0, 2.0]);
        assert_eq!((apart.t, apart.p()), (f64::INFINITY, 0.0));
        assert_eq!(Moments::of(&[1.0]), None);
    }

    #[test]
    fn many_tests_are_corrected_for() {
        let corrected = corrected(&[0.01, 0.04, 0.03, 0.005]);
        let expected = [0.02, 0.04, 0.04, 0.02];
        for (got, want) in corrected.iter().zip(expected) {
            assert!((got - want).abs() < 1e-12, "{corrected:?}");
        }
    }

    #[test]
    fn quantiles_are_values() {
        let sorted: Vec<f64> = (0..=100).map(f64::from).collect();
        assert_eq!((quantile(&sorted, 0.5), quantile(&sorted, 0.99)), (Some(50.0), Some(99.0)));
        assert_eq!(quantile(&[], 0.5), None);
    }
}
