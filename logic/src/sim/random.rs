//! Seeded random numbers: a number depends on its seed and its place only, so that two strategies that
//! send the same request to the same provider meet the same luck.

/// A number for `seed` and two coordinates: SplitMix64's output function, twice.
pub(super) fn at(seed: u64, first: u64, second: u64) -> u64 {
    mixed(
        mixed(seed ^ first.wrapping_mul(0xd134_2543_de82_ef95)) ^ second.wrapping_mul(0x9e37_79b9_7f4a_7c15),
    )
}

/// A draw of the standard normal distribution (Box–Muller) for the same coordinates.
pub(super) fn normal(seed: u64, first: u64, second: u64) -> f64 {
    let bits = at(seed, first, second);
    let radius = (-2.0 * unit(bits).ln()).sqrt();
    radius * (std::f64::consts::TAU * unit(mixed(bits))).cos()
}

/// In (0, 1): never 0, whose logarithm there is none of.
fn unit(bits: u64) -> f64 {
    ((bits >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
}

fn mixed(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_normal_and_depend_on_every_coordinate() {
        let draws: Vec<f64> = (0..20_000).map(|n| normal(7, n, 3)).collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / draws.len() as f64;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "mean {mean}, variance {variance}");
        assert_eq!(at(1, 2, 3), at(1, 2, 3));
        assert!(at(1, 2, 3) != at(2, 2, 3) && at(1, 2, 3) != at(1, 3, 3) && at(1, 2, 3) != at(1, 2, 4));
    }
}
