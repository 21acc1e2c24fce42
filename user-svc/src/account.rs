//! Accounts.

use std::fmt;

use chassis::id::UserId;

use crate::{
    error::FormError,
    phone_number::PhoneNumber,
    username::{Username, shows_nothing},
};

/// An account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its id; never reused.
    pub id: UserId,
    /// What its owner said at sign-up.
    pub profile: Profile,
    /// What it may do beyond a member's rights; empty for most.
    pub roles: Vec<String>,
    /// When it was opened; milliseconds since the Unix epoch.
    pub create_time_ms: i64,
}

/// What a person says at sign-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// His phone number; one account has it.
    pub phone_number: PhoneNumber,
    /// His name; one account has it, case aside.
    pub username: Username,
    /// Where push services reach his phone.
    pub gcm_token: GcmToken,
    /// What his phone is.
    pub device_type: DeviceType,
}

/// A Google Cloud Messaging token: not blank, at most 4,096 characters, kept as sent.
#[derive(Clone, PartialEq, Eq)]
pub struct GcmToken(String);

/// A kind of device: not blank, at most 8 characters, kept as sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceType(String);

impl GcmToken {
    /// Checks a token.
    ///
    /// # Errors
    /// When it is blank or too long.
    pub fn parse(text: String) -> Result<Self, FormError> {
        check(&text, 4_096, "must be at most 4096 characters")?;
        Ok(Self(text))
    }

    /// A token that a store holds.
    pub(crate) fn from_stored(text: String) -> Self {
        Self(text)
    }

    /// The token.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

/// Keeps tokens out of logs.
impl fmt::Debug for GcmToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GcmToken(…)")
    }
}

impl DeviceType {
    /// Checks a kind of device.
    ///
    /// # Errors
    /// When it is blank or too long.
    pub fn parse(text: String) -> Result<Self, FormError> {
        check(&text, 8, "must be at most 8 characters")?;
        Ok(Self(text))
    }

    /// A kind that a store holds.
    pub(crate) fn from_stored(text: String) -> Self {
        Self(text)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check(text: &str, max_chars: usize, rule: &'static str) -> Result<(), FormError> {
    if text.chars().all(shows_nothing) {
        Err(FormError::NotGiven)
    } else if text.chars().nth(max_chars).is_some() {
        Err(FormError::Breaks(rule))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_refused_when_blank_or_over_their_length_and_never_cut() {
        assert_eq!(
            DeviceType::parse(" \u{200b}".into()),
            Err(FormError::NotGiven)
        );
        assert!(DeviceType::parse("телефон!".into()).is_ok());
        assert!(DeviceType::parse("androids+".into()).is_err());
        assert!(GcmToken::parse("ж".repeat(4_096)).is_ok());
        assert!(GcmToken::parse("ж".repeat(4_097)).is_err());
        assert_eq!(GcmToken::parse(String::new()), Err(FormError::NotGiven));
    }
}
