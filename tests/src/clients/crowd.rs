//! [`at_once`]: many clients side by side. Most of what they do is wait.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result};

/// Does the work on each item, that many at a time, and returns what came of it in the items' order.
///
/// # Errors
///
/// The first failure; what has not been begun by then is not begun.
pub fn at_once<Item: Sync, Done: Send>(
    items: &[Item],
    width: usize,
    work: impl Fn(&Item) -> Result<Done> + Sync,
) -> Result<Vec<Done>> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..width.min(items.len()) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(index) else { break };
                    let result = work(item);
                    if result.is_err() {
                        next.store(items.len(), Ordering::Relaxed);
                    }
                    let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                    results.push((index, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(index, _)| *index);
    let done: Vec<_> = results
        .into_iter()
        .map(|(_, result)| result)
        .collect::<Result<_>>()?;
    (done.len() == items.len())
        .then_some(done)
        .context("do everything")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_the_order_of_the_items() {
        let items: Vec<u32> = (0..100).collect();
        let squares = at_once(&items, 8, |item| Ok(item * item)).unwrap();
        assert!(
            squares
                .iter()
                .zip(&items)
                .all(|(square, item)| *square == item * item)
        );
    }

    #[test]
    fn a_failure_is_returned_and_ends_it() {
        let done = AtomicUsize::new(0);
        let failed = at_once(&[0; 1000], 1, |_| {
            done.fetch_add(1, Ordering::Relaxed);
            anyhow::bail!("no") as Result<()>
        });
        assert_eq!(failed.unwrap_err().to_string(), "no");
        assert_eq!(done.into_inner(), 1);
    }
}
