//! People on a host: accounts made through the real socket, with apps that show real codes.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::atomic::{AtomicI64, Ordering},
};

use hyper_util::rt::TokioIo;
use lianxi_node::{
    clock::{Clock as _, ShiftedClock},
    identity::factor::Secret,
    statement::journal::{Line, read},
    store::journal,
};
use lianxi_proto::admin::v1 as pb;
use prost::Message;
use tokio::net::UnixStream;
use tonic::{
    Request, Status,
    client::Grpc,
    transport::{Channel, Endpoint, Uri},
};
use tonic_prost::ProstCodec;
use tower::service_fn;

use crate::federation::Federation;

/// Path of a method of `AccountService`.
pub fn account(method: &str) -> String {
    format!("/lianxi.admin.v1.AccountService/{method}")
}

/// Path of a method of `ApprovalService`.
pub fn approval(method: &str) -> String {
    format!("/lianxi.admin.v1.ApprovalService/{method}")
}

/// A role of a unit, or of the host for an empty unit.
pub fn role(role: &str, unit: &str) -> pb::RoleGrant {
    pb::RoleGrant { role: role.to_owned(), unit: unit.to_owned() }
}

/// The socket of one host, and the apps of its people.
#[derive(Debug)]
pub struct People {
    socket: PathBuf,
    clock: ShiftedClock,
    offset_ms: AtomicI64,
    apps: std::sync::Mutex<BTreeMap<String, Secret>>,
}

/// A password that holds for everybody in the tests.
pub const PASSWORD: &str = "lamp-otter-fern-1741";

impl People {
    /// The host of `unit`, without accounts yet.
    pub fn of(federation: &Federation, unit: &str) -> Self {
        Self {
            socket: federation.directory(unit).join("admin.sock"),
            clock: federation.clock.clone(),
            offset_ms: AtomicI64::new(0),
            apps: std::sync::Mutex::default(),
        }
    }

    /// Moves the host's clock on.
    pub fn wait(&self, length_ms: i64) {
        let offset = self.offset_ms.fetch_add(length_ms, Ordering::Relaxed) + length_ms;
        self.clock.shift_to(offset);
    }

    /// The host's time.
    pub fn now(&self) -> i64 {
        self.clock.now_unix_ms()
    }

    /// A code that was not used yet: the clock moves on to the next one.
    pub fn code(&self, name: &str) -> String {
        self.wait(30_000);
        self.current(name)
    }

    /// What the app shows at this moment.
    fn current(&self, name: &str) -> String {
        let secret = self.apps.lock().unwrap()[name].clone();
        secret.code_at(self.now())
    }

    /// The secret of a person's app, as bytes.
    pub fn secret(&self, name: &str) -> Vec<u8> {
        let uri = self.apps.lock().unwrap()[name].to_uri("", "");
        base32(uri.split("secret=").nth(1).unwrap().split('&').next().unwrap())
    }

    fn channel(&self) -> Channel {
        let socket = self.socket.clone();
        let connector = service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector)
    }

    /// Calls a method with a token; an empty one: none.
    ///
    /// # Errors
    ///
    /// The host's answer.
    pub async fn call<Q, A>(&self, token: &str, path: &str, message: Q) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut client = Grpc::new(self.channel());
        client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let mut request = Request::new(message);
        if !token.is_empty() {
            let value = format!("Bearer {token}").parse().unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        let codec = ProstCodec::<Q, A>::default();
        Ok(client.unary(request, path.parse().unwrap(), codec).await?.into_inner())
    }

    /// Remembers the secret of an `otpauth` URI, as an app does.
    pub fn scan(&self, factor: &pb::Factor) {
        self.apps.lock().unwrap().insert(factor.name.clone(), secret_of(&factor.uri));
    }

    /// Makes the administrators `system`, `security` and `audit`.
    pub async fn set_up(&self) {
        let person = |name: &str| {
            let (name, title) = (name.to_owned(), format!("Person {name}"));
            Some(pb::FirstAdministrator { name, title, password: PASSWORD.to_owned() })
        };
        let begin = pb::BeginSetupRequest {
            system: person("system"),
            security: person("security"),
            audit: person("audit"),
        };
        let begun: pb::BeginSetupResponse =
            self.call("", &account("BeginSetup"), begin).await.unwrap();
        begun.factors.iter().for_each(|factor| self.scan(factor));
        let finish = pb::FinishSetupRequest {
            system_code: self.code("system"),
            security_code: self.current("security"),
            audit_code: self.current("audit"),
        };
        let _: pb::FinishSetupResponse =
            self.call("", &account("FinishSetup"), finish).await.unwrap();
    }

    /// Tries to log in.
    ///
    /// # Errors
    ///
    /// The host's answer.
    pub async fn try_login(
        &self,
        name: &str,
        password: &str,
        code: &str,
    ) -> Result<String, Status> {
        let (name, password, code) = (name.to_owned(), password.to_owned(), code.to_owned());
        let request = pb::LoginRequest { name, password, code };
        let answer: pb::LoginResponse = self.call("", &account("Login"), request).await?;
        Ok(answer.token)
    }

    /// Logs in and returns the session's token.
    pub async fn login(&self, name: &str) -> String {
        let code = self.code(name);
        self.try_login(name, PASSWORD, &code).await.unwrap()
    }

    /// Asks for an act that waits, and returns its number.
    pub async fn ask<Q: Message + 'static>(&self, token: &str, path: &str, message: Q) -> u64 {
        let refused = self.call::<Q, ()>(token, path, message).await.unwrap_err();
        let number = refused.metadata().get("lianxi-approval");
        let number = number.unwrap_or_else(|| panic!("{path} did not wait: {refused}"));
        number.to_str().unwrap().parse().unwrap()
    }

    /// Confirms an act.
    ///
    /// # Errors
    ///
    /// The host's answer.
    pub async fn confirm(&self, token: &str, id: u64) -> Result<pb::ConfirmResponse, Status> {
        self.call(token, &approval("Confirm"), pb::ConfirmRequest { id }).await
    }

    /// Makes an account with roles and lets its person take it over.
    pub async fn add(&self, system: &str, security: &str, name: &str, roles: &[pb::RoleGrant]) {
        let (name, title, roles) = (name.to_owned(), format!("Person {name}"), roles.to_vec());
        let request = pb::AddAccountRequest { name: name.clone(), title, roles };
        let id = self.ask(system, &account("Add"), request).await;
        let confirmed = self.confirm(security, id).await.unwrap();
        let made = pb::ActivationResponse::decode(&confirmed.response[..]).unwrap();
        self.activate(&name, &made.activation_code).await;
    }

    /// Takes an account over.
    pub async fn activate(&self, name: &str, activation_code: &str) {
        let (name, activation_code) = (name.to_owned(), activation_code.to_owned());
        let begin = pb::BeginActivationRequest {
            name: name.clone(),
            activation_code: activation_code.clone(),
            password: PASSWORD.to_owned(),
        };
        let begun: pb::BeginActivationResponse =
            self.call("", &account("BeginActivation"), begin).await.unwrap();
        self.scan(&begun.factor.unwrap());
        let code = self.code(&name);
        let finish = pb::FinishActivationRequest { name, activation_code, code };
        let _: pb::FinishActivationResponse =
            self.call("", &account("FinishActivation"), finish).await.unwrap();
    }
}

/// The secret of an `otpauth` URI.
///
/// # Panics
///
/// It has none.
pub fn secret_of(uri: &str) -> Secret {
    let secret = uri.split("secret=").nth(1).unwrap().split('&').next().unwrap();
    Secret::from_hex(&hex::encode(base32(secret))).unwrap()
}

fn base32(text: &str) -> Vec<u8> {
    let digit = |character: u8| match character {
        b'A'..=b'Z' => u32::from(character - b'A'),
        _ => u32::from(character - b'2') + 26,
    };
    let (mut bits, mut count, mut bytes) = (0_u32, 0, Vec::new());
    for character in text.bytes() {
        (bits, count) = (bits << 5 | digit(character), count + 5);
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff).unwrap());
        }
    }
    bytes
}

/// Lines of the journal of a hosted unit that are acts.
pub async fn acts(federation: &Federation, unit: &str) -> Vec<Line> {
    let hosted = federation.host(unit).units().find(&unit.parse().unwrap()).unwrap();
    let store = hosted.unit.store.as_ref();
    let mut lines = Vec::new();
    let size = journal::size(store, &hosted.unit.code).await.unwrap();
    for from in (0..size).step_by(usize::try_from(journal::TILE).unwrap()) {
        let leaves = journal::leaves(store, &hosted.unit.code, from).await.unwrap();
        lines.extend(leaves.into_iter().map(|(_, leaf)| read(&leaf).unwrap()));
    }
    lines.retain(|line| line.event == "act");
    lines
}
