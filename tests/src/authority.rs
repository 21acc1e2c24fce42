//! An authority, the certificates that it issues to programs, and connections by them.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{WebPkiSupportedAlgorithms, ring, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme, version::TLS13,
};

/// The SPIFFE id of the program of this name.
#[must_use]
pub fn id(name: &str) -> String {
    format!("spiffe://drivers.uz/{name}")
}

/// An authority whose files are in a folder.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
}

/// The files of a certificate.
#[derive(Clone, Debug)]
pub struct Certificate {
    chain: PathBuf,
    key: PathBuf,
    ca: PathBuf,
}

impl Authority {
    /// A new one; what it issues stands in this folder.
    ///
    /// # Panics
    /// The folder can't be written to.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = folder.to_owned();
        fs::write(folder.join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, folder }
    }

    /// Issues a certificate to the program of this name; over the one before, if there is one.
    ///
    /// # Panics
    /// The folder can't be written to.
    #[must_use]
    pub fn issue(&self, name: &str) -> Certificate {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(id(name).as_str().try_into().unwrap())];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let files = Certificate::of(name, &self.folder);
        fs::write(&files.chain, certificate.pem()).unwrap();
        fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }
}

impl Certificate {
    /// The one of this name in a folder.
    #[must_use]
    pub fn of(name: &str, folder: &Path) -> Self {
        Self {
            chain: folder.join(format!("{name}.pem")),
            key: folder.join(format!("{name}.key")),
            ca: folder.join("ca.pem"),
        }
    }

    /// Its files, by the keys of the configuration.
    #[must_use]
    pub fn files(&self) -> [(&'static str, &Path); 3] {
        [
            ("CERTIFICATE", &self.chain),
            ("KEY", &self.key),
            ("CA", &self.ca),
        ]
    }

    /// A connection to a program, which is shown the certificate. Who is there is not
    /// checked: that is the business of programs, and of their own tests.
    pub(crate) async fn connect(
        self,
        address: SocketAddr,
    ) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
        let provider = Arc::new(ring::default_provider());
        let anybody = Anybody(provider.signature_verification_algorithms);
        let chain = CertificateDer::pem_file_iter(&self.chain).unwrap();
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(anybody))
            .with_client_auth_cert(
                chain.collect::<Result<_, _>>().unwrap(),
                PrivateKeyDer::from_pem_file(&self.key).unwrap(),
            )
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let connection = TcpStream::connect(address).await?;
        connection.set_nodelay(true)?;
        let connector = TlsConnector::from(Arc::new(config));
        let name = ServerName::from(address.ip());
        connector.connect(name, connection).await.map(TokioIo::new)
    }
}

/// Takes whoever is there.
#[derive(Debug)]
struct Anybody(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
