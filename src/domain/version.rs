//! Which release a broker is, and what differs between releases. Knows no broker: the numbers come in as text.

use std::fmt;

/// A release of RabbitMQ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
    /// Third number; 0 where it is not told.
    pub patch: u32,
}

impl Version {
    /// A version from its parts.
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch }
    }

    /// Reads `3.10.8`, `4.0`, `4.3.0-rc.1+12`; `None` for anything that does not begin with two numbers.
    pub fn parse(text: &str) -> Option<Self> {
        let (numbers, _) = text.split_once(['-', '+', '~']).unwrap_or((text, ""));
        let mut parts = numbers.split('.').map(|part| part.parse().ok());
        let (major, minor) = (parts.next()??, parts.next()??);
        let patch = parts.next().unwrap_or(Some(0))?;
        Some(Self { major, minor, patch })
    }

    /// From 4.0 on queues that are neither durable nor exclusive are deprecated: 4.0.5 and 4.3.6 take them, with
    /// `auto_delete` too, unless their settings deny it; a later release will refuse them.
    pub fn deprecates_transient_queues(self) -> bool {
        self >= Self::new(4, 0, 0)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn releases_of_every_kind_are_read() {
        for (text, expected) in [
            ("3.10.8", Some(Version::new(3, 10, 8))),
            ("4.0", Some(Version::new(4, 0, 0))),
            ("4.3.0-rc.1", Some(Version::new(4, 3, 0))),
            ("3.12.1+2.gabcdef", Some(Version::new(3, 12, 1))),
            ("3.10.8.1", Some(Version::new(3, 10, 8))),
            ("", None),
            ("4", None),
            ("four.0.1", None),
            ("4.0.x", None),
        ] {
            assert_eq!(Version::parse(text), expected, "{text:?}");
        }
    }

    #[test]
    fn what_differs_between_releases_is_told_by_their_order() {
        let releases = [(3, 10, 8), (3, 13, 7), (4, 0, 5), (4, 2, 9), (4, 3, 0), (4, 3, 6)];
        let releases = releases.map(|(major, minor, patch)| Version::new(major, minor, patch));
        assert!(releases.is_sorted());
        let deprecating = [false, false, true, true, true, true];
        assert_eq!(releases.map(Version::deprecates_transient_queues), deprecating);
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_again(major in 0..100_u32, minor in 0..100_u32, patch in 0..100_u32) {
            let version = Version::new(major, minor, patch);
            prop_assert_eq!(Version::parse(&version.to_string()), Some(version));
        }
    }
}
