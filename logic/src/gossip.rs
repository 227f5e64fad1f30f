//! How facts travel: keys, codec and pace. The wires themselves are the gossip actor's.

pub mod codec;
pub mod key;
pub mod pace;
