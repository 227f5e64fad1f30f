//! Reads token counts out of an answer that passes by, without parsing what it need not: an event
//! stream is looked at line by line, a plain JSON answer once at its end.

use serde::Deserialize;

/// Longest line and longest plain answer that is kept to be read; beyond it counts are given up.
const KEPT_BYTES_MAX: usize = 1 << 20;

/// What an answer says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Counts {
    pub(crate) input_tokens: u64,
    pub(crate) output_tokens: u64,
    /// Time llama-server says it spent on producing output.
    pub(crate) predicted_ms: Option<f64>,
}

/// Reads one answer.
#[derive(Debug)]
pub(crate) struct Scan {
    stream: bool,
    kept: Vec<u8>,
    /// The rest of the current line, or of a plain answer, is too long to be kept.
    overlong: bool,
    counts: Option<Counts>,
    content_events: u64,
}

#[derive(Deserialize)]
struct Answer {
    usage: Option<Usage>,
    timings: Option<Timings>,
}

/// OpenAI's words and Anthropic's, both of which llama-server speaks.
#[derive(Deserialize)]
struct Usage {
    #[serde(alias = "input_tokens")]
    prompt_tokens: Option<u64>,
    #[serde(alias = "output_tokens")]
    completion_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct Timings {
    prompt_n: Option<u64>,
    predicted_n: Option<u64>,
    predicted_ms: Option<f64>,
}

impl Scan {
    /// For an answer with this content type.
    pub(crate) fn new(content_type: &str) -> Self {
        Self {
            stream: content_type.starts_with("text/event-stream"),
            kept: Vec::new(),
            overlong: false,
            counts: None,
            content_events: 0,
        }
    }

    /// Whether the answer is an event stream.
    pub(crate) fn is_stream(&self) -> bool {
        self.stream
    }

    /// Takes the next bytes; returns how many content events they completed.
    pub(crate) fn push(&mut self, mut bytes: &[u8]) -> u64 {
        if !self.stream {
            self.keep(bytes);
            return 0;
        }
        let before = self.content_events;
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.keep(&bytes[..end]);
            bytes = &bytes[end + 1..];
            let mut line = std::mem::take(&mut self.kept);
            if !std::mem::take(&mut self.overlong) {
                self.read_line(&line);
            }
            // Keeps the allocation for the next line.
            line.clear();
            self.kept = line;
        }
        self.keep(bytes);
        self.content_events - before
    }

    /// The answer's own counts as far as it stated them; a plain answer must be complete.
    pub(crate) fn finish(&mut self) -> Option<Counts> {
        if !self.stream && !self.overlong {
            let answer = std::mem::take(&mut self.kept);
            self.read_counts(&answer);
        }
        self.counts
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.overlong || self.kept.len() + bytes.len() > KEPT_BYTES_MAX {
            self.overlong = true;
            self.kept = Vec::new();
        } else {
            self.kept.extend_from_slice(bytes);
        }
    }

    fn read_line(&mut self, line: &[u8]) {
        let Some(data) = line.strip_prefix(b"data:") else {
            return;
        };
        if has_content(data) {
            self.content_events += 1;
        }
        if find(data, b"\"timings\"").is_some() || find(data, b"_tokens\"").is_some() {
            self.read_counts(data);
        }
    }

    fn read_counts(&mut self, json: &[u8]) {
        let Ok(answer) = serde_json::from_slice::<Answer>(json) else {
            return;
        };
        if answer.usage.is_none() && answer.timings.is_none() {
            return;
        }
        // Anthropic's form states the input at the start and the output at the end of a stream.
        let mut counts = self.counts.unwrap_or_default();
        if let Some(usage) = answer.usage {
            counts.input_tokens = usage.prompt_tokens.unwrap_or(counts.input_tokens);
            counts.output_tokens = usage.completion_tokens.unwrap_or(counts.output_tokens);
        }
        if let Some(timings) = answer.timings {
            counts.input_tokens = counts.input_tokens.max(timings.prompt_n.unwrap_or(0));
            counts.output_tokens = counts.output_tokens.max(timings.predicted_n.unwrap_or(0));
            counts.predicted_ms = timings.predicted_ms;
        }
        self.counts = Some(counts);
    }
}

/// Whether an event carries text, reasoning or tool arguments: a key of those with a non-empty text.
fn has_content(event: &[u8]) -> bool {
    // Keys are found by their end, so that `reasoning_content` and `partial_json` count as well.
    let keys: [&[u8]; 5] = [b"content\":\"", b"arguments\":\"", b"text\":\"", b"delta\":\"", b"json\":\""];
    keys.into_iter().any(|key| {
        let mut rest = event;
        while let Some(at) = find(rest, key) {
            rest = &rest[at + key.len()..];
            if rest.first().is_some_and(|next| *next != b'"') {
                return true;
            }
        }
        false
    })
}

fn find(bytes: &[u8], text: &[u8]) -> Option<usize> {
    bytes.windows(text.len()).position(|window| window == text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STREAM: &str = concat!(
        ": ping\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":null,\"role\":\"assistant\"}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"Hello\"}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{\"reasoning_content\":\"hm\"}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"\"}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"function\":{\"arguments\":\"{\"}}]}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}],",
        "\"timings\":{\"prompt_n\":4,\"predicted_n\":3,\"predicted_ms\":30.5}}\n\n",
        "data: [DONE]\n\n",
    );

    #[test]
    fn a_plain_answer_is_read_at_its_end() {
        let mut scan = Scan::new("application/json; charset=utf-8");
        scan.push(br#"{"choices":[{}],"usage":{"prompt_tokens":5,"comple"#);
        scan.push(br#"tion_tokens":7}}"#);
        assert_eq!(scan.finish(), Some(Counts { input_tokens: 5, output_tokens: 7, predicted_ms: None }));
        let mut scan = Scan::new("application/json");
        scan.push(b"no json");
        assert_eq!(scan.finish(), None);
    }

    #[test]
    fn anthropics_words_are_read_too() {
        let mut scan = Scan::new("text/event-stream");
        scan.push(
            b"data: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":9,\"input_tokens\":2}}\n\n",
        );
        assert_eq!(scan.finish().map(|c| (c.input_tokens, c.output_tokens)), Some((2, 9)));
    }

    #[test]
    fn an_endless_line_is_not_kept() {
        let mut scan = Scan::new("text/event-stream");
        for _ in 0..40 {
            scan.push(&[b'x'; 64 * 1024]);
        }
        assert!(scan.kept.capacity() <= KEPT_BYTES_MAX);
        assert_eq!(scan.push(b"\ndata: {\"content\":\"a\"}\n"), 1, "the next line is read again");
    }

    proptest! {
        #[test]
        fn chunking_does_not_matter(cuts in prop::collection::vec(0..STREAM.len(), 0..12)) {
            let mut cuts = cuts;
            cuts.extend([0, STREAM.len()]);
            cuts.sort_unstable();
            let mut scan = Scan::new("text/event-stream");
            let events: u64 =
                cuts.windows(2).map(|pair| scan.push(&STREAM.as_bytes()[pair[0]..pair[1]])).sum();
            prop_assert_eq!(events, 3);
            let counts = Counts { input_tokens: 4, output_tokens: 3, predicted_ms: Some(30.5) };
            prop_assert_eq!(scan.finish(), Some(counts));
        }
    }
}
