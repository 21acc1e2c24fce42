//! Sign-ups that die, stand still, or whose answers are lost.

use super::*;

fn named(phone_number: &Profile, username: &Profile) -> Profile {
    Profile {
        username: username.username.clone(),
        ..phone_number.clone()
    }
}

/// What came of a sign-up that died is seen by the next one with the same phone number,
/// with the same name, and with both and the same token.
async fn settled(store: &ScyllaStore, profile: &Profile, token: &TokenHash, next: Next) {
    let live = store.live(std::slice::from_ref(token)).await.unwrap();
    let before = store.account_of(token).await.unwrap();
    assert_eq!(live, [before.is_some()]);
    let fresh = fresh_token();
    let stranger = person(90_000, rand::random_range(0..900_000));
    let (answer, asked) = match next {
        Next::PhoneNumber => {
            let other = named(profile, &stranger);
            (sign_up(store, &other, &fresh).await, other)
        }
        Next::Name => {
            let other = named(&stranger, profile);
            (sign_up(store, &other, &fresh).await, other)
        }
        Next::Request => (sign_up(store, profile, token).await, profile.clone()),
    };
    let now = store.account_of(token).await.unwrap();
    match (&answer, next) {
        // Nothing came of it, and never will.
        (Opened::New(account), Next::Request) => {
            assert_eq!(account.profile, asked);
            assert_eq!((before, now.as_ref()), (None, Some(account)));
        }
        (Opened::New(account), _) => {
            assert_eq!(account.profile, asked);
            assert_eq!((before, now), (None, None));
            let holder = store.account_of(&fresh).await;
            assert_eq!(holder, Ok(Some(account.clone())));
        }
        // Its account is there, and its token signs in.
        (
            Opened::PhoneNumberTaken {
                holder,
                holds_token,
            },
            Next::PhoneNumber | Next::Request,
        ) => {
            assert_eq!(&holder.profile, profile);
            assert_eq!(*holds_token, next == Next::Request);
            assert_eq!(now.as_ref(), Some(holder));
            if let Some(before) = before {
                assert_eq!(&before, holder);
            }
        }
        (Opened::UsernameTaken, Next::Name) => {
            assert_eq!(now.map(|account| account.profile), Some(profile.clone()));
        }
        other => panic!("{other:?}"),
    }
    // And it stays like that.
    let again = sign_up(store, profile, &fresh_token()).await;
    match (&answer, next) {
        (Opened::New(_), Next::Name) => assert_eq!(again, Opened::UsernameTaken),
        _ => assert!(
            matches!(again, Opened::PhoneNumberTaken { .. }),
            "{again:?}"
        ),
    }
}

/// What the next sign-up has in common with one that died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    PhoneNumber,
    Name,
    Request,
}

const NEXTS: [Next; 3] = [Next::PhoneNumber, Next::Name, Next::Request];

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_up_that_died_before_any_step_blocks_nobody_and_is_whole_or_nothing() {
    let world = world().await;
    for step in 1.. {
        let mut through = false;
        let mut dead = Vec::new();
        for (number, next) in NEXTS.into_iter().enumerate() {
            let process = world.process().await;
            let (profile, token) = (person(step, number), fresh_token());
            let signing_up = process.open_account(&profile, &token, 7);
            let answer = world.crash(step, every, signing_up).await;
            through |= answer.is_some();
            dead.push((profile, token, next));
        }
        let store = world.process().await;
        let settling = dead
            .iter()
            .map(|(profile, token, next)| settled(&store, profile, token, *next));
        futures::future::join_all(settling).await;
        // The last is one that was through, and only its answer was lost.
        if through {
            assert!(step > 9, "a sign-up had only {step} steps");
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_up_that_died_while_it_stopped_a_dead_one_blocks_nobody() {
    let world = world().await;
    for step in 1.. {
        let first = world.process().await;
        let (profile, token) = (person(step, 0), fresh_token());
        let dies = first.open_account(&profile, &token, 7);
        let before_the_account = |name: &str| name == "account_open";
        assert_eq!(world.crash(1, before_the_account, dies).await, None);

        let second = world.process().await;
        let again = second.open_account(&profile, &token, 7);
        let answer = world.crash(step, changes, again).await;

        let third = world.process().await;
        let next = NEXTS[step % 3];
        settled(&third, &profile, &token, next).await;
        if let Some(answer) = answer {
            assert!(matches!(answer, Ok(Opened::New(_))), "{answer:?}");
            assert!(step > 8, "stopping a sign-up had only {step} steps");
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_up_whose_requests_or_answers_are_lost_is_settled_by_asking_again() {
    let world = world().await;
    for (trial, fault) in [Fault::AnswerLost, Fault::Lost].into_iter().enumerate() {
        for step in 1.. {
            let store = world.process().await;
            let (profile, token) = (person(1_000 * (trial + 1) + step, 0), fresh_token());
            let signing_up = store.open_account(&profile, &token, 7);
            let (answer, failed) = world.fault(step, fault, signing_up).await;
            let Some(failed) = failed else {
                break;
            };
            match &answer {
                Ok(Opened::New(_)) => {}
                Err(StoreError::Unavailable(_)) if !changes(failed) => {}
                other => panic!("{failed}: {other:?}"),
            }
            let again = sign_up(&store, &profile, &token).await;
            match (answer, again) {
                (
                    Ok(Opened::New(account)),
                    Opened::PhoneNumberTaken {
                        holder,
                        holds_token: true,
                    },
                ) => assert_eq!(account, holder),
                (Err(_), Opened::New(account)) => assert_eq!(account.profile, profile),
                other => panic!("{failed}: {other:?}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_up_to_which_the_cluster_was_lost_at_any_step_is_settled_by_asking_again() {
    let world = world().await;
    for step in 1.. {
        let store = world.process().await;
        let (profile, token) = (person(step, 0), fresh_token());
        let seen = AtomicUsize::new(0);
        world.cql.fail(
            move |_| match seen.fetch_add(1, Ordering::Relaxed) + 1 < step {
                true => Fault::None,
                // The first is done, and nobody hears of it.
                false if seen.load(Ordering::Relaxed) == step => Fault::AnswerLost,
                false => Fault::Lost,
            },
        );
        let answer = store.open_account(&profile, &token, 7).await;
        world.cql.heal();
        if let Ok(Opened::New(_)) = answer {
            return;
        }
        assert!(
            matches!(answer, Err(StoreError::Unavailable(_))),
            "{answer:?}"
        );
        settled(&store, &profile, &token, NEXTS[step % 3]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_sign_up_and_its_repetition_have_one_account_and_one_answer() {
    let world = world().await;
    for (trial, late) in ["username_claim", "token_claim", "account_open"]
        .into_iter()
        .enumerate()
    {
        let (slow, quick) = (world.process().await, world.process().await);
        let (profile, token) = (person(trial, 0), fresh_token());
        let (met, met_late) = (Arc::new(Notify::new()), AtomicUsize::new(0));
        let meets = Arc::clone(&met);
        world.cql.fail(move |name| {
            if name == late && met_late.fetch_add(1, Ordering::Relaxed) == 0 {
                meets.notify_one();
                return Fault::Late(Duration::from_millis(1_500));
            }
            Fault::None
        });
        let repeated = async {
            met.notified().await;
            sign_up(&quick, &profile, &token).await
        };
        let (first, second) = tokio::join!(sign_up(&slow, &profile, &token), repeated);
        world.cql.heal();
        let Opened::New(account) = second else {
            panic!("{late}: {second:?}");
        };
        // Not that his name is taken, which is his own by now.
        assert_eq!(
            first,
            Opened::PhoneNumberTaken {
                holder: account,
                holds_token: true
            },
            "{late}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_arrives_late_opens_no_account_and_brings_no_token_back() {
    let world = world().await;
    let store = world.process().await;
    let (sardor, token) = (person(0, 0), fresh_token());
    let dead = Account {
        id: store.next_id().await.unwrap(),
        profile: sardor.clone(),
        roles: Vec::new(),
        create_time_ms: 7,
    };
    let phone_number = sardor.phone_number.as_str();
    let claim = (store.phone_numbers).claim(&store.accounts, phone_number, dead.id);
    assert!(matches!(claim.await, Ok(Claim::Ours)));
    let Opened::New(account) = sign_up(&store, &sardor, &token).await else {
        panic!("not opened");
    };

    // The rest of the first sign-up, which was taken for dead.
    assert_eq!(
        store.accounts.insert(&dead, &fresh_token()).await,
        Ok(false)
    );
    assert_eq!(store.accounts(&[dead.id]).await, Ok(vec![None]));
    let found = store.phone_numbers.holder(&store.accounts, phone_number);
    assert_eq!(found.await, Ok(Some(account.clone())));

    // A second sending of each statement that made a token, and of the one that sealed it.
    let added = fresh_token();
    assert_eq!(store.add_token(account.id, &added).await, Ok(Added::Yes));
    assert_eq!(store.account_of(&token).await, Ok(Some(account.clone())));
    let all = store.remove_tokens(account.id, &Tokens::All).await;
    assert_eq!(all.unwrap().unwrap().len(), 2);
    let hash = token.as_bytes().as_slice();
    let claim = store.token_claims.claim(&store.accounts, hash, account.id);
    assert!(matches!(claim.await, Ok(Claim::Ours)));
    assert_eq!(store.tokens.insert(account.id, &added).await, Ok(false));
    store.tokens.seal(account.id, &token).await;
    assert_eq!(store.live(&[token, added]).await, Ok(vec![false, false]));
}
