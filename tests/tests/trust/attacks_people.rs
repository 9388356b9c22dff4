//! Attacks on accounts, sessions, roles and second persons, over a real socket: each is refused with
//! its own reason, and the journal names it.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use aho_corasick::AhoCorasick;
use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD};
use lianxi_node::{
    config::HostConfig,
    domain::{refusals, role::Role},
    grpc::access::rules::{Audience, RULES, Target},
    identity::keys::{self, Lock},
    node::{Error, Host, Options},
    store::{Batch, Table},
    telemetry::Metrics,
};
use lianxi_proto::{
    admin::v1 as pb,
    types::v1::{Escalation, Level},
};
use lianxi_tests::{
    federation::Federation,
    people::{PASSWORD, People, account, acts, approval, role},
};
use prost::Message as _;
use tonic::{Code, Status};

/// A city with its three administrators, and sessions of the first two.
async fn city() -> (Federation, People, String, String) {
    let federation = Federation::city("C").await;
    let people = People::of(&federation, "C");
    people.set_up().await;
    let (system, security) = (people.login("system").await, people.login("security").await);
    (federation, people, system, security)
}

async fn refused_for(federation: &Federation, reason: &str) -> Vec<String> {
    let acts = acts(federation, "C").await;
    let refused = acts.iter().filter(|act| act.refused == reason);
    refused.map(|act| format!("{} {} {}", act.actor, act.name, act.subject)).collect()
}

async fn whoami(people: &People, token: &str) -> Result<pb::WhoamiResponse, Status> {
    people.call(token, &account("Whoami"), pb::WhoamiRequest {}).await
}

#[tokio::test]
async fn guessing_locks_an_account_and_even_the_right_password_waits() {
    let (federation, people, system, security) = city().await;
    people.add(&system, &security, "wangwei", &[role("operator", "C")]).await;
    for guess in 0..5 {
        let code = people.code("wangwei");
        let refused = people.try_login("wangwei", &format!("guess-{guess}"), &code).await;
        assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
    }
    let code = people.code("wangwei");
    let locked = people.try_login("wangwei", PASSWORD, &code).await.unwrap_err();
    assert_eq!(locked.code(), Code::Unauthenticated);
    assert_eq!(refused_for(&federation, "locked-out").await.len(), 1);
    assert_eq!(refused_for(&federation, "wrong-password").await.len(), 5);
    people.wait(60_000);
    people.login("wangwei").await;
}

#[tokio::test]
async fn guessing_codes_locks_an_account_too() {
    let (federation, people, _, _) = city().await;
    for _ in 0..5 {
        let refused = people.try_login("audit", PASSWORD, "abcdef").await;
        assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
    }
    let code = people.code("audit");
    assert!(people.try_login("audit", PASSWORD, &code).await.is_err());
    assert_eq!(refused_for(&federation, "locked-out").await, ["uid:0 account.login audit"]);
}

/// Asks for an account of `name` and returns its activation code.
async fn invited(people: &People, system: &str, security: &str, name: &str) -> String {
    let add = pb::AddAccountRequest {
        name: name.to_owned(),
        title: "Wang Wei".to_owned(),
        roles: vec![role("operator", "C")],
    };
    let id = people.ask(system, &account("Add"), add).await;
    let confirmed = people.confirm(security, id).await.unwrap();
    pb::ActivationResponse::decode(&confirmed.response[..]).unwrap().activation_code
}

async fn begin(people: &People, name: &str, code: &str) -> Result<pb::Factor, Status> {
    let begin = pb::BeginActivationRequest {
        name: name.to_owned(),
        activation_code: code.to_owned(),
        password: PASSWORD.to_owned(),
    };
    let begun = people.call("", &account("BeginActivation"), begin).await;
    begun.map(|begun: pb::BeginActivationResponse| begun.factor.unwrap())
}

async fn finish(people: &People, name: &str, code: &str, one_time: &str) -> Result<(), Status> {
    let finish = pb::FinishActivationRequest {
        name: name.to_owned(),
        activation_code: code.to_owned(),
        code: one_time.to_owned(),
    };
    let path = account("FinishActivation");
    people.call::<_, pb::FinishActivationResponse>("", &path, finish).await.map(|_| ())
}

#[tokio::test]
async fn guessing_an_activation_code_locks_the_activation() {
    let (federation, people, system, security) = city().await;
    let code = invited(&people, &system, &security, "wangwei").await;
    for guess in 0..5 {
        let refused = begin(&people, "wangwei", &format!("lxa_{guess}")).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
    }
    let locked = begin(&people, "wangwei", &code).await.unwrap_err();
    assert_eq!(locked.code(), Code::Unauthenticated);
    assert_eq!(refused_for(&federation, "wrong-activation").await.len(), 5);
    assert_eq!(refused_for(&federation, "locked-out").await, ["uid:0 account.activate wangwei"]);
    // Neither an account without an activation nor one that is not there is locked by it.
    for name in ["audit", "nobody"].repeat(6) {
        let refused = begin(&people, name, "lxa_guess").await.unwrap_err();
        assert_eq!(refused.message(), locked.message(), "{name}");
    }
    assert_eq!(refused_for(&federation, "activation").await.len(), 12);
    people.login("audit").await;
    people.wait(60_000);
    people.activate("wangwei", &code).await;
    people.login("wangwei").await;
}

#[tokio::test]
async fn guessing_the_second_factor_of_an_activation_locks_it() {
    let (federation, people, system, security) = city().await;
    let code = invited(&people, &system, &security, "wangwei").await;
    let early = finish(&people, "wangwei", &code, "000000").await.unwrap_err();
    assert_eq!(early.code(), Code::Unauthenticated, "nothing was begun");
    people.scan(&begin(&people, "wangwei", &code).await.unwrap());
    for _ in 0..5 {
        let refused = finish(&people, "wangwei", &code, "abcdef").await.unwrap_err();
        assert!(refused.message().starts_with("the code of wangwei is wrong"), "{refused}");
    }
    let right = people.code("wangwei");
    let locked = finish(&people, "wangwei", &code, &right).await.unwrap_err();
    assert!(locked.message().contains("too often"), "{locked}");
    let wrong = refused_for(&federation, "wrong-code").await;
    assert_eq!(wrong, vec!["uid:0 account.activate wangwei"; 5]);
    assert_eq!(refused_for(&federation, "locked-out").await.len(), 1);
    assert_eq!(refused_for(&federation, "activation").await.len(), 1);
    people.wait(60_000);
    let right = people.code("wangwei");
    finish(&people, "wangwei", &code, &right).await.unwrap();
    people.login("wangwei").await;
}

#[tokio::test]
async fn guessing_the_old_password_of_a_change_locks_the_account() {
    let (federation, people, _, _) = city().await;
    let change = |code: String| pb::ChangePasswordRequest {
        name: "audit".to_owned(),
        old_password: PASSWORD.to_owned(),
        new_password: "harbour-moss-violin-52".to_owned(),
        code,
    };
    let path = account("ChangePassword");
    for _ in 0..5 {
        let changed = people.call::<_, ()>("", &path, change("abcdef".into())).await;
        assert_eq!(changed.unwrap_err().code(), Code::Unauthenticated);
    }
    let right = change(people.code("audit"));
    people.call::<_, ()>("", &path, right).await.unwrap_err();
    assert_eq!(refused_for(&federation, "locked-out").await, ["uid:0 account.password audit"]);
    assert_eq!(refused_for(&federation, "wrong-code").await.len(), 5);
}

#[tokio::test]
async fn guessing_the_codes_of_a_set_up_ends_it() {
    let federation = Federation::city("C").await;
    let people = People::of(&federation, "C");
    let person = |name: &str| {
        let (name, title) = (name.to_owned(), String::new());
        Some(pb::FirstAdministrator { name, title, password: PASSWORD.to_owned() })
    };
    let begin = pb::BeginSetupRequest {
        system: person("system"),
        security: person("security"),
        audit: person("audit"),
    };
    let begun: pb::BeginSetupResponse =
        people.call("", &account("BeginSetup"), begin).await.unwrap();
    begun.factors.iter().for_each(|factor| people.scan(factor));
    let finish = |code: String| pb::FinishSetupRequest {
        system_code: code.clone(),
        security_code: code.clone(),
        audit_code: code,
    };
    let path = account("FinishSetup");
    for _ in 0..5 {
        let refused = people.call::<_, ()>("", &path, finish("abcdef".into())).await;
        assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
    }
    let right = finish(people.code("system"));
    let over = people.call::<_, ()>("", &path, right).await.unwrap_err();
    assert!(over.message().starts_with("no set-up is under way"), "{over}");
    assert_eq!(refused_for(&federation, "wrong-code").await, vec!["uid:0 account.setup "; 5]);
    assert_eq!(refused_for(&federation, "set-up").await.len(), 1);
    people.set_up().await;
}

#[tokio::test]
async fn an_unknown_name_is_answered_like_a_wrong_password() {
    let (federation, people, _, _) = city().await;
    let code = people.code("audit");
    let known = people.try_login("audit", "no-such-password", &code).await.unwrap_err();
    let wrong_code = people.try_login("audit", PASSWORD, "000000").await.unwrap_err();
    for name in ["nobody", "", "../audit"] {
        let unknown = people.try_login(name, PASSWORD, &code).await.unwrap_err();
        assert_eq!((unknown.code(), unknown.message()), (known.code(), known.message()), "{name}");
    }
    assert_eq!(wrong_code.message(), known.message());
    assert_eq!(refused_for(&federation, "unknown-account").await.len(), 3);
}

#[tokio::test]
async fn a_code_that_was_used_is_refused() {
    let (federation, people, _, _) = city().await;
    let code = people.code("audit");
    people.try_login("audit", PASSWORD, &code).await.unwrap();
    let again = people.try_login("audit", PASSWORD, &code).await.unwrap_err();
    assert_eq!(again.code(), Code::Unauthenticated);
    assert_eq!(refused_for(&federation, "code-used").await.len(), 1);
}

/// Every way in which bytes could stand in a file.
fn forms(secret: &[u8]) -> Vec<Vec<u8>> {
    let mut forms = vec![
        secret.to_vec(),
        hex::encode(secret).into_bytes(),
        hex::encode_upper(secret).into_bytes(),
        secret.iter().map(u8::to_string).collect::<Vec<_>>().join(",").into_bytes(),
    ];
    for shift in 0..3 {
        // Without the characters that also depend on what stands beside it.
        let beside = [&vec![0; shift][..], secret].concat();
        let text = BASE64_STANDARD_NO_PAD.encode(beside).into_bytes();
        forms.push(text[(8 * shift).div_ceil(6)..text.len() - 1].to_vec());
    }
    forms
}

/// Files below the directory of a host in which one of `secrets` stands.
fn files_with(directory: &Path, secrets: &[Vec<u8>]) -> Vec<PathBuf> {
    let forms: Vec<Vec<u8>> = secrets.iter().flat_map(|secret| forms(secret)).collect();
    let search = AhoCorasick::new(&forms).unwrap();
    let (mut found, mut open, mut bytes) = (Vec::new(), vec![directory.to_owned()], 0);
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.is_file() {
            let content = fs::read(&path).unwrap();
            bytes += content.len();
            if search.is_match(&content) {
                found.push(path);
            }
        }
    }
    assert!(bytes > 100_000, "only {bytes} bytes were searched");
    found
}

#[tokio::test]
async fn the_secret_of_a_second_factor_is_in_no_file_of_the_host() {
    let (mut federation, people, system, security) = city().await;
    people.add(&system, &security, "wangwei", &[role("operator", "C")]).await;
    people.login("wangwei").await;
    let names = ["system", "security", "audit", "wangwei"];
    let secrets = names.map(|name| people.secret(name));
    let directory = federation.directory("C");
    assert_eq!(files_with(&directory, &secrets), Vec::<PathBuf>::new());
    // What is looked for would be found.
    fs::write(directory.join("leak"), hex::encode(&secrets[3])).unwrap();
    assert_eq!(files_with(&directory, &secrets), [directory.join("leak")]);
    fs::remove_file(directory.join("leak")).unwrap();
    federation.stop("C").await;
    assert_eq!(files_with(&directory, &secrets), Vec::<PathBuf>::new());
    federation.start("C").await;
    people.login("wangwei").await;
    federation.stop("C").await;
    // The key is a file of its owner, and the factors are worth nothing without it.
    let key = directory.join("keys/people.keys");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    fs::rename(&key, directory.join("keys/elsewhere")).unwrap();
    let config = HostConfig::load(&directory.join("node.toml")).unwrap();
    let clock = Arc::new(federation.clock.clone());
    let options = Options { clock, metrics: Metrics::installed(), tap: None, lock: Lock::none() };
    let missing = Host::bind(config, options).await.unwrap_err();
    let Error::Keys(keys::Error::Missing(path)) = &missing else { panic!("{missing}") };
    assert_eq!(path, &key);
    assert!(!key.exists(), "no other key is made in its place");
}

/// A store of an earlier version has the secrets in clear: they are sealed when the host starts.
#[tokio::test]
async fn second_factors_of_an_earlier_version_are_sealed_at_the_start() {
    let (mut federation, people, _, _) = city().await;
    let space = "HOST0".parse().unwrap();
    let store = Arc::clone(federation.host("C").store());
    let row = store.get(&space, Table::Accounts, b"audit").await.unwrap().unwrap();
    assert_eq!(row[0], 2);
    let mut account: serde_json::Value = serde_json::from_slice(&row[1..]).unwrap();
    account["factor"] = hex::encode(people.secret("audit")).into();
    let mut batch = Batch::new(&space);
    batch.put(Table::Accounts, b"audit", [&[1][..], account.to_string().as_bytes()].concat());
    store.submit(batch).await.unwrap();
    drop(store);
    federation.stop("C").await;
    federation.start("C").await;
    let store = Arc::clone(federation.host("C").store());
    let row = store.get(&space, Table::Accounts, b"audit").await.unwrap().unwrap();
    assert_eq!(row[0], 2);
    let text = String::from_utf8(row).unwrap();
    assert!(!text.contains(&hex::encode(people.secret("audit"))), "{text}");
    drop(store);
    people.login("audit").await;
}

#[tokio::test]
async fn a_session_acts_for_its_own_account_and_no_changed_token_does() {
    let (federation, people, system, security) = city().await;
    assert_eq!(whoami(&people, &system).await.unwrap().name, "system");
    assert_eq!(whoami(&people, &security).await.unwrap().name, "security");
    // What only a system administrator may, the other's session does not get.
    let close = pb::CloseAccountRequest {
        name: "audit".to_owned(),
        successor: "system".to_owned(),
        dry_run: true,
    };
    let refused = people.call::<_, ()>(&security, &account("Close"), close).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    for at in 0..system.len() {
        let mut changed = system.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        let refused = whoami(&people, &changed).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "byte {at}");
    }
    // A changed prefix makes a token of it. What is over the bound for a stranger is counted.
    let unknown = refused_for(&federation, "unknown-session").await.len()
        + refused_for(&federation, "unknown-token").await.len();
    assert_eq!(unknown, usize::try_from(refusals::WRITTEN).unwrap());
}

#[tokio::test]
async fn a_desk_and_refused_desks_and_exports_stand_in_the_journal() {
    let federation = Federation::city("C").await;
    let people = People::of(&federation, "C");
    let add = || pb::AddDeskRequest {
        unit: "C".to_owned(),
        desk: "PARKS".to_owned(),
        title: "Parks".to_owned(),
        line: "parks".to_owned(),
    };
    let path = "/lianxi.admin.v1.NodeService/AddDesk";
    people.call::<_, pb::AddDeskResponse>("", path, add()).await.unwrap();
    let again = people.call::<_, pb::AddDeskResponse>("", path, add()).await.unwrap_err();
    assert_eq!(again.code(), Code::AlreadyExists);
    let export = lianxi_proto::local::v1::ExportPackRequest {
        unit: "C".to_owned(),
        period: "never".to_owned(),
        ..Default::default()
    };
    let path = "/lianxi.local.v1.PackService/Export";
    let refused = people.call::<_, ()>("", path, export).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let acts = acts(&federation, "C").await;
    let of = |name: &str| -> Vec<_> {
        let acts = acts.iter().filter(|act| act.name == name);
        acts.map(|act| (act.subject.as_str(), act.refused.as_str())).collect()
    };
    assert_eq!(of("desk.add"), [("PARKS", ""), ("PARKS", "exists")]);
    assert_eq!(of("pack.export"), [("never", "invalid-argument")]);
}

/// Whoever reaches the socket can be refused as often as there is time; the journal does not grow
/// with it, and says how often it was.
#[tokio::test]
async fn hundreds_of_refused_calls_make_few_leaves_and_are_counted() {
    let (federation, people, system, _) = city().await;
    let before = acts(&federation, "C").await.len();
    for _ in 0..300 {
        let refused = whoami(&people, "lxs_nobody").await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
    }
    let written = usize::try_from(refusals::WRITTEN).unwrap();
    assert_eq!(acts(&federation, "C").await.len() - before, written);
    people.wait(refusals::WINDOW_MS);
    whoami(&people, "lxs_nobody").await.unwrap_err();
    let left_out = refused_for(&federation, "too-many").await;
    let counted = format!("node refusals.left-out {} of uid:", 300 - written);
    assert!(left_out.len() == 1 && left_out[0].starts_with(&counted), "{left_out:?}");
    assert_eq!(whoami(&people, &system).await.unwrap().name, "system");
}

#[tokio::test]
async fn a_session_is_over_after_logout_after_silence_and_at_its_age() {
    let (federation, people, system, _) = city().await;
    let _: pb::LogoutResponse =
        people.call(&system, &account("Logout"), pb::LogoutRequest {}).await.unwrap();
    assert_eq!(whoami(&people, &system).await.unwrap_err().code(), Code::Unauthenticated);

    let silent = people.login("system").await;
    people.wait(30 * 60_000);
    assert_eq!(whoami(&people, &silent).await.unwrap_err().code(), Code::Unauthenticated);

    let busy = people.login("system").await;
    for _ in 0..29 {
        people.wait(25 * 60_000 - 60_000);
        whoami(&people, &busy).await.unwrap();
    }
    people.wait(24 * 60_000 + 1);
    assert_eq!(whoami(&people, &busy).await.unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(refused_for(&federation, "session-over").await.len(), 2);
}

#[tokio::test]
async fn a_closed_account_has_no_sessions_no_tokens_and_no_login() {
    let (federation, people, system, security) = city().await;
    people.add(&system, &security, "wangwei", &[role("operator", "C")]).await;
    people.add(&system, &security, "lina", &[role("liaison", "C")]).await;
    let session = people.login("wangwei").await;
    let add = pb::AddTokenRequest {
        title: "grid app".to_owned(),
        roles: vec![role("operator", "C")],
        methods: Vec::new(),
        valid_for_ms: 86_400_000,
    };
    let token: pb::AddTokenResponse =
        people.call(&session, &account("AddToken"), add).await.unwrap();
    let count = "/lianxi.local.v1.RecordService/Count";
    people.call::<_, ()>(&token.token, count, ()).await.unwrap();
    let (system, security) = (people.login("system").await, people.login("security").await);
    let close = |successor: &str| pb::CloseAccountRequest {
        name: "wangwei".to_owned(),
        successor: successor.to_owned(),
        dry_run: false,
    };
    let itself = people.ask(&system, &account("Close"), close("wangwei")).await;
    let refused = people.confirm(&security, itself).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let id = people.ask(&system, &account("Close"), close("lina")).await;
    let closed = people.confirm(&security, id).await.unwrap();
    let closed = pb::CloseAccountResponse::decode(&closed.response[..]).unwrap();
    assert_eq!((closed.tokens_ended, closed.sessions_ended), (1, 1));

    assert_eq!(whoami(&people, &session).await.unwrap_err().code(), Code::Unauthenticated);
    let refused = people.call::<_, ()>(&token.token, count, ()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let code = people.code("wangwei");
    assert!(people.try_login("wangwei", PASSWORD, &code).await.is_err());
    assert_eq!(refused_for(&federation, "unknown-token").await.len(), 1);
    // The name is never given to another person.
    let again = pb::AddAccountRequest {
        name: "wangwei".to_owned(),
        title: "Another".to_owned(),
        roles: Vec::new(),
    };
    let id = people.ask(&system, &account("Add"), again).await;
    assert_eq!(people.confirm(&security, id).await.unwrap_err().code(), Code::AlreadyExists);
}

/// Every method of the socket, tried by every role: only those of its line are let through.
#[tokio::test]
async fn a_role_that_tries_each_other_roles_commands_is_refused() {
    let (federation, people, system, security) = city().await;
    let mut sessions = Vec::new();
    for given in Role::ALL {
        let session = match given {
            Role::SystemAdministrator => system.clone(),
            Role::SecurityAdministrator => security.clone(),
            Role::AuditAdministrator => people.login("audit").await,
            _ => {
                let name = format!("p-{given}");
                people.add(&system, &security, &name, &[role(given.as_str(), "C")]).await;
                people.login(&name).await
            }
        };
        sessions.push((given, session));
    }
    let mut refused = 0;
    for (given, session) in &sessions {
        for rule in RULES.iter().filter(|rule| rule.act != "account.logout") {
            let tried = try_method(&people, session, rule.path, rule.target).await;
            let denied = |status: &Status| {
                status.code() == Code::PermissionDenied
                    && status.message().starts_with("this takes the role")
            };
            let was_denied = tried.as_ref().is_err_and(denied);
            let may = match rule.audience {
                Audience::Roles(may) => may.contains(given),
                Audience::Host | Audience::Person | Audience::Anyone => true,
            };
            assert_ne!(was_denied, may, "{given} at {}: {tried:?}", rule.path);
            refused += usize::from(was_denied);
        }
    }
    assert!(refused > 100, "only {refused} attempts were refused");
    assert_eq!(refused_for(&federation, "role").await.len(), refused);
    // Without a session the node's own user is asked to log in, once there are accounts.
    for rule in RULES {
        let open = matches!(rule.audience, Audience::Host | Audience::Anyone);
        let tried = try_method(&people, "", rule.path, rule.target).await;
        let asked = tried.is_err_and(|status| status.message().starts_with("log in first"));
        assert_ne!(asked, open, "{}", rule.path);
    }
}

async fn try_method(
    people: &People,
    token: &str,
    path: &str,
    target: Target,
) -> Result<(), Status> {
    match target {
        Target::Unit => people.call(token, path, pb::UnitsRequest { unit: "C".to_owned() }).await,
        Target::EveryUnit | Target::AnyUnit => people.call(token, path, ()).await,
    }
}

#[tokio::test]
async fn a_role_of_one_unit_is_none_of_another() {
    let federation = {
        let mut federation = Federation::city("C").await;
        federation.add_unit("D", "C", Level::District).await;
        federation
    };
    let people = People::of(&federation, "C");
    people.set_up().await;
    let (system, security) = (people.login("system").await, people.login("security").await);
    people.add(&system, &security, "lina", &[role("operator", "D")]).await;
    people.add(&system, &security, "wangwei", &[role("operator", "C")]).await;
    let (below, above) = (people.login("lina").await, people.login("wangwei").await);
    let list = "/lianxi.local.v1.NoticeService/List";
    for (token, unit, may) in
        [(&below, "D", true), (&below, "C", false), (&above, "C", true), (&above, "D", true)]
    {
        let request = pb::UnitsRequest { unit: unit.to_owned() };
        let tried = people.call::<_, ()>(token, list, request).await;
        let denied = tried.is_err_and(|status| status.code() == Code::PermissionDenied);
        assert_ne!(denied, may, "{unit}");
    }
    // No unit named means all of them, and importing writes to all of them.
    let everything = people.call::<_, ()>(&below, list, ()).await.unwrap_err();
    assert_eq!(everything.code(), Code::PermissionDenied);
    let import = people.call::<_, ()>(&below, "/lianxi.local.v1.RecordService/Import", ()).await;
    assert_eq!(import.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(refused_for(&federation, "unit").await.len(), 3);
}

#[tokio::test]
async fn no_account_gets_two_of_the_three_administrators() {
    let (federation, people, system, security) = city().await;
    let grant = |name: &str, word: &str| pb::GrantRequest {
        name: name.to_owned(),
        grant: Some(role(word, "")),
    };
    let id = people.ask(&system, &account("Grant"), grant("audit", "security-administrator")).await;
    let refused = people.confirm(&security, id).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let both = pb::AddAccountRequest {
        name: "wangwei".to_owned(),
        title: "Wang Wei".to_owned(),
        roles: vec![role("system-administrator", ""), role("audit-administrator", "")],
    };
    let id = people.ask(&system, &account("Add"), both).await;
    assert_eq!(people.confirm(&security, id).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(refused_for(&federation, "two-administrators").await.len(), 2);
    assert_eq!(whoami(&people, &people.login("audit").await).await.unwrap().roles.len(), 1);
}

#[tokio::test]
async fn the_second_person_is_another_person() {
    let (federation, people, system, security) = city().await;
    let add = |name: &str| pb::AddAccountRequest {
        name: name.to_owned(),
        title: "Somebody".to_owned(),
        roles: vec![role("operator", "C")],
    };
    let id = people.ask(&system, &account("Add"), add("wangwei")).await;
    // In another session it is the same person all the same.
    for session in [system.clone(), people.login("system").await] {
        let refused = people.confirm(&session, id).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
    }
    // Whoever audits is no second person either: that would be an act.
    let audit = people.login("audit").await;
    assert_eq!(people.confirm(&audit, id).await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(refused_for(&federation, "same-person").await.len(), 2);
    assert_eq!(refused_for(&federation, "not-second").await.len(), 1);
    people.confirm(&security, id).await.unwrap();
    assert_eq!(people.confirm(&security, id).await.unwrap_err().code(), Code::NotFound);
    // What nobody confirmed within a day has lapsed.
    let id = people.ask(&system, &account("Add"), add("lina")).await;
    people.wait(24 * 3_600_000);
    let security = people.login("security").await;
    assert_eq!(people.confirm(&security, id).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn an_act_is_not_done_for_somebody_who_lost_the_role_meanwhile() {
    let (_federation, people, system, security) = city().await;
    people.add(&system, &security, "second", &[role("system-administrator", "")]).await;
    let second = people.login("second").await;
    let invite = pb::InviteRequest {
        unit: "C".to_owned(),
        child: "C-1".to_owned(),
        child_level: Level::District.into(),
        child_title: "District".to_owned(),
        valid_for_ms: 0,
        dry_run: false,
        root_key: String::new(),
    };
    let id = people.ask(&second, "/lianxi.admin.v1.NodeService/Invite", invite.clone()).await;
    let withdraw = pb::WithdrawRequest {
        name: "second".to_owned(),
        grant: Some(role("system-administrator", "")),
    };
    let taken = people.ask(&system, &account("Withdraw"), withdraw).await;
    people.confirm(&security, taken).await.unwrap();
    assert_eq!(people.confirm(&security, id).await.unwrap_err().code(), Code::PermissionDenied);
    // For one who still may, the confirmation brings the token of the child.
    let id = people.ask(&system, "/lianxi.admin.v1.NodeService/Invite", invite).await;
    let confirmed = people.confirm(&security, id).await.unwrap();
    let invited = pb::InviteResponse::decode(&confirmed.response[..]).unwrap();
    assert!(!invited.token.is_empty());
}

#[tokio::test]
async fn a_lost_second_factor_takes_two_administrators_and_ends_the_old_one() {
    let (_federation, people, system, security) = city().await;
    people.add(&system, &security, "wangwei", &[role("operator", "C")]).await;
    let old_session = people.login("wangwei").await;
    let reset = pb::ResetFactorRequest { name: "wangwei".to_owned() };
    let id = people.ask(&security, &account("ResetFactor"), reset).await;
    assert_eq!(people.confirm(&security, id).await.unwrap_err().code(), Code::PermissionDenied);
    whoami(&people, &old_session).await.unwrap();
    let confirmed = people.confirm(&system, id).await.unwrap();
    let made = pb::ActivationResponse::decode(&confirmed.response[..]).unwrap();
    assert_eq!(whoami(&people, &old_session).await.unwrap_err().code(), Code::Unauthenticated);
    let old_code = people.code("wangwei");
    assert!(people.try_login("wangwei", PASSWORD, &old_code).await.is_err());
    people.activate("wangwei", &made.activation_code).await;
    people.login("wangwei").await;
    // The activation code works once.
    let begin = pb::BeginActivationRequest {
        name: "wangwei".to_owned(),
        activation_code: made.activation_code,
        password: PASSWORD.to_owned(),
    };
    let again = people.call::<_, ()>("", &account("BeginActivation"), begin).await.unwrap_err();
    assert_eq!(again.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn the_first_administrators_are_made_once() {
    let (federation, people, _, _) = city().await;
    let person = |name: &str| {
        let (name, title) = (name.to_owned(), String::new());
        Some(pb::FirstAdministrator { name, title, password: PASSWORD.to_owned() })
    };
    let begin = pb::BeginSetupRequest {
        system: person("mallory"),
        security: person("mallet"),
        audit: person("malik"),
    };
    let refused = people.call::<_, ()>("", &account("BeginSetup"), begin).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(refused_for(&federation, "set-up").await.len(), 1);
}

#[tokio::test]
async fn the_last_administrator_of_a_kind_stays() {
    let (_federation, people, system, security) = city().await;
    let lock = pb::LockRequest { name: "audit".to_owned(), unlock: false };
    let refused = people.call::<_, ()>(&system, &account("Lock"), lock).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let withdraw = pb::WithdrawRequest {
        name: "audit".to_owned(),
        grant: Some(role("audit-administrator", "")),
    };
    let id = people.ask(&system, &account("Withdraw"), withdraw).await;
    assert_eq!(people.confirm(&security, id).await.unwrap_err().code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn a_token_does_what_it_names_until_it_ends_and_confirms_nothing() {
    let (federation, people, system, security) = city().await;
    people.add(&system, &security, "wangwei", &[role("operator", "C")]).await;
    let session = people.login("wangwei").await;
    let add = |word: &str, methods: &[&str]| pb::AddTokenRequest {
        title: "hotline".to_owned(),
        roles: vec![role(word, "C")],
        methods: methods.iter().map(|method| (*method).to_owned()).collect(),
        valid_for_ms: 3_600_000,
    };
    let beyond = people.call::<_, ()>(&session, &account("AddToken"), add("head", &[])).await;
    assert_eq!(beyond.unwrap_err().code(), Code::InvalidArgument);
    let made: pb::AddTokenResponse = people
        .call(&session, &account("AddToken"), add("operator", &["RecordService/Count"]))
        .await
        .unwrap();
    let token = made.token;
    people.call::<_, ()>(&token, "/lianxi.local.v1.RecordService/Count", ()).await.unwrap();
    for path in [
        "/lianxi.local.v1.NoticeService/List".to_owned(),
        approval("Confirm"),
        account("AddToken"),
        "/lianxi.admin.v1.NodeService/Invite".to_owned(),
    ] {
        let refused = people.call::<_, ()>(&token, &path, ()).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{path}");
    }
    assert!(refused_for(&federation, "token-scope").await.len() >= 5);
    people.wait(3_600_000);
    let over = people.call::<_, ()>(&token, "/lianxi.local.v1.RecordService/Count", ()).await;
    assert_eq!(over.unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(refused_for(&federation, "token-over").await.len(), 1);
}

#[tokio::test]
async fn a_whistle_of_an_operator_waits_for_the_head_or_the_heads_deputy() {
    let mut federation = Federation::city("C").await;
    federation.add_unit("D", "C", Level::District).await;
    federation.add_unit("S", "D", Level::Street).await;
    federation.wait_for_catalogue("S").await;
    let people = People::of(&federation, "C");
    people.set_up().await;
    let (system, security) = (people.login("system").await, people.login("security").await);
    for (name, word) in [("wangwei", "operator"), ("chen", "head"), ("lina", "liaison")] {
        people.add(&system, &security, name, &[role(word, "S")]).await;
    }
    let (operator, head) = (people.login("wangwei").await, people.login("chen").await);
    let deputy = people.login("lina").await;
    let raise = "/lianxi.local.v1.EscalationService/Raise";
    let id = people.ask(&operator, raise, whistle("〔2026〕1号")).await;
    // Neither the operator nor an administrator nor another officer stands for the head.
    for session in [&operator, &system, &deputy] {
        let refused = people.confirm(session, id).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
    }
    people.confirm(&head, id).await.unwrap();
    people.call::<_, ()>(&head, raise, whistle("〔2026〕2号")).await.unwrap();

    let (from_unix_ms, until_unix_ms) = (people.now(), people.now() + 3_600_000);
    let away = pb::DelegateRequest { to: "lina".to_owned(), from_unix_ms, until_unix_ms };
    let _: pb::DelegateResponse = people.call(&head, &account("Delegate"), away).await.unwrap();
    let id = people.ask(&operator, raise, whistle("〔2026〕3号")).await;
    people.confirm(&deputy, id).await.unwrap();
    people.call::<_, ()>(&deputy, raise, whistle("〔2026〕4号")).await.unwrap();
    people.wait(3_600_000);
    let deputy = people.login("lina").await;
    people.ask(&deputy, raise, whistle("〔2026〕5号")).await;

    let list = lianxi_proto::local::v1::ListEscalationsRequest { unit: "S".to_owned() };
    let head = people.login("chen").await;
    let listed: lianxi_proto::local::v1::ListEscalationsResponse =
        people.call(&head, "/lianxi.local.v1.EscalationService/List", list).await.unwrap();
    assert_eq!(listed.escalations.len(), 4);
}

fn whistle(number: &str) -> lianxi_proto::local::v1::RaiseEscalationRequest {
    lianxi_proto::local::v1::RaiseEscalationRequest {
        unit: "S".to_owned(),
        destination: "C".to_owned(),
        escalation: Some(Escalation {
            number: number.to_owned(),
            title: "Blocked fire lane".to_owned(),
            kind: lianxi_proto::types::v1::EscalationKind::Routine.into(),
            lead_desk: "FIRE".to_owned(),
            approved_by: "head of the street".to_owned(),
            answer_within_ms: 3_600_000,
            arrive_within_ms: 7_200_000,
            ..Escalation::default()
        }),
        exercise: false,
    }
}
