//! Behaviour that no other backend shares, and the fault switches.
