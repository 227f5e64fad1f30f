//! How facts travel: keys, codec and pace. The wires themselves are the gossip actor's.

mod base64;
pub mod codec;
pub mod fact;
pub mod key;
pub mod outage;
pub mod pace;
pub mod presence;
pub mod quota;
pub mod trial;
