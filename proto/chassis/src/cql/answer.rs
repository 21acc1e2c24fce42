//! The answer to a conditional write.
//!
//! Cassandra answers one row, which beside `[applied]` has the old values only when it
//! was not applied, and not always then. ScyllaDB answers one row for each conditional
//! statement, always with all columns, the old values even when it was applied. So
//! columns are looked up by name, in the first row.

use scylla::{
    response::query_result::QueryResult,
    value::{CqlValue, Row},
};

use super::CqlError;

/// What became of a conditional write.
#[derive(Clone, Debug, PartialEq)]
pub enum Applied {
    /// It was applied.
    Yes,
    /// It was not.
    No {
        /// What stood in the way, as far as the cluster told.
        old: OldRow,
        /// Whether an earlier sending of the same write had no answer: it may be
        /// that one which was applied, and stands in the way of this.
        unsure: bool,
    },
}

/// The row that stood in the way of a conditional write; empty when there was none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OldRow(Vec<(String, CqlValue)>);

impl OldRow {
    fn get(&self, column: &str) -> Option<&CqlValue> {
        self.0
            .iter()
            .find(|(name, _)| name == column)
            .map(|(_, value)| value)
    }

    /// Whether nothing stood there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A value of type bigint, if there is one.
    #[must_use]
    pub fn bigint(&self, column: &str) -> Option<i64> {
        self.get(column)?.as_bigint()
    }

    /// A value of type int, if there is one.
    #[must_use]
    pub fn int(&self, column: &str) -> Option<i32> {
        self.get(column)?.as_int()
    }

    /// A value of type boolean, if there is one.
    #[must_use]
    pub fn boolean(&self, column: &str) -> Option<bool> {
        self.get(column)?.as_boolean()
    }

    /// A value of type text, if there is one.
    #[must_use]
    pub fn text(&self, column: &str) -> Option<&str> {
        self.get(column)?.as_text().map(String::as_str)
    }

    /// A value of type blob, if there is one.
    #[must_use]
    pub fn blob(&self, column: &str) -> Option<&[u8]> {
        self.get(column)?.as_blob().map(Vec::as_slice)
    }
}

/// Reads the answer to the statement of this name, and counts those that were not applied.
pub(super) fn decode(name: &'static str, result: QueryResult) -> Result<Applied, CqlError> {
    let rows = result.into_rows_result()?;
    let names: Vec<String> = rows
        .column_specs()
        .iter()
        .map(|column| column.name().to_owned())
        .collect();
    let row: Row = rows
        .first_row()
        .map_err(|error| CqlError::Damaged(error.to_string()))?;
    let mut applied = None;
    let mut old = Vec::new();
    for (name, value) in names.into_iter().zip(row.columns) {
        match value {
            Some(CqlValue::Boolean(is)) if name == "[applied]" => applied = Some(is),
            Some(value) => old.push((name, value)),
            None => {}
        }
    }
    match applied {
        Some(true) => Ok(Applied::Yes),
        Some(false) => {
            metrics::counter!("drivers_store_not_applied_total", "statement" => name).increment(1);
            Ok(Applied::No {
                old: OldRow(old),
                unsure: false,
            })
        }
        None => Err(CqlError::Damaged(
            "an answer does not say whether the write was applied".to_owned(),
        )),
    }
}
