//! Reading: pages of entries, heads, and who may read.

use super::*;

async fn read_all(house: &mut House, request: &pb::ListEntriesRequest) -> Vec<Vec<i64>> {
    let mut request = request.clone();
    let mut pages = Vec::new();
    loop {
        let page = house.client.list_entries(request.clone()).await.unwrap();
        let page = page.into_inner();
        pages.push(page.entries.iter().map(|entry| entry.seq).collect());
        if page.next_page_token.is_empty() {
            return pages;
        }
        request.page_token = page.next_page_token;
    }
}

#[tokio::test]
async fn entries_are_read_both_ways_a_page_at_a_time() {
    let mut house = house().await;
    house.fill(1, 300).await;
    let forward = pb::ListEntriesRequest {
        topic_id: 1,
        page_size: 150,
        ..pb::ListEntriesRequest::default()
    };
    let (up, down) = (
        (1..=300).collect::<Vec<i64>>(),
        (1..=300).rev().collect::<Vec<i64>>(),
    );
    assert_eq!(
        read_all(&mut house, &forward).await,
        [&up[..150], &up[150..]]
    );
    let backward = pb::ListEntriesRequest {
        direction: pb::Direction::Backward.into(),
        page_size: 299,
        ..forward
    };
    assert_eq!(
        read_all(&mut house, &backward).await,
        [&down[..299], &down[299..]]
    );

    for (start_seq, direction, page_size, expected) in [
        (299, pb::Direction::Forward, 10, &up[298..]),
        (301, pb::Direction::Forward, 10, &[]),
        (2, pb::Direction::Backward, 10, &down[298..]),
        (9_999, pb::Direction::Backward, 500, &down[..]),
        (0, pb::Direction::Forward, 501, &up[..]),
        (251, pb::Direction::Forward, 0, &up[250..]),
    ] {
        let request = pb::ListEntriesRequest {
            topic_id: 1,
            direction: direction.into(),
            start_seq,
            page_size,
            page_token: String::new(),
        };
        assert_eq!(
            read_all(&mut house, &request).await,
            [expected],
            "{request:?}"
        );
    }
}

#[tokio::test]
async fn a_page_of_long_entries_ends_below_what_grpc_carries() {
    let mut house = house().await;
    let long = pb::OutgoingMessage {
        body: "𝄞".repeat(4_096),
        ..message("")
    };
    for _ in 0..2 {
        for result in house.send(1, vec![long.clone(); 100]).await {
            result.unwrap();
        }
    }
    let request = pb::ListEntriesRequest {
        topic_id: 1,
        page_size: 500,
        ..pb::ListEntriesRequest::default()
    };
    let pages = read_all(&mut house, &request).await;
    let lengths: Vec<_> = pages.iter().map(Vec::len).collect();
    assert_eq!(lengths, [63, 63, 63, 11]);
    assert_eq!(pages.concat(), (1..=200).collect::<Vec<i64>>());
}

#[tokio::test]
async fn a_wrong_page_is_refused_by_name() {
    let mut house = house().await;
    house.fill(1, 2).await;
    let request = pb::ListEntriesRequest {
        topic_id: 1,
        page_size: 1,
        ..pb::ListEntriesRequest::default()
    };
    let page = house.client.list_entries(request.clone()).await.unwrap();
    let token = page.into_inner().next_page_token;
    let with = |change: &dyn Fn(&mut pb::ListEntriesRequest)| {
        let mut request = request.clone();
        request.page_token.clone_from(&token);
        change(&mut request);
        request
    };
    house
        .client
        .list_entries(with(&|r| r.page_size = 2))
        .await
        .unwrap();
    for (request, field) in [
        (with(&|r| r.page_size = -1), "page_size"),
        (with(&|r| r.direction = 3), "direction"),
        (with(&|r| r.start_seq = -1), "start_seq"),
        (with(&|r| r.start_seq = 1), "page_token"),
        (with(&|r| r.direction = 2), "page_token"),
        (with(&|r| r.topic_id = 2), "page_token"),
        (with(&|r| r.page_token.push('A')), "page_token"),
        (with(&|r| r.page_token = "тест".into()), "page_token"),
    ] {
        let answer = house.client.list_entries(request).await;
        assert_eq!(details(answer), field_invalid(field));
    }
    let rooms = pb::ListRoomsRequest {
        page_size: 0,
        page_token: token,
    };
    let answer = house.client.list_rooms(rooms).await;
    assert_eq!(details(answer), field_invalid("page_token"));
}

#[tokio::test]
async fn a_private_topic_is_read_by_members_and_services_only() {
    let mut house = house().await;
    let topic_id = house.topic(pb::Visibility::Private).await;
    let entries = pb::ListEntriesRequest {
        topic_id,
        ..pb::ListEntriesRequest::default()
    };
    let members = pb::ListMembersRequest {
        topic_id,
        ..pb::ListMembersRequest::default()
    };
    let stranger = refused(Code::PermissionDenied, "NOT_A_MEMBER", &[]);
    let answer = house
        .client
        .list_entries(by_person(15, entries.clone()))
        .await;
    assert_eq!(details(answer), stranger);
    let answer = house
        .client
        .list_members(by_person(15, members.clone()))
        .await;
    assert_eq!(details(answer), stranger);
    let join = pb::JoinTopicRequest {
        topic_id,
        user_id: 15,
    };
    let answer = house.client.join_topic(by_person(15, join)).await;
    assert_eq!(details(answer), stranger);

    house.client.list_entries(entries.clone()).await.unwrap();
    house.client.join_topic(join).await.unwrap();
    house
        .client
        .list_entries(by_person(15, entries.clone()))
        .await
        .unwrap();
    let listed = house
        .client
        .list_members(by_person(15, members))
        .await
        .unwrap();
    assert_eq!(listed.into_inner().members[0].user_id, 15);
    let answer = house.client.list_entries(for_people(entries)).await;
    assert_eq!(details(answer), stranger);
}

#[tokio::test]
async fn heads_are_told_of_topics_that_exist() {
    let mut house = house().await;
    let empty = house.topic(pb::Visibility::Open).await;
    house.fill(1, 3).await;
    let topic_ids = vec![999, empty, 1, 998];
    let heads = pb::BatchGetHeadsRequest {
        topic_ids,
        max_age_ms: 0,
        partial: false,
    };
    let heads = house.client.batch_get_heads(heads).await.unwrap();
    let heads = heads.into_inner().heads.into_iter();
    let heads: Vec<_> = heads.map(|head| (head.topic_id, head.seq)).collect();
    assert_eq!(heads, [(empty, 0), (1, 3)]);

    for (topic_ids, field) in [(vec![1, 0], "topic_ids[1]"), (vec![1; 1_001], "topic_ids")] {
        let heads = pb::BatchGetHeadsRequest {
            topic_ids,
            max_age_ms: 1_000,
            partial: false,
        };
        let answer = house.client.batch_get_heads(heads).await;
        assert_eq!(details(answer), field_invalid(field));
    }
    for max_age_ms in [-1, 1_001] {
        let heads = pb::BatchGetHeadsRequest {
            topic_ids: vec![1],
            max_age_ms,
            partial: false,
        };
        let answer = house.client.batch_get_heads(heads).await;
        assert_eq!(details(answer), field_invalid("max_age_ms"));
    }
    let versions = pb::BatchGetMembershipVersionsRequest {
        user_ids: vec![1, 2, -3],
        partial: false,
    };
    let answer = house.client.batch_get_membership_versions(versions).await;
    assert_eq!(details(answer), field_invalid("user_ids[2]"));
}
