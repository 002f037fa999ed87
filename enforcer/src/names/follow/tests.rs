//! Following, with a clock that the test turns, and a `hosts` file for a nameserver.
