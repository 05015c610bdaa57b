//! Identities as they lie in a cache: sixteen bytes where the text takes sixty.

use std::fmt;

use uuid::Uuid;

/// A uid. Kubernetes says only that it is a text; API servers make UUIDs (RFC 9562) in lower case, with hyphens.
#[derive(Debug)]
pub enum Uid {
    /// As they all are.
    Uuid(Uuid),
    /// Whatever else it may be.
    Other(Box<str>),
}

impl Uid {
    /// Of its text, which it gives back to the letter.
    pub fn of(text: &str) -> Self {
        match Uuid::try_parse(text) {
            Ok(uuid) if written(&uuid, &mut Uuid::encode_buffer()) == text => Self::Uuid(uuid),
            _ => Self::Other(text.into()),
        }
    }
}

fn written<'a>(uuid: &Uuid, buffer: &'a mut [u8]) -> &'a str {
    uuid.hyphenated().encode_lower(buffer)
}

impl PartialEq<str> for Uid {
    fn eq(&self, text: &str) -> bool {
        match self {
            Self::Uuid(uuid) => written(uuid, &mut Uuid::encode_buffer()) == text,
            Self::Other(known) => **known == *text,
        }
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uuid(uuid) => f.write_str(written(uuid, &mut Uuid::encode_buffer())),
            Self::Other(text) => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_comes_back_to_the_letter_whatever_it_looks_like() {
        let usual = "5ce3a1c8-7d0f-4b7e-9c36-2f1d6a0b9e47";
        assert!(matches!(Uid::of(usual), Uid::Uuid(_)));
        for text in [
            usual,
            "5CE3A1C8-7D0F-4B7E-9C36-2F1D6A0B9E47",
            "5ce3a1c87d0f4b7e9c362f1d6a0b9e47",
            "{5ce3a1c8-7d0f-4b7e-9c36-2f1d6a0b9e47}",
            "urn:uuid:5ce3a1c8-7d0f-4b7e-9c36-2f1d6a0b9e47",
            "uid-a",
            "",
        ] {
            assert_eq!(Uid::of(text).to_string(), text);
            assert!(Uid::of(text) == *text);
            assert_eq!(Uid::of(text) == *usual, text == usual, "{text}");
        }
    }
}
