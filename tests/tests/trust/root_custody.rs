//! Custody of the root key, as the written drill goes: split, proven, taken from the host, used from
//! shares on another machine; and the city goes on without it.

use std::{fs, path::Path};

use lianxi_tests::binary::{Answer, Running, run};

/// Runs `lianxi` with the words of `line` below `place`.
async fn lianxi(place: &Path, line: &str) -> Answer {
    run(place, line.split_whitespace()).await
}

async fn done(place: &Path, line: &str) -> String {
    lianxi(place, line).await.succeeds()
}

async fn city(place: &Path, suite: &str) {
    let init = format!(
        "node init --dir city --code C --level city --title C --domain c.example --suite {suite} --listen 127.0.0.1:0"
    );
    done(place, &init).await;
}

const SHARES: &str =
    "--share paper/share-1.txt --share paper/share-3.txt --share paper/share-5.txt";

fn root_file(place: &Path) -> std::path::PathBuf {
    place.join("city/keys/C/root.keys")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_drill_splits_proves_removes_and_renews_from_shares() {
    for suite in ["ed25519", "sm2-sm3"] {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path();
        city(place, suite).await;
        let before = lianxi(place, "root show --dir city --json").await.json();
        assert_eq!((&before["on_disk"], &before["suite"]), (&true.into(), &suite.into()));

        done(place, "root split --dir city --shares 5 --threshold 3 --out paper").await;
        assert_eq!(fs::read_dir(place.join("paper")).unwrap().count(), 5);
        let proven = lianxi(
            place,
            "root verify-shares --json paper/share-1.txt paper/share-2.txt paper/share-4.txt",
        );
        assert_eq!(proven.await.json()["key_id"], before["key_id"]);

        done(place, &format!("root remove --dir city --dry-run {SHARES}")).await;
        assert!(root_file(place).exists());
        done(place, &format!("root remove --dir city {SHARES}")).await;
        assert!(!root_file(place).exists());
        let after = lianxi(place, "root show --dir city --json").await.json();
        assert_eq!((&after["on_disk"], &after["key_id"]), (&false.into(), &before["key_id"]));

        // The city runs, and lets a child in.
        let running = Running::start(place, "city").await;
        done(place, "node invite --dir city --level district --title D C-1 --dry-run").await;
        lianxi(place, "root show --dir city").await.fails(5, &["the store is in use"]);
        running.kill().await;

        // The key signs on another machine, where there is no host.
        done(place, "root request --dir city --out request.txt --days 4000").await;
        let sign = format!("root sign request.txt {SHARES} --out signed.txt");
        done(place, &format!("{sign} --dry-run")).await;
        assert!(!place.join("signed.txt").exists());
        done(place, &sign).await;
        let dry = lianxi(place, "root install --dir city signed.txt --dry-run --json").await.json();
        assert!(dry["serial"].as_u64().unwrap() > 0);
        let unchanged = lianxi(place, "root show --dir city --json").await.json();
        assert_eq!(unchanged["delegation_ends_unix_ms"], before["delegation_ends_unix_ms"]);
        done(place, "root install --dir city signed.txt").await;
        let renewed = lianxi(place, "root show --dir city --json").await.json();
        let ends = |facts: &serde_json::Value| facts["delegation_ends_unix_ms"].as_i64().unwrap();
        assert!(ends(&renewed) > ends(&before), "{renewed} {before}");
        let running = Running::start(place, "city").await;
        running.kill().await;

        // Restored for a drill, the key is the same.
        done(
            place,
            "root restore --out safe paper/share-5.txt paper/share-2.txt paper/share-3.txt",
        )
        .await;
        done(place, "root sign request.txt --key safe --out again.txt").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_root_key_is_not_removed_before_its_shares_gave_it_back() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path();
    city(place, "ed25519").await;
    done(place, "root split --dir city --shares 3 --threshold 2 --out paper").await;
    let stays = async |line: &str, words: &[&str]| {
        lianxi(place, line).await.fails(5, words);
        assert!(root_file(place).exists(), "{line}");
    };
    stays("root remove --dir city --share paper/share-1.txt", &["2 are needed"]).await;
    let same = "root remove --dir city --share paper/share-1.txt --share paper/share-1.txt";
    stays(same, &["2 are needed"]).await;
    let text = fs::read_to_string(place.join("paper/share-2.txt")).unwrap();
    fs::write(place.join("typo.txt"), text.replacen("share: 2", "share: 3", 1)).unwrap();
    let typo = "root remove --dir city --share paper/share-1.txt --share typo.txt";
    stays(typo, &["checksum"]).await;

    // Shares of another city's key, which are all in order.
    let other = tempfile::tempdir().unwrap();
    city(other.path(), "ed25519").await;
    done(other.path(), "root split --dir city --shares 3 --threshold 2 --out paper").await;
    let foreign = format!(
        "root remove --dir city --share {0}/share-1.txt --share {0}/share-2.txt",
        other.path().join("paper").display()
    );
    stays(&foreign, &["another root key"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_root_signed_or_nobody_asked_for_is_not_installed() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path();
    city(place, "ed25519").await;
    done(place, "root request --dir city --out request.txt").await;
    let other = tempfile::tempdir().unwrap();
    city(other.path(), "ed25519").await;
    let key = other.path().join("city/keys/C");
    let sign = format!("root sign request.txt --key {} --out forged.txt", key.display());
    done(place, &sign).await;
    lianxi(place, "root install --dir city forged.txt").await.fails(5, &["is unknown"]);
    lianxi(place, "root install --dir city request.txt")
        .await
        .fails(5, &["lianxi root delegation"]);
    let done_twice = "root request --dir city --out request.txt";
    lianxi(place, done_twice).await.fails(1, &["cannot write request.txt"]);
}
