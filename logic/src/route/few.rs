//! A list of at most `N` on the stack, so that a decision allocates nothing but its plan.

/// Up to `N` items, in order.
#[derive(Debug)]
pub(crate) struct Few<T, const N: usize> {
    items: [Option<T>; N],
    len: usize,
    /// Where an item beyond the last place goes, and is lost.
    beyond: Option<T>,
}

impl<T, const N: usize> Few<T, N> {
    pub(crate) fn new() -> Self {
        // One by one: an array of constants would be copied whole, with all the room in it that nobody reads.
        Self { items: std::array::from_fn(|_| None), len: 0, beyond: None }
    }

    /// The place of the next item: what is written there is in the list once [`added`](Self::added) is called.
    /// So a large item is made where it stays instead of being moved there.
    pub(crate) fn next(&mut self) -> &mut Option<T> {
        self.items.get_mut(self.len).unwrap_or(&mut self.beyond)
    }

    /// The next place was filled; where the list was full its item is left out.
    pub(crate) fn added(&mut self) {
        self.len = (self.len + 1).min(N);
    }

    pub(crate) fn get(&self, at: usize) -> Option<&T> {
        self.items.get(at)?.as_ref()
    }

    /// The item at a place that [`iter`](Self::iter) has.
    ///
    /// # Panics
    /// As a slice does, where there is none.
    #[inline]
    pub(crate) fn at(&self, at: usize) -> &T {
        let [Some(item)] = &self.items[at..=at] else { unreachable!("places below `len` are filled") };
        item
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> + Clone {
        self.items[..self.len].iter().flatten()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.items[..self.len].iter_mut().flatten()
    }

    /// Keeps what `keep` says, in order.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        let len = std::mem::take(&mut self.len);
        for at in 0..len {
            if let Some(item) = self.items[at].take()
                && keep(&item)
            {
                self.items[self.len] = Some(item);
                self.len += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_keeps_order_and_never_holds_more_than_it_can() {
        let mut few = Few::<u32, 4>::new();
        for item in 0..6 {
            *few.next() = Some(item);
            few.added();
        }
        assert_eq!(few.iter().copied().collect::<Vec<_>>(), [0, 1, 2, 3]);
        few.retain(|item| item % 2 == 1);
        few.iter_mut().for_each(|item| *item *= 10);
        assert_eq!((few.iter().copied().collect::<Vec<_>>(), few.get(2)), (vec![10, 30], None));
    }
}
