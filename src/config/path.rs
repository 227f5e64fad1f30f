//! Where in the file something stands, for example `clusters[2].costPerHour`.

use serde_json::Value;
use std::fmt;

/// A place in the file; the empty path is the file as a whole. Ordered by section, then by number.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Path(Vec<Step>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

impl Path {
    /// The value of `key` in the mapping at this place.
    pub(super) fn key(&self, key: &str) -> Self {
        self.with(Step::Key(key.to_owned()))
    }

    /// Element `index` of the list at this place.
    pub(super) fn index(&self, index: usize) -> Self {
        self.with(Step::Index(index))
    }

    fn with(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }

    /// This place, what it is in, and so on up to the file.
    pub(super) fn upwards(&self) -> impl Iterator<Item = Self> {
        (0..=self.0.len()).rev().map(|length| Self(self.0[..length].to_vec()))
    }

    /// Whether `other` is this place or lies inside it.
    pub(super) fn contains(&self, other: &Self) -> bool {
        other.0.starts_with(&self.0)
    }

    pub(super) fn steps(&self) -> &[Step] {
        &self.0
    }

    /// The mapping or list this place is in, and the last key; `None` for the file and list elements.
    pub(super) fn parent_and_key(&self) -> Option<(Self, &str)> {
        match self.0.split_last() {
            Some((Step::Key(key), parent)) => Some((Self(parent.to_vec()), key)),
            _ => None,
        }
    }

    /// What `root` holds at this place.
    pub(super) fn find<'a>(&self, root: &'a mut Value) -> Option<&'a mut Value> {
        self.0.iter().try_fold(root, |value, step| match step {
            Step::Key(key) => value.get_mut(key.as_str()),
            Step::Index(index) => value.get_mut(*index),
        })
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if position == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

impl From<&serde_path_to_error::Path> for Path {
    fn from(path: &serde_path_to_error::Path) -> Self {
        use serde_path_to_error::Segment;
        let step = |segment: &Segment| match segment {
            Segment::Seq { index } => Some(Step::Index(*index)),
            Segment::Map { key } => Some(Step::Key(key.clone())),
            Segment::Enum { .. } | Segment::Unknown => None,
        };
        Self(path.iter().filter_map(step).collect())
    }
}

impl From<&serde_ignored::Path<'_>> for Path {
    fn from(path: &serde_ignored::Path<'_>) -> Self {
        use serde_ignored::Path as Ignored;
        match path {
            Ignored::Root => Self::default(),
            Ignored::Seq { parent, index } => Self::from(*parent).index(*index),
            Ignored::Map { parent, key } => Self::from(*parent).key(key),
            Ignored::Some { parent }
            | Ignored::NewtypeStruct { parent }
            | Ignored::NewtypeVariant { parent } => Self::from(*parent),
        }
    }
}
