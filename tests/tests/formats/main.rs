//! The bytes of the contract: test vectors and signature suites, against other implementations.

mod suites;
mod vectors;
mod vectors_sealed;
