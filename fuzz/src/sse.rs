//! The reader of server-sent events: any chunking gives the same events, what was read can be written and
//! read again, and a bound on an event holds.

use llm_router_logic::wire::sse::{Event, Reader, TooLarge};

const SMALL_EVENT_BYTES: usize = 64;

fn read<'a>(mut reader: Reader, pieces: impl Iterator<Item = &'a [u8]>) -> Result<Vec<Event>, TooLarge> {
    let mut events = Vec::new();
    for piece in pieces {
        reader.push(piece, &mut events)?;
    }
    events.extend(reader.finish());
    Ok(events)
}

/// Holds one input against what the module promises.
pub fn run(input: &[u8]) {
    let Some((piece, bytes)) = input.split_first() else { return };
    let piece = usize::from(*piece).max(1);

    let whole = read(Reader::default(), std::iter::once(bytes));
    assert_eq!(whole, read(Reader::default(), bytes.chunks(piece)), "in pieces of {piece} bytes");

    let Ok(events) = whole else { return };
    let mut written = Vec::new();
    events.iter().for_each(|event| event.write(&mut written));
    assert_eq!(read(Reader::default(), written.chunks(piece)), Ok(events), "written and read again");

    if let Ok(events) = read(Reader::new(SMALL_EVENT_BYTES), bytes.chunks(piece)) {
        // A byte that is no UTF-8 becomes the three of U+FFFD.
        let largest = events.iter().map(|event| event.data.len()).max().unwrap_or(0);
        assert!(largest <= 3 * SMALL_EVENT_BYTES, "an event of {largest} bytes passed the bound");
    }
}
