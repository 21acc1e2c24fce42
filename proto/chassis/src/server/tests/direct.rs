//! Methods that are called without a request of HTTP.

use super::*;

impl Rig {
    fn get_user(&self) -> Direct<GetUserRequest, GetUserResponse> {
        let api = Arc::clone(&self.api);
        let path = "/drivers.user.v1.UserService/GetUser";
        self.services.direct(path, move |request| {
            let api = Arc::clone(&api);
            Box::pin(async move { api.get_user(request).await })
        })
    }

    fn issue_token(&self) -> Direct<IssueTokenRequest, IssueTokenResponse> {
        let api = Arc::clone(&self.api);
        self.services.direct(ISSUE_TOKEN, move |request| {
            let api = Arc::clone(&api);
            Box::pin(async move { api.issue_token(request).await })
        })
    }
}

#[tokio::test]
async fn a_direct_call_arrives_whole_and_is_measured() {
    let (recorder, metrics) = Metrics::detached();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let mut rig = Rig::new(ServerConfig::default()).await;
    let sent = Call::within(LIMIT).acting_for(sardor());
    let request = sent.request(GetUserRequest::default());
    rig.get_user().call(request).await.unwrap();

    let arrived = next(&mut rig.calls).await;
    assert_eq!(arrived.acting_users, [sardor()]);
    assert_eq!(arrived.deadline, sent.deadline);
    assert_eq!(arrived.trace.trace_id, sent.trace.trace_id);
    assert_ne!(arrived.trace.span_id, sent.trace.span_id);
    let line = "drivers_grpc_server_requests_total{service=\"drivers.user.v1.UserService\",method=\"GetUser\",code=\"OK\"} 1";
    assert!(metrics.render().contains(line), "{}", metrics.render());
}

#[tokio::test]
async fn a_direct_call_ends_at_its_deadline_and_one_that_comes_too_late_is_not_begun() {
    let mut rig = Rig::new(ServerConfig::default()).await;
    for limit in [Duration::from_millis(50), Duration::ZERO] {
        let request = Call::within(limit).request(IssueTokenRequest::default());
        let method = rig.issue_token();
        let ended = timeout(LIMIT, method.call(request)).await;
        let error = ended.unwrap().unwrap_err();
        assert_eq!(error.code(), Code::DeadlineExceeded);
        assert_eq!(rig.calls.try_recv().is_ok(), !limit.is_zero());
    }
}

#[tokio::test]
async fn direct_calls_and_others_share_one_limit() {
    let mut rig = Rig::new(ServerConfig {
        max_in_flight: 1,
        ..ServerConfig::default()
    })
    .await;
    let mut client = UserServiceClient::new(Channel::local(rig.services.clone()));
    let held = tokio::spawn(async move { client.issue_token(IssueTokenRequest::default()).await });
    next(&mut rig.calls).await;

    let request = || Call::within(LIMIT).request(GetUserRequest::default());
    let error = rig.get_user().call(request()).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert_eq!(status::reason(&error).as_deref(), Some("OVERLOADED"));
    assert!(error.get_details_retry_info().is_some());

    rig.go_on.notify_one();
    timeout(LIMIT, held).await.unwrap().unwrap().unwrap();
    rig.get_user().call(request()).await.unwrap();
}

#[tokio::test]
async fn a_direct_call_for_a_crowd_and_one_that_panics_are_answered() {
    let rig = Rig::new(ServerConfig::default()).await;
    let crowd =
        (0..=MAX_ACTING_USERS).fold(Call::within(LIMIT), |call, _| call.acting_for(sardor()));
    let request = crowd.request(GetUserRequest::default());
    let error = rig.get_user().call(request).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);

    let panics = (rig.services).direct("/drivers.user.v1.UserService/Authenticate", {
        let api = Arc::clone(&rig.api);
        move |request| {
            let api = Arc::clone(&api);
            Box::pin(async move { api.authenticate(request).await })
        }
    });
    let request = Call::within(LIMIT).request(AuthenticateRequest::default());
    let error = panics.call(request).await.unwrap_err();
    assert_eq!(error.code(), Code::Internal);
    assert!(!error.message().contains("on purpose"));
}
