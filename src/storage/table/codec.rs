//! Codecs of payloads: raw, or compressed with zstd, with a dictionary of the table if there is one.
//!
//! Values of one table are alike, and a single one is too short to compress well, so a dictionary is trained once from the first few
//! hundred and stored beside them. One byte in each record names its codec: raw rows, compressed rows, and rows of every dictionary can
//! coexist.

use std::{cell::RefCell, io, sync::Arc};

use zstd::zstd_safe::{self, CCtx, CDict, DCtx, DDict};

/// The codec of a payload: 0 raw, 1 zstd, 2 and up zstd with the table's dictionary number `codec - 2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Codec(pub u8);

impl Codec {
    /// Unchanged.
    pub const RAW: Self = Self(0);
    const ZSTD: Self = Self(1);
    const FIRST_DICTIONARY: u8 = 2;

    /// Length of a payload when decoded, as its header claims.
    pub fn plain_bytes(self, coded: &[u8]) -> usize {
        match (self, zstd_safe::get_frame_content_size(coded)) {
            (Self::RAW, _) | (_, Ok(None) | Err(_)) => coded.len(),
            (_, Ok(Some(length))) => length as usize,
        }
    }
}

/// Most dictionaries of a table: as many as the codec byte can number.
pub const DICTIONARIES_MAX: usize = (u8::MAX - Codec::FIRST_DICTIONARY) as usize;
/// Shorter payloads stay raw: zstd's frame is as long as what it would save.
const COMPRESSED_BYTES_MIN: usize = 64;
/// At this level a PUT still costs mostly its system calls; higher levels save a few percent of disk.
const LEVEL: i32 = 3;
/// Size of a dictionary: it must fit in one item of the engine, and in the processor's cache.
const DICTIONARY_BYTES: usize = 12 * 1024;
/// How many values, and how many bytes of them, a dictionary is trained from. Ten thousand documents of 350 bytes gave no shorter rows than
/// these; and rows written before the dictionary stay twice as long, and four times as slow to read.
const SAMPLES: usize = 500;
const SAMPLE_BYTES_MAX: usize = 1024 * 1024;
/// A longer value compresses well by itself.
const SAMPLE_VALUE_BYTES_MAX: usize = 4096;

thread_local! {
    // Contexts are large and slow to create, and keep nothing between calls.
    static COMPRESS: RefCell<CCtx<'static>> = RefCell::new(CCtx::create());
    static DECOMPRESS: RefCell<DCtx<'static>> = RefCell::new(DCtx::create());
}

/// A trained dictionary, ready for use.
pub struct Dictionary {
    compress: CDict<'static>,
    decompress: DDict<'static>,
}

impl Dictionary {
    /// Prepares the bytes that `train` returned.
    pub fn new(bytes: &[u8]) -> Self {
        Self { compress: CDict::create(bytes, LEVEL), decompress: DDict::create(bytes) }
    }
}

/// The dictionaries of one table, by number. New payloads use the last one.
#[derive(Clone, Default)]
pub struct Dictionaries(Vec<Arc<Dictionary>>);

impl Dictionaries {
    /// Adds a dictionary; its number is the count before.
    pub fn push(&mut self, dictionary: Dictionary) {
        self.0.push(Arc::new(dictionary));
    }

    /// Number of dictionaries.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Encodes a payload into `out`, compressed if that is shorter.
    pub fn encode(&self, plain: &[u8], out: &mut Vec<u8>) -> Codec {
        out.clear();
        if plain.len() >= COMPRESSED_BYTES_MIN {
            out.reserve(zstd_safe::compress_bound(plain.len()));
            let compressed = COMPRESS.with_borrow_mut(|context| match self.0.last() {
                Some(dictionary) => context.compress_using_cdict(out, plain, &dictionary.compress),
                None => context.compress(out, plain, LEVEL),
            });
            if compressed.is_ok() && out.len() < plain.len() {
                return match self.0.len() {
                    0 => Codec::ZSTD,
                    count => Codec(Codec::FIRST_DICTIONARY + (count - 1) as u8),
                };
            }
            out.clear();
        }
        out.extend_from_slice(plain);
        Codec::RAW
    }

    /// Decodes what `encode` wrote, to at most `bytes_max` bytes.
    ///
    /// # Errors
    /// Why the bytes are not from `encode`.
    pub fn decode(&self, codec: Codec, coded: &[u8], bytes_max: usize) -> Result<Vec<u8>, &'static str> {
        if codec == Codec::RAW {
            return Ok(coded.to_vec());
        }
        let length = match zstd_safe::get_frame_content_size(coded) {
            Ok(Some(length)) if length <= bytes_max as u64 => length as usize,
            _ => return Err("the compressed payload gives no length within the limit"),
        };
        let mut plain = Vec::with_capacity(length);
        let dictionary = match codec.0.checked_sub(Codec::FIRST_DICTIONARY) {
            None => None,
            Some(number) => {
                Some(self.0.get(usize::from(number)).ok_or("the dictionary it needs is missing")?)
            }
        };
        let result = DECOMPRESS.with_borrow_mut(|context| match dictionary {
            None => context.decompress(&mut plain, coded),
            Some(dictionary) => context.decompress_using_ddict(&mut plain, coded, &dictionary.decompress),
        });
        if result.is_err() || plain.len() != length {
            return Err("the compressed payload is damaged");
        }
        Ok(plain)
    }
}

/// Values collected for the training of a dictionary.
#[derive(Default)]
pub struct Samples {
    bytes: Vec<u8>,
    lengths: Vec<usize>,
}

impl Samples {
    /// Adds a value. Returns whether there are enough now.
    pub fn add(&mut self, plain: &[u8]) -> bool {
        if (COMPRESSED_BYTES_MIN..=SAMPLE_VALUE_BYTES_MAX).contains(&plain.len()) {
            self.bytes.extend_from_slice(plain);
            self.lengths.push(plain.len());
        }
        self.lengths.len() >= SAMPLES || self.bytes.len() >= SAMPLE_BYTES_MAX
    }

    /// Number of values.
    pub fn count(&self) -> usize {
        self.lengths.len()
    }

    /// Trains a dictionary; takes about 30 ms.
    ///
    /// # Errors
    /// Those of zstd, if the values have nothing in common.
    pub fn train(&self) -> io::Result<Vec<u8>> {
        let mut dictionary = zstd::dict::from_continuous(&self.bytes, &self.lengths, DICTIONARY_BYTES)?;
        // The dictionary's own number would be repeated in every frame, four bytes per row; the codec byte has it already.
        if dictionary.len() >= 8 {
            dictionary[4..8].fill(0);
        }
        Ok(dictionary)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(number: usize) -> String {
        format!(
            r#"{{"id":{number},"name":"user {}","email":"user{number}@example.org","active":true}}"#,
            number * 7
        )
    }

    fn trained() -> Dictionaries {
        let mut samples = Samples::default();
        let mut number = 0;
        while !samples.add(document(number).as_bytes()) {
            number += 1;
        }
        let mut dictionaries = Dictionaries::default();
        dictionaries.push(Dictionary::new(&samples.train().expect("alike enough")));
        dictionaries
    }

    #[test]
    fn a_dictionary_shortens_similar_values() {
        let (mut alone, mut helped) = (Vec::new(), Vec::new());
        let plain = document(123_456);
        Dictionaries::default().encode(plain.as_bytes(), &mut alone);
        let dictionaries = trained();
        let codec = dictionaries.encode(plain.as_bytes(), &mut helped);
        assert!(helped.len() * 2 < alone.len(), "{} against {}", helped.len(), alone.len());
        assert_eq!(dictionaries.decode(codec, &helped, 1024), Ok(plain.into_bytes()));
    }

    #[test]
    fn an_incompressible_payload_stays_raw() {
        let mut out = Vec::new();
        let noise: Vec<u8> = (0..8u8).flat_map(|number| *blake3::hash(&[number]).as_bytes()).collect();
        for plain in [&b"42"[..], &noise] {
            assert_eq!(trained().encode(plain, &mut out), Codec::RAW);
            assert_eq!(out, plain);
        }
    }

    #[test]
    fn a_frame_that_claims_more_than_the_limit_is_an_error() {
        let mut out = Vec::new();
        let codec = Dictionaries::default().encode(&[b'x'; 10_000], &mut out);
        assert!(Dictionaries::default().decode(codec, &out, 9_999).is_err());
    }
}
