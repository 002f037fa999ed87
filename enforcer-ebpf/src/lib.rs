//! Empty on purpose: a package without a library target is ignored as a build dependency, and then cargo
//! would not notice that the programs changed.
#![no_std]
