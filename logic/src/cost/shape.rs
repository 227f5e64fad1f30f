//! The shape of a prompt's text: what kinds of characters it has and how they run together, which says how
//! many tokens it is far better than its length alone.
//!
//! Counts characters as they are pushed; never keeps any. Byte-pair tokenizers split words from blanks,
//! digits and signs, take common words whole and long or foreign ones in pieces: each of these is counted.

/// Bytes after which nothing else is counted: what the first quarter of a million is like, the rest is taken to
/// be, so that a huge prompt costs a bounded time.
const LOOKED_AT_MAX: usize = 256 * 1024;
/// Letters of a word beyond this many are counted apart: most words up to it are one token.
const WHOLE_WORD: u32 = 5;
/// Digits that make one token.
const DIGITS: u32 = 3;

/// What is counted.
pub const PARTS: usize = 12;

/// Counts of one text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TextShape {
    bytes: usize,
    looked_at: usize,
    counts: [u32; PARTS],
    last: Option<(Class, char)>,
    run: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// Latin, accented ones included.
    Letter,
    Digit,
    Blank,
    Sign,
    /// Other scripts of two bytes a character: Cyrillic, Greek, Arabic …
    TwoBytes,
    /// Of three: Chinese, Japanese, Korean, most of India's …
    ThreeBytes,
    /// Of four: emoji and rare signs.
    FourBytes,
}

impl Class {
    fn of(c: char) -> Self {
        match c {
            'a'..='z' | 'A'..='Z' | '\u{c0}'..='\u{24f}' => Self::Letter,
            '0'..='9' => Self::Digit,
            ' ' | '\n' | '\r' | '\t' => Self::Blank,
            '\0'..='\u{7f}' => Self::Sign,
            '\u{80}'..='\u{7ff}' => Self::TwoBytes,
            '\u{800}'..='\u{ffff}' => Self::ThreeBytes,
            _ => Self::FourBytes,
        }
    }
}

impl TextShape {
    /// The shape of `text`.
    pub fn of(text: &str) -> Self {
        let mut shape = Self::default();
        shape.read(text);
        shape
    }

    /// The shape of plain English of `bytes`, where no more is known of a text.
    pub fn of_bytes(bytes: usize) -> Self {
        let words = u32::try_from(bytes / 4).unwrap_or(u32::MAX);
        let mut shape = Self { bytes, looked_at: bytes, ..Self::default() };
        shape.counts[0] = words;
        shape
    }

    /// From the counts of another time, for tests on recorded texts.
    pub fn from_counts(bytes: usize, counts: [u32; PARTS]) -> Self {
        Self { bytes, looked_at: bytes, counts, ..Self::default() }
    }

    /// Its bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What was counted.
    pub fn counts(&self) -> [u32; PARTS] {
        self.counts
    }

    /// Adds a piece of text.
    pub fn read(&mut self, text: &str) {
        for c in text.chars() {
            self.push(c);
        }
    }

    /// Ends a piece: what follows runs on with nothing before it.
    pub fn cut(&mut self) {
        (self.last, self.run) = (None, 0);
    }

    /// Adds one character.
    pub fn push(&mut self, c: char) {
        self.bytes += c.len_utf8();
        if self.looked_at >= LOOKED_AT_MAX {
            return;
        }
        self.looked_at += c.len_utf8();
        let class = Class::of(c);
        let before = self.last.replace((class, c));
        self.run = if before.is_some_and(|(last, _)| last == class) { self.run + 1 } else { 1 };
        let run = self.run;
        let [
            words,
            further_letters,
            accented,
            two,
            digits,
            signs,
            other_signs,
            blanks,
            kana,
            three,
            four,
            humps,
        ] = &mut self.counts;
        match class {
            Class::Letter => {
                *words += u32::from(run == 1);
                *further_letters += u32::from(run > WHOLE_WORD);
                *accented += u32::from(!c.is_ascii());
                let after_lower = before.is_some_and(|(_, last)| last.is_ascii_lowercase());
                *humps += u32::from(run > 1 && after_lower && c.is_ascii_uppercase());
            }
            Class::Digit => *digits += u32::from(run % DIGITS == 1),
            Class::Blank => *blanks += u32::from(if run == 1 { c != ' ' } else { run == 2 }),
            Class::Sign => {
                *signs += u32::from(run == 1);
                let another = before.is_some_and(|(_, last)| last != c);
                *other_signs += u32::from(run > 1 && another);
            }
            Class::TwoBytes => *two += 1,
            Class::ThreeBytes if ('\u{3040}'..'\u{3100}').contains(&c) => *kana += 1,
            Class::ThreeBytes => *three += 1,
            Class::FourBytes => *four += 1,
        }
    }

    /// The counts as numbers after a leading one, those of a text that was not looked at to its end in proportion.
    pub(crate) fn terms(&self) -> [f64; PARTS + 1] {
        let mut terms = [1.0; PARTS + 1];
        for (term, count) in terms[1..].iter_mut().zip(self.counts) {
            *term = f64::from(count) * self.beyond();
        }
        terms
    }

    /// How much longer the text is than what was looked at.
    fn beyond(&self) -> f64 {
        if self.looked_at == 0 { 1.0 } else { self.bytes as f64 / self.looked_at as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_kind_of_character_is_counted_as_it_runs() {
        let count = |text: &str| TextShape::of(text).counts();
        assert_eq!(count("Hello there, you"), [3, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(count("extraordinary"), [1, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(count("déjà"), [1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(count("getUserName"), [1, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        assert_eq!(count("1234567 ---- ={"), [0, 0, 0, 0, 3, 2, 1, 0, 0, 0, 0, 0]);
        assert_eq!(count("a\n\n    b c"), [3, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0]);
        assert_eq!(count("да 日本 の 🦀"), [0, 0, 0, 2, 0, 0, 0, 0, 1, 2, 1, 0]);
    }

    #[test]
    fn a_huge_text_is_looked_at_in_part_and_counted_in_proportion() {
        let text = "word ".repeat(200_000);
        let shape = TextShape::of(&text);
        assert_eq!(shape.bytes(), 1_000_000);
        assert!(shape.counts()[0] < 60_000);
        assert!((shape.terms()[1] / 200_000.0 - 1.0).abs() < 0.01);
    }

    proptest! {
        #[test]
        fn bytes_are_those_of_the_text_however_it_is_cut(pieces in proptest::collection::vec("\\PC{0,20}", 0..6)) {
            let mut shape = TextShape::default();
            for piece in &pieces {
                shape.read(piece);
                shape.cut();
            }
            prop_assert_eq!(shape.bytes(), pieces.concat().len());
        }
    }
}
