//! Bytes on disk: what is encoded comes back, and damaged bytes are an error, never a panic and never another value.

use std::sync::OnceLock;

use dynarust::{
    core::register::{Fingerprint, Marker},
    storage::table::{
        codec::{Codec, Dictionaries, Dictionary, Samples},
        record::{self, Body, Head, Record},
    },
};
use proptest::{collection::vec, prelude::*, sample::Index};

use crate::{
    cases,
    generators::{bytes, json_text, timestamp},
};

/// Damaged records to each sound one: 200,000 in all.
const DAMAGES: usize = 200;
/// Strings of any bytes to each case.
const NOISES: usize = 20;
const PLAIN_BYTES_MAX: usize = 100_000;

/// What can become of bytes.
#[derive(Clone, Debug)]
enum Damage {
    FlipBit(Index, u8),
    Set(Index, u8),
    CutTo(Index),
    Append(Vec<u8>),
    Zero(Index, usize),
    Swap(Index, Index),
}

impl Damage {
    fn done_to(&self, bytes: &[u8]) -> Vec<u8> {
        let mut damaged = bytes.to_vec();
        let length = damaged.len();
        match self {
            Self::FlipBit(at, bit) => damaged[at.index(length)] ^= 1 << bit,
            Self::Set(at, byte) => damaged[at.index(length)] = *byte,
            Self::CutTo(at) => damaged.truncate(at.index(length)),
            Self::Append(more) => damaged.extend_from_slice(more),
            Self::Zero(at, count) => {
                let at = at.index(length);
                damaged[at..length.min(at + count)].fill(0);
            }
            Self::Swap(a, b) => damaged.swap(a.index(length), b.index(length)),
        }
        damaged
    }
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        (any::<Index>(), 0..8u8).prop_map(|(at, bit)| Damage::FlipBit(at, bit)),
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        any::<Index>().prop_map(Damage::CutTo),
        vec(any::<u8>(), 1..9).prop_map(Damage::Append),
        (any::<Index>(), 1..64usize).prop_map(|(at, count)| Damage::Zero(at, count)),
        (any::<Index>(), any::<Index>()).prop_map(|(a, b)| Damage::Swap(a, b)),
    ]
}

fn head() -> impl Strategy<Value = Head> {
    (timestamp(), any::<[u8; 8]>(), any::<bool>(), any::<Option<u64>>(), any::<[bool; 2]>()).prop_map(
        |(timestamp, fingerprint, live, expires_at_ms, [quiet, expired])| Head {
            marker: Marker { timestamp, fingerprint: Fingerprint(fingerprint) },
            live,
            expires_at_ms,
            quiet,
            expired,
            coded_bytes: 0,
        },
    )
}

/// A payload as a record has it, inline or elsewhere.
fn body() -> impl Strategy<Value = Result<Vec<u8>, u32>> {
    prop_oneof![4 => bytes(400).prop_map(Ok), 1 => any::<u32>().prop_map(Err)]
}

fn record<'a>(head: Head, codec: u8, body: &'a Result<Vec<u8>, u32>) -> Record<'a> {
    let (body, coded_bytes) = match body {
        Ok(payload) => (Body::Inline(payload), payload.len() as u32),
        Err(length) => (Body::Chunked(*length), *length),
    };
    Record { head: Head { coded_bytes, ..head }, codec: Codec(codec), body }
}

/// Dictionaries of a table whose documents look alike.
fn dictionaries() -> &'static Dictionaries {
    static DICTIONARIES: OnceLock<Dictionaries> = OnceLock::new();
    DICTIONARIES.get_or_init(train)
}

fn train() -> Dictionaries {
    let mut dictionaries = Dictionaries::default();
    for generation in 0..2 {
        let mut samples = Samples::default();
        let mut number = 0;
        while !samples.add(document(generation, number).as_bytes()) {
            number += 1;
        }
        dictionaries.push(Dictionary::new(&samples.train().expect("alike enough")));
    }
    dictionaries
}

fn document(generation: u32, number: u32) -> String {
    format!(
        r#"{{"generation":{generation},"id":{number},"name":"user {}","email":"{number}@example.org"}}"#,
        number * 7
    )
}

/// Values that a dictionary helps with, that zstd alone helps with, and that stay as they are.
fn plain() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        any::<u32>().prop_map(|number| document(number % 3, number % 100_000).into_bytes()),
        json_text().prop_map(String::into_bytes),
        (bytes(100), 1..500usize).prop_map(|(bytes, times)| bytes.repeat(times)),
        bytes(3_000),
    ]
}

proptest! {
    #![proptest_config(cases(1_000))]

    #[test]
    fn a_record_comes_back_as_it_was(key in bytes(100), head in head(), codec: u8, body in body()) {
        let record = record(head, codec, &body);
        let encoded = record::encode(&key, &record);
        prop_assert!(encoded.len() <= record::OVERHEAD_BYTES + body.as_ref().map_or(4, Vec::len));
        prop_assert_eq!(record::decode(&key, &encoded), Ok(record));
    }

    #[test]
    fn a_damaged_record_is_an_error(
        key in bytes(20),
        head in head(),
        codec: u8,
        body in body(),
        damages in vec(damage(), DAMAGES),
    ) {
        let encoded = record::encode(&key, &record(head, codec, &body));
        for damage in &damages {
            let damaged = damage.done_to(&encoded);
            let decoded = record::decode(&key, &damaged);
            prop_assert!(decoded.is_err() || damaged == encoded, "{damage:?} went unseen");
        }
        let other = [&key[..], &[0]].concat();
        prop_assert!(record::decode(&other, &encoded).is_err(), "under another key");
    }

    #[test]
    fn no_bytes_panic_the_decoder(key in bytes(20), bytes in vec(bytes(200), NOISES)) {
        for bytes in &bytes {
            prop_assert!(record::decode(&key, bytes).is_err());
        }
    }
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn a_payload_comes_back_as_it_was(plain in vec(plain(), 20)) {
        let trained = dictionaries();
        let mut coded = Vec::new();
        for plain in &plain {
            for dictionaries in [&Dictionaries::default(), trained] {
                let codec = dictionaries.encode(plain, &mut coded);
                prop_assert!(coded.len() <= plain.len());
                prop_assert_eq!(codec.plain_bytes(&coded), plain.len());
                let decoded = dictionaries.decode(codec, &coded, PLAIN_BYTES_MAX);
                prop_assert_eq!(decoded.as_ref(), Ok(plain));
                // Later dictionaries leave what was coded before readable.
                prop_assert!(codec == Codec::RAW || trained.decode(codec, &coded, PLAIN_BYTES_MAX).is_ok());
            }
        }
    }

    #[test]
    fn damaged_payloads_do_not_panic_and_keep_their_limit(plain in plain(), damages in vec(damage(), 20), codec: u8) {
        let trained = dictionaries();
        let mut coded = Vec::new();
        let written = trained.encode(&plain, &mut coded);
        if coded.is_empty() {
            return Ok(());
        }
        for damage in &damages {
            let damaged = damage.done_to(&coded);
            for codec in [written, Codec(codec), Codec(1), Codec(2), Codec(3)] {
                if let Ok(decoded) = trained.decode(codec, &damaged, PLAIN_BYTES_MAX) {
                    prop_assert!(codec == Codec::RAW || decoded.len() <= PLAIN_BYTES_MAX);
                }
                let _ = codec.plain_bytes(&damaged);
            }
        }
    }
}
