//! Changes to a body that leave every other byte as it is.

use super::Shallow;
use std::ops::Range;

/// Changes to a body, each at a byte range of the original.
#[derive(Debug, Default)]
pub(crate) struct Splice(Vec<(Range<usize>, String)>);

impl Splice {
    /// Replaces `part`, which must be borrowed from `body`.
    pub(crate) fn replace(&mut self, body: &str, part: &str, with: String) {
        let start = part.as_ptr() as usize - body.as_ptr() as usize;
        self.0.push((start..start + part.len(), with));
    }

    /// Inserts a member at the front of the object `object`, which must be borrowed from `body`.
    pub(crate) fn insert(&mut self, body: &str, object: &str, key: &str, value: &str) {
        let Some(brace) = object.find('{') else { return };
        let at = object.as_ptr() as usize - body.as_ptr() as usize + brace + 1;
        let empty = object[brace + 1..].trim_start().starts_with('}');
        let follows = self.0.iter().any(|(range, _)| *range == (at..at));
        self.0.push((
            at..at,
            match (empty, follows) {
                (false, _) => format!("\"{key}\":{value},"),
                (true, false) => format!("\"{key}\":{value}"),
                (true, true) => format!(",\"{key}\":{value}"),
            },
        ));
    }

    /// Sets a member of the whole body: replaces its value or inserts it.
    pub(crate) fn set(&mut self, body: &str, members: &Shallow<'_>, key: &str, value: String) {
        match members.raw(key) {
            Some(old) if old == value => {}
            Some(old) => self.replace(body, old, value),
            None => self.insert(body, body, key, &value),
        }
    }

    /// The changed body.
    pub(crate) fn apply(mut self, body: &str) -> Vec<u8> {
        // Stable, so that several insertions at one place keep their order.
        self.0.sort_by_key(|(range, _)| range.start);
        let grown: usize = self.0.iter().map(|(_, with)| with.len()).sum();
        let mut out = Vec::with_capacity(body.len() + grown);
        let mut at = 0;
        for (range, with) in &self.0 {
            out.extend_from_slice(&body.as_bytes()[at..range.start]);
            out.extend_from_slice(with.as_bytes());
            at = range.end;
        }
        out.extend_from_slice(&body.as_bytes()[at..]);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_splice_changes_only_what_it_names() {
        let body = r#"{ "n" : 1.50e1 , "model": "a", "s":{} }"#;
        let members = Shallow::read(body).unwrap();
        let mut splice = Splice::default();
        splice.set(body, &members, "model", "\"b\"".to_owned());
        splice.set(body, &members, "stream", "true".to_owned());
        splice.insert(body, members.get("s").unwrap(), "u", "1");
        let changed = String::from_utf8(splice.apply(body)).unwrap();
        assert_eq!(changed, r#"{"stream":true, "n" : 1.50e1 , "model": "b", "s":{"u":1} }"#);
    }
}
