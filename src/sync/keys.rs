//! The keys of the pair: one signs what this node sends, and up to two are accepted, so that keys can
//! be changed one node at a time without a gap.
//!
//! The file has one key per line, 64 hexadecimal digits; `#` begins a comment. The first key signs.
//! To change keys, append the new one on both nodes, then put it first on both, then take the old
//! one out of both. A running node reads the file anew when it gets SIGHUP.
//!
//! Neither an error nor `Debug` shows anything of a key.

use std::fmt;

use blake3::Hash;

/// Length of a key in bytes.
pub const KEY_LEN: usize = 32;
/// Length of a MAC in bytes.
pub const MAC_LEN: usize = 16;

/// What names a key in a datagram: the first 4 bytes of its BLAKE3 hash.
pub type KeyId = [u8; 4];

/// A key's name as it is shown: 8 hexadecimal digits.
pub fn name(id: KeyId) -> String {
    format!("{:08x}", u32::from_be_bytes(id))
}

/// A key and what names it.
#[derive(Clone, PartialEq, Eq)]
struct Key {
    id: KeyId,
    bytes: [u8; KEY_LEN],
}

impl Key {
    fn new(bytes: [u8; KEY_LEN]) -> Self {
        let [a, b, c, d, ..] = *blake3::hash(&bytes).as_bytes();
        Key { id: [a, b, c, d], bytes }
    }
}

/// The keys of the pair.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    signing: Key,
    other: Option<Key>,
}

/// What is wrong with a key file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// There is no key in it.
    #[error(
        "there is no key in it; make one with `openssl rand -hex 32` and give it to both nodes"
    )]
    Empty,
    /// A key has the wrong length.
    #[error(
        "line {line}: a key has 64 hexadecimal digits, this line has {characters} characters; \
         make one with `openssl rand -hex 32`"
    )]
    Length {
        /// The line, from 1.
        line: usize,
        /// How long it is.
        characters: usize,
    },
    /// A character is no hexadecimal digit.
    #[error(
        "line {line}: character {column} is not a hexadecimal digit (0-9, a-f); \
         make a key with `openssl rand -hex 32`"
    )]
    NotHex {
        /// The line, from 1.
        line: usize,
        /// The character of the line, from 1.
        column: usize,
    },
    /// A key is one byte again and again.
    #[error(
        "line {line}: this is a placeholder, everybody can guess it; \
         make a key with `openssl rand -hex 32`"
    )]
    Placeholder {
        /// The line, from 1.
        line: usize,
    },
    /// The same key stands there twice.
    #[error("line {line}: this is the key of line {first} again; take one of the two lines out")]
    Twice {
        /// The line, from 1.
        line: usize,
        /// Where it stands first.
        first: usize,
    },
    /// There are more than two.
    #[error(
        "line {line}: this is a third key, and at most two are accepted at a time; \
         take out the one that neither node signs with any more"
    )]
    TooMany {
        /// The line, from 1.
        line: usize,
    },
}

impl Keys {
    /// The keys of a key file's text.
    ///
    /// # Errors
    /// [`KeyError`], of the first line that is wrong.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let mut found: [Option<(usize, Key)>; 2] = [None, None];
        for (line, content) in (1..).zip(text.lines()) {
            let digits = content.split('#').next().unwrap_or("").trim_end();
            let start = digits.chars().take_while(|c| c.is_whitespace()).count();
            let digits = digits.trim_start();
            if digits.is_empty() {
                continue;
            }
            let key = Key::new(key_of(digits, line, start)?);
            if let Some((first, _)) = found.iter().flatten().find(|(_, known)| known.id == key.id) {
                return Err(KeyError::Twice { line, first: *first });
            }
            match found.iter_mut().find(|place| place.is_none()) {
                Some(place) => *place = Some((line, key)),
                None => return Err(KeyError::TooMany { line }),
            }
        }
        let [signing, other] = found.map(|place| place.map(|(_, key)| key));
        Ok(Keys { signing: signing.ok_or(KeyError::Empty)?, other })
    }

    /// What names the key that signs.
    pub const fn id(&self) -> KeyId {
        self.signing.id
    }

    /// What names the other key that is accepted.
    pub fn other_id(&self) -> Option<KeyId> {
        self.other.as_ref().map(|key| key.id)
    }

    /// Whether what is signed with the key named `id` is accepted.
    pub fn accepts(&self, id: KeyId) -> bool {
        self.id() == id || self.other_id() == Some(id)
    }

    /// Another secret that both nodes have, made of the key that signs, and the one made of the other
    /// key that is accepted: the peer may sign with that. `context` names the use; two uses have
    /// secrets that say nothing of each other (BLAKE3 in its key derivation mode).
    pub fn derive(&self, context: &str) -> ([u8; KEY_LEN], Option<[u8; KEY_LEN]>) {
        let of = |key: &Key| blake3::derive_key(context, &key.bytes);
        (of(&self.signing), self.other.as_ref().map(of))
    }

    /// The MAC, by the key that signs, of the bytes of `parts` one after the other.
    pub(super) fn sign(&self, parts: [&[u8]; 2]) -> [u8; MAC_LEN] {
        let mut mac = [0; MAC_LEN];
        mac.copy_from_slice(&mac_of(&self.signing, parts).as_bytes()[..MAC_LEN]);
        mac
    }

    /// Whether `mac` is that of `parts` by the key named `id`; `None` when there is no such key. Takes
    /// the same time wherever the MAC differs.
    pub(super) fn verify(&self, id: KeyId, parts: [&[u8]; 2], mac: &[u8; MAC_LEN]) -> Option<bool> {
        let key = [Some(&self.signing), self.other.as_ref()]
            .into_iter()
            .flatten()
            .find(|key| key.id == id)?;
        // `Hash` compares in constant time; the half that is not sent is made equal.
        let right = mac_of(key, parts);
        let mut given = *right.as_bytes();
        given[..MAC_LEN].copy_from_slice(mac);
        Some(right == Hash::from_bytes(given))
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys")
            .field("signing", &name(self.id()))
            .field("other", &self.other_id().map(name))
            .finish()
    }
}

fn mac_of(key: &Key, parts: [&[u8]; 2]) -> Hash {
    let mut hasher = blake3::Hasher::new_keyed(&key.bytes);
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}

/// The key in these characters, which begin after `start` others of their line.
fn key_of(digits: &str, line: usize, start: usize) -> Result<[u8; KEY_LEN], KeyError> {
    if let Some(at) = digits.chars().position(|c| !c.is_ascii_hexdigit()) {
        return Err(KeyError::NotHex { line, column: start + at + 1 });
    }
    if digits.len() != 2 * KEY_LEN {
        return Err(KeyError::Length { line, characters: digits.len() });
    }
    let mut key = [0; KEY_LEN];
    for (byte, pair) in key.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        let value = |digit: u8| char::from(digit).to_digit(16).unwrap_or(0) as u8;
        *byte = value(pair[0]) << 4 | value(pair[1]);
    }
    if key.iter().all(|byte| *byte == key[0]) {
        return Err(KeyError::Placeholder { line });
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: &str = "00112233445566778899aabbccddeeff0123456789abcdef0123456789abcdef";
    const B: &str = "FF112233445566778899aabbccddeeff0123456789abcdef0123456789abcdef";
    const C: &str = "11112233445566778899aabbccddeeff0123456789abcdef0123456789abcdef";

    #[test]
    fn good_files() {
        let one = Keys::parse(&format!("# the pair's key\n\n  {A}  # since May\r\n")).unwrap();
        assert_eq!(one.other_id(), None);
        assert_eq!(one, Keys::parse(&A.to_uppercase()).unwrap());
        let two = Keys::parse(&format!("{B}\n{A}\n")).unwrap();
        assert_eq!((two.other_id(), two.id() == one.id()), (Some(one.id()), false));
    }

    #[test]
    fn bad_files_say_where_and_what() {
        let line = |text: String| Keys::parse(&text).unwrap_err().to_string();
        let mend = "`openssl rand -hex 32`";
        assert!(line("# nothing\n".into()).contains(mend));
        let short = line(format!("{A}\n{}\n", &B[1..]));
        assert!(short.starts_with("line 2:") && short.contains("63 characters"), "{short}");
        assert!(short.contains(mend));
        let letter = line(format!("\n\n \t{}x\n", &A[1..]));
        assert!(letter.starts_with("line 3: character 66 is not"), "{letter}");
        assert!(line(format!("{A}é")).starts_with("line 1: character 65 is not"));
        assert!(line("0".repeat(64)).starts_with("line 1: this is a placeholder"));
        let twice = line(format!("#\n{A}\n{}\n", A.to_uppercase()));
        assert!(twice.starts_with("line 3: this is the key of line 2 again"), "{twice}");
        assert!(line(format!("{A}\n{B}\n{C}")).starts_with("line 3: this is a third key"));
    }

    #[test]
    fn nothing_shows_a_key() {
        let shown = format!("{:?}", Keys::parse(&format!("{A}\n{B}")).unwrap());
        assert!(shown.contains("signing") && shown.len() < 60, "{shown}");
        for at in 0..A.len() - 8 {
            assert!(!shown.contains(&A[at..at + 8]) && !shown.contains(&B[at..at + 8]), "{shown}");
        }
    }

    #[test]
    fn what_is_derived_depends_on_key_and_use() {
        let (a, b) = (Keys::parse(A).unwrap(), Keys::parse(B).unwrap());
        assert_ne!(a.derive("x"), a.derive("y"));
        assert_ne!(a.derive("x"), b.derive("x"));
        let both = Keys::parse(&format!("{A}\n{B}")).unwrap().derive("x");
        assert_eq!(both, (a.derive("x").0, Some(b.derive("x").0)));
    }

    #[test]
    fn either_key_is_accepted_and_every_bit_counts() {
        let (a, b) = (Keys::parse(A).unwrap(), Keys::parse(B).unwrap());
        let both = Keys::parse(&format!("{A}\n{B}")).unwrap();
        let parts: [&[u8]; 2] = [b"header", b"records"];
        for keys in [&a, &b] {
            let mac = keys.sign(parts);
            assert_eq!(both.verify(keys.id(), parts, &mac), Some(true));
            assert_eq!(both.verify(keys.id(), [b"header", b"recordS"], &mac), Some(false));
            for bit in 0..128 {
                let mut wrong = mac;
                wrong[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(both.verify(keys.id(), parts, &wrong), Some(false));
            }
        }
        assert_eq!(a.verify(b.id(), parts, &b.sign(parts)), None);
    }

    proptest! {
        #[test]
        fn any_text(text in "[0-9a-f# \n\\PC]{0,200}") {
            let _ = Keys::parse(&text);
        }
    }
}
