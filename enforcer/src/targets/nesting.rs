//! How governed cgroups lie to each other. The nearest one governs a connect: the programs must know which
//! have others above or below them.

use std::{collections::HashSet, path::Path};

use enforcer_common::binding::{FLAG_HAS_INNER, FLAG_HAS_OUTER};

/// How one governed cgroup lies to the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Nesting {
    /// Another one lies above it.
    pub has_outer: bool,
    /// Another one lies below it.
    pub has_inner: bool,
}

impl Nesting {
    /// As flags of a [`Binding`](enforcer_common::binding::Binding).
    #[must_use]
    pub fn flags(self) -> u8 {
        let mut flags = 0;
        if self.has_outer {
            flags |= FLAG_HAS_OUTER;
        }
        if self.has_inner {
            flags |= FLAG_HAS_INNER;
        }
        flags
    }
}

/// How governed cgroups nest, given their paths relative to the mount; one answer each, in the same order.
/// Paths are compared by whole names: `/a` is not above `/ab`. A path given twice is not above itself.
#[must_use]
pub fn nesting(paths: &[&Path]) -> Vec<Nesting> {
    let all: HashSet<&Path> = paths.iter().copied().collect();
    let mut with_inner: HashSet<&Path> = HashSet::new();
    for path in &all {
        with_inner.extend(path.ancestors().skip(1).filter(|above| all.contains(above)));
    }
    paths
        .iter()
        .map(|path| Nesting {
            has_outer: path.ancestors().skip(1).any(|above| all.contains(above)),
            has_inner: with_inner.contains(path),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(paths: &[&str]) -> Vec<u8> {
        let paths: Vec<&Path> = paths.iter().map(Path::new).collect();
        nesting(&paths).into_iter().map(Nesting::flags).collect()
    }

    #[test]
    fn nesting_goes_by_whole_names() {
        let both = FLAG_HAS_INNER | FLAG_HAS_OUTER;
        assert_eq!(
            flags(&["/a", "/ab", "/a/b/c", "/a/b"]),
            [FLAG_HAS_INNER, 0, FLAG_HAS_OUTER, both]
        );
        assert_eq!(flags(&["/a/b", "/"]), [FLAG_HAS_OUTER, FLAG_HAS_INNER]);
        assert_eq!(flags(&["/a", "/a"]), [0, 0]);
        assert_eq!(flags(&[]), [0_u8; 0]);
    }

    #[test]
    fn nesting_skips_levels() {
        assert_eq!(flags(&["/a", "/a/b/c/d"]), [FLAG_HAS_INNER, FLAG_HAS_OUTER]);
    }
}
