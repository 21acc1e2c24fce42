//! Sign-ups while the power is cut: what was answered holds, what was not can be repeated.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use chassis::embedded::{Embedded, SimulatedDisk};

use super::{tests::Recorder, *};
use crate::{
    Config, build,
    store::{conformance::profile, embedded::EmbeddedStore},
};

const PEOPLE: u8 = 16;

async fn users(disk: &SimulatedDisk) -> Users {
    let db = Embedded::open_simulated(disk, &EmbeddedStore::options()).unwrap();
    let store = Arc::new(EmbeddedStore::new(db).await.unwrap());
    build(&Config::default(), store, Arc::new(Recorder::default())).users
}

/// The sign-up number `turn` of a person, the same each time it is asked for.
async fn sign_up(users: &Users, person: u8, turn: u16) -> Result<(Account, Token), Error> {
    let [high, low] = turn.to_be_bytes();
    let mut request = [person; 16];
    request[..2].copy_from_slice(&[high, low]);
    let number = u32::from(person) * 100_000 + u32::from(turn);
    let profile = profile(&format!("998{number:08}"), &format!("person {number}"));
    users.sign_up(profile, Some(RequestId::new(request))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_power_cut_loses_an_account_or_makes_two_of_one() {
    for seed in 0..5 {
        let disk = SimulatedDisk::new(seed);
        let mut answered: HashMap<(u8, u16), (Account, Token)> = HashMap::new();
        let mut next = [0_u16; PEOPLE as usize];
        for _ in 0..5 {
            let users = users(&disk).await;
            for (account, token) in answered.values() {
                let holder = users.authenticate(&token.reveal()).await;
                assert_eq!(holder.as_ref(), Ok(account), "seed {seed}");
            }

            let done = Arc::new(AtomicUsize::new(0));
            let cut = Arc::new(AtomicBool::new(false));
            let people: Vec<_> = (0..PEOPLE)
                .map(|person| {
                    let (users, done, cut) = (users.clone(), Arc::clone(&done), Arc::clone(&cut));
                    let mut turn = next[usize::from(person)];
                    tokio::spawn(async move {
                        let mut answered = Vec::new();
                        while !cut.load(Ordering::Relaxed)
                            && let Ok(answer) = sign_up(&users, person, turn).await
                        {
                            answered.push(((person, turn), answer));
                            turn += 1;
                            done.fetch_add(1, Ordering::Relaxed);
                        }
                        answered
                    })
                })
                .collect();
            while done.load(Ordering::Relaxed) < 40 {
                tokio::task::yield_now().await;
            }
            disk.cut_power();
            cut.store(true, Ordering::Relaxed);
            for (person, task) in people.into_iter().enumerate() {
                let new = task.await.unwrap();
                // The one that was not answered is the first of the next round.
                next[person] += u16::try_from(new.len()).unwrap();
                answered.extend(new);
            }
        }
        let ids: HashSet<UserId> = answered.values().map(|(account, _)| account.id).collect();
        assert_eq!(ids.len(), answered.len(), "seed {seed}");
    }
}
