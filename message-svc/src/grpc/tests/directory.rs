//! Rooms, topics and members.

use super::*;

#[tokio::test]
async fn people_join_and_leave_for_themselves_only() {
    let mut house = house().await;
    house.fill(1, 3).await;
    let join = pb::JoinTopicRequest {
        topic_id: 1,
        user_id: 20,
    };
    let leave = pb::LeaveTopicRequest {
        topic_id: 1,
        user_id: 20,
    };
    let remove = pb::RemoveMemberRequest {
        topic_id: 1,
        user_id: 20,
    };
    let list = pb::ListMembershipsRequest {
        user_id: 20,
        ..pb::ListMembershipsRequest::default()
    };
    let other = field_invalid("user_id");
    assert_eq!(
        details(house.client.join_topic(by_person(15, join)).await),
        other
    );
    assert_eq!(
        details(house.client.leave_topic(by_person(15, leave)).await),
        other
    );
    assert_eq!(
        details(house.client.remove_member(by_person(20, remove)).await),
        other
    );
    let answer = house
        .client
        .list_memberships(by_person(15, list.clone()))
        .await;
    assert_eq!(details(answer), other);

    let joined = house.client.join_topic(by_person(20, join)).await.unwrap();
    let joined = joined.into_inner().membership.unwrap();
    assert_eq!(
        (joined.topic_id, joined.user_id, joined.joined_at_seq),
        (1, 20, 3)
    );
    assert!(joined.join_time_ms > 1_455_667_133_264);
    let listed = house
        .client
        .list_memberships(by_person(20, list.clone()))
        .await;
    let listed = listed.unwrap().into_inner();
    assert_eq!(listed.memberships, [joined]);
    let before = listed.version;

    for _ in 0..2 {
        house
            .client
            .leave_topic(by_person(20, leave))
            .await
            .unwrap();
        house.client.remove_member(remove).await.unwrap();
        let listed = house.client.list_memberships(list.clone()).await.unwrap();
        let listed = listed.into_inner();
        assert_eq!((listed.memberships.len(), listed.version), (0, before + 1));
    }
    let versions = pb::BatchGetMembershipVersionsRequest {
        user_ids: vec![99, 20],
        partial: false,
    };
    let versions = house.client.batch_get_membership_versions(versions).await;
    assert_eq!(versions.unwrap().into_inner().versions, [0, before + 1]);
}

#[tokio::test]
async fn a_new_deployment_enrols_users_into_its_topic() {
    let mut house = house().await;
    house.fill(1, 2).await;
    let enrol = pb::EnrolUserRequest { user_id: 20 };
    for _ in 0..2 {
        let enrolled = house.client.enrol_user(enrol).await.unwrap();
        assert_eq!(enrolled.into_inner().version, 1);
    }
    let list = pb::ListMembershipsRequest {
        user_id: 20,
        ..pb::ListMembershipsRequest::default()
    };
    let listed = house.client.list_memberships(list).await.unwrap();
    let [membership] = listed.into_inner().memberships[..] else {
        panic!("not one membership")
    };
    assert_eq!((membership.topic_id, membership.joined_at_seq), (1, 2));
}

#[tokio::test]
async fn rooms_and_topics_are_made_changed_and_listed() {
    let mut house = house().await;
    let title = || "Тошкент".to_owned();
    let made = house
        .client
        .create_room(pb::CreateRoomRequest { title: title() });
    let room = made.await.unwrap().into_inner().room.unwrap();
    assert!(room.id >= 1_000 && room.title == title());
    let create = pb::CreateTopicRequest {
        room_id: room.id,
        title: title(),
        visibility: pb::Visibility::Private.into(),
        is_default: true,
    };
    let mut topics = Vec::new();
    for _ in 0..3 {
        let made = house.client.create_topic(create.clone()).await.unwrap();
        topics.push(made.into_inner().topic.unwrap());
    }
    let topic_id = topics[0].id;
    assert_eq!(topics[0].visibility(), pb::Visibility::Private);
    assert!(topics[0].is_default && !topics[0].closed);

    let update = pb::UpdateTopicRequest {
        topic_id,
        title: Some("Самарқанд".into()),
        visibility: pb::Visibility::Open.into(),
        closed: Some(true),
    };
    let updated = house.client.update_topic(update.clone()).await.unwrap();
    topics[0] = updated.into_inner().topic.unwrap();
    assert_eq!(topics[0].title, "Самарқанд");
    assert_eq!(topics[0].visibility(), pb::Visibility::Open);
    assert!(topics[0].closed);
    let nothing = pb::UpdateTopicRequest {
        topic_id,
        ..pb::UpdateTopicRequest::default()
    };
    let same = house.client.update_topic(nothing.clone()).await.unwrap();
    assert_eq!(same.into_inner().topic.as_ref(), Some(&topics[0]));
    let got = house
        .client
        .get_topic(pb::GetTopicRequest { topic_id })
        .await;
    assert_eq!(got.unwrap().into_inner().topic.as_ref(), Some(&topics[0]));

    let list = pb::ListTopicsRequest {
        room_id: room.id,
        page_size: 2,
        page_token: String::new(),
    };
    let page = house
        .client
        .list_topics(list.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(page.topics, topics[..2]);
    let next = pb::ListTopicsRequest {
        page_token: page.next_page_token,
        ..list.clone()
    };
    let page = house.client.list_topics(next).await.unwrap().into_inner();
    assert_eq!(
        (page.topics.as_slice(), page.next_page_token.as_str()),
        (&topics[2..], "")
    );
    let rooms = pb::ListRoomsRequest::default();
    let rooms = house
        .client
        .list_rooms(rooms)
        .await
        .unwrap()
        .into_inner()
        .rooms;
    let rooms: Vec<_> = rooms.into_iter().map(|room| room.id).collect();
    assert_eq!(rooms, [1, room.id]);

    let with = |change: &dyn Fn(&mut pb::CreateTopicRequest)| {
        let mut create = create.clone();
        change(&mut create);
        create
    };
    for (create, field) in [
        (with(&|r| r.room_id = 0), "room_id"),
        (with(&|r| r.title = "\t".into()), "title"),
        (with(&|r| r.visibility = 0), "visibility"),
        (with(&|r| r.visibility = 9), "visibility"),
    ] {
        assert_eq!(
            details(house.client.create_topic(create).await),
            field_invalid(field)
        );
    }
    let no_room = refused(Code::NotFound, "ROOM_NOT_FOUND", &[]);
    let answer = house.client.create_topic(with(&|r| r.room_id = 999)).await;
    assert_eq!(details(answer), no_room);
    let answer = house
        .client
        .list_topics(pb::ListTopicsRequest {
            room_id: 999,
            ..list
        })
        .await;
    assert_eq!(details(answer), no_room);
    let answer = house
        .client
        .create_room(pb::CreateRoomRequest {
            title: String::new(),
        })
        .await;
    assert_eq!(details(answer), field_invalid("title"));
    let update = pb::UpdateTopicRequest {
        visibility: 9,
        ..nothing
    };
    assert_eq!(
        details(house.client.update_topic(update).await),
        field_invalid("visibility")
    );
}

#[tokio::test]
async fn a_topic_that_does_not_exist_is_said_so_everywhere() {
    let mut house = house().await;
    let no_topic = refused(Code::NotFound, "TOPIC_NOT_FOUND", &[]);
    let topic_id = 999;
    let user_id = 20;
    let entries = pb::ListEntriesRequest {
        topic_id,
        ..pb::ListEntriesRequest::default()
    };
    let update = pb::UpdateTopicRequest {
        topic_id,
        closed: Some(true),
        ..pb::UpdateTopicRequest::default()
    };
    let members = pb::ListMembersRequest {
        topic_id,
        ..pb::ListMembersRequest::default()
    };
    let client = &mut house.client;
    assert_eq!(details(client.list_entries(entries).await), no_topic);
    assert_eq!(details(client.update_topic(update).await), no_topic);
    assert_eq!(details(client.list_members(members).await), no_topic);
    let get = pb::GetTopicRequest { topic_id };
    assert_eq!(details(client.get_topic(get).await), no_topic);
    let join = pb::JoinTopicRequest { topic_id, user_id };
    assert_eq!(details(client.join_topic(join).await), no_topic);
    let leave = pb::LeaveTopicRequest { topic_id, user_id };
    assert_eq!(details(client.leave_topic(leave).await), no_topic);
    let remove = pb::RemoveMemberRequest { topic_id, user_id };
    assert_eq!(details(client.remove_member(remove).await), no_topic);
}

#[tokio::test]
async fn a_change_is_announced_though_its_caller_has_gone() {
    let (log, _folder) = store().await;
    let directory = Arc::new(Double::default());
    let tape = Arc::new(Tape::default());
    let app = build(
        Config::default(),
        log,
        Arc::clone(&directory) as _,
        Arc::clone(&tape) as _,
    )
    .await
    .unwrap();
    let mut client = MessageServiceClient::new(app.service());
    let join = pb::JoinTopicRequest {
        topic_id: 1,
        user_id: 20,
    };
    let held = directory.hold_next_membership();
    let answer = tokio::spawn(async move { client.join_topic(join).await });
    held.read.notified().await;
    answer.abort();
    answer.await.unwrap_err();
    held.release.notify_one();

    let stop = CancellationToken::new();
    stop.cancel();
    app.run(stop).await;
    let user = Subject::User(UserId::new(20).unwrap());
    let told: Vec<_> = tape.take().into_iter().map(|(about, _)| about).collect();
    assert!(told.contains(&user), "{told:?}");
}
