//! Fault injection: how an actor dies when it is asked to.

/// Panics in the actor that calls it. Chaos tests send each actor this wish, to prove that its supervisor
/// answers a panic and that no request notices.
#[expect(clippy::panic, reason = "a panic is what is asked for")]
pub(crate) fn poison() -> ! {
    panic!("poisoned on request")
}
