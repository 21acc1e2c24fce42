//! Sign-in tokens. Only their SHA-256 is ever stored.

use std::fmt;

use sha2::{Digest, Sha256};

/// What a phone signs in with: 16 bytes, written as 32 lower-case hexadecimal digits.
#[derive(Clone, PartialEq, Eq)]
pub struct Token([u8; 16]);

/// SHA-256 of a token's 32 ASCII digits: what is stored, looked up and announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenHash([u8; 32]);

/// Names one sign-up, so that repeating it is safe. Secret: its token is derived from it.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestId([u8; 16]);

impl Token {
    /// A token from a cryptographic random source.
    #[must_use]
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// The token of a sign-up, the same each time.
    #[must_use]
    pub fn of_sign_up(request: &RequestId) -> Self {
        let digest: [u8; 32] = Sha256::new()
            .chain_update(b"drivers sign-up token v1")
            .chain_update(request.0)
            .finalize()
            .into();
        let [first, _] = halves(digest);
        Self(first)
    }

    /// Reads a token as a phone sent it; `None` for every text that no token has.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        // The decoder takes upper case too, which no token is written in.
        if text.bytes().any(|b| b.is_ascii_uppercase()) {
            return None;
        }
        let mut bytes = [0; 16];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Self(bytes))
    }

    /// The 32 digits, for the one who may have them.
    #[must_use]
    pub fn reveal(&self) -> String {
        hex::encode(self.0)
    }

    /// What is stored of it.
    #[must_use]
    pub fn hash(&self) -> TokenHash {
        TokenHash(Sha256::digest(self.reveal()).into())
    }
}

impl TokenHash {
    /// The hash of these bytes.
    #[must_use]
    pub const fn new(sha256: [u8; 32]) -> Self {
        Self(sha256)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl RequestId {
    /// The request that these bytes name.
    #[must_use]
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

fn halves(bytes: [u8; 32]) -> [[u8; 16]; 2] {
    let mut halves = [[0; 16]; 2];
    halves.as_flattened_mut().copy_from_slice(&bytes);
    halves
}

/// Keeps tokens out of logs.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Keeps tokens, which derive from it, out of logs.
impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RequestId(…)")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_token_is_32_lower_case_digits_and_hashes_as_sha256sum_says() {
        let text = "446f8da7c5904653bec11557c3416f6f";
        let token = Token::parse(text).unwrap();
        assert_eq!(token.reveal(), text);
        // printf 446f8da7c5904653bec11557c3416f6f | sha256sum
        assert_eq!(
            hex::encode(token.hash().as_bytes()),
            SHA256_OF_THE_SEEDS_TOKEN
        );
    }

    const SHA256_OF_THE_SEEDS_TOKEN: &str =
        "b452de5051b244a4edca007c40ba1025082601baca3aa472eef3b5c781d4d579";

    #[test]
    fn no_other_text_is_a_token() {
        for text in [
            "",
            "446F8DA7C5904653BEC11557C3416F6F",
            "446f8da7c5904653bec11557c3416f6",
            "446f8da7c5904653bec11557c3416f6f0",
            " 446f8da7c5904653bec11557c3416f6f",
            "446f8da7c5904653bec11557c3416f6g",
            "446f8da7c5904653bec11557c3416fé",
            "\0",
        ] {
            assert_eq!(Token::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_sign_up_has_one_token_and_another_has_another() {
        let token = Token::of_sign_up(&RequestId::new([7; 16]));
        // (printf 'drivers sign-up token v1'; printf '\7%.0s' {1..16}) | sha256sum
        assert_eq!(token.reveal(), "c8b892619c6ce5e8982379d6e4b5f324");
        assert_ne!(token, Token::of_sign_up(&RequestId::new([8; 16])));
    }

    #[test]
    fn random_tokens_differ_and_nothing_shows_in_debug_output() {
        let token = Token::random();
        assert_ne!(token, Token::random());
        assert!(!format!("{token:?}").contains(&token.reveal()));
    }
}
