//! Real rows of Boston's "311 service requests", and their figures from the rows alone.
//!
//! Shares nothing with the product: a mistake of the node cannot be in here too.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read,
    path::{Path, PathBuf},
};

use flate2::read::MultiGzDecoder;

/// Indicators that are compared, in the order of [`Figures`].
pub const COLUMNS: [&str; 9] = [
    "received",
    "closed",
    "open",
    "with_target",
    "closed_within_target",
    "overdue",
    "close_seconds",
    "longest_close_seconds",
    "distinct_types",
];

/// Figures of each unit's subtree, in the order of [`COLUMNS`].
pub type Figures = BTreeMap<String, [i128; 9]>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A file of the example.
pub fn example(name: &str) -> PathBuf {
    root().join("deploy/examples/boston-311").join(name)
}

/// The catalogue of the example.
pub fn catalogue() -> PathBuf {
    root().join("deploy/catalogues/boston.json")
}

/// A text of the example.
///
/// # Panics
///
/// There is no such text.
pub fn text(name: &str) -> String {
    std::fs::read_to_string(example(name)).unwrap()
}

/// The rows that are not shipped, and what they add up to.
pub fn shared() -> Option<PathBuf> {
    let folder = root().join("../shared/data/boston-311");
    folder.join("expected-2011-07-09.csv").exists().then_some(folder)
}

/// The contents of a gzip file.
///
/// # Panics
///
/// The file cannot be read.
pub fn unpacked(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    MultiGzDecoder::new(std::fs::File::open(path).unwrap()).read_to_end(&mut bytes).unwrap();
    bytes
}

/// Units with their parents; units above come first.
///
/// # Panics
///
/// The example is damaged.
pub fn tree() -> Vec<(String, String)> {
    let text = text("units.csv");
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let mut tree: Vec<(String, String)> = reader
        .records()
        .map(|row| row.unwrap())
        .map(|row| (row[0].to_owned(), row[3].to_owned()))
        .collect();
    tree.sort_by_key(|(unit, _)| unit.matches('-').count());
    tree
}

/// Figures from the rows alone, of those rows whose unit is served.
///
/// # Panics
///
/// The rows are malformed.
pub fn flat(files: &[Vec<u8>], is_served: impl Fn(&str) -> bool) -> Figures {
    let parents: BTreeMap<String, String> = tree().into_iter().collect();
    let precincts: BTreeMap<&str, &String> =
        parents.keys().filter_map(|unit| Some((unit.splitn(4, '-').nth(3)?, unit))).collect();
    let mut figures: Figures = parents.keys().map(|unit| (unit.clone(), [0; 9])).collect();
    let mut types: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in files {
        let mut reader = csv::Reader::from_reader(file.as_slice());
        let headers = reader.headers().unwrap().clone();
        let at = |name: &str| headers.iter().position(|header| header == name).unwrap();
        let columns = ["open_dt", "target_dt", "closed_dt", "ontime", "type", "precinct"].map(at);
        for row in reader.records() {
            let row = row.unwrap();
            let [opened, target, closed, ontime, kind, precinct] =
                columns.map(|column| row[column].trim().to_owned());
            let [opened, target, closed] = [opened, target, closed].map(|text| instant(&text));
            let seconds = closed.map_or(0, |closed| i128::from(closed - opened.unwrap()));
            let city = "BOS".to_owned();
            let mut unit = (*precincts.get(precinct.as_str()).unwrap_or(&&city)).clone();
            if !is_served(&unit) {
                continue;
            }
            while !unit.is_empty() {
                let is = |condition: bool| i128::from(condition);
                let within = closed.is_some_and(|closed| target.is_some_and(|t| closed <= t));
                let total = figures.get_mut(&unit).unwrap();
                total[0] += 1;
                total[1] += is(closed.is_some());
                total[2] += is(closed.is_none());
                total[3] += is(target.is_some());
                total[4] += is(within);
                total[5] += is(ontime == "OVERDUE");
                total[6] += seconds;
                total[7] = total[7].max(seconds);
                let kinds = types.entry(unit.clone()).or_default();
                kinds.extend((!kind.is_empty()).then(|| kind.clone()));
                total[8] = kinds.len() as i128;
                unit = parents[&unit].clone();
            }
        }
    }
    figures
}

/// Seconds since 1970 of a local time of Boston, by the rule in force since 2007: summer time from
/// the second Sunday of March to the first of November, at two o'clock.
fn instant(text: &str) -> Option<i64> {
    let mut numbers = text.split(['-', ' ', ':']).map(|number| number.parse::<i64>());
    let mut next = || numbers.next()?.ok();
    let [year, month, day] = [next()?, next()?, next()?];
    let [hour, minute, second] = [next()?, next()?, next()?];
    let sunday = |month: i64, nth: i64| {
        let first = days(year, month, 1);
        // 1970-01-01 was a Thursday.
        first + (10 - first.rem_euclid(7)) % 7 + 7 * (nth - 1)
    };
    let local = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    let begin = sunday(3, 2) * 86_400 + 2 * 3600;
    let end = sunday(11, 1) * 86_400 + 2 * 3600;
    let is_summer = (begin..end).contains(&local);
    Some(local + if is_summer { 4 * 3600 } else { 5 * 3600 })
}

/// Days from 1970-01-01 to a day of the Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let is_leap = |year: i64| (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let lengths = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let years: i64 = (1970..year).map(|year| if is_leap(year) { 366 } else { 365 }).sum();
    let months: i64 = (1..month)
        .map(|month| {
            lengths[usize::try_from(month - 1).unwrap()] + i64::from(month == 2 && is_leap(year))
        })
        .sum();
    years + months + day - 1
}

/// The published totals in `folder`.
///
/// # Panics
///
/// The file is missing or damaged.
pub fn expected(folder: &Path) -> Figures {
    let mut reader = csv::Reader::from_path(folder.join("expected-2011-07-09.csv")).unwrap();
    let headers = reader.headers().unwrap().clone();
    assert_eq!(headers.iter().skip(2).collect::<Vec<_>>(), COLUMNS);
    reader
        .records()
        .map(|row| row.unwrap())
        .map(|row| {
            let figures: Vec<i128> = row.iter().skip(2).map(|cell| cell.parse().unwrap()).collect();
            (row[0].to_owned(), figures.try_into().unwrap())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_of_the_flat_calculation_is_right() {
        assert_eq!(instant("1970-01-01 00:00:00"), Some(5 * 3600));
        assert_eq!(instant("2011-07-01 01:32:33"), Some(1_309_498_353));
        assert_eq!(instant("2011-11-06 01:30:00"), Some(1_320_557_400));
        assert_eq!(instant("2011-11-06 02:00:00"), Some(1_320_562_800));
        assert_eq!(instant("2012-03-11 03:00:00"), Some(1_331_449_200));
        assert_eq!(instant(""), None);
    }
}
