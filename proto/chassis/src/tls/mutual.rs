//! TLS between programs: both sides show a certificate of the same authorities.

use std::{fmt, path::PathBuf, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use tokio_rustls::rustls::{
    self, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig,
    SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
    server::{ParsedCertificate, WebPkiClientVerifier},
};

use super::{Reloaded, TlsError, certificates, private_key, unusable};
use crate::identity::names_of;

/// The protocol over it, as all gRPC peers ask for it.
const HTTP2: &[u8] = b"h2";

/// Files of the certificate that a program shows the others, and of the authorities by
/// which it knows them. They are read again when they change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MutualTls {
    /// The chain, PEM, its own certificate first. It has to be fit for servers and clients.
    pub certificate: PathBuf,
    /// The private key of the first, PEM.
    pub key: PathBuf,
    /// The authorities, PEM.
    pub ca: PathBuf,
}

impl MutualTls {
    /// Reads them. Has to be called within a runtime.
    ///
    /// # Errors
    /// When one of them can't be used; names the file.
    pub fn load(&self) -> Result<Reloaded<Mutual>, TlsError> {
        let files = vec![self.certificate.clone(), self.key.clone(), self.ca.clone()];
        let this = self.clone();
        Reloaded::new(files, move || Mutual::load(&this))
    }
}

/// What was in the files of [`MutualTls`].
#[derive(Debug)]
pub struct Mutual {
    server: Arc<ServerConfig>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: Arc<RootCertStore>,
    by_name: Arc<WebPkiServerVerifier>,
}

impl Mutual {
    fn load(files: &MutualTls) -> Result<Self, TlsError> {
        let MutualTls {
            certificate,
            key: key_file,
            ca,
        } = files;
        let authority = |error| TlsError::Authority {
            ca: ca.clone(),
            error,
        };
        let unusable = |error| unusable(certificate, key_file, error);
        let mut roots = RootCertStore::empty();
        for root in certificates(ca)? {
            roots.add(root).map_err(authority)?;
        }
        let roots = Arc::new(roots);
        let (chain, key) = (certificates(certificate)?, private_key(key_file)?);
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), provider()).build();
        let clients =
            clients.map_err(|error| authority(rustls::Error::General(error.to_string())))?;
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(unusable)?
            .with_client_cert_verifier(clients)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(unusable)?;
        server.alpn_protocols = vec![HTTP2.to_vec()];
        let by_name =
            WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), provider()).build();
        Ok(Self {
            server: Arc::new(server),
            chain,
            key,
            roots,
            by_name: by_name
                .map_err(|error| authority(rustls::Error::General(error.to_string())))?,
        })
    }

    /// For those who call this program: they have to show a certificate.
    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// For calls of this program: who is called has to have a certificate that names him.
    pub(crate) fn client(&self, expected: &PeerName) -> Result<ClientConfig, rustls::Error> {
        let verifier = Expected {
            name: expected.clone(),
            roots: Arc::clone(&self.roots),
            by_name: Arc::clone(&self.by_name),
        };
        let mut client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())?;
        client.alpn_protocols = vec![HTTP2.to_vec()];
        Ok(client)
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// The name that the certificate of a program has to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerName {
    /// A DNS name, or an IP address.
    Host(ServerName<'static>),
    /// A SPIFFE id: `spiffe://drivers.uz/message-svc`.
    Spiffe(String),
}

/// A text that names no program.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` names no program: a DNS name, an IP address or spiffe://domain/path is expected")]
pub struct InvalidPeerName(String);

impl FromStr for PeerName {
    type Err = InvalidPeerName;

    fn from_str(text: &str) -> Result<Self, InvalidPeerName> {
        let invalid = || InvalidPeerName(text.to_owned());
        if let Some(id) = text.strip_prefix("spiffe://") {
            let has_path = id
                .split_once('/')
                .is_some_and(|(domain, path)| !domain.is_empty() && !path.is_empty());
            return has_path
                .then(|| Self::Spiffe(text.to_owned()))
                .ok_or_else(invalid);
        }
        let name = ServerName::try_from(text.to_owned());
        name.map(Self::Host).map_err(|_| invalid())
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(name) => f.write_str(&name.to_str()),
            Self::Spiffe(id) => f.write_str(id),
        }
    }
}

impl Serialize for PeerName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PeerName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// Checks a server's certificate against the name that it has to have, whatever address
/// it was reached by.
#[derive(Debug)]
struct Expected {
    name: PeerName,
    roots: Arc<RootCertStore>,
    by_name: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for Expected {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let id = match &self.name {
            PeerName::Host(name) => {
                return self
                    .by_name
                    .verify_server_cert(end_entity, intermediates, name, ocsp, now);
            }
            PeerName::Spiffe(id) => id,
        };
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            &self.roots,
            intermediates,
            now,
            provider().signature_verification_algorithms.all,
        )?;
        if names_of(end_entity).0.contains(id) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::NotValidForName.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.by_name.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.by_name.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.by_name.supported_verify_schemes()
    }
}
