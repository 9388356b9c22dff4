//! Names that lead out of the folder they belong in: what an import brings reads and writes no other
//! file. What exports write is attacked in `packs.rs`.

use std::{collections::BTreeSet, fs, path::Path};

use lianxi_proto::local::v1::{ImportOptions, ImportRequest, import_request::Part};
use lianxi_tests::{
    acts::refusals,
    binary::run,
    federation::{Federation, MAPPING, mapping_json},
};
use tokio_stream::StreamExt as _;
use tonic::Code;

const ROWS: &str =
    "case,unit,opened,closed,type,address\n1,C,2011-07-01 08:00:00,,light,1 Main St\n";

/// Every file below `place`.
fn files(place: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut waiting = vec![place.to_owned()];
    while let Some(next) = waiting.pop() {
        for entry in fs::read_dir(next).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                waiting.push(entry.path());
            } else {
                found.insert(entry.path().strip_prefix(place).unwrap().display().to_string());
            }
        }
    }
    found
}

/// A mapping that came from somebody else names a file that is none of its business.
#[tokio::test(flavor = "multi_thread")]
async fn a_mapping_reads_no_file_outside_its_own_folder() {
    let federation = Federation::city("C").await;
    let outer = tempfile::tempdir().unwrap();
    let place = outer.path().join("in");
    fs::create_dir_all(place.join("below")).unwrap();
    let secret = "value,unit\nlight,planted-secret\n";
    fs::write(outer.path().join("secret.csv"), secret).unwrap();
    std::os::unix::fs::symlink("../secret.csv", place.join("link.csv")).unwrap();
    fs::write(place.join("rows.csv"), ROWS).unwrap();
    let directory = federation.directory("C");
    let import = async |lookup: &str| {
        let named = format!("\"unit\"\nlookup = {lookup:?}");
        fs::write(place.join("m.toml"), MAPPING.replacen("\"unit\"", &named, 1)).unwrap();
        let dir = directory.to_str().unwrap();
        run(&place, ["record", "import", "rows.csv", "--mapping", "m.toml", "--dir", dir]).await
    };
    let absolute = outer.path().join("secret.csv");
    for name in ["../secret.csv", "below/../../secret.csv", absolute.to_str().unwrap(), "link.csv"]
    {
        let answer = import(name).await;
        answer.fails(2, &["m.toml", "outside the folder of the mapping"]);
        assert!(!answer.stderr.contains("planted"), "{answer:?}");
    }
    fs::write(place.join("below/units.csv"), "value,unit\nC,C\n").unwrap();
    let _ = import("below/units.csv").await.succeeds();
}

/// Past the command line: the node opens no file that a request names, and stores under its own names.
#[tokio::test(flavor = "multi_thread")]
async fn an_import_names_no_file_of_the_node() {
    let federation = Federation::city("C").await;
    let directory = federation.directory("C");
    let before = files(directory.parent().unwrap());
    let import = async |mapping: Vec<u8>, file_name: &str| {
        let options =
            ImportOptions { mapping, file_name: file_name.to_owned(), ..Default::default() };
        let parts = [Part::Options(options), Part::Chunk(ROWS.as_bytes().to_vec())];
        let parts = parts.map(|part| ImportRequest { part: Some(part) });
        let requests = tokio_stream::iter(parts);
        let mut events = federation.client("C").records().import(requests).await?.into_inner();
        while let Some(event) = events.next().await {
            event?;
        }
        Ok::<(), tonic::Status>(())
    };
    let mapping = String::from_utf8(mapping_json()).unwrap();
    let named = mapping.replacen(
        "\"column\":\"unit\"",
        "\"column\":\"unit\",\"lookup\":\"../../etc/passwd\"",
        1,
    );
    assert_ne!(named, mapping, "{mapping}");
    let refused = import(named.into_bytes(), "rows.csv").await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("names a file"), "{refused}");
    assert_eq!(refusals(&federation, "C", "record.import", "mapping").await, ["malformed"]);

    for name in ["../escaped", "/tmp/escaped", "../../escaped.csv", ""] {
        import(mapping.clone().into_bytes(), name).await.unwrap();
    }
    let new: Vec<_> = files(directory.parent().unwrap()).difference(&before).cloned().collect();
    let own = |path: &String| path.contains("/store/") || path.contains("/journal");
    assert!(new.iter().all(own), "{new:?}");
    assert!(!Path::new("/tmp/escaped").exists());
}
