//! User names: how they are stored, and when two are the same.

use icu_casemap::CaseMapper;
use icu_properties::{CodePointSetData, props::DefaultIgnorableCodePoint};
use unicode_normalization::UnicodeNormalization;

use crate::error::FormError;

/// A user name as its owner chose it: trimmed, in NFC, 1 to 16 characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Username(String);

/// What two user names that count as the same have in common: the name under
/// Unicode's full case folding.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UsernameKey(String);

impl Username {
    const MAX_CHARS: usize = 16;

    /// Brings a name into the stored form.
    ///
    /// White space and characters that show nothing are cut off at both ends;
    /// inside a name they may stay, for some scripts and emoji need them.
    ///
    /// # Errors
    /// When nothing visible is given, too much is, or a character in it controls
    /// the text around it: controls, line and paragraph separators, and the bidi
    /// embeddings, overrides and isolates.
    pub fn parse(text: &str) -> Result<Self, FormError> {
        let composed: String = text.nfc().collect();
        // A part of a text in NFC is in NFC.
        let name = composed.trim_matches(shows_nothing);
        if name.is_empty() {
            Err(FormError::NotGiven)
        } else if name.chars().any(controls_text) {
            Err(FormError::Breaks("must not contain control characters"))
        } else if name.chars().count() > Self::MAX_CHARS {
            Err(FormError::Breaks("must be at most 16 characters"))
        } else {
            Ok(Self(name.to_owned()))
        }
    }

    /// A name that a store holds, and that was parsed before it was stored.
    pub(crate) fn from_stored(name: String) -> Self {
        Self(name)
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What it is compared by: a canonical caseless match (Unicode, definition
    /// D145), in NFC. The folding takes a decomposed text, else U+0345 would
    /// fold differently on different letters.
    #[must_use]
    pub fn key(&self) -> UsernameKey {
        let decomposed: String = self.0.nfd().collect();
        let folded = CaseMapper::new().fold_string(&decomposed);
        UsernameKey(folded.nfc().collect())
    }
}

impl UsernameKey {
    /// The folded name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a character leaves no mark where it stands at an end of a text.
/// Besides what Unicode names so, some that fonts draw as nothing: Braille
/// without dots, the musical null notehead, interlinear annotation marks.
pub(crate) fn shows_nothing(c: char) -> bool {
    c.is_whitespace()
        || CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(c)
        || matches!(c, '\u{2800}' | '\u{1d159}' | '\u{fff9}'..='\u{fffb}')
}

fn controls_text(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Username {
        Username::parse(text).unwrap()
    }

    #[test]
    fn white_space_and_invisible_characters_at_the_ends_are_cut_off() {
        for end in [
            " ",
            "\t",
            "\n",
            "\u{a0}",
            "\u{3000}",
            "\u{200b}",
            "\u{200d}",
            "\u{200e}",
            "\u{202e}",
            "\u{2060}",
            "\u{feff}",
            "\u{ad}",
            "\u{2800}",
            "\u{3164}",
            "\u{115f}",
            "\u{ffa0}",
            "\u{fe0f}",
            "\u{e0100}",
            "\u{180e}",
            "\u{34f}",
        ] {
            assert_eq!(
                name(&format!("{end}{end}Sardor{end}")).as_str(),
                "Sardor",
                "{end:?}"
            );
            assert_eq!(Username::parse(end), Err(FormError::NotGiven), "{end:?}");
        }
        assert_eq!(name("Sardor  Aka").as_str(), "Sardor  Aka");
        assert_eq!(name("می\u{200c}خواهم").as_str(), "می\u{200c}خواهم");
    }

    #[test]
    fn control_characters_are_refused() {
        for text in [
            "\0Sardor",
            "Sar\u{7}dor",
            "Sar\ndor",
            "Sar\u{85}dor",
            "a\u{202e}b",
            "a\u{2028}b",
        ] {
            assert!(
                matches!(Username::parse(text), Err(FormError::Breaks(_))),
                "{text:?}"
            );
        }
    }

    #[test]
    fn the_length_is_that_of_the_composed_and_trimmed_name() {
        assert!(Username::parse("1234567890123456").is_ok());
        assert!(Username::parse("12345678901234567").is_err());
        assert!(Username::parse("   1234567890123456   ").is_ok());
        let decomposed = "e\u{301}".repeat(16);
        assert_eq!(name(&decomposed).as_str(), "é".repeat(16));
        assert!(Username::parse(&"Ж".repeat(16)).is_ok());
        assert!(Username::parse(&"🚚".repeat(16)).is_ok());
        assert!(Username::parse(&"🚚".repeat(17)).is_err());
    }

    #[test]
    fn names_are_the_same_under_full_case_folding() {
        for (one, other) in [
            ("Sardor", "sARDOR"),
            ("Сардор", "сАРДОР"),
            ("Straße", "STRASSE"),
            ("é", "E\u{301}"),
            ("ΌΣΟΣ", "όσος"),
            ("ﬁn", "FIN"),
            ("\u{1f80}", "\u{1f00}\u{3b9}"),
            // U+0345 folds to a letter, which marks of other letters do not move past.
            ("\u{1f80}\u{1714}", "\u{3b1}\u{1714}\u{313}\u{3b9}"),
        ] {
            assert_eq!(name(one).key(), name(other).key(), "{one} {other}");
        }
        for (one, other) in [
            ("Sardor", "Sardar"),
            ("e", "é"),
            ("ı", "i"),
            ("Соня", "Coня"),
        ] {
            assert_ne!(name(one).key(), name(other).key(), "{one} {other}");
        }
    }

    proptest! {
        #[test]
        fn parsing_a_stored_name_changes_nothing(text in "\\PC{0,20}") {
            if let Ok(name) = Username::parse(&text) {
                prop_assert_eq!(&Username::parse(name.as_str()).unwrap(), &name);
                prop_assert!((1..=16).contains(&name.as_str().chars().count()));
            }
        }

        #[test]
        fn case_and_composition_do_not_change_the_key(
            text in "(\\PC|\\p{Mn}|[\u{345}\u{1f80}-\u{1fff}]){1,8}",
        ) {
            if let Ok(name) = Username::parse(&text) {
                let decomposed: String = name.as_str().nfd().collect();
                let folded = Username(CaseMapper::new().fold_string(&decomposed).into_owned());
                prop_assert_eq!(Username(decomposed).key(), name.key());
                prop_assert_eq!(folded.key(), name.key());
                prop_assert_eq!(Username(name.key().0).key(), name.key());
            }
        }
    }
}
