//! Damage by chance, for the tests that run without libFuzzer.

use rand::RngExt;

/// A name made of what git minds: dots, slashes, locks, control characters.
pub fn odd_name(random: &mut impl RngExt) -> String {
    const PARTS: [&str; 24] = [
        "a", "B", "1", "-", "_", ".", "..", "/", "//", ".lock", "@", "@{", "{", "}", "~", "^", ":",
        "?", "*", "[", "\\", " ", "\u{7f}", "ü",
    ];
    let mut name = String::new();
    for _ in 0..random.random_range(1..6) {
        name.push_str(PARTS[random.random_range(0..PARTS.len())]);
    }
    name
}

/// Damages bytes at a few places.
pub fn damage(bytes: &mut Vec<u8>, random: &mut impl RngExt) {
    for _ in 0..random.random_range(1..5) {
        let at = random.random_range(0..=bytes.len());
        let end = bytes.len().min(at + random.random_range(1..40));
        match random.random_range(0..8) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            3 => {
                let piece: Vec<u8> = (0..random.random_range(1..20))
                    .map(|_| random.random())
                    .collect();
                bytes.splice(at..at, piece);
            }
            4 => bytes[at..end].fill(0xff),
            5 => bytes[at..end].fill(b'0'),
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << random.random_range(0..8);
                }
            }
        }
    }
}
