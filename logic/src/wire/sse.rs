//! Server-sent events, read without I/O: bytes in any chunking go in, whole events come out.
//!
//! Follows the WHATWG HTML standard's "event stream interpretation": LF, CRLF or CR lines, comments,
//! several `data` lines, a leading byte order mark, and broken UTF-8 replaced by U+FFFD. `id` and
//! `retry` are ignored, because no dialect here uses them. What the reader holds back between two
//! chunks is bounded: an event that is larger is an error, never memory.

use std::fmt;

/// Bound on one event (its name, its data and the line being read), in bytes.
pub const EVENT_BYTES_MAX: usize = 8 * 1024 * 1024;

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// The `event` field; `None` where the stream gave none.
    pub name: Option<String>,
    /// The `data` lines joined by line feeds.
    pub data: String,
}

impl Event {
    /// Appends the event in wire form, LF line ends and the closing blank line included.
    pub fn write(&self, out: &mut Vec<u8>) {
        write_event(self.name.as_deref(), &self.data, out);
    }
}

/// Appends an event in wire form; `data` may hold line feeds.
pub fn write_event(name: Option<&str>, data: &str, out: &mut Vec<u8>) {
    if let Some(name) = name {
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(name.as_bytes());
        out.push(b'\n');
    }
    for line in data.split('\n') {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line.as_bytes());
        out.push(b'\n');
    }
    out.push(b'\n');
}

/// An event passed the reader's bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge {
    /// The bound in bytes.
    pub bytes_max: usize,
}

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a stream event is larger than {} bytes", self.bytes_max)
    }
}

impl std::error::Error for TooLarge {}

/// Cuts a byte stream into events.
#[derive(Debug)]
pub struct Reader {
    bytes_max: usize,
    /// The unfinished line.
    line: Vec<u8>,
    /// The finished lines of the unfinished event.
    name: Option<String>,
    data: Vec<u8>,
    has_data: bool,
    /// The last byte was CR: an LF right after it belongs to the same line end.
    after_cr: bool,
    /// No line has ended yet, so a byte order mark may still lead it.
    at_start: bool,
}

impl Default for Reader {
    fn default() -> Self {
        Self::new(EVENT_BYTES_MAX)
    }
}

impl Reader {
    /// A reader that refuses events above `bytes_max`.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            line: Vec::new(),
            name: None,
            data: Vec::new(),
            has_data: false,
            after_cr: false,
            at_start: true,
        }
    }

    /// Takes the next bytes and appends every event they complete.
    ///
    /// # Errors
    /// [`TooLarge`] once an event passes the bound; the reader is of no use afterwards.
    pub fn push(&mut self, mut bytes: &[u8], events: &mut Vec<Event>) -> Result<(), TooLarge> {
        while let Some(&first) = bytes.first() {
            if std::mem::take(&mut self.after_cr) && first == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let Some(end) = bytes.iter().position(|b| matches!(b, b'\n' | b'\r')) else {
                self.hold(bytes)?;
                break;
            };
            self.hold(&bytes[..end])?;
            self.after_cr = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            self.end_line(events)?;
        }
        Ok(())
    }

    /// The body ended. Returns what stood there without its closing blank line, which the standard
    /// discards; a lenient caller may still use it if it is whole.
    pub fn finish(&mut self) -> Option<Event> {
        let mut events = Vec::new();
        if !self.line.is_empty() && self.end_line(&mut events).is_err() {
            return None;
        }
        self.dispatch(&mut events);
        events.pop()
    }

    fn hold(&mut self, bytes: &[u8]) -> Result<(), TooLarge> {
        let held = self.line.len() + self.data.len() + self.name.as_ref().map_or(0, String::len);
        if held + bytes.len() > self.bytes_max {
            return Err(TooLarge { bytes_max: self.bytes_max });
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn end_line(&mut self, events: &mut Vec<Event>) -> Result<(), TooLarge> {
        let held = std::mem::take(&mut self.line);
        let mut line = held.as_slice();
        if std::mem::take(&mut self.at_start) {
            line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
        }
        if line.is_empty() {
            self.dispatch(events);
        } else if line[0] != b':' {
            let colon = line.iter().position(|b| *b == b':').unwrap_or(line.len());
            let value = line.get(colon + 1..).unwrap_or_default();
            let value = value.strip_prefix(b" ").unwrap_or(value);
            match &line[..colon] {
                b"data" => {
                    if self.has_data {
                        self.data.push(b'\n');
                    }
                    self.has_data = true;
                    self.data.extend_from_slice(value);
                    if self.data.len() > self.bytes_max {
                        return Err(TooLarge { bytes_max: self.bytes_max });
                    }
                }
                b"event" => self.name = Some(String::from_utf8_lossy(value).into_owned()),
                _ => {}
            }
        }
        // The allocation is kept for the next line unless one large event made it grow.
        if held.capacity() <= 64 * 1024 {
            self.line = held;
            self.line.clear();
        }
        Ok(())
    }

    fn dispatch(&mut self, events: &mut Vec<Event>) {
        let name = self.name.take().filter(|name| !name.is_empty());
        let data = std::mem::take(&mut self.data);
        if std::mem::take(&mut self.has_data) {
            let data = String::from_utf8(data)
                .unwrap_or_else(|broken| String::from_utf8_lossy(broken.as_bytes()).into_owned());
            events.push(Event { name, data });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_whole(bytes: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        let mut reader = Reader::default();
        reader.push(bytes, &mut events).unwrap();
        events.extend(reader.finish());
        events
    }

    fn event(name: Option<&str>, data: &str) -> Event {
        Event { name: name.map(str::to_owned), data: data.to_owned() }
    }

    #[test]
    fn every_kind_of_line_end_ends_a_line() {
        let expected = vec![event(Some("a"), "1"), event(None, "2\n3")];
        for end in ["\n", "\r\n", "\r"] {
            let text = "event: a\ndata: 1\n\ndata:2\ndata: 3\n\n".replace('\n', end);
            assert_eq!(read_whole(text.as_bytes()), expected, "{end:?}");
        }
    }

    #[test]
    fn comments_unknown_fields_and_empty_events_are_skipped() {
        let text = b": ping\n\nid: 7\nretry: 5\nevent: only a name\n\n:\ndata\n\ndata: x\n\n";
        assert_eq!(read_whole(text), vec![event(None, ""), event(None, "x")]);
    }

    #[test]
    fn a_byte_order_mark_is_skipped_at_the_start_only() {
        let text = b"\xEF\xBB\xBFdata: a\n\n\xEF\xBB\xBFdata: b\n\n";
        assert_eq!(read_whole(text), vec![event(None, "a")]);
    }

    #[test]
    fn a_character_split_over_chunks_survives_and_broken_utf8_is_replaced() {
        let mut reader = Reader::default();
        let mut events = Vec::new();
        reader.push(b"data: \xF0\x9F", &mut events).unwrap();
        reader.push(b"\xA6\x99 \xFF\n\n", &mut events).unwrap();
        assert_eq!(events, vec![event(None, "🦙 \u{FFFD}")]);
    }

    #[test]
    fn an_event_over_the_bound_is_an_error_and_not_memory() {
        let mut reader = Reader::new(1000);
        let mut events = Vec::new();
        reader.push(b"data: ", &mut events).unwrap();
        let refused = (0..100).find(|_| reader.push(&[b'x'; 100], &mut events).is_err());
        assert_eq!(refused, Some(9));
        assert!(reader.line.capacity() < 4000);

        let mut lines = Reader::new(1000);
        let refused = (0..2000).any(|_| lines.push(b"data:\n", &mut events).is_err());
        assert!(refused, "many empty data lines must be bounded too");
    }

    #[test]
    fn a_large_event_within_the_bound_is_read_whole() {
        let text = "y".repeat(4 * 1024 * 1024);
        assert_eq!(read_whole(format!("data: {text}\n\n").as_bytes()), vec![event(None, &text)]);
    }

    #[test]
    fn an_event_without_its_blank_line_is_given_at_the_end() {
        assert_eq!(read_whole(b"data: a\n\ndata: [DONE]"), vec![event(None, "a"), event(None, "[DONE]")]);
    }

    fn stream_bytes() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(b"data: ".to_vec()),
            Just(b"data:".to_vec()),
            Just(b"event: e".to_vec()),
            Just(b": c".to_vec()),
            Just(b"\n".to_vec()),
            Just(b"\r".to_vec()),
            Just(b"\r\n".to_vec()),
            Just(b"\n\n".to_vec()),
            Just(b"\xEF\xBB\xBF".to_vec()),
            Just("é🦙".as_bytes().to_vec()),
            proptest::collection::vec(any::<u8>(), 0..5),
        ];
        proptest::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_events(bytes in stream_bytes(), cuts in proptest::collection::vec(1usize..9, 1..40)) {
            let whole = read_whole(&bytes);
            let mut reader = Reader::default();
            let mut events = Vec::new();
            let mut rest = bytes.as_slice();
            for size in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (chunk, next) = rest.split_at((*size).min(rest.len()));
                reader.push(chunk, &mut events).unwrap();
                rest = next;
            }
            events.extend(reader.finish());
            prop_assert_eq!(events, whole);
        }

        #[test]
        fn what_is_written_is_read_back(data in "[^\r]{0,40}", name in proptest::option::of("[a-z._]{1,9}")) {
            let event = Event { name, data };
            let mut wire = Vec::new();
            event.write(&mut wire);
            prop_assert_eq!(read_whole(&wire), vec![event]);
        }
    }
}
