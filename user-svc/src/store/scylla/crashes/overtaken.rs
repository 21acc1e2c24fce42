//! Sign-ups in front of one of whose statements others come to their end.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_repeated_at_any_step_has_one_account_and_both_are_told_of_it() {
    let world = world().await;
    for step in 1.. {
        let (slow, quick) = (world.process().await, world.process().await);
        let (profile, token) = (person(step, 0), fresh_token());
        let repeated = {
            let profile = profile.clone();
            async move {
                let opened = sign_up(&quick, &profile, &token).await;
                assert!(matches!(opened, Opened::New(_)), "{step}: {opened:?}");
            }
        };
        let signing_up = sign_up(&slow, &profile, &token);
        let (answer, overtaken) = world.overtake(step, every, repeated, signing_up).await;
        if !overtaken {
            assert!(matches!(answer, Opened::New(_)), "{answer:?}");
            assert!(step > 7, "a sign-up had only {step} steps");
            return;
        }
        // Never that his name is taken, or that the token is another's.
        let Opened::PhoneNumberTaken {
            holder,
            holds_token: true,
        } = answer
        else {
            panic!("{step}: {answer:?}");
        };
        assert_eq!(holder.profile, profile);
        assert_eq!(slow.account_of(&token).await, Ok(Some(holder)));
    }
}

/// A sign-up that died when it had claimed all; made void already.
async fn dead(store: &ScyllaStore, profile: &Profile, token: &TokenHash) {
    let id = store.next_id().await.unwrap();
    let accounts = &store.accounts;
    let number = profile.phone_number.as_str();
    let name = profile.username.key();
    let hash = token.as_bytes().as_slice();
    for claim in [
        store.phone_numbers.claim(accounts, number, id).await,
        store.usernames.claim(accounts, name.as_str(), id).await,
        store.token_claims.claim(accounts, hash, id).await,
    ] {
        assert!(matches!(claim, Ok(Claim::Ours)));
    }
    accounts.void(id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_who_take_over_the_same_claim_one_has_it() {
    let world = world().await;
    let statements = [
        "phone_number_take_over",
        "username_take_over",
        "token_take_over",
    ];
    for (trial, statement) in statements.into_iter().enumerate() {
        let (slow, quick) = (world.process().await, world.process().await);
        let (died, his_token) = (person(trial, 0), fresh_token());
        dead(&slow, &died, &his_token).await;
        // Two who have nothing in common but what they take over.
        let [one, other] = [person(trial, 1), person(trial, 2)].map(|stranger| match trial {
            0 => (
                Profile {
                    phone_number: died.phone_number.clone(),
                    ..stranger
                },
                fresh_token(),
            ),
            1 => (
                Profile {
                    username: died.username.clone(),
                    ..stranger
                },
                fresh_token(),
            ),
            _ => (stranger, his_token),
        });
        let quicker = {
            let (profile, token) = other.clone();
            async move {
                let opened = sign_up(&quick, &profile, &token).await;
                assert!(matches!(opened, Opened::New(_)), "{statement}: {opened:?}");
            }
        };
        let signing_up = sign_up(&slow, &one.0, &one.1);
        let counts = move |name: &str| name == statement;
        let (answer, overtaken) = world.overtake(1, counts, quicker, signing_up).await;
        assert!(overtaken, "no {statement}");
        let holder = slow.account_of(&other.1).await.unwrap().unwrap();
        assert_eq!(holder.profile, other.0, "{statement}");
        let expected = match trial {
            0 => Opened::PhoneNumberTaken {
                holder,
                holds_token: false,
            },
            1 => Opened::UsernameTaken,
            _ => Opened::TokenTaken,
        };
        assert_eq!(answer, expected, "{statement}");
        if trial < 2 {
            assert_eq!(slow.account_of(&one.1).await, Ok(None), "{statement}");
        }
        // What was claimed on the way is free again.
        if trial > 0 {
            let opened = sign_up(&slow, &named_anew(&one.0, trial), &fresh_token()).await;
            assert!(matches!(opened, Opened::New(_)), "{statement}: {opened:?}");
        }
    }
}

/// The same with another name, if it was the name that was taken.
fn named_anew(profile: &Profile, trial: usize) -> Profile {
    match trial {
        1 => Profile {
            username: person(trial, 3).username,
            ..profile.clone()
        },
        _ => profile.clone(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_up_that_ends_just_before_it_is_stopped_has_its_account() {
    let world = world().await;
    let store = world.process().await;
    let (profile, token) = (person(0, 0), fresh_token());
    let account = Account {
        id: store.next_id().await.unwrap(),
        profile: profile.clone(),
        roles: Vec::new(),
        create_time_ms: 7,
    };
    let number = profile.phone_number.as_str();
    let claim = (store.phone_numbers).claim(&store.accounts, number, account.id);
    assert!(matches!(claim.await, Ok(Claim::Ours)));
    let ends = {
        let (process, account) = (world.process().await, account.clone());
        async move {
            assert_eq!(process.accounts.insert(&account, &token).await, Ok(true));
        }
    };
    let other = Profile {
        username: person(0, 1).username,
        ..profile
    };
    let his_token = fresh_token();
    let signing_up = sign_up(&store, &other, &his_token);
    let counts = |name: &str| name == "account_void";
    let (answer, overtaken) = world.overtake(1, counts, ends, signing_up).await;
    assert!(overtaken, "nobody was stopped");
    let expected = Opened::PhoneNumberTaken {
        holder: account.clone(),
        holds_token: false,
    };
    assert_eq!(answer, expected);
    assert_eq!(store.accounts(&[account.id]).await, Ok(vec![Some(account)]));
    assert_eq!(store.account_of(&his_token).await, Ok(None));
}
