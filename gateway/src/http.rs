//! `POST /sign_up`.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::{Body, to_bytes},
    extract::State,
    response::{IntoResponse, Response},
    routing::post,
};
use http::{
    HeaderValue, Request, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER},
};
use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde_json::Value;
use tokio::time::timeout;

use crate::{
    rate_limit::Limiter,
    rules::{Rules, SignUp, SignUpError, SignUpKey},
};

/// The most a body may have.
const MAX_BODY: usize = 64 << 10;
/// How long a body may take to arrive.
const BODY_LIMIT: Duration = Duration::from_secs(10);
/// How long an account may take to be made.
const SIGN_UP_LIMIT: Duration = Duration::from_secs(10);

/// Where a request came from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientAddress(pub(crate) IpAddr);

struct Api {
    rules: Arc<dyn Rules>,
    limiter: Arc<Limiter>,
}

/// All that is served over HTTP besides Socket.IO.
pub(crate) fn router(rules: Arc<dyn Rules>, limiter: Arc<Limiter>) -> Router {
    let sign_up = || post(sign_up).fallback(async || Failure::MethodNotAllowed);
    Router::new()
        .route("/sign_up", sign_up())
        .route("/sign_up/", sign_up())
        .with_state(Arc::new(Api { rules, limiter }))
}

async fn sign_up(State(api): State<Arc<Api>>, request: Request<Body>) -> Response {
    let answer = match timeout(SIGN_UP_LIMIT + BODY_LIMIT, answer(&api, request)).await {
        Ok(answer) => answer,
        Err(_) => Err(Failure::Unavailable),
    };
    let outcome = answer.as_ref().map_or_else(Failure::code, |_| "ok");
    metrics::counter!("drivers_gateway_sign_ups_total", "outcome" => outcome).increment(1);
    answer.into_response()
}

async fn answer(api: &Api, request: Request<Body>) -> Result<Json<Account>, Failure> {
    if let Some(ClientAddress(address)) = request.extensions().get()
        && let Err(wait) = api.limiter.sign_up(*address)
    {
        return Err(Failure::RateLimited(wait));
    }
    let form = Form::of(request.headers().get(CONTENT_TYPE))?;
    let announced = request.headers().get(CONTENT_LENGTH);
    if announced
        .and_then(|length| length.to_str().ok()?.parse().ok())
        .is_some_and(|length: usize| length > MAX_BODY)
    {
        return Err(Failure::TooLarge);
    }
    let body = timeout(BODY_LIMIT, to_bytes(request.into_body(), MAX_BODY))
        .await
        .map_err(|_| Failure::Malformed)?
        .map_err(|error| {
            let error = std::error::Error::source(&error);
            match error.is_some_and(|error| error.is::<http_body_util::LengthLimitError>()) {
                true => Failure::TooLarge,
                false => Failure::Malformed,
            }
        })?;
    let request = read(&form.parse(&body)?)?;
    let account = api.rules.sign_up(request).await?;
    Ok(Json(Account {
        status: "ok",
        user_id: account.user_id.get(),
        token: account.token,
    }))
}

#[derive(Serialize)]
struct Account {
    status: &'static str,
    user_id: i64,
    token: String,
}

/// How a body is written.
enum Form {
    Json,
    UrlEncoded,
}

impl Form {
    fn of(content_type: Option<&HeaderValue>) -> Result<Self, Failure> {
        let content_type = content_type.and_then(|value| value.to_str().ok());
        let essence = content_type.and_then(|value| value.split(';').next());
        match essence.map(|essence| essence.trim().to_ascii_lowercase()) {
            Some(essence) if essence == "application/json" => Ok(Self::Json),
            Some(essence) if essence == "application/x-www-form-urlencoded" => Ok(Self::UrlEncoded),
            _ => Err(Failure::UnsupportedMediaType),
        }
    }

    /// The last value of each key.
    fn parse(&self, body: &[u8]) -> Result<HashMap<String, Value>, Failure> {
        match self {
            Self::Json => serde_json::from_slice(body).map_err(|_| Failure::Malformed),
            Self::UrlEncoded => {
                let body = std::str::from_utf8(body).map_err(|_| Failure::Malformed)?;
                body.split('&')
                    .filter(|pair| !pair.is_empty())
                    .map(|pair| {
                        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                        Ok((decoded(key)?, Value::String(decoded(value)?)))
                    })
                    .collect()
            }
        }
    }
}

/// Libraries put U+FFFD where the bytes are no UTF-8; nobody should get such a name.
fn decoded(text: &str) -> Result<String, Failure> {
    percent_decode_str(&text.replace('+', " "))
        .decode_utf8()
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| Failure::Malformed)
}

fn read(values: &HashMap<String, Value>) -> Result<SignUp, Failure> {
    let text = |key: SignUpKey| match values.get(key.as_str()) {
        None | Some(Value::Null) => Err(Failure::MissingKey(key)),
        Some(Value::String(text)) if text.trim().is_empty() => Err(Failure::MissingKey(key)),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err(Failure::InvalidKey(key)),
    };
    Ok(SignUp {
        phone_number: text(SignUpKey::PhoneNumber)?,
        username: text(SignUpKey::Username)?,
        gcm_token: text(SignUpKey::GcmToken)?,
        device_type: text(SignUpKey::DeviceType)?,
    })
}

/// What the client is told instead of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    MissingKey(SignUpKey),
    InvalidKey(SignUpKey),
    Malformed,
    PhoneNumberTaken,
    UsernameTaken,
    MethodNotAllowed,
    TooLarge,
    UnsupportedMediaType,
    RateLimited(Duration),
    Unavailable,
}

impl From<SignUpError> for Failure {
    fn from(error: SignUpError) -> Self {
        match error {
            SignUpError::PhoneNumberTaken => Self::PhoneNumberTaken,
            SignUpError::UsernameTaken => Self::UsernameTaken,
            SignUpError::Invalid(key) => Self::InvalidKey(key),
            SignUpError::Unavailable => Self::Unavailable,
        }
    }
}

impl Failure {
    fn code(&self) -> &'static str {
        match self {
            Self::MissingKey(_) => "missing_key",
            Self::InvalidKey(_) => "invalid_key",
            Self::Malformed => "malformed",
            Self::PhoneNumberTaken => "phone_number_taken",
            Self::UsernameTaken => "username_taken",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::TooLarge => "too_large",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::RateLimited(_) => "rate_limited",
            Self::Unavailable => "unavailable",
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::MissingKey(_) | Self::InvalidKey(_) | Self::Malformed => StatusCode::BAD_REQUEST,
            Self::PhoneNumberTaken | Self::UsernameTaken => StatusCode::CONFLICT,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::RateLimited(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn sentence(&self) -> String {
        match self {
            Self::MissingKey(key) => format!("{} not given", key.as_str()),
            Self::InvalidKey(SignUpKey::PhoneNumber) => {
                "phone_number must be a text of 7 to 15 digits, with + before them or not".into()
            }
            Self::InvalidKey(SignUpKey::Username) => {
                "username must be a text of 1 to 16 characters, without control characters and \
                 without invisible ones at its ends"
                    .into()
            }
            Self::InvalidKey(SignUpKey::GcmToken) => {
                "gcm_token must be a text of at most 4096 characters".into()
            }
            Self::InvalidKey(SignUpKey::DeviceType) => {
                "device_type must be a text of at most 8 characters".into()
            }
            Self::Malformed => "the body can't be read".into(),
            Self::PhoneNumberTaken => "phone_number has an account already".into(),
            Self::UsernameTaken => "username is taken".into(),
            Self::MethodNotAllowed => "only POST is allowed".into(),
            Self::TooLarge => "the body is too large".into(),
            Self::UnsupportedMediaType => {
                "the body must be application/json or application/x-www-form-urlencoded".into()
            }
            Self::RateLimited(_) => "too many sign-ups from this address".into(),
            Self::Unavailable => "sign-up is not available now, try again".into(),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Payload {
            status: &'static str,
            code: &'static str,
            data: String,
        }
        let payload = Payload {
            status: "fail",
            code: self.code(),
            data: self.sentence(),
        };
        let mut response = (self.status(), Json(payload)).into_response();
        let headers = response.headers_mut();
        match self {
            Self::RateLimited(wait) => {
                // Whole seconds; never early.
                headers.insert(RETRY_AFTER, HeaderValue::from(wait.as_secs() + 1));
            }
            Self::Unavailable => {
                headers.insert(RETRY_AFTER, HeaderValue::from(1));
            }
            Self::MethodNotAllowed => {
                headers.insert(http::header::ALLOW, HeaderValue::from_static("POST"));
            }
            _ => {}
        }
        response
    }
}
