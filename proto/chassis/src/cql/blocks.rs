//! Numbers that are given once, taken in blocks from a counter in the cluster.

use std::{ops::Range, time::Duration};

use tokio::{sync::Mutex, time::sleep};

use super::{Applied, Conditional, Cql, CqlError, Read};

/// A counter of a table `(name text PRIMARY KEY, next bigint)`, from which numbers are
/// taken in blocks. They ascend for each taker; among several takers they are unique.
pub struct Blocks {
    cql: Cql,
    name: &'static str,
    first: i64,
    size: i64,
    look: Read,
    begin: Conditional,
    take: Conditional,
    left: Mutex<Range<i64>>,
}

/// How often a block is asked for before the taker gives up, with pauses in between of
/// random length, up to twice as long each time.
const TRIES: u32 = 12;
const LONGEST_PAUSE_MS: u64 = 256;

impl Blocks {
    /// The counter `name` of a table, whose first number is `first`.
    pub fn new(cql: &Cql, table: &'static str, name: &'static str, first: i64, size: u16) -> Self {
        Self {
            cql: cql.clone(),
            name,
            first,
            size: i64::from(size.max(1)),
            look: cql.serial_read(
                "block_look",
                &format!("SELECT next FROM {table} WHERE name = ?"),
            ),
            begin: cql.conditional(
                "block_begin",
                &format!("INSERT INTO {table} (name, next) VALUES (?, ?) IF NOT EXISTS"),
            ),
            take: cql.conditional(
                "block_take",
                &format!("UPDATE {table} SET next = ? WHERE name = ? IF next = ?"),
            ),
            left: Mutex::new(0..0),
        }
    }

    /// A number that nobody else was given or will be.
    ///
    /// # Errors
    /// [`CqlError::Unavailable`].
    pub async fn next(&self) -> Result<i64, CqlError> {
        self.next_above(i64::MIN).await
    }

    /// The same, above `floor`; a block that lies below it is left for a newer one.
    ///
    /// # Errors
    /// [`CqlError::Unavailable`].
    pub async fn next_above(&self, floor: i64) -> Result<i64, CqlError> {
        let mut left = self.left.lock().await;
        loop {
            if let Some(number) = left.find(|number| *number > floor) {
                return Ok(number);
            }
            *left = self.block().await?;
        }
    }

    /// A number that is above all that were given so far, by whomever.
    ///
    /// # Errors
    /// [`CqlError::Unavailable`].
    pub async fn end(&self) -> Result<i64, CqlError> {
        Ok(self.look().await?.unwrap_or(self.first))
    }

    async fn look(&self) -> Result<Option<i64>, CqlError> {
        let next: Option<(i64,)> = self.cql.row(&self.look, (self.name,)).await?;
        Ok(next.map(|(next,)| next))
    }

    /// A block whose taking was answered "applied". One without a definite answer is
    /// never used, for two may believe it theirs: another is taken.
    async fn block(&self) -> Result<Range<i64>, CqlError> {
        let mut last = CqlError::Unavailable("others took every block first".to_owned());
        for attempt in 0..TRIES {
            let next = self.look().await?;
            let block = next.unwrap_or(self.first)..next.unwrap_or(self.first) + self.size;
            let taken = match next {
                None => {
                    self.cql
                        .apply_once(&self.begin, (self.name, block.end))
                        .await
                }
                Some(next) => {
                    let values = (block.end, self.name, next);
                    self.cql.apply_once(&self.take, values).await
                }
            };
            match taken {
                Ok(Applied::Yes) => return Ok(block),
                Ok(Applied::No { .. }) => {
                    let longest = (4_u64 << attempt).min(LONGEST_PAUSE_MS);
                    sleep(Duration::from_millis(rand::random_range(0..longest))).await;
                }
                Err(CqlError::Unknown(why)) => last = CqlError::Unavailable(why),
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }
}
