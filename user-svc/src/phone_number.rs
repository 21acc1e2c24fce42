//! Phone numbers in their one stored form.

use std::fmt;

use crate::error::FormError;

/// A phone number: 7 to 15 digits, no sign. Fifteen is what a number can have
/// (ITU-T E.164) and what the contract allows; a country is not asked for, since
/// the contract takes any digits.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PhoneNumber(String);

impl PhoneNumber {
    const DIGITS: std::ops::RangeInclusive<usize> = 7..=15;

    /// Brings a number as people write it into the stored form: blanks and dashes
    /// are dropped, then one leading `+`.
    ///
    /// # Errors
    /// When nothing but white space is given, anything else but digits is left,
    /// or too few or too many of them.
    pub fn parse(text: &str) -> Result<Self, FormError> {
        if text.chars().all(char::is_whitespace) {
            return Err(FormError::NotGiven);
        }
        let mut rest = text.chars().filter(|c| !is_separator(*c)).peekable();
        rest.next_if_eq(&'+');
        // One more than allowed tells "too many", however long the text is.
        let digits: String = rest.take(Self::DIGITS.end() + 1).collect();
        if Self::DIGITS.contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit()) {
            Ok(Self(digits))
        } else {
            Err(FormError::Breaks(
                "must be 7 to 15 digits with an optional leading +, blanks and dashes aside",
            ))
        }
    }

    /// A number that a store holds, and that was parsed before it was stored.
    pub(crate) fn from_stored(digits: String) -> Self {
        Self(digits)
    }

    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Blanks, and dashes as keyboards and address books write them.
fn is_separator(c: char) -> bool {
    c.is_whitespace() || matches!(c, '-' | '\u{2010}'..='\u{2015}' | '\u{2212}')
}

/// Keeps numbers out of logs.
impl fmt::Debug for PhoneNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PhoneNumber(…)")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn every_way_of_writing_a_number_is_one_number() {
        for text in [
            "998901234567",
            "+998901234567",
            "+998 90 123-45-67",
            " + 998\t90\u{a0}123\u{2011}45\u{2013}67 ",
        ] {
            assert_eq!(PhoneNumber::parse(text).unwrap().as_str(), "998901234567");
        }
    }

    #[test]
    fn seven_to_fifteen_digits_count_after_blanks_and_dashes_are_gone() {
        for text in [
            "1234567",
            "123456789012345",
            "+1 2 3 4 5 6 7 8 9 0 1 2 3 4 5",
            "0000000",
        ] {
            assert!(PhoneNumber::parse(text).is_ok(), "{text}");
        }
        for text in ["123456", "+12-34-56", "1234567890123456", "+"] {
            assert!(
                matches!(PhoneNumber::parse(text), Err(FormError::Breaks(_))),
                "{text}"
            );
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "99890123456a",
            "(998)901234567",
            "++998901234567",
            "998+901234567",
            "998.90.1234567",
            "٩٩٨٩٠١٢٣٤٥",
            "998901234567\0",
            "\u{200e}998901234567",
            "--",
        ] {
            assert!(
                matches!(PhoneNumber::parse(text), Err(FormError::Breaks(_))),
                "{text:?}"
            );
        }
    }

    #[test]
    fn blank_is_not_given() {
        for text in ["", " ", "\t\n\u{a0}"] {
            assert_eq!(PhoneNumber::parse(text), Err(FormError::NotGiven));
        }
    }

    #[test]
    fn a_number_does_not_show_in_debug_output() {
        let number = PhoneNumber::parse("998901234567").unwrap();
        assert!(!format!("{number:?}").contains("99890"));
    }
}
