//! `drivers.user.v1.UserService` in front of the rules.

use bytes::Bytes;
use chassis::{id::UserId, status::Refusal};
use proto::user::v1::{
    self as pb, AuthenticateRequest, AuthenticateResponse, BatchCheckTokensRequest,
    BatchCheckTokensResponse, BatchGetUsersRequest, BatchGetUsersResponse, GetUserRequest,
    GetUserResponse, IssueTokenRequest, IssueTokenResponse, RevokeTokensRequest,
    RevokeTokensResponse, SignUpRequest, SignUpResponse, user_service_server::UserService,
};
use tonic::{Request, Response, Status};

use crate::{
    account::{Account, DeviceType, GcmToken, Profile},
    error::{Error, FormError, Violation},
    phone_number::PhoneNumber,
    service::Users,
    store::StoreError,
    store::Tokens,
    token::{RequestId, TokenHash},
    username::Username,
};

#[cfg(test)]
mod tests;

/// The most ids or tokens in one request.
const MAX_BATCH: usize = 1_000;

/// The service as tonic calls it.
#[derive(Clone)]
pub struct Api {
    users: Users,
}

impl Api {
    pub(crate) fn new(users: Users) -> Self {
        Self { users }
    }
}

#[tonic::async_trait]
impl UserService for Api {
    async fn sign_up(
        &self,
        request: Request<SignUpRequest>,
    ) -> Result<Response<SignUpResponse>, Status> {
        let (profile, request_id) = applicant(request.into_inner()).map_err(refuse)?;
        let signed_up = self.users.sign_up(profile, request_id).await;
        let (account, token) = signed_up.map_err(refuse)?;
        Ok(Response::new(SignUpResponse {
            user: Some(user(account)),
            token: token.reveal(),
        }))
    }

    async fn authenticate(
        &self,
        request: Request<AuthenticateRequest>,
    ) -> Result<Response<AuthenticateResponse>, Status> {
        let token = request.into_inner().token;
        let account = self.users.authenticate(&token).await.map_err(refuse)?;
        Ok(Response::new(AuthenticateResponse {
            user_id: account.id.get(),
            username: account.profile.username.as_str().to_owned(),
            roles: account.roles,
        }))
    }

    async fn batch_check_tokens(
        &self,
        request: Request<BatchCheckTokensRequest>,
    ) -> Result<Response<BatchCheckTokensResponse>, Status> {
        let request = request.into_inner();
        let tokens = hashes(&request.token_sha256s).map_err(refuse)?;
        let live = self.users.live_tokens(&tokens).await.map_err(refuse)?;
        if !request.partial && live.contains(&None) {
            let why = "some of the tokens are out of reach".to_owned();
            return Err(refuse(StoreError::Unavailable(why).into()));
        }
        let (live, unknown): (Vec<_>, Vec<_>) = (live.into_iter())
            .map(|live| (live.unwrap_or(false), live.is_none()))
            .unzip();
        Ok(Response::new(BatchCheckTokensResponse { live, unknown }))
    }

    async fn get_user(
        &self,
        request: Request<GetUserRequest>,
    ) -> Result<Response<GetUserResponse>, Status> {
        let id = user_id(request.into_inner().user_id).map_err(refuse)?;
        let account = self.users.user(id).await.map_err(refuse)?;
        Ok(Response::new(GetUserResponse {
            user: Some(user(account)),
        }))
    }

    async fn batch_get_users(
        &self,
        request: Request<BatchGetUsersRequest>,
    ) -> Result<Response<BatchGetUsersResponse>, Status> {
        let ids = request.into_inner().user_ids;
        at_most_a_batch("user_ids", ids.len()).map_err(refuse)?;
        // No account has a number that is no id, so it is left out like every unknown one.
        let ids: Vec<UserId> = ids.into_iter().filter_map(UserId::new).collect();
        let accounts = self.users.users(&ids).await.map_err(refuse)?;
        Ok(Response::new(BatchGetUsersResponse {
            users: accounts.into_iter().map(user).collect(),
        }))
    }

    async fn issue_token(
        &self,
        request: Request<IssueTokenRequest>,
    ) -> Result<Response<IssueTokenResponse>, Status> {
        let id = user_id(request.into_inner().user_id).map_err(refuse)?;
        let token = self.users.issue_token(id).await.map_err(refuse)?;
        Ok(Response::new(IssueTokenResponse {
            token: token.reveal(),
        }))
    }

    async fn revoke_tokens(
        &self,
        request: Request<RevokeTokensRequest>,
    ) -> Result<Response<RevokeTokensResponse>, Status> {
        let request = request.into_inner();
        let id = user_id(request.user_id).map_err(refuse)?;
        let tokens = match hashes(&request.token_sha256s).map_err(refuse)? {
            none if none.is_empty() => Tokens::All,
            these => Tokens::These(these),
        };
        let revoked = self.users.revoke_tokens(id, tokens).await.map_err(refuse)?;
        Ok(Response::new(RevokeTokensResponse {
            revoked_count: i32::try_from(revoked).unwrap_or(i32::MAX),
        }))
    }
}

/// What a sign-up says, or all that is wrong with it.
fn applicant(request: SignUpRequest) -> Result<(Profile, Option<RequestId>), Error> {
    let mut violations = Vec::new();
    let phone_number = PhoneNumber::parse(&request.phone_number);
    let phone_number = field("phone_number", phone_number, &mut violations);
    let username = field(
        "username",
        Username::parse(&request.username),
        &mut violations,
    );
    let gcm_token = field(
        "gcm_token",
        GcmToken::parse(request.gcm_token),
        &mut violations,
    );
    let device_type = DeviceType::parse(request.device_type);
    let device_type = field("device_type", device_type, &mut violations);
    let request_id = match &request.request_id[..] {
        [] => Ok(None),
        bytes => match bytes.try_into() {
            Ok(bytes) => Ok(Some(RequestId::new(bytes))),
            Err(_) => Err(FormError::Breaks("must be empty or 16 bytes")),
        },
    };
    let request_id = field("request_id", request_id, &mut violations);
    match (phone_number, username, gcm_token, device_type, request_id) {
        (Some(phone_number), Some(username), Some(gcm_token), Some(device_type), Some(request)) => {
            let profile = Profile {
                phone_number,
                username,
                gcm_token,
                device_type,
            };
            Ok((profile, request))
        }
        _ => Err(Error::FieldsInvalid(violations)),
    }
}

fn field<T>(name: &str, value: Result<T, FormError>, violations: &mut Vec<Violation>) -> Option<T> {
    value
        .map_err(|error| violations.push(error.in_field(name)))
        .ok()
}

fn invalid(field: &str, error: FormError) -> Error {
    Error::FieldsInvalid(vec![error.in_field(field)])
}

fn user_id(number: i64) -> Result<UserId, Error> {
    if number == 0 {
        return Err(invalid("user_id", FormError::NotGiven));
    }
    UserId::new(number).ok_or_else(|| {
        invalid(
            "user_id",
            FormError::Breaks("must be above 0 and below 2^53"),
        )
    })
}

fn at_most_a_batch(field: &str, len: usize) -> Result<(), Error> {
    if len > MAX_BATCH {
        return Err(invalid(field, FormError::Breaks("must be at most 1000")));
    }
    Ok(())
}

fn hashes(sha256s: &[Bytes]) -> Result<Vec<TokenHash>, Error> {
    at_most_a_batch("token_sha256s", sha256s.len())?;
    let hash = |bytes: &Bytes| Some(TokenHash::new(bytes[..].try_into().ok()?));
    sha256s
        .iter()
        .map(hash)
        .collect::<Option<_>>()
        .ok_or_else(|| invalid("token_sha256s", FormError::Breaks("must be 32 bytes each")))
}

fn user(account: Account) -> pb::User {
    pb::User {
        id: account.id.get(),
        username: account.profile.username.as_str().to_owned(),
        roles: account.roles,
        phone_number: account.profile.phone_number.as_str().to_owned(),
        device_type: account.profile.device_type.as_str().to_owned(),
        gcm_token: account.profile.gcm_token.reveal().to_owned(),
        create_time_ms: account.create_time_ms,
    }
}

fn refuse(error: Error) -> Status {
    if let Error::Store(error) = &error {
        tracing::warn!(%error, "a call failed in the store");
    }
    Refusal::from(error).into()
}
