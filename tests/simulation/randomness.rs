//! The one source of randomness of a simulated process: the system's own is replaced.
//!
//! chitchat, hash maps and the runtime draw from the system. A thread that was given a seed draws from
//! it instead; every other thread still asks the kernel.

use std::cell::Cell;

thread_local! {
    static STATE: Cell<Option<u64>> = const { Cell::new(None) };
}

/// From now on this thread's randomness follows from `seed`.
pub(crate) fn seed(seed: u64) {
    STATE.set(Some(seed));
}

/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
pub(crate) struct Draws(u64);

impl Draws {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    /// From `from` to before `to`.
    pub(crate) fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to.saturating_sub(from))
    }

    /// True with this probability.
    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        ((self.next() >> 11) as f64 / (1u64 << 53) as f64) < probability
    }
}

/// The C library's function of this name, for everything in this binary.
///
/// # Safety
/// As the C library's: `buffer` must be valid for writes of `length` bytes.
#[expect(unsafe_code, reason = "the only way to seed crates that draw from the system")]
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, flags: u32) -> isize {
    let seeded = STATE.try_with(|state| {
        let mut draws = Draws(state.get()?);
        for at in 0..length {
            // SAFETY: the caller lends `length` bytes.
            unsafe { buffer.add(at).write((draws.next() >> 32) as u8) };
        }
        state.set(Some(draws.0));
        Some(())
    });
    match seeded {
        Ok(Some(())) => length.cast_signed(),
        // SAFETY: the arguments are the caller's own.
        _ => unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) as isize },
    }
}
