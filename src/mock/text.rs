//! What a mock says: pseudo-sentences that depend on the prompt alone, so that a test can work out the
//! expected answer by itself. One word is one token.

use serde_json::{Map, Value, json};

const WORDS: [&str; 48] = [
    "the", "router", "keeps", "a", "quiet", "ledger", "of", "every", "region", "and", "each", "token",
    "finds", "its", "slot", "before", "morning", "while", "clouds", "drift", "over", "cold", "machines",
    "that", "answer", "softly", "when", "queues", "grow", "long", "some", "requests", "wait", "others",
    "cross", "the", "sea", "by", "cable", "nobody", "counts", "them", "twice", "light", "returns", "with",
    "small", "news",
];
/// Depth to which a JSON schema is followed.
const SCHEMA_DEPTH_MAX: u32 = 8;
/// Bytes of one piece of streamed tool arguments.
const ARGUMENT_PIECE_BYTES: usize = 8;

/// What every dialect's request says that a mock acts on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ask {
    /// The model the answer names and the books count.
    pub(crate) model: String,
    /// All text of the prompt, system text first, joined by newlines.
    pub(crate) prompt: String,
    pub(crate) max_tokens: Option<u64>,
    pub(crate) stream: bool,
    /// The tool to call, if one is to be called.
    pub(crate) call: Option<Tool>,
    /// The schema of a JSON answer, if one is asked for.
    pub(crate) json: Option<Value>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Tool {
    pub(crate) name: String,
    /// JSON Schema of its arguments.
    pub(crate) parameters: Value,
}

/// How an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    Stop,
    Length,
    ToolCall,
}

/// A whole answer, ready to be told piece by piece.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) input_tokens: u64,
    /// One token each.
    pub(crate) pieces: Vec<String>,
    pub(crate) finish: Finish,
}

impl Script {
    /// The answer to `ask`; text runs for `output_tokens` unless the request allows fewer.
    pub(crate) fn new(ask: &Ask, output_tokens: u64) -> Self {
        let mut pieces = match (&ask.call, &ask.json) {
            (Some(tool), _) => argument_pieces(&sample(&tool.parameters, hash(&ask.prompt), 0).to_string()),
            (None, Some(schema)) => json_pieces(schema, &ask.prompt, output_tokens),
            (None, None) => words(&ask.prompt, output_tokens),
        };
        let mut finish = if ask.call.is_some() { Finish::ToolCall } else { Finish::Stop };
        let allowed = ask.max_tokens.and_then(|max| usize::try_from(max).ok()).unwrap_or(usize::MAX);
        if pieces.len() > allowed {
            pieces.truncate(allowed);
            finish = Finish::Length;
        }
        Self { input_tokens: input_tokens(&ask.prompt), pieces, finish }
    }

    pub(crate) fn text(&self) -> String {
        self.pieces.concat()
    }
}

/// Input tokens a mock charges for a prompt: a quarter of its characters, at least one.
pub fn input_tokens(prompt: &str) -> u64 {
    (prompt.chars().count() as u64 / 4).max(1)
}

/// The text a mock answers to `prompt` (all text parts joined by newlines, system text first) in
/// `tokens` tokens.
pub fn answer(prompt: &str, tokens: u64) -> String {
    words(prompt, tokens).concat()
}

/// FNV-1a, then one round of SplitMix64 to spread similar prompts.
pub(crate) fn hash(text: &str) -> u64 {
    let folded = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    mix(folded)
}

/// One step of SplitMix64 (Steele, Lea and Flood, 2014).
pub(crate) fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn words(prompt: &str, count: u64) -> Vec<String> {
    let mut state = hash(prompt);
    let mut left_in_sentence = 0;
    (0..count)
        .map(|n| {
            state = mix(state);
            let word = WORDS[(state % WORDS.len() as u64) as usize];
            let starts = left_in_sentence == 0;
            if starts {
                left_in_sentence = 5 + (state >> 32) % 8;
            }
            left_in_sentence -= 1;
            let mut piece = String::from(if n == 0 { "" } else { " " });
            if starts {
                piece.push_str(&word[..1].to_ascii_uppercase());
                piece.push_str(&word[1..]);
            } else {
                piece.push_str(word);
            }
            if left_in_sentence == 0 || n + 1 == count {
                piece.push('.');
                left_in_sentence = 0;
            }
            piece
        })
        .collect()
}

/// A JSON answer: what the schema demands, or an object with one long text where it demands nothing.
fn json_pieces(schema: &Value, prompt: &str, tokens: u64) -> Vec<String> {
    if schema.get("properties").is_some() || schema.get("items").is_some() || schema.get("enum").is_some() {
        return argument_pieces(&sample(schema, hash(prompt), 0).to_string());
    }
    let mut pieces = vec!["{\"answer\":\"".to_owned()];
    pieces.extend(words(prompt, tokens.saturating_sub(2)));
    pieces.push("\"}".to_owned());
    pieces
}

/// A value that fits `schema` (the parts of JSON Schema that tools use; the rest is ignored).
fn sample(schema: &Value, seed: u64, depth: u32) -> Value {
    if let Some(fixed) = schema.get("const") {
        return fixed.clone();
    }
    if let Some(first) = schema.get("enum").and_then(|options| options.get(0)) {
        return first.clone();
    }
    if depth >= SCHEMA_DEPTH_MAX {
        return Value::Null;
    }
    for either in ["anyOf", "oneOf", "allOf"] {
        if let Some(first) = schema.get(either).and_then(|options| options.get(0)) {
            return sample(first, seed, depth + 1);
        }
    }
    let stated =
        schema.get("type").map(|t| t.get(0).unwrap_or(t)).and_then(Value::as_str).unwrap_or("object");
    // Gemini's own schema dialect writes the types in capitals.
    match stated.to_ascii_lowercase().as_str() {
        "string" => json!(WORDS[(seed % WORDS.len() as u64) as usize]),
        "integer" => json!(seed % 100),
        "number" => json!((seed % 1_000) as f64 / 10.0),
        "boolean" => json!(seed.is_multiple_of(2)),
        "null" => Value::Null,
        "array" => json!([sample(schema.get("items").unwrap_or(&Value::Null), mix(seed), depth + 1)]),
        _ => {
            let fields = schema.get("properties").and_then(Value::as_object);
            let fields = fields.into_iter().flatten();
            let sampled =
                fields.map(|(name, inner)| (name.clone(), sample(inner, seed ^ hash(name), depth + 1)));
            Value::Object(sampled.collect::<Map<_, _>>())
        }
    }
}

/// Cuts text into pieces of about eight bytes, never inside a character.
fn argument_pieces(text: &str) -> Vec<String> {
    let mut pieces = vec![String::new()];
    for c in text.chars() {
        if pieces.last().is_some_and(|piece| piece.len() >= ARGUMENT_PIECE_BYTES) {
            pieces.push(String::new());
        }
        if let Some(piece) = pieces.last_mut() {
            piece.push(c);
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_same_prompt_has_the_same_answer_and_another_prompt_another() {
        assert_eq!(answer("hello", 12), answer("hello", 12));
        assert_ne!(answer("hello", 12), answer("hello!", 12));
        assert_eq!(answer("hello", 12).split(' ').count(), 12);
        assert!(answer("hello", 12).ends_with('.'));
    }

    #[test]
    fn max_tokens_cuts_the_answer_and_says_so() {
        let ask = Ask { prompt: "hello".into(), max_tokens: Some(3), ..Ask::default() };
        let script = Script::new(&ask, 10);
        assert_eq!((script.pieces.len(), script.finish), (3, Finish::Length));
        let whole = Script::new(&Ask { max_tokens: Some(10), ..ask }, 10);
        assert_eq!((whole.pieces.len(), whole.finish), (10, Finish::Stop));
    }

    #[test]
    fn a_json_answer_without_a_schema_is_an_object() {
        let ask = Ask { prompt: "x".into(), json: Some(json!({"type": "object"})), ..Ask::default() };
        let value: Value = serde_json::from_str(&Script::new(&ask, 9).text()).unwrap();
        assert!(value["answer"].is_string());
    }

    proptest! {
        #[test]
        fn tool_arguments_fit_their_schema(seed in any::<u64>()) {
            let schema = json!({"type": "object", "properties": {
                "city": {"type": "string"}, "unit": {"enum": ["c", "f"]}, "days": {"type": "INTEGER"},
                "list": {"type": "array", "items": {"type": "boolean"}}}});
            let value = sample(&schema, seed, 0);
            prop_assert!(value["city"].is_string());
            prop_assert_eq!(&value["unit"], "c");
            prop_assert!(value["days"].is_u64());
            prop_assert!(value["list"][0].is_boolean());
        }

        #[test]
        fn pieces_put_together_are_the_text(text in ".{0,200}") {
            prop_assert_eq!(argument_pieces(&text).concat(), text);
        }
    }
}
