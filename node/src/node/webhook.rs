//! Telling a webhook of alarms: every alarm that nobody has settled is posted, and posted again until
//! it was taken, over a restart too.
//!
//! Promises that what is posted holds the signed statement itself, so that a receiver can check it with
//! the key of the unit; that over TLS it goes to a receiver of the configured CA alone; and that with a
//! shared secret each body is authenticated. Order and number of times are not promised: an alarm is
//! known by its id.

use std::{sync::Arc, time::Duration};

use aws_lc_rs::hmac;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use http_body_util::Full;
use hyper::{Request, Uri, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::broadcast::error::RecvError,
    time::{sleep, timeout},
};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::Error;
use crate::{
    config::HostConfig,
    services::{hosted::Hosted, witness::AlarmRow},
    statement::Envelope,
};

/// Time before the first further try; it doubles.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Longest time between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(10 * 60);

/// Longest time that one try may take.
const TRY_TIMEOUT: Duration = Duration::from_secs(10);

/// Fewest bytes of a shared secret.
const MIN_SECRET_BYTES: usize = 32;

/// Header with the HMAC-SHA-256 of the body, in hex.
const SIGNATURE: &str = "lianxi-signature";

/// A receiver of alarms.
#[derive(Clone)]
pub(super) struct Webhook {
    address: Uri,
    tls: Option<Arc<ClientConfig>>,
    secret: Option<hmac::Key>,
}

impl Webhook {
    /// The receiver that the configuration names, with what its files hold.
    ///
    /// # Errors
    ///
    /// [`Error::File`], [`Error::Webhook`].
    pub(super) fn of(config: &HostConfig) -> Result<Option<Self>, Error> {
        let Some(address) = config.webhook() else { return Ok(None) };
        let secret = config.alarms.secret_file.as_deref().map(|path| {
            let path = config.directory.join(path);
            let read = std::fs::read(&path).map(Zeroizing::new);
            let bytes = read.map_err(|source| Error::File { action: "read", path, source })?;
            match bytes.trim_ascii() {
                short if short.len() < MIN_SECRET_BYTES => {
                    Err(Error::Webhook("its secret has less than 32 bytes".to_owned()))
                }
                bytes => Ok(hmac::Key::new(hmac::HMAC_SHA256, bytes)),
            }
        });
        let tls = match address.scheme_str() {
            Some("https") => Some(Arc::new(tls(config)?)),
            Some(_) | None => None,
        };
        Ok(Some(Self { address, tls, secret: secret.transpose()? }))
    }

    /// Tells of every alarm of the unit. Never returns.
    pub(super) async fn tell(self, hosted: Arc<Hosted>) {
        let mut alarms = hosted.witness.alarms();
        let mut pause = TRY_AGAIN;
        loop {
            match self.tell_open(&hosted).await {
                Ok(()) => {
                    pause = TRY_AGAIN;
                    if let Err(RecvError::Closed) = alarms.recv().await {
                        return std::future::pending().await;
                    }
                }
                Err(error) => {
                    let webhook = &self.address;
                    tracing::warn!(%webhook, error, "webhook not told of an alarm; it is tried again");
                    sleep(pause).await;
                    pause = LONGEST_PAUSE.min(pause * 2);
                }
            }
        }
    }

    async fn tell_open(&self, hosted: &Hosted) -> Result<(), String> {
        let untold = hosted.witness.untold_alarms().await.map_err(text)?;
        for alarm in untold {
            let envelope = match alarm.id.parse() {
                Ok(id) => hosted.unit.statement(id).await.map_err(text)?,
                Err(_) => None,
            };
            let body = Bytes::from(body(&alarm, envelope.as_ref()).to_string());
            let posted = timeout(TRY_TIMEOUT, self.post(body)).await;
            posted.unwrap_or_else(|_| Err("it does not answer".to_owned()))?;
            hosted.witness.alarm_is_told(&alarm.id).await.map_err(text)?;
        }
        Ok(())
    }

    async fn post(&self, body: Bytes) -> Result<(), String> {
        let host = self.address.host().unwrap_or_default();
        let default = if self.tls.is_some() { 443 } else { 80 };
        let port = self.address.port_u16().unwrap_or(default);
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((bare, port)).await.map_err(text)?;
        match &self.tls {
            None => self.send(stream, body).await,
            Some(tls) => {
                let name = ServerName::try_from(bare.to_owned()).map_err(text)?;
                let connected = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await;
                self.send(connected.map_err(text)?, body).await
            }
        }
    }

    /// One POST, on a connection of its own.
    async fn send<S>(&self, stream: S, body: Bytes) -> Result<(), String>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
        let connection = tokio::spawn(connection);
        let path = self.address.path_and_query().map_or("/", |path| path.as_str());
        let host = self.address.authority().map_or("", |authority| authority.as_str());
        let mut request = Request::post(path)
            .header(header::HOST, host)
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(secret) = &self.secret {
            let tag = hex::encode(hmac::sign(secret, &body));
            request = request.header(SIGNATURE, format!("sha256={tag}"));
        }
        let request = request.body(Full::new(body)).map_err(text)?;
        let answer = sender.send_request(request).await.map_err(text);
        connection.abort();
        match answer?.status() {
            status if status.is_success() => Ok(()),
            status => Err(format!("it answers {status}")),
        }
    }
}

fn tls(config: &HostConfig) -> Result<ClientConfig, Error> {
    let wrong = |error: &dyn std::fmt::Display| Error::Webhook(error.to_string());
    let path = config.alarms.ca_file.as_deref();
    let path =
        path.ok_or_else(|| wrong(&"https needs [alarms] ca_file, the CA of the receiver"))?;
    let path = config.directory.join(path);
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(&path);
    let named = |error: &dyn std::fmt::Display| wrong(&format!("{}: {error}", path.display()));
    for certificate in certificates.map_err(|error| named(&error))? {
        let certificate = certificate.map_err(|error| named(&error))?;
        roots.add(certificate).map_err(|error| named(&error))?;
    }
    if roots.is_empty() {
        return Err(named(&"it holds no certificate"));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| wrong(&error))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// What is posted: the alarm to read, and the statement that proves it, as DSSE writes it in JSON.
fn body(alarm: &AlarmRow, envelope: Option<&Envelope>) -> Value {
    json!({
        "type": "lianxi.alarm.v1",
        "id": alarm.id,
        "unit": alarm.unit,
        "reason": alarm.breach,
        "witness": alarm.witness,
        "time_unix_ms": alarm.time_unix_ms,
        "held": alarm.held,
        "offered": alarm.offered,
        "envelope": envelope.map(dsse),
    })
}

fn dsse(envelope: &Envelope) -> Value {
    let signatures = envelope
        .signatures
        .iter()
        .map(|one| json!({ "keyid": one.key_id, "sig": BASE64_STANDARD.encode(&one.signature) }));
    json!({
        "payloadType": envelope.payload_type,
        "payload": BASE64_STANDARD.encode(&envelope.payload),
        "signatures": signatures.collect::<Value>(),
    })
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
