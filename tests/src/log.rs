//! What the hosts of this process log, so that a test can look for a line.

use std::{
    io,
    sync::{Arc, Mutex, OnceLock},
};

use tracing::Level;

static LOG: OnceLock<Arc<Mutex<Vec<u8>>>> = OnceLock::new();

struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Keeps warnings and errors of the whole process from now on. Call it first in a test.
pub fn capture() {
    LOG.get_or_init(|| {
        let log = Arc::<Mutex<Vec<u8>>>::default();
        let kept = Arc::clone(&log);
        tracing_subscriber::fmt()
            .with_max_level(Level::WARN)
            .with_ansi(false)
            .with_writer(move || Lines(Arc::clone(&kept)))
            .init();
        log
    });
}

/// The line that holds all of `parts`.
pub fn find(parts: &[&str]) -> Option<String> {
    let log = LOG.get()?.lock().unwrap();
    let text = String::from_utf8_lossy(&log);
    let mut lines = text.lines();
    lines.find(|line| parts.iter().all(|part| line.contains(part))).map(str::to_owned)
}
