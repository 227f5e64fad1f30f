//! What peers gossip: no value makes the codec panic or allocate beyond its bounds, and what is accepted
//! is what this node would have written itself.

use llm_router_logic::gossip::codec::{
    MODELS_TEXT_MAX, VERSION, decode_models, decode_node, decode_report, encode_models, encode_node,
    encode_report, quantised,
};
use llm_router_logic::gossip::key::Key;

/// Holds one input against what the module promises.
pub fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(report) = decode_report(text) {
        // Figures of a peer need not be rounded as ours are: ours are after one round.
        let once = quantised(&report);
        assert_eq!(decode_report(&encode_report(&report, 0, VERSION)), Ok(once));
        assert_eq!(quantised(&once), once);
    }
    if let Ok(models) = decode_models(text) {
        let told = encode_models(&models);
        assert!(told.len() <= MODELS_TEXT_MAX);
        let read = decode_models(&told).expect("our own value is read");
        assert_eq!(read, models[..read.len()]);
    }
    if let Ok(node) = decode_node(text) {
        assert_eq!(decode_node(&encode_node(&node)), Ok(node));
    }
    if let Ok(key) = Key::parse(text) {
        assert_eq!(key.to_string(), text);
    }
}
