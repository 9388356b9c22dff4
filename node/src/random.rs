//! Random bytes come in from outside, as time does: from the operating system, or in a simulation
//! from its seed.
//!
//! Promises that a process whose thread nobody asked to [`simulate`] draws from the operating system
//! alone. The product never calls [`simulate`]; a test of the source text holds it to that.

use std::cell::RefCell;

pub use getrandom::Error;

type Source = Box<dyn FnMut(&mut [u8])>;

thread_local! {
    static SIMULATED: RefCell<Option<Source>> = const { RefCell::new(None) };
}

/// Fills `bytes` with random ones.
///
/// # Errors
///
/// The operating system gives none.
pub fn fill(bytes: &mut [u8]) -> Result<(), Error> {
    let simulated = SIMULATED.try_with(|simulated| match simulated.borrow_mut().as_mut() {
        Some(source) => {
            source(bytes);
            true
        }
        None => false,
    });
    match simulated {
        Ok(true) => Ok(()),
        Ok(false) | Err(_) => getrandom::fill(bytes),
    }
}

/// Draws from `source` on this thread for as long as the guard lives: keys and salts can be told
/// then. For simulations only.
pub fn simulate(source: impl FnMut(&mut [u8]) + 'static) -> Simulated {
    SIMULATED.set(Some(Box::new(source)));
    Simulated(())
}

/// Ends the simulation of randomness when it goes.
#[derive(Debug)]
pub struct Simulated(());

impl Drop for Simulated {
    fn drop(&mut self) {
        SIMULATED.set(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_thread_that_asked_draws_from_its_source_and_only_while_it_asks() {
        let drawn = || {
            let mut bytes = [0; 16];
            fill(&mut bytes).unwrap();
            bytes
        };
        let simulated = simulate(|bytes| bytes.fill(7));
        assert_eq!(drawn(), [7; 16]);
        assert_ne!(std::thread::spawn(drawn).join().unwrap(), [7; 16]);
        drop(simulated);
        assert_ne!(drawn(), [7; 16]);
    }
}
