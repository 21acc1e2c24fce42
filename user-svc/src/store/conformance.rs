//! What every store of accounts does. A backend runs all of it by
//! `conformance::suite!(a function that yields a fresh store and what keeps it alive)`.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;

use chassis::id::UserId;

use super::{Added, MAX_TOKENS, Opened, Store, Tokens};
use crate::{
    account::{Account, DeviceType, GcmToken, Profile},
    phone_number::PhoneNumber,
    token::{Token, TokenHash},
    username::Username,
};

macro_rules! suite {
    ($fresh:path) => {
        $crate::store::conformance::suite!(
            $fresh,
            an_account_is_read_back_as_it_was_opened,
            a_phone_number_has_one_account_and_it_is_told,
            a_username_has_one_account_case_aside,
            the_phone_number_is_looked_at_before_the_name_and_the_name_before_the_token,
            a_refused_account_leaves_nothing_behind,
            of_racing_openings_of_one_phone_number_one_wins,
            of_racing_openings_of_one_name_one_wins,
            racing_openings_get_ids_of_their_own,
            asking_again_with_the_same_token_finds_the_account,
            the_token_of_one_account_is_not_held_by_another,
            tokens_are_added_found_and_taken_away,
            an_account_has_a_thousand_tokens_at_most,
            only_an_accounts_own_tokens_are_taken_away,
            what_is_not_there_is_not_found,
        );
    };
    ($fresh:path, $($case:ident),+ $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                let (store, _keep) = $fresh().await;
                $crate::store::conformance::$case(store).await;
            }
        )+
    };
}
pub(crate) use suite;

pub(crate) fn profile(phone_number: &str, username: &str) -> Profile {
    Profile {
        phone_number: PhoneNumber::parse(phone_number).unwrap(),
        username: Username::parse(username).unwrap(),
        gcm_token: GcmToken::parse("gcm 1".into()).unwrap(),
        device_type: DeviceType::parse("android".into()).unwrap(),
    }
}

fn fresh_token() -> TokenHash {
    Token::random().hash()
}

async fn open(store: &dyn Store, profile: &Profile, token: &TokenHash) -> Account {
    match store.open_account(profile, token, 1_455_667_133_264).await {
        Ok(Opened::New(account)) => account,
        other => panic!("not opened: {other:?}"),
    }
}

pub(crate) async fn an_account_is_read_back_as_it_was_opened(store: Arc<dyn Store>) {
    let profile = profile("998901234567", "Сардор 🚚");
    let token = fresh_token();
    let account = open(&*store, &profile, &token).await;
    assert_eq!(account.profile, profile);
    assert_eq!(account.create_time_ms, 1_455_667_133_264);
    assert_eq!(account.roles, Vec::<String>::new());
    assert_eq!(store.account_of(&token).await, Ok(Some(account.clone())));
    assert_eq!(store.accounts(&[account.id]).await, Ok(vec![Some(account)]));
}

pub(crate) async fn a_phone_number_has_one_account_and_it_is_told(store: Arc<dyn Store>) {
    let holder = open(&*store, &profile("998901234567", "Sardor"), &fresh_token()).await;
    let other = profile("998901234567", "Aziz");
    assert_eq!(
        store.open_account(&other, &fresh_token(), 2).await,
        Ok(Opened::PhoneNumberTaken {
            holder,
            holds_token: false
        })
    );
}

pub(crate) async fn a_username_has_one_account_case_aside(store: Arc<dyn Store>) {
    open(&*store, &profile("998901234567", "Straße"), &fresh_token()).await;
    for name in ["Straße", "STRASSE", "strasse"] {
        let other = profile("998907654321", name);
        assert_eq!(
            store.open_account(&other, &fresh_token(), 2).await,
            Ok(Opened::UsernameTaken),
            "{name}"
        );
    }
    open(&*store, &profile("998907654321", "Strase"), &fresh_token()).await;
}

pub(crate) async fn the_phone_number_is_looked_at_before_the_name_and_the_name_before_the_token(
    store: Arc<dyn Store>,
) {
    let token = fresh_token();
    let holder = open(&*store, &profile("998901234567", "Sardor"), &token).await;
    let all_taken = profile("998901234567", "Sardor");
    assert_eq!(
        store.open_account(&all_taken, &fresh_token(), 2).await,
        Ok(Opened::PhoneNumberTaken {
            holder,
            holds_token: false
        })
    );
    let name_and_token_taken = profile("998907654321", "Sardor");
    assert_eq!(
        store.open_account(&name_and_token_taken, &token, 2).await,
        Ok(Opened::UsernameTaken)
    );
    let token_taken = profile("998907654321", "Aziz");
    assert_eq!(
        store.open_account(&token_taken, &token, 2).await,
        Ok(Opened::TokenTaken)
    );
}

pub(crate) async fn a_refused_account_leaves_nothing_behind(store: Arc<dyn Store>) {
    let first = fresh_token();
    open(&*store, &profile("998901234567", "Sardor"), &first).await;
    let refused = fresh_token();
    for (phone_number, name, token) in [
        ("998901234567", "Aziz", refused),
        ("998907654321", "SARDOR", refused),
        ("998907654321", "Aziz", first),
    ] {
        let answer = store
            .open_account(&profile(phone_number, name), &token, 2)
            .await;
        assert!(!matches!(answer, Ok(Opened::New(_)) | Err(_)), "{answer:?}");
    }
    assert_eq!(store.account_of(&refused).await, Ok(None));
    open(&*store, &profile("998907654321", "Aziz"), &refused).await;
}

/// Opens all of these at once; how many accounts there are then.
async fn race(store: &Arc<dyn Store>, profiles: Vec<Profile>) -> Vec<Opened> {
    let racers: Vec<_> = profiles
        .into_iter()
        .map(|profile| {
            let store = Arc::clone(store);
            tokio::spawn(async move { store.open_account(&profile, &fresh_token(), 1).await })
        })
        .collect();
    let mut answers = Vec::new();
    for racer in racers {
        answers.push(racer.await.unwrap().unwrap());
    }
    answers
}

fn new_accounts(answers: &[Opened]) -> Vec<&Account> {
    answers
        .iter()
        .filter_map(|answer| match answer {
            Opened::New(account) => Some(account),
            _ => None,
        })
        .collect()
}

pub(crate) async fn of_racing_openings_of_one_phone_number_one_wins(store: Arc<dyn Store>) {
    let profiles = (0..100).map(|n| profile("998901234567", &format!("racer {n}")));
    let answers = race(&store, profiles.collect()).await;
    let [winner] = new_accounts(&answers)[..] else {
        panic!("not one winner: {answers:?}");
    };
    for answer in &answers {
        match answer {
            Opened::New(_) => {}
            Opened::PhoneNumberTaken {
                holder,
                holds_token,
            } => {
                assert_eq!(holder, winner);
                assert!(!holds_token);
            }
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) async fn of_racing_openings_of_one_name_one_wins(store: Arc<dyn Store>) {
    let profiles = (0..100).map(|n| profile(&format!("9989{n:07}"), "Sardor"));
    let answers = race(&store, profiles.collect()).await;
    assert_eq!(new_accounts(&answers).len(), 1);
    let taken = answers.iter().filter(|a| **a == Opened::UsernameTaken);
    assert_eq!(taken.count(), 99);
}

pub(crate) async fn racing_openings_get_ids_of_their_own(store: Arc<dyn Store>) {
    let profiles = (0..100).map(|n| profile(&format!("9989{n:07}"), &format!("racer {n}")));
    let answers = race(&store, profiles.collect()).await;
    let mut ids: Vec<UserId> = new_accounts(&answers).iter().map(|a| a.id).collect();
    assert_eq!(ids.len(), 100);
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 100);
}

pub(crate) async fn asking_again_with_the_same_token_finds_the_account(store: Arc<dyn Store>) {
    let profile = profile("998901234567", "Sardor");
    let token = fresh_token();
    let account = open(&*store, &profile, &token).await;
    let again = store.open_account(&profile, &token, 2).await;
    assert_eq!(
        again,
        Ok(Opened::PhoneNumberTaken {
            holder: account.clone(),
            holds_token: true
        })
    );
    store.remove_tokens(account.id, &Tokens::All).await.unwrap();
    let after_revocation = store.open_account(&profile, &token, 2).await;
    assert_eq!(
        after_revocation,
        Ok(Opened::PhoneNumberTaken {
            holder: account,
            holds_token: false
        })
    );
}

pub(crate) async fn the_token_of_one_account_is_not_held_by_another(store: Arc<dyn Store>) {
    let [hers, his] = [fresh_token(), fresh_token()];
    let she = open(&*store, &profile("998901234567", "Nilufar"), &hers).await;
    open(&*store, &profile("998907654321", "Sardor"), &his).await;
    // At first as the sign-up left it, then as the first sign-in does.
    for _ in 0..2 {
        assert_eq!(
            store.open_account(&she.profile, &his, 2).await,
            Ok(Opened::PhoneNumberTaken {
                holder: she.clone(),
                holds_token: false
            })
        );
        store.account_of(&his).await.unwrap().unwrap();
    }
}

pub(crate) async fn tokens_are_added_found_and_taken_away(store: Arc<dyn Store>) {
    let [first, second, third] = [fresh_token(), fresh_token(), fresh_token()];
    let account = open(&*store, &profile("998901234567", "Sardor"), &first).await;
    assert_eq!(store.add_token(account.id, &second).await, Ok(Added::Yes));
    assert_eq!(store.account_of(&second).await, Ok(Some(account.clone())));
    assert_eq!(
        store.live(&[third, second, first, second]).await,
        Ok(vec![false, true, true, true])
    );

    let these = Tokens::These(vec![third, second, second]);
    assert_eq!(
        store.remove_tokens(account.id, &these).await,
        Ok(Some(vec![second]))
    );
    assert_eq!(store.account_of(&second).await, Ok(None));
    assert_eq!(store.live(&[first, second]).await, Ok(vec![true, false]));
    assert_eq!(
        store.remove_tokens(account.id, &these).await,
        Ok(Some(Vec::new()))
    );

    assert_eq!(store.add_token(account.id, &third).await, Ok(Added::Yes));
    let mut all = store
        .remove_tokens(account.id, &Tokens::All)
        .await
        .unwrap()
        .unwrap();
    all.sort_unstable();
    let mut expected = vec![first, third];
    expected.sort_unstable();
    assert_eq!(all, expected);
    assert_eq!(store.live(&[first, third]).await, Ok(vec![false, false]));
    assert_eq!(store.accounts(&[account.id]).await, Ok(vec![Some(account)]));
}

pub(crate) async fn an_account_has_a_thousand_tokens_at_most(store: Arc<dyn Store>) {
    let account = open(&*store, &profile("998901234567", "Sardor"), &fresh_token()).await;
    let last = fresh_token();
    for _ in 2..MAX_TOKENS {
        assert_eq!(
            store.add_token(account.id, &fresh_token()).await,
            Ok(Added::Yes)
        );
    }
    assert_eq!(store.add_token(account.id, &last).await, Ok(Added::Yes));
    let refused = fresh_token();
    assert_eq!(
        store.add_token(account.id, &refused).await,
        Ok(Added::TooMany)
    );
    assert_eq!(store.live(&[last, refused]).await, Ok(vec![true, false]));

    let one = Tokens::These(vec![last]);
    store.remove_tokens(account.id, &one).await.unwrap();
    assert_eq!(store.add_token(account.id, &refused).await, Ok(Added::Yes));
    let ended = store.remove_tokens(account.id, &Tokens::All).await;
    assert_eq!(ended.unwrap().unwrap().len(), MAX_TOKENS);
    assert_eq!(store.live(&[last, refused]).await, Ok(vec![false, false]));
}

pub(crate) async fn only_an_accounts_own_tokens_are_taken_away(store: Arc<dyn Store>) {
    let [hers, his] = [fresh_token(), fresh_token()];
    let she = open(&*store, &profile("998901234567", "Nilufar"), &hers).await;
    let he = open(&*store, &profile("998907654321", "Sardor"), &his).await;
    assert_eq!(
        store.remove_tokens(he.id, &Tokens::These(vec![hers])).await,
        Ok(Some(Vec::new()))
    );
    assert_eq!(
        store.remove_tokens(he.id, &Tokens::All).await,
        Ok(Some(vec![his]))
    );
    assert_eq!(store.account_of(&hers).await, Ok(Some(she)));
}

pub(crate) async fn what_is_not_there_is_not_found(store: Arc<dyn Store>) {
    let nobody = UserId::new(chassis::id::MAX_ID).unwrap();
    let account = open(&*store, &profile("998901234567", "Sardor"), &fresh_token()).await;
    assert_eq!(
        store.accounts(&[nobody, account.id, nobody]).await,
        Ok(vec![None, Some(account), None])
    );
    assert_eq!(store.account_of(&fresh_token()).await, Ok(None));
    assert_eq!(
        store.add_token(nobody, &fresh_token()).await,
        Ok(Added::NoAccount)
    );
    assert_eq!(store.remove_tokens(nobody, &Tokens::All).await, Ok(None));
    assert_eq!(store.accounts(&[]).await, Ok(Vec::new()));
    assert_eq!(store.live(&[]).await, Ok(Vec::new()));
}
