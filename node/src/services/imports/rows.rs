//! Rows of a CSV file (RFC 4180), read one at a time within fixed bounds.
//!
//! Every row knows where it begins, so that an import goes on where it was cut off. A malformed
//! row costs itself alone: reading goes on at the next line. (The `csv` crate reads the rest of a
//! file into one row after a quotation mark that is never closed.)

use std::io::{self, BufRead, Read, Seek, SeekFrom};

use csv::ByteRecord;

/// Longest row, and longest line of the file.
pub(super) const MAX_ROW_BYTES: usize = 1024 * 1024;

/// Longest cell.
pub(super) const MAX_CELL_BYTES: usize = 64 * 1024;

/// A place between two rows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Place {
    /// Bytes before it.
    pub(super) offset: u64,
    /// Line that begins there, from 1.
    pub(super) line: u64,
}

impl Place {
    /// Where a file begins.
    pub(super) const START: Self = Self { offset: 0, line: 1 };
}

/// What comes next in a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Next {
    /// A row that begins at this line.
    Row(u64),
    /// A line that is no row, and why, with the remedy.
    Malformed(u64, &'static str),
    /// Nothing.
    End,
}

const OPEN: &str = "a quotation mark is opened and never closed; close it, or double it if it \
                    belongs to the text";
const AFTER: &str = "text stands after a closing quotation mark; double the marks that belong to \
                     the text";
const LONG_CELL: &str = "a cell is longer than 64 KiB; a quotation mark may not be closed";
const LONG_ROW: &str = "the row is longer than 1 MiB; a quotation mark may not be closed";

/// Reads rows.
pub(super) struct Rows<R> {
    input: R,
    delimiter: u8,
    place: Place,
    line: Vec<u8>,
    cells: Cells,
}

/// The cells of a row while its lines come in.
#[derive(Default)]
struct Cells {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum State {
    #[default]
    Start,
    Plain,
    Quoted,
    /// After a quotation mark inside quotes: it closed them, or is the first of a pair.
    Closing,
}

enum Line {
    Whole,
    TooLong,
    End,
}

impl<R: BufRead + Seek> Rows<R> {
    /// Reads from `place` on.
    pub(super) fn new(mut input: R, delimiter: u8, place: Place) -> io::Result<Self> {
        input.seek(SeekFrom::Start(place.offset))?;
        Ok(Self { input, delimiter, place, line: Vec::new(), cells: Cells::default() })
    }

    /// Where the next row begins.
    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// Reads the next row into `row`. Empty lines are passed over.
    pub(super) fn next(&mut self, row: &mut ByteRecord) -> io::Result<Next> {
        row.clear();
        loop {
            let begin = self.place.line;
            match self.read_line()? {
                Line::End => return Ok(Next::End),
                Line::TooLong => return Ok(Next::Malformed(begin, LONG_ROW)),
                Line::Whole if self.text().is_empty() => {}
                Line::Whole => return self.row(begin, row),
            }
        }
    }

    fn row(&mut self, begin: u64, row: &mut ByteRecord) -> io::Result<Next> {
        let after_first = self.place;
        let mut bytes = self.line.len();
        self.cells.clear();
        let reason = loop {
            match self.cells.take(&self.line, self.delimiter) {
                Err(reason) => break reason,
                Ok(true) => {
                    self.cells.copy_to(row);
                    return Ok(Next::Row(begin));
                }
                Ok(false) => match self.read_line()? {
                    Line::End => break OPEN,
                    Line::TooLong => break LONG_ROW,
                    Line::Whole => {
                        bytes += self.line.len();
                        if bytes > MAX_ROW_BYTES {
                            break LONG_ROW;
                        }
                    }
                },
            }
        };
        if self.place != after_first {
            self.input.seek(SeekFrom::Start(after_first.offset))?;
            self.place = after_first;
        }
        Ok(Next::Malformed(begin, reason))
    }

    /// Reads one line with its end into `self.line`.
    fn read_line(&mut self) -> io::Result<Line> {
        self.line.clear();
        let limit = MAX_ROW_BYTES as u64;
        let read = self.input.by_ref().take(limit).read_until(b'\n', &mut self.line)?;
        if read == 0 {
            return Ok(Line::End);
        }
        self.place.offset += read as u64;
        self.place.line += 1;
        if (read as u64) < limit || self.line.ends_with(b"\n") {
            return Ok(Line::Whole);
        }
        self.place.offset += self.skip_line()?;
        Ok(Line::TooLong)
    }

    fn skip_line(&mut self) -> io::Result<u64> {
        let mut skipped = 0;
        loop {
            let buffer = self.input.fill_buf()?;
            if buffer.is_empty() {
                return Ok(skipped);
            }
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let used = end.map_or(buffer.len(), |end| end + 1);
            self.input.consume(used);
            skipped += used as u64;
            if end.is_some() {
                return Ok(skipped);
            }
        }
    }

    fn text(&self) -> &[u8] {
        split_end(&self.line).0
    }
}

/// Splits a line into its text and its end.
fn split_end(line: &[u8]) -> (&[u8], &[u8]) {
    let text = line.strip_suffix(b"\n").unwrap_or(line);
    let text =
        if text.len() < line.len() { text.strip_suffix(b"\r").unwrap_or(text) } else { text };
    line.split_at(text.len())
}

impl Cells {
    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        self.state = State::Start;
    }

    /// Takes one line in; true if the row ends with it.
    fn take(&mut self, line: &[u8], delimiter: u8) -> Result<bool, &'static str> {
        let (text, end) = split_end(line);
        for &byte in text {
            self.state = match self.state {
                State::Start if byte == b'"' => State::Quoted,
                State::Closing if byte == b'"' => {
                    self.bytes.push(byte);
                    State::Quoted
                }
                State::Start | State::Plain | State::Closing if byte == delimiter => {
                    self.close()?;
                    State::Start
                }
                State::Closing => return Err(AFTER),
                State::Start | State::Plain => {
                    self.bytes.push(byte);
                    State::Plain
                }
                State::Quoted if byte == b'"' => State::Closing,
                State::Quoted => {
                    self.bytes.push(byte);
                    State::Quoted
                }
            };
        }
        if self.state == State::Quoted {
            self.bytes.extend_from_slice(end);
            self.check()?;
            return Ok(false);
        }
        self.close()?;
        Ok(true)
    }

    fn close(&mut self) -> Result<(), &'static str> {
        self.check()?;
        self.ends.push(self.bytes.len());
        Ok(())
    }

    fn check(&self) -> Result<(), &'static str> {
        let begin = self.ends.last().copied().unwrap_or_default();
        if self.bytes.len() - begin > MAX_CELL_BYTES { Err(LONG_CELL) } else { Ok(()) }
    }

    fn copy_to(&self, row: &mut ByteRecord) {
        let mut begin = 0;
        for &end in &self.ends {
            row.push_field(&self.bytes[begin..end]);
            begin = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Cursor};

    use super::*;

    /// A row with its line, or why it is none.
    type Read = Result<(u64, Vec<String>), (u64, &'static str)>;

    fn read(text: &[u8]) -> Vec<Read> {
        let input = BufReader::with_capacity(7, Cursor::new(text.to_vec()));
        let mut rows = Rows::new(input, b',', Place::START).unwrap();
        let mut row = ByteRecord::new();
        let mut found = Vec::new();
        loop {
            match rows.next(&mut row).unwrap() {
                Next::Row(line) => {
                    let cells = row.iter().map(|cell| String::from_utf8_lossy(cell).into_owned());
                    found.push(Ok((line, cells.collect())));
                }
                Next::Malformed(line, reason) => found.push(Err((line, reason))),
                Next::End => return found,
            }
        }
    }

    fn row(line: u64, cells: &[&str]) -> Result<(u64, Vec<String>), (u64, &'static str)> {
        Ok((line, cells.iter().map(|cell| (*cell).to_owned()).collect()))
    }

    #[test]
    fn rows_begin_at_their_lines() {
        assert_eq!(
            read(b"a,b\r\n\r\n\"x\r\ny\",\"say \"\"hi\"\"\"\n,5\" pipe\n1,"),
            [
                row(1, &["a", "b"]),
                row(3, &["x\r\ny", "say \"hi\""]),
                row(5, &["", "5\" pipe"]),
                row(6, &["1", ""]),
            ]
        );
    }

    #[test]
    fn a_malformed_row_costs_itself_alone() {
        assert_eq!(
            read(b"a,\"open\nb,2\nc,3\n"),
            [Err((1, OPEN)), row(2, &["b", "2"]), row(3, &["c", "3"])]
        );
        assert_eq!(read(b"a,\"x\"y\nb,2\n"), [Err((1, AFTER)), row(2, &["b", "2"])]);
        assert_eq!(
            read(b"a,\"open\nb,\"2\nc,3\n"),
            [Err((1, AFTER)), Err((2, OPEN)), row(3, &["c", "3"])]
        );
    }

    #[test]
    fn cells_and_rows_are_bounded() {
        let long = "x".repeat(MAX_CELL_BYTES + 1);
        let text = format!("a,{long}\nb,\"{long}\"\nc,1\n");
        assert_eq!(
            read(text.as_bytes()),
            [Err((1, LONG_CELL)), Err((2, LONG_CELL)), row(3, &["c", "1"])]
        );
        let text = format!("{}\nb\n", "x,".repeat(MAX_ROW_BYTES));
        assert_eq!(read(text.as_bytes()), [Err((1, LONG_ROW)), row(2, &["b"])]);
        let exact = "x".repeat(MAX_CELL_BYTES);
        assert_eq!(read(exact.as_bytes()), [row(1, &[&exact])]);
    }

    #[test]
    fn reading_goes_on_at_a_place() {
        let text = b"a,1\n\"b\nb\",2\nc,3\n";
        let mut row = ByteRecord::new();
        let mut rows = Rows::new(Cursor::new(text.to_vec()), b',', Place::START).unwrap();
        rows.next(&mut row).unwrap();
        rows.next(&mut row).unwrap();
        let place = rows.place();
        assert_eq!(place, Place { offset: 12, line: 4 });
        let mut rows = Rows::new(Cursor::new(text.to_vec()), b',', place).unwrap();
        assert_eq!(rows.next(&mut row).unwrap(), Next::Row(4));
        assert_eq!(row, ByteRecord::from(vec!["c", "3"]));
        assert_eq!(rows.next(&mut row).unwrap(), Next::End);
    }

    #[test]
    fn well_formed_files_read_as_with_another_reader() {
        let alphabet = [b"a".as_slice(), b"\"", b",", b"\n", b"\r\n", b" ", b"\"\"", b"\xE5"];
        let mut seed: u64 = 1;
        let mut compared = 0;
        for _ in 0..20_000 {
            let mut text = Vec::new();
            for _ in 0..12 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let pick = usize::try_from(seed >> 61).unwrap();
                text.extend_from_slice(alphabet[pick]);
            }
            let Ok(ours) = read(&text).into_iter().collect::<Result<Vec<_>, _>>() else { continue };
            let mut theirs = csv::ReaderBuilder::new();
            let mut theirs = theirs.has_headers(false).flexible(true).from_reader(text.as_slice());
            let theirs: Vec<Vec<String>> = theirs
                .byte_records()
                .map(|row| {
                    let row = row.unwrap();
                    row.iter().map(|cell| String::from_utf8_lossy(cell).into_owned()).collect()
                })
                .collect();
            let ours: Vec<_> = ours.into_iter().map(|(_, cells)| cells).collect();
            assert_eq!(ours, theirs, "{:?}", String::from_utf8_lossy(&text));
            compared += 1;
        }
        assert!(compared > 5_000, "{compared}");
    }
}
