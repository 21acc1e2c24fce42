//! Many things that are read at once, some of which may be out of reach: each partition has
//! replicas of its own.

use std::{
    pin::pin,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{StreamExt as _, stream};
use tokio::time::Instant;

/// Partitions that are read with one statement. ScyllaDB takes up to 100
/// (`max_partition_key_restrictions_per_query`); Cassandra 5.0 spends 20 to 100 us of a processor
/// on each of 32, and 150 to 800 on each that is read alone.
const TOGETHER: usize = 32;

/// For how long each is read alone after a statement that one of its partitions was out of reach of.
const APART: Duration = Duration::from_secs(10);

/// One sort of reads of many partitions, as many as there may be with each statement.
#[derive(Default)]
pub struct ReadsTogether {
    apart_until: Mutex<Option<Instant>>,
}

impl ReadsTogether {
    /// Reads them all, in their order: by `together`, which gives as many as it is asked for, or
    /// by `alone`; so many statements at a time. `None` for one that is out of reach now, as
    /// `is_out_of_reach` says of its error.
    ///
    /// # Errors
    /// Any other error of one; the last one when all are out of reach.
    pub async fn read<K: Copy, T, E, Many, One>(
        &self,
        keys: &[K],
        at_a_time: usize,
        together: impl Fn(Vec<K>) -> Many,
        alone: impl Fn(K) -> One,
        is_out_of_reach: impl Fn(&E) -> bool,
    ) -> Result<Vec<Option<T>>, E>
    where
        Many: Future<Output = Result<Vec<T>, E>>,
        One: Future<Output = Result<T, E>>,
    {
        let mut read = Vec::with_capacity(keys.len());
        if keys.len() > 1 && !self.is_apart() {
            let all: Vec<Vec<K>> = keys.chunks(TOGETHER).map(<[K]>::to_vec).collect();
            let mut all = pin!(stream::iter(all).map(together).buffered(at_a_time));
            while let Some(some) = all.next().await {
                match some {
                    Ok(some) => read.extend(some.into_iter().map(Some)),
                    Err(error) if is_out_of_reach(&error) => {
                        self.go_apart();
                        break;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        let left = keys.get(read.len()..).unwrap_or_default().to_vec();
        let left = left.into_iter().map(alone);
        match read_in_reach(left, at_a_time, &is_out_of_reach).await {
            Ok(left) => read.extend(left),
            Err(error) if !read.is_empty() && is_out_of_reach(&error) => {
                read.resize_with(keys.len(), || None);
            }
            Err(error) => return Err(error),
        }
        Ok(read)
    }

    fn is_apart(&self) -> bool {
        self.apart_until()
            .is_some_and(|until| until > Instant::now())
    }

    fn go_apart(&self) {
        *self.apart_until() = Some(Instant::now() + APART);
    }

    fn apart_until(&self) -> MutexGuard<'_, Option<Instant>> {
        (self.apart_until.lock()).unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads them all, so many at a time, in their order. `None` for one that is out of reach
/// now, as `is_out_of_reach` says of its error.
///
/// # Errors
/// Any other error of one; the last one when all are out of reach.
async fn read_in_reach<T, E>(
    reads: impl IntoIterator<Item = impl Future<Output = Result<T, E>>>,
    at_a_time: usize,
    is_out_of_reach: impl Fn(&E) -> bool,
) -> Result<Vec<Option<T>>, E> {
    let mut reads = stream::iter(reads).buffered(at_a_time);
    let (mut all, mut last_error) = (Vec::new(), None);
    while let Some(read) = reads.next().await {
        match read {
            Ok(read) => all.push(Some(read)),
            Err(error) if is_out_of_reach(&error) => {
                all.push(None);
                last_error = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    match last_error {
        Some(error) if all.iter().all(Option::is_none) => Err(error),
        _ => Ok(all),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::cell::Cell;

    use super::*;

    type Found = Result<u8, &'static str>;

    /// Things that are read, and how often several were read together.
    #[derive(Default)]
    struct Rig {
        reads: ReadsTogether,
        together: Cell<usize>,
    }

    impl Rig {
        async fn read(&self, all: &[Found]) -> Result<Vec<Option<u8>>, &'static str> {
            let together = |some: Vec<Found>| {
                self.together.set(self.together.get() + 1);
                async move { some.into_iter().collect() }
            };
            let alone = |one: Found| async move { one };
            let is_out = |error: &&'static str| *error == OUT;
            self.reads.read(all, 2, together, alone, is_out).await
        }
    }

    const OUT: &str = "out of reach";
    const MANY: u8 = 100;

    fn found() -> Vec<Found> {
        (0..MANY).map(Ok).collect()
    }

    #[tokio::test]
    async fn many_are_read_together_in_their_order() {
        let rig = Rig::default();
        let read = rig.read(&found()).await.unwrap();
        assert!(read.into_iter().eq((0..MANY).map(Some)));
        assert_eq!(rig.together.take(), usize::from(MANY).div_ceil(TOGETHER));
        assert_eq!(rig.read(&[Ok(1)]).await, Ok(vec![Some(1)]));
        assert_eq!(rig.read(&[]).await, Ok(Vec::new()));
        assert_eq!(rig.together.take(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_out_of_reach_keeps_none_of_the_others_back() {
        let rig = Rig::default();
        for out in [0, 50, 99] {
            let all = found().into_iter();
            let all =
                all.map(|one| one.and_then(|one| if one == out { Err(OUT) } else { Ok(one) }));
            let all: Vec<Found> = all.collect();
            for is_first in [true, false] {
                let read = rig.read(&all).await.unwrap();
                let expected = (0..MANY).map(|one| (one != out).then_some(one));
                assert!(read.into_iter().eq(expected));
                assert_eq!(rig.together.take() > 0, is_first);
            }
            tokio::time::advance(APART).await;
        }
    }

    #[tokio::test]
    async fn what_else_fails_and_where_all_are_out_of_reach_fails() {
        let all_out = vec![Err(OUT); MANY.into()];
        assert_eq!(Rig::default().read(&all_out).await, Err(OUT));
        assert_eq!(Rig::default().read(&[Err(OUT)]).await, Err(OUT));
        let damaged = [found(), vec![Err("damaged")]].concat();
        assert_eq!(Rig::default().read(&damaged).await, Err("damaged"));
        let both = [vec![Err(OUT)], damaged].concat();
        assert_eq!(Rig::default().read(&both).await, Err("damaged"));
        // The others were read before.
        let some = [found(), vec![Err(OUT); MANY.into()]].concat();
        let read = Rig::default().read(&some).await.unwrap();
        assert_eq!(read.iter().flatten().count(), usize::from(MANY));
        assert_eq!(read.len(), some.len());
    }
}
