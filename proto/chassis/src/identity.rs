//! Who calls: proof that a request comes from one of our own services.
//!
//! Over a socket that is a certificate, or a bearer secret where something else
//! encrypts. Within the process the transport is the proof: only
//! [`crate::client::Channel`] can make an `InProcess`, and extensions do not travel
//! over a socket.

use std::{fmt, sync::Arc};

use http::{Extensions, HeaderMap, HeaderValue, header::AUTHORIZATION};
use subtle::ConstantTimeEq as _;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tonic::Code;

use crate::{
    call::Call,
    methods::Method,
    status::Refusal,
    tls::{Mutual, Reloaded},
};

mod callers;

pub use callers::{Callers, Grant, InvalidGrant};

/// Who is let in over a socket.
#[derive(Clone, Debug)]
pub enum Gate {
    /// Nobody: only the process itself calls.
    Shut,
    /// Who shows this secret, for all methods.
    Secret(Secret),
    /// Who shows a certificate, for what he is listed with.
    Certificate(Reloaded<Mutual>, Arc<Callers>),
}

impl Gate {
    /// Refuses a request that came over a socket and may not call this method.
    pub(crate) fn check(
        &self,
        headers: &HeaderMap,
        extensions: &Extensions,
        method: Option<&Method>,
    ) -> Result<(), Refusal> {
        match self {
            Self::Shut => Err(unauthenticated(
                "CREDENTIALS_MISSING",
                "only callers within the process are let in",
            )),
            Self::Secret(secret) => secret.check(headers),
            Self::Certificate(_, callers) => {
                let nobody = Names::default();
                let names = extensions.get().unwrap_or(&nobody);
                callers.check(names, method)
            }
        }
    }

    /// By what connections are encrypted, if they are.
    pub(crate) fn tls(&self) -> Option<&Reloaded<Mutual>> {
        match self {
            Self::Certificate(tls, _) => Some(tls),
            Self::Shut | Self::Secret(_) => None,
        }
    }
}

/// The names in a peer's certificate: SPIFFE ids and DNS names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names(pub(crate) Arc<[String]>);

/// Those of a certificate that was verified already. A SPIFFE certificate has one URI,
/// <https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md>; with several, none counts.
pub(crate) fn names_of(certificate: &CertificateDer<'_>) -> Names {
    let Ok(certificate) = webpki::EndEntityCert::try_from(certificate) else {
        return Names::default();
    };
    let uris: Vec<&str> = certificate.valid_uri_names().collect();
    let spiffe = match uris.as_slice() {
        [uri] if uri.starts_with("spiffe://") => Some(*uri),
        _ => None,
    };
    let names = spiffe.into_iter().chain(certificate.valid_dns_names());
    Names(names.map(str::to_owned).collect())
}

/// The secret that services show each other. Never printed.
#[derive(Clone)]
pub struct Secret(HeaderValue);

impl Secret {
    /// A secret of this text: at least 16 visible ASCII characters.
    ///
    /// # Errors
    /// When it is shorter, or holds other characters.
    pub fn new(text: &str) -> Result<Self, InvalidSecret> {
        if text.len() < 16 || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(InvalidSecret);
        }
        let mut value =
            HeaderValue::try_from(format!("Bearer {text}")).map_err(|_| InvalidSecret)?;
        value.set_sensitive(true);
        Ok(Self(value))
    }

    /// Writes it over whatever the headers said of the caller before.
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        headers.insert(AUTHORIZATION, self.0.clone());
    }

    /// Checks that the headers hold this secret, in a time that does not
    /// depend on how much of it is right.
    pub(crate) fn check(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let given = headers.get(AUTHORIZATION).ok_or_else(|| {
            unauthenticated("CREDENTIALS_MISSING", "the call shows no bearer secret")
        })?;
        if bool::from(self.0.as_bytes().ct_eq(given.as_bytes())) {
            Ok(())
        } else {
            Err(unauthenticated(
                "CREDENTIALS_INVALID",
                "the call shows a wrong bearer secret",
            ))
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

fn unauthenticated(reason: &'static str, message: &str) -> Refusal {
    Refusal::of_layer(Code::Unauthenticated, reason, message)
}

/// A text that can't be a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a bearer secret has at least 16 characters, all of them visible ASCII")]
pub struct InvalidSecret;

/// A request that comes from within the process, and the call it belongs to.
#[derive(Clone, Debug)]
pub(crate) struct InProcess(pub(crate) Call);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn only_the_same_secret_is_let_in() {
        let secret = Secret::new("0123456789abcdef").unwrap();
        let mut headers = HeaderMap::new();
        assert_eq!(
            secret.check(&headers).unwrap_err().reason,
            "CREDENTIALS_MISSING"
        );
        for wrong in [
            "",
            "Bearer ",
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdef0",
            "Basic 0123456789abcdef",
        ] {
            headers.insert(AUTHORIZATION, HeaderValue::from_static(wrong));
            assert_eq!(
                secret.check(&headers).unwrap_err().reason,
                "CREDENTIALS_INVALID",
                "{wrong}"
            );
        }
        secret.write(&mut headers);
        assert_eq!(secret.check(&headers), Ok(()));
    }

    #[test]
    fn a_secret_is_never_printed() {
        let secret = Secret::new("0123456789abcdef").unwrap();
        let mut headers = HeaderMap::new();
        secret.write(&mut headers);
        let printed = format!("{secret:?} {headers:?}");
        assert!(!printed.contains("0123456789"), "{printed}");
        assert_eq!(Secret::new("short").unwrap_err(), InvalidSecret);
        assert_eq!(
            Secret::new("blank in the middle").unwrap_err(),
            InvalidSecret
        );
    }
}
