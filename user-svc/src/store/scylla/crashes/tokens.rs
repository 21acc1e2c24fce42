//! Tokens whose making or ending dies, or whose answers are lost.

use std::collections::BTreeSet;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_token_whose_making_died_is_whole_or_nothing_and_ends_with_all_others() {
    let world = world().await;
    let store = world.process().await;
    let first = fresh_token();
    let Opened::New(account) = sign_up(&store, &person(0, 0), &first).await else {
        panic!("not opened");
    };
    for step in 1.. {
        let token = fresh_token();
        let adding = store.add_token(account.id, &token);
        let answer = world.crash(step, every, adding).await;
        let live = store.live(&[token]).await.unwrap() == [true];
        assert_eq!(live, answer.is_some());
        let found = store.account_of(&token).await.unwrap();
        assert_eq!(found.is_some(), live);

        let listed = store.accounts.tokens(account.id).await.unwrap().unwrap();
        let ended = store.remove_tokens(account.id, &Tokens::All).await;
        assert_eq!(ended.unwrap().unwrap().contains(&token), live);
        assert_eq!(store.live(&[first, token]).await, Ok(vec![false, false]));
        if listed.contains(&token) {
            // Whoever made it was only slow.
            let made = store.tokens.insert(account.id, &token).await;
            assert_eq!(made, Ok(false));
        }
        let ended = store.remove_tokens(account.id, &Tokens::All).await;
        assert_eq!(ended, Ok(Some(Vec::new())));
        if answer.is_some() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_died_is_finished_by_the_next_and_all_that_ended_is_told() {
    let world = world().await;
    for step in 1.. {
        let store = world.process().await;
        let tokens: Vec<TokenHash> = (0..3).map(|_| fresh_token()).collect();
        let [first, rest @ ..] = &tokens[..] else {
            panic!("no tokens");
        };
        let Opened::New(account) = sign_up(&store, &person(step, 0), first).await else {
            panic!("not opened");
        };
        for token in rest {
            assert_eq!(store.add_token(account.id, token).await, Ok(Added::Yes));
        }
        let removing = store.remove_tokens(account.id, &Tokens::All);
        let answer = world.crash(step, every, removing).await;
        let told = match &answer {
            None => store.remove_tokens(account.id, &Tokens::All).await,
            Some(answer) => answer.clone(),
        };
        let told: BTreeSet<TokenHash> = told.unwrap().unwrap().into_iter().collect();
        assert_eq!(told, tokens.iter().copied().collect());
        assert_eq!(store.live(&tokens).await, Ok(vec![false; 3]));
        let ended = store.remove_tokens(account.id, &Tokens::All).await;
        assert_eq!(ended, Ok(Some(Vec::new())));
        if answer.is_some() {
            assert!(step > 4, "a removal had only {step} steps");
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_made_and_ended_although_answers_are_lost() {
    let world = world().await;
    let store = world.process().await;
    let Opened::New(account) = sign_up(&store, &person(0, 0), &fresh_token()).await else {
        panic!("not opened");
    };
    for fault in [Fault::AnswerLost, Fault::Lost] {
        for step in 1.. {
            let token = fresh_token();
            let adding = store.add_token(account.id, &token);
            let (added, failed_to_add) = world.fault(step, fault, adding).await;
            match failed_to_add {
                Some(name) if !changes(name) => {
                    assert!(
                        matches!(added, Err(StoreError::Unavailable(_))),
                        "{added:?}"
                    );
                    store.add_token(account.id, &token).await.unwrap();
                }
                _ => assert_eq!(added, Ok(Added::Yes)),
            }
            assert_eq!(store.live(&[token]).await, Ok(vec![true]));

            let these = Tokens::These(vec![token]);
            let removing = store.remove_tokens(account.id, &these);
            let (removed, failed_to_remove) = world.fault(step, fault, removing).await;
            match failed_to_remove {
                Some(name) if !changes(name) => {
                    assert!(
                        matches!(removed, Err(StoreError::Unavailable(_))),
                        "{removed:?}"
                    );
                    let removed = store.remove_tokens(account.id, &these).await;
                    assert_eq!(removed, Ok(Some(vec![token])));
                }
                _ => assert_eq!(removed, Ok(Some(vec![token]))),
            }
            assert_eq!(store.live(&[token]).await, Ok(vec![false]));
            if failed_to_add.is_none() && failed_to_remove.is_none() {
                break;
            }
        }
    }
}
