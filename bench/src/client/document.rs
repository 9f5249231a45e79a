//! Documents to store: user records of a given size, each different, that compress as real ones do. Random bytes would not
//! compress at all, and a constant document would compress to nothing; both would misrepresent a store.

use std::io::Write;

const FIRST_NAMES: [&str; 16] = [
    "Ada",
    "Alan",
    "Barbara",
    "Claude",
    "Donald",
    "Edsger",
    "Frances",
    "Grace",
    "Hedy",
    "John",
    "Katherine",
    "Leslie",
    "Margaret",
    "Niklaus",
    "Radia",
    "Tony",
];
const LAST_NAMES: [&str; 16] = [
    "Lovelace", "Turing", "Liskov", "Shannon", "Knuth", "Dijkstra", "Allen", "Hopper", "Lamarr", "Backus",
    "Johnson", "Lamport", "Hamilton", "Wirth", "Perlman", "Hoare",
];
const CITIES: [&str; 12] = [
    "Amsterdam",
    "Berlin",
    "Chicago",
    "Dublin",
    "Edinburgh",
    "Lagos",
    "Lisbon",
    "Montreal",
    "Nairobi",
    "Osaka",
    "Quito",
    "Zürich",
];
const TAGS: [&str; 8] = ["beta", "daily", "invited", "mobile", "newsletter", "partner", "trial", "verified"];
const WORDS: [&str; 48] = [
    "about", "account", "after", "again", "asked", "before", "billing", "called", "change", "contract",
    "customer", "delivery", "details", "email", "every", "first", "follow", "friend", "from", "invoice",
    "issue", "last", "later", "letter", "monthly", "moved", "never", "new", "number", "office", "often",
    "order", "paid", "payment", "phone", "plan", "please", "prefers", "price", "question", "renewal",
    "second", "sent", "support", "twice", "until", "week", "with",
];

/// Random numbers that are the same for the same seed (xorshift64*, Vigna 2016).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Starts from `seed`.
    pub fn new(seed: u64) -> Self {
        // The state must not be zero, and seeds that differ in one bit must not start alike.
        Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }
}

/// Makes documents.
#[derive(Clone, Debug)]
pub struct Documents {
    random: Random,
    bytes: usize,
}

impl Documents {
    /// Documents of `bytes` bytes, or about 250 where that is less.
    pub fn new(seed: u64, bytes: usize) -> Self {
        Self { random: Random::new(seed), bytes }
    }

    /// Appends the next document.
    pub fn write(&mut self, out: &mut Vec<u8>) {
        out.push(b'{');
        let start = out.len() - 1;
        self.write_members(start, out);
    }

    /// Appends the next document with a first member `sent`, the sequence number by which a subscriber knows which write an event
    /// belongs to.
    pub fn write_numbered(&mut self, sent: u64, out: &mut Vec<u8>) {
        let start = out.len();
        append(out, format_args!(r#"{{"{SEQUENCE}":{sent}"#));
        if self.bytes < MEMBERS_BYTES_MIN {
            return out.push(b'}');
        }
        out.push(b',');
        self.write_members(start, out);
    }

    fn write_members(&mut self, start: usize, out: &mut Vec<u8>) {
        let random = &mut self.random;
        let (first, last) = (random.pick(&FIRST_NAMES), random.pick(&LAST_NAMES));
        let (high, low, number) = (random.next(), random.next(), random.next());
        append(
            out,
            format_args!(
                r#""id":"{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}","name":"{first} {last}","email":"{first}.{last}{}@example.com","#,
                high >> 32,
                high as u16,
                low as u16 & 0xfff,
                (low >> 16) as u16 & 0xfff,
                low >> 16 & 0xffff_ffff_ffff,
                number % 1000,
            ),
        );
        append(
            out,
            format_args!(
                r#""age":{},"active":{},"balance":{}.{:02},"created_at":"202{}-{:02}-{:02}T{:02}:{:02}:{:02}Z","city":"{}","tags":["{}","{}"],"note":""#,
                18 + number / 1000 % 70,
                number & 1 == 0,
                number >> 20 & 0x3fff,
                (number >> 36) % 100,
                number >> 8 & 3,
                1 + (high >> 8) % 12,
                1 + (high >> 16) % 28,
                high % 24,
                (low >> 8) % 60,
                low % 60,
                random.pick(&CITIES),
                random.pick(&TAGS),
                random.pick(&TAGS),
            ),
        );
        let closing_bytes = 2;
        while out.len() - start + closing_bytes < self.bytes {
            let word = random.pick(&WORDS);
            let room = self.bytes - (out.len() - start) - closing_bytes;
            out.extend_from_slice(&word.as_bytes()[..word.len().min(room)]);
            if room > word.len() {
                out.push(b' ');
            }
        }
        out.extend_from_slice(br#""}"#);
    }
}

/// The member that holds the sequence number of the write.
const SEQUENCE: &str = "sent";
/// A numbered document smaller than this has no other members.
const MEMBERS_BYTES_MIN: usize = 250;

/// The sequence number in a line that contains a numbered document.
pub fn sequence_in(line: &[u8]) -> Option<u64> {
    const NAME: &[u8] = br#"{"sent":"#;
    let at = line.windows(NAME.len()).position(|window| window == NAME)? + NAME.len();
    let digits = line[at..].iter().take_while(|byte| byte.is_ascii_digit());
    Some(digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

fn append(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a vector takes all that is written to it");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn documents_are_json_of_the_size_asked_for() {
        for bytes in [350, 1000, 16_384] {
            let mut documents = Documents::new(7, bytes);
            for _ in 0..100 {
                let document = text(|out| documents.write(out));
                serde_json::from_str::<serde_json::Value>(&document).expect(&document);
                assert_eq!(document.len(), bytes, "{document}");
            }
        }
    }

    #[test]
    fn documents_of_one_seed_are_the_same_and_differ_from_each_other() {
        let two = |seed| {
            let mut documents = Documents::new(seed, 350);
            (text(|out| documents.write(out)), text(|out| documents.write(out)))
        };
        assert_eq!(two(1), two(1));
        assert_ne!(two(1), two(2));
        assert_ne!(two(1).0, two(1).1);
    }

    #[test]
    fn a_sequence_number_is_found_whatever_the_size() {
        for bytes in [0, 20, 250, 350] {
            let document = text(|out| Documents::new(1, bytes).write_numbered(12345, out));
            serde_json::from_str::<serde_json::Value>(&document).expect(&document);
            assert_eq!(
                sequence_in(format!(r#"data: {{"key":"a","value":{document}}}"#).as_bytes()),
                Some(12345)
            );
        }
        assert_eq!(sequence_in(b": dynarust 127.0.0.1:6660"), None);
    }
}
