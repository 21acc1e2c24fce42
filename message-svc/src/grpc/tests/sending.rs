//! Sending: what becomes of messages and of calls.

use super::*;

#[tokio::test]
async fn a_message_comes_back_as_it_was_sent() {
    let mut house = house().await;
    let first = &house.send(1, vec![stamped("foobar", "123ABC")]).await[0];
    let first = first.as_ref().unwrap().entry.as_ref().unwrap().id;
    let sent = house
        .send(
            1,
            vec![pb::OutgoingMessage {
                acting_user_index: 1,
                stamp: Some(Stamp::StampId("6D0F4Z15".into())),
                body: " Салом \n".into(),
                reply_to: first,
                attrs_json: r#"{"x":1.10}"#.into(),
                has_media: true,
            }],
        )
        .await;
    let sent = sent[0].clone().unwrap();
    assert!(!sent.duplicate);
    let entry = sent.entry.unwrap();
    assert!(entry.id > first);
    assert_eq!((entry.topic_id, entry.seq), (1, 2));
    assert!(entry.sent_at_ms > 1_455_667_133_264);
    let owner = entry.owner.clone().unwrap();
    assert_eq!((owner.id, owner.username.as_str()), (16, "user 16"));
    let expected = pb::Message {
        stamp_id: "6D0F4Z15".into(),
        body: " Салом \n".into(),
        reply_to: first,
        attrs_json: r#"{"x":1.10}"#.into(),
        has_media: true,
    };
    assert_eq!(entry.kind, Some(entry::Kind::Message(expected)));

    let request = pb::ListEntriesRequest {
        topic_id: 1,
        start_seq: 2,
        ..pb::ListEntriesRequest::default()
    };
    let listed = house.client.list_entries(request).await.unwrap();
    assert_eq!(listed.into_inner().entries, [entry]);
}

#[tokio::test]
async fn a_stamp_of_the_edge_is_never_shown_but_counts() {
    let mut house = house().await;
    let message = pb::OutgoingMessage {
        stamp: Some(Stamp::EdgeStamp("made-up".into())),
        ..message("foobar")
    };
    let first = house.send(1, vec![message.clone()]).await[0]
        .clone()
        .unwrap();
    let Some(entry::Kind::Message(kept)) = first.entry.clone().unwrap().kind else {
        panic!("no message")
    };
    assert_eq!(kept.stamp_id, "");
    let again = house.send(1, vec![message]).await[0].clone().unwrap();
    assert!(again.duplicate);
    assert_eq!(again.entry, first.entry);
}

#[tokio::test]
async fn a_wrong_message_fails_alone_and_the_rest_is_sent_in_order() {
    let mut house = house().await;
    let with = |change: fn(&mut pb::OutgoingMessage)| {
        let mut message = message("foobar");
        change(&mut message);
        message
    };
    let long = |message: &mut pb::OutgoingMessage| message.body = "ж".repeat(4_097);
    let most = |message: &mut pb::OutgoingMessage| message.body = "ж".repeat(4_096);
    let wrong = [
        (with(|m| m.body.clear()), "body"),
        (with(|m| m.body = " \u{3000}\n".into()), "body"),
        (with(long), "body"),
        (
            with(|m| m.stamp = Some(Stamp::StampId(String::new()))),
            "stamp_id",
        ),
        (
            with(|m| m.stamp = Some(Stamp::StampId("ж".repeat(65)))),
            "stamp_id",
        ),
        (
            with(|m| m.stamp = Some(Stamp::EdgeStamp(String::new()))),
            "edge_stamp",
        ),
        (with(|m| m.attrs_json = "{".into()), "attrs_json"),
        (with(|m| m.reply_to = -1), "reply_to"),
    ];
    let mut messages = vec![message("first")];
    messages.extend(wrong.iter().map(|(message, _)| message.clone()));
    messages.push(with(most));
    messages.push(with(|m| m.stamp = Some(Stamp::StampId("ж".repeat(64)))));

    let results = house.send(1, messages).await;
    assert_eq!(results.len(), wrong.len() + 3);
    for (result, (_, field)) in results[1..].iter().zip(&wrong) {
        let failure = result.clone().unwrap_err();
        assert_eq!(failure.reason(), ErrorReason::MessageInvalid);
        assert_eq!(failure.field, *field);
        assert!(failure.message.starts_with(&format!("{field}: must ")));
    }
    let seqs = results.iter().flatten();
    let seqs: Vec<_> = seqs.map(|sent| sent.entry.as_ref().unwrap().seq).collect();
    assert_eq!(seqs, [1, 2, 3]);
}

#[tokio::test]
async fn each_failure_of_a_message_has_its_reason_and_its_code() {
    let mut house = house().await;
    let private = house.topic(pb::Visibility::Private).await;
    let closed = house.topic(pb::Visibility::Open).await;
    let close = pb::UpdateTopicRequest {
        topic_id: closed,
        closed: Some(true),
        ..pb::UpdateTopicRequest::default()
    };
    house.client.update_topic(close).await.unwrap();
    house.send(1, vec![stamped("foobar", "used")]).await[0]
        .clone()
        .unwrap();

    let reply = |reply_to| pb::OutgoingMessage {
        reply_to,
        ..message("foobar")
    };
    let failed_precondition = Code::FailedPrecondition;
    for (topic_id, message, code, reason) in [
        (999, message("a"), Code::NotFound, "TOPIC_NOT_FOUND"),
        (
            private,
            message("a"),
            Code::PermissionDenied,
            "NOT_A_MEMBER",
        ),
        (closed, message("a"), failed_precondition, "TOPIC_CLOSED"),
        (1, reply(77), failed_precondition, "REPLY_NOT_FOUND"),
        (1, reply(i64::MAX), failed_precondition, "REPLY_NOT_FOUND"),
        (
            1,
            stamped("other", "used"),
            Code::AlreadyExists,
            "STAMP_REUSED",
        ),
    ] {
        let failure = &house.send(topic_id, vec![message.clone()]).await[0];
        let failure = failure.clone().unwrap_err();
        let name = failure.reason().as_str_name();
        assert_eq!(name, format!("ERROR_REASON_{reason}"));
        assert_eq!(failure.field, "");

        let message = Some(message);
        let request = by_person(15, pb::SendMessageRequest { topic_id, message });
        let answer = house.client.send_message(request).await;
        assert_eq!(details(answer), refused(code, reason, &[]));
    }
    let request = pb::SendMessageRequest {
        topic_id: 1,
        message: Some(message(" ")),
    };
    let answer = house.client.send_message(by_person(15, request)).await;
    assert_eq!(
        details(answer),
        refused(Code::InvalidArgument, "MESSAGE_INVALID", &["message.body"])
    );
}

#[tokio::test]
async fn a_malformed_call_is_refused_whole_and_names_the_field() {
    let mut house = house().await;
    let request = |topic_id, messages| pb::SendMessagesRequest { topic_id, messages };
    let stranger = pb::OutgoingMessage {
        acting_user_index: 2,
        ..message("foobar")
    };
    for (request, field) in [
        (request(0, vec![message("a")]), "topic_id"),
        (request(1 << 53, vec![message("a")]), "topic_id"),
        (request(1, vec![]), "messages"),
        (request(1, vec![message("a"); 257]), "messages"),
        (
            request(1, vec![message("a"), stranger.clone()]),
            "messages[1].acting_user_index",
        ),
    ] {
        let answer = house.client.send_messages(for_people(request)).await;
        assert_eq!(details(answer), field_invalid(field));
    }
    let nobody = call().request(request(1, vec![message("a")]));
    let answer = house.client.send_messages(nobody).await;
    assert_eq!(
        details(answer),
        field_invalid("messages[0].acting_user_index")
    );

    let request = |message| pb::SendMessageRequest {
        topic_id: 1,
        message,
    };
    let answer = house
        .client
        .send_message(by_person(15, request(None)))
        .await;
    assert_eq!(details(answer), field_invalid("message"));
    let two = for_people(request(Some(message("a"))));
    let answer = house.client.send_message(two).await;
    assert_eq!(details(answer), field_invalid("message.acting_user_index"));
    let answer = house
        .client
        .send_message(by_person(15, request(Some(stranger))))
        .await;
    assert_eq!(details(answer), field_invalid("message.acting_user_index"));

    let heads = pb::BatchGetHeadsRequest {
        topic_ids: vec![1],
        max_age_ms: 0,
        partial: false,
    };
    let heads = house.client.batch_get_heads(heads).await.unwrap();
    assert_eq!(heads.into_inner().heads[0].seq, 0, "nothing was stored");
}

#[tokio::test]
async fn a_caller_whose_time_is_over_is_told_to_try_again() {
    let mut house = house().await;
    let late = Call::within(Duration::ZERO).acting_for(person(15));
    let request = pb::SendMessageRequest {
        topic_id: 1,
        message: Some(message("foobar")),
    };
    let late = details(house.client.send_message(late.request(request)).await);
    assert_eq!((late.code, late.retries), (Code::Unavailable, true));
}

#[tokio::test]
async fn what_a_store_says_when_it_fails_is_not_told() {
    let (log, _folder) = store().await;
    let directory = Arc::new(Double::default());
    let app = app(log, Arc::clone(&directory) as _).await;
    let mut client = MessageServiceClient::new(app.service());
    directory.is_away.store(true, SeqCst);

    let request = pb::SendMessageRequest {
        topic_id: 1,
        message: Some(message("foobar")),
    };
    let status = client.send_message(by_person(15, request)).await;
    let status = status.unwrap_err();
    let why = "the store is unavailable";
    assert_eq!(status.message(), why);
    let store_unavailable = refused(Code::Unavailable, "STORE_UNAVAILABLE", &[]);
    assert_eq!(details(Err::<(), _>(status)), store_unavailable);

    let request = pb::SendMessagesRequest {
        topic_id: 1,
        messages: vec![message("foobar")],
    };
    let answer = client.send_messages(for_people(request)).await.unwrap();
    let Some(Outcome::Failure(failure)) = &answer.get_ref().results[0].outcome else {
        panic!("sent: {answer:?}")
    };
    assert_eq!(failure.reason(), ErrorReason::StoreUnavailable);
    assert_eq!(failure.message, why);

    let answer = client.get_topic(pb::GetTopicRequest { topic_id: 1 }).await;
    assert_eq!(details(answer), store_unavailable);
}

#[tokio::test]
async fn at_the_end_what_was_sent_is_kept_and_nothing_more_is_taken() {
    let mut house = house().await;
    house.fill(1, 1).await;
    let stop = CancellationToken::new();
    stop.cancel();
    house.app.run(stop).await;

    let request = pb::SendMessageRequest {
        topic_id: 1,
        message: Some(message("foobar")),
    };
    let answer = house.client.send_message(by_person(15, request)).await;
    assert_eq!(
        details(answer),
        refused(Code::Unavailable, "NOT_STORED", &[])
    );
    let heads = pb::BatchGetHeadsRequest {
        topic_ids: vec![1],
        max_age_ms: 0,
        partial: false,
    };
    let heads = house.client.batch_get_heads(heads).await.unwrap();
    assert_eq!(heads.into_inner().heads[0].seq, 1);
}
