//! Many things that are read at once, some of which may be out of reach: each partition has
//! replicas of its own.

use futures::{StreamExt as _, stream};

/// Reads them all, so many at a time, in their order. `None` for one that is out of reach
/// now, as `is_out_of_reach` says of its error.
///
/// # Errors
/// Any other error of one; the last one when all are out of reach.
pub async fn read_in_reach<T, E>(
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
    use super::*;

    async fn read(all: &[Result<u8, &'static str>]) -> Result<Vec<Option<u8>>, &'static str> {
        let reads = all.iter().map(|one| async move { *one });
        read_in_reach(reads, 2, |error| *error == "out of reach").await
    }

    #[tokio::test]
    async fn one_that_is_out_of_reach_keeps_none_of_the_others_back() {
        let out_of_reach = Err("out of reach");
        let some = read(&[Ok(1), out_of_reach, Ok(3)]).await;
        assert_eq!(some, Ok(vec![Some(1), None, Some(3)]));
        assert_eq!(read(&[out_of_reach; 2]).await, Err("out of reach"));
        assert_eq!(read(&[Ok(1), Err("damaged")]).await, Err("damaged"));
        assert_eq!(read(&[]).await, Ok(Vec::new()));
    }
}
