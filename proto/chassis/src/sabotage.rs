//! Bugs that are planted on purpose, to see whether the trial of the mesh finds them.
//!
//! Only builds with the feature `sabotage` have this, and they can't be releases. There
//! `DRIVERS_SABOTAGE` names what is to go wrong, several names with commas between.

use std::sync::LazyLock;

#[cfg(not(debug_assertions))]
compile_error!("the feature `sabotage` plants bugs: it is for tests, and never for a release");

/// The variable that names them.
pub const VARIABLE: &str = "DRIVERS_SABOTAGE";

static NAMES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let names = std::env::var(VARIABLE).unwrap_or_default();
    names.split(',').map(str::to_owned).collect()
});

/// Whether this bug is planted.
#[must_use]
pub fn is(name: &str) -> bool {
    NAMES.iter().any(|planted| planted == name)
}

/// Whether it is, and strikes this time: it does in this share of all times, 0 to 1.
#[must_use]
pub fn strikes(name: &str, share: f64) -> bool {
    is(name) && rand::random_bool(share)
}
