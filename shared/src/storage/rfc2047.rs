//! Encodes text for user metadata (RFC 2047).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

/// Bytes of text in an encoded word, so that the word has at most 75 characters (RFC 2047,
/// section 2).
const WORD_BYTES: usize = 45;

/// Encodes the start of `text` as an HTTP header of at most `max_bytes` bytes, in one line:
/// printable ASCII is kept, other text becomes encoded words of RFC 2047, which S3 decodes
/// before storing them (S3 user guide, "Working with object metadata").
pub fn encode_rfc2047(text: &str, max_bytes: usize) -> String {
    // Encoding makes no character shorter.
    let mut text: String = text.chars().take(max_bytes).collect();
    loop {
        let value = encoded(text.trim_end());
        if value.len() <= max_bytes || text.pop().is_none() {
            return value;
        }
    }
}

fn encoded(text: &str) -> String {
    let clean: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let plain = clean.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if plain && !clean.contains("=?") {
        return clean.trim().to_owned();
    }
    let mut words: Vec<String> = vec![String::new()];
    for c in clean.trim().chars() {
        if words
            .last()
            .is_none_or(|word| word.len() + c.len_utf8() > WORD_BYTES)
        {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut() {
            word.push(c);
        }
    }
    let encoded: Vec<_> = words
        .iter()
        .map(|word| format!("=?UTF-8?B?{}?=", BASE64.encode(word)))
        .collect();
    encoded.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_becomes_a_legal_header_within_its_room() {
        assert_eq!(encode_rfc2047("1a plain ~ ", 200), "1a plain ~");
        assert_eq!(encode_rfc2047("1a\tb\x07\r\nc", 200), "1a b   c");
        assert_eq!(encode_rfc2047(&"x".repeat(5000), 200), "x".repeat(200));
        let long = "1a 日本語のとても長い件名".repeat(50);
        for text in [
            "1a naïve",
            "1a =?UTF-8?B?eA==?=",
            &long,
            "1a \u{202e}\0\u{85}",
        ] {
            let value = encode_rfc2047(text, 200);
            assert!(value.len() <= 200, "{value}");
            assert!(
                value.bytes().all(|byte| matches!(byte, b' '..=b'~')),
                "{value}"
            );
            let words = value.split(' ').map(|word| {
                let base64 = word
                    .strip_prefix("=?UTF-8?B?")
                    .and_then(|word| word.strip_suffix("?="));
                let bytes = BASE64.decode(base64.expect("it is an encoded word"));
                String::from_utf8(bytes.expect("it is base64")).expect("no character is cut")
            });
            let decoded: String = words.collect();
            assert!(decoded.starts_with("1a "), "{decoded}");
        }
    }
}
