//! Who may send commands to this node: clients that prove they know the cluster secret or the node's admin token. The proof is a keyed hash
//! over a challenge and over the request. Neither secret is ever sent, a proof is valid for one request, and a challenge for one proof. For
//! scripts, a node also accepts the token itself as a Bearer token.
//!
//! A challenge contains its expiry and a MAC of the node that made it. So we store nothing for challenges, which anyone can ask for, and
//! remember only those that were used.
//!
//! Our own count of wrong proofs instead of `governor` (6 crates): that keeps any number of addresses and cannot replace the oldest.
//!
//! Left out: the secrecy of the request, and the identity of the node that answers. TLS gives both where others can reach the traffic.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    net::IpAddr,
    str::FromStr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use blake3::Hash;

use tracing::warn;

use super::{
    Node,
    admin_token::{AdminToken, TOKEN_FILE},
};
use crate::{
    error::{Error, Result},
    replication::link::{address::network, secret::Secrets},
    storage::environment::random_bytes,
};

/// How long a challenge is valid.
const CHALLENGE_MS: u64 = 30_000;
/// Used challenges that we remember until they expire, with valid and with invalid proofs separately. Of those with an invalid proof, one
/// more replaces the oldest: trying a challenge again is no better than a fresh challenge. A valid proof takes the secret, and one more is
/// refused.
const USED_CHALLENGES_MAX: usize = 1024;
/// The bytes of a challenge before its MAC: half for the expiry, half random.
const PAYLOAD_BYTES: usize = 16;
/// Invalid proofs from one address within a window. After that they get "wait" and are not logged. A valid proof still succeeds: checking
/// costs one hash, and nobody guesses a secret of sixteen characters by asking.
const FAILURES_MAX: u32 = 10;
/// How long invalid proofs count against an address.
const FAILURE_WINDOW_MS: u64 = 60_000;
/// Addresses with invalid proofs that we track. One more replaces the oldest.
const FAILING_ADDRESSES_MAX: usize = 1024;
/// The scheme of the `Authorization` header.
const SCHEME: &str = "DynaRust";

/// Keys that prove the right to administer: one for each accepted cluster secret, and one for the admin token.
#[derive(Clone, Default)]
pub struct AdminKeys(pub Vec<[u8; 32]>);

impl AdminKeys {
    /// The keys of these secrets.
    pub fn of(secrets: &Secrets) -> Self {
        Self(secrets.admin_keys())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for AdminKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AdminKeys({})", self.0.len())
    }
}

/// What a proof covers: none of it can be changed afterwards.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The method.
    pub method: &'a str,
    /// The path, without a query.
    pub path: &'a str,
    /// The body.
    pub body: &'a [u8],
}

impl Request<'_> {
    fn proof(&self, key: &[u8; 32], nonce: Hash) -> Hash {
        let mut hasher = blake3::Hasher::new_keyed(key);
        // Neither a method nor a path contains a zero byte, so two different requests never hash the same bytes.
        hasher.update(nonce.as_bytes()).update(self.method.as_bytes()).update(&[0]);
        hasher.update(self.path.as_bytes()).update(&[0]).update(blake3::hash(self.body).as_bytes());
        hasher.finalize()
    }
}

/// A challenge and its proof: the value of an `Authorization` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    nonce: Hash,
    proof: Hash,
}

impl Credentials {
    /// Answers a challenge with one of the keys.
    pub fn answer(key: &[u8; 32], nonce: Hash, request: &Request<'_>) -> Self {
        Self { nonce, proof: request.proof(key, nonce) }
    }
}

impl fmt::Display for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME} nonce={}, proof={}", self.nonce, self.proof)
    }
}

impl FromStr for Credentials {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::Unauthorized(format!("the Authorization header is not {SCHEME} nonce=<hex>, proof=<hex>"))
        };
        let (scheme, parameters) = text.split_once(' ').ok_or_else(wrong)?;
        if !scheme.eq_ignore_ascii_case(SCHEME) {
            return Err(wrong());
        }
        let parameter = |name: &str| {
            let mut named =
                parameters.split(',').filter_map(|part| part.trim().strip_prefix(name)?.strip_prefix('='));
            named.next().and_then(|hex| Hash::from_hex(hex).ok()).ok_or_else(wrong)
        };
        Ok(Self { nonce: parameter("nonce")?, proof: parameter("proof")? })
    }
}

/// Checks proofs and tokens. Remembers used challenges, and the addresses with invalid proofs. Two locks, never held together.
pub(super) struct Authenticator {
    /// The MAC key for this node's challenges.
    key: [u8; 32],
    /// Our time starts here. Nobody sets this clock, so what has expired stays expired.
    started: Instant,
    used: Mutex<UsedChallenges>,
    failures: Mutex<HashMap<IpAddr, Failures>>,
}

/// The challenges that were used.
#[derive(Default)]
struct UsedChallenges {
    valid: VecDeque<Hash>,
    invalid: VecDeque<Hash>,
}

struct Failures {
    since_ms: u64,
    count: u32,
}

impl Node {
    /// A challenge, valid for half a minute: 32 bytes that nobody can predict.
    ///
    /// # Errors
    /// `Io` if the system gives no randomness.
    pub fn challenge(&self) -> Result<Hash> {
        Ok(self.authenticator.challenge(random_bytes()?, self.authenticator.now_ms()))
    }

    /// Whether a request may command this node. Uses up its challenge, whatever the result.
    ///
    /// # Errors
    /// `Unauthorized` without a valid proof, `TooMany` after several invalid ones from one address.
    pub fn authorize(&self, from: IpAddr, request: &Request<'_>, credentials: Option<&str>) -> Result<()> {
        let credentials = credentials.ok_or_else(|| {
            Error::Unauthorized(format!(
                "this needs the node's admin token or the cluster secret: the command of the same name reads the token from the data \
                 directory (--data), or CLUSTER_SECRET from the environment; a program sends the content of {TOKEN_FILE} as a Bearer \
                 token, or answers GET /_/admin/challenge"
            ))
        })?;
        let now_ms = self.authenticator.now_ms();
        match bearer(credentials) {
            Some(token) => self.authenticator.verify_token(&self.admin_token, from, request, token, now_ms),
            None => {
                self.authenticator.verify_proof(&self.admin_keys, from, request, credentials.parse()?, now_ms)
            }
        }
    }
}

impl Node {
    /// Whether these credentials are the admin token, or answer a challenge of this node that is open. Uses nothing up, and proves nothing of
    /// an answer: that is for `authorize`, which limits how often a client may be wrong.
    pub fn may_be_operator(&self, credentials: &str) -> bool {
        match bearer(credentials) {
            Some(token) => self.admin_token.is(token),
            None => credentials.parse().is_ok_and(|credentials: Credentials| {
                self.authenticator.is_open(credentials.nonce, self.authenticator.now_ms())
            }),
        }
    }
}

/// The Bearer token in an `Authorization` header (RFC 6750), if it is one.
pub fn bearer(credentials: &str) -> Option<&str> {
    let (scheme, token) = credentials.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// When a challenge expires, in milliseconds of the authenticator that made it.
fn expires_ms(nonce: Hash) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *nonce.as_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

impl Authenticator {
    /// A new authenticator, with its own MAC key: it does not accept another's challenges.
    ///
    /// # Errors
    /// `Io` if the system gives no randomness.
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            key: random_bytes()?,
            started: Instant::now(),
            used: Mutex::default(),
            failures: Mutex::default(),
        })
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    fn challenge(&self, random: [u8; 8], now_ms: u64) -> Hash {
        let mut payload = [0; PAYLOAD_BYTES];
        payload[..8].copy_from_slice(&(now_ms + CHALLENGE_MS).to_le_bytes());
        payload[8..].copy_from_slice(&random);
        self.with_mac(&payload)
    }

    /// A challenge: the payload followed by its MAC.
    fn with_mac(&self, payload: &[u8]) -> Hash {
        let mut nonce = [0; 32];
        nonce[..PAYLOAD_BYTES].copy_from_slice(payload);
        let mac = blake3::keyed_hash(&self.key, payload);
        nonce[PAYLOAD_BYTES..].copy_from_slice(&mac.as_bytes()[..32 - PAYLOAD_BYTES]);
        nonce.into()
    }

    fn verify_token(
        &self,
        right: &AdminToken,
        from: IpAddr,
        request: &Request<'_>,
        token: &str,
        now_ms: u64,
    ) -> Result<()> {
        // Check this first: other clients' failures, from whatever address, must not lock out who has the token.
        if right.is(token) {
            return Ok(());
        }
        Err(match self.count_failure(network(from), request.path, now_ms) {
            Error::Unauthorized(_) => Error::Unauthorized(format!(
                "the Bearer token is not this node's: the right one is in {TOKEN_FILE}, in its data directory"
            )),
            refused => refused,
        })
    }

    fn verify_proof(
        &self,
        keys: &AdminKeys,
        from: IpAddr,
        request: &Request<'_>,
        credentials: Credentials,
        now_ms: u64,
    ) -> Result<()> {
        self.use_challenge(credentials.nonce, now_ms)?;
        // Hashes compare in constant time, and we try all keys, so timing reveals nothing about any of them.
        let right = keys
            .0
            .iter()
            .fold(false, |right, key| right | (request.proof(key, credentials.nonce) == credentials.proof));
        // Check this first: other clients' failures, from whatever address, must not lock out who knows the secret.
        if !right {
            return Err(self.count_failure(network(from), request.path, now_ms));
        }
        self.used().mark_valid(credentials.nonce)
    }

    /// Whether a challenge is ours and has not expired. It may have been used.
    fn is_open(&self, nonce: Hash, now_ms: u64) -> bool {
        // Hashes compare in constant time.
        let is_ours = self.with_mac(&nonce.as_bytes()[..PAYLOAD_BYTES]) == nonce;
        is_ours && expires_ms(nonce) > now_ms
    }

    /// Uses up a challenge.
    ///
    /// # Errors
    /// `Unauthorized` for one that has expired, was used, or is not ours. We remember nothing of expired and foreign ones.
    fn use_challenge(&self, nonce: Hash, now_ms: u64) -> Result<()> {
        if self.is_open(nonce, now_ms) { self.used().add(nonce, now_ms) } else { Err(challenge_not_open()) }
    }

    /// Counts an invalid proof. Returns the error for the client.
    fn count_failure(&self, from: IpAddr, path: &str, now_ms: u64) -> Error {
        let mut failures = self.failures();
        failures.retain(|_, failures| now_ms.saturating_sub(failures.since_ms) < FAILURE_WINDOW_MS);
        if failures.len() == FAILING_ADDRESSES_MAX && !failures.contains_key(&from) {
            let oldest = failures.iter().min_by_key(|(_, failures)| failures.since_ms).map(|(from, _)| *from);
            oldest.and_then(|oldest| failures.remove(&oldest));
        }
        let count = &mut failures.entry(from).or_insert(Failures { since_ms: now_ms, count: 0 }).count;
        if *count >= FAILURES_MAX {
            return Error::TooMany(format!(
                "{FAILURES_MAX} invalid proofs from this address within a minute: wait a minute"
            ));
        }
        *count += 1;
        drop(failures);
        warn!(%from, path, "invalid proof of the cluster secret or the admin token");
        Error::Unauthorized(
            "the proof is invalid: it is for another cluster secret or admin token than this node's, or for another request".into(),
        )
    }

    // Each change is one call that leaves the collection valid, even if something panics later.
    fn used(&self) -> MutexGuard<'_, UsedChallenges> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failures(&self) -> MutexGuard<'_, HashMap<IpAddr, Failures>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UsedChallenges {
    fn add(&mut self, nonce: Hash, now_ms: u64) -> Result<()> {
        self.valid.retain(|used| expires_ms(*used) > now_ms);
        self.invalid.retain(|used| expires_ms(*used) > now_ms);
        if self.valid.contains(&nonce) || self.invalid.contains(&nonce) {
            return Err(challenge_not_open());
        }
        if self.invalid.len() == USED_CHALLENGES_MAX {
            self.invalid.pop_front();
        }
        self.invalid.push_back(nonce);
        Ok(())
    }

    /// Keeps a challenge with a valid proof from being replaced by others.
    fn mark_valid(&mut self, nonce: Hash) -> Result<()> {
        // It may have been replaced already, and then used again in between.
        if self.valid.contains(&nonce) {
            return Err(challenge_not_open());
        }
        if self.valid.len() == USED_CHALLENGES_MAX {
            return Err(Error::TooMany(format!("{USED_CHALLENGES_MAX} commands within 30 s: wait 30 s")));
        }
        self.invalid.retain(|used| *used != nonce);
        self.valid.push_back(nonce);
        Ok(())
    }
}

fn challenge_not_open() -> Error {
    Error::Unauthorized(
        "the challenge is not valid: each can be used once, within 30 s; ask for another".into(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: Request<'static> = Request { method: "POST", path: "/_/admin/leave", body: b"{}" };
    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn keys(secrets: &[&str]) -> AdminKeys {
        AdminKeys::of(&Secrets::new(secrets.iter().copied()).expect("long enough"))
    }

    fn answers(keys: &AdminKeys, nonce: Hash) -> Vec<Credentials> {
        keys.0.iter().map(|key| Credentials::answer(key, nonce, &REQUEST)).collect()
    }

    fn authenticator() -> Authenticator {
        Authenticator::new().expect("there is randomness")
    }

    fn nonce(authenticator: &Authenticator, number: usize, now_ms: u64) -> Hash {
        authenticator.challenge(number.to_le_bytes(), now_ms)
    }

    /// Asks for a challenge and answers it with the only key of `secret`.
    fn ask(
        authenticator: &Authenticator,
        secret: &str,
        from: IpAddr,
        now_ms: u64,
        request: &Request<'_>,
    ) -> Result<()> {
        let fresh = authenticator.challenge(random_bytes().expect("there is randomness"), now_ms);
        let answer = answers(&keys(&[secret]), fresh)[0];
        authenticator.verify_proof(
            &keys(&["the secret of the cluster", "the one before it"]),
            from,
            request,
            answer,
            now_ms,
        )
    }

    #[test]
    fn a_valid_proof_is_accepted_once_per_challenge() {
        let (authenticator, keys) =
            (authenticator(), keys(&["the secret of the cluster", "the one before it"]));
        for key in 0..2 {
            let answer = answers(&keys, nonce(&authenticator, key, 0))[key];
            assert_eq!(authenticator.verify_proof(&keys, HERE, &REQUEST, answer, CHALLENGE_MS - 1), Ok(()));
            let again = authenticator.verify_proof(&keys, HERE, &REQUEST, answer, CHALLENGE_MS - 1);
            assert!(matches!(again, Err(Error::Unauthorized(why)) if why.contains("once")));
        }
    }

    #[test]
    fn a_proof_is_for_one_request_and_one_secret() {
        let authenticator = authenticator();
        let other = |method, path, body| Request { method, path, body };
        for request in [
            other("PUT", "/_/admin/leave", b"{}"),
            other("POST", "/_/admin/forget", b"{}"),
            other("POST", "/_/admin/leave", b"{ }"),
        ] {
            let refused = ask(&authenticator, "the secret of the cluster", HERE, 0, &request);
            assert!(matches!(refused, Err(Error::Unauthorized(_))), "{request:?}");
        }
        assert!(matches!(
            ask(&authenticator, "another secret altogether", HERE, 0, &REQUEST),
            Err(Error::Unauthorized(_))
        ));
        assert_eq!(ask(&authenticator, "the one before it", HERE, 0, &REQUEST), Ok(()));
    }

    #[test]
    fn a_challenge_is_valid_for_half_a_minute_at_the_node_that_made_it() {
        let (authenticator, other, keys) =
            (authenticator(), authenticator(), keys(&["the secret of the cluster"]));
        let answer = |nonce| answers(&keys, nonce)[0];
        let late = answer(nonce(&authenticator, 0, 0));
        assert!(authenticator.verify_proof(&keys, HERE, &REQUEST, late, CHALLENGE_MS).is_err());
        let foreign = answer(nonce(&other, 0, 0));
        assert!(authenticator.verify_proof(&keys, HERE, &REQUEST, foreign, 0).is_err());
        for byte in 0..32 {
            let mut bytes = *nonce(&authenticator, byte, 0).as_bytes();
            bytes[byte] ^= 1;
            let forged = authenticator.verify_proof(&keys, HERE, &REQUEST, answer(bytes.into()), 0);
            assert!(matches!(forged, Err(Error::Unauthorized(why)) if why.contains("not valid")), "{byte}");
        }
        assert!(authenticator.used().invalid.is_empty(), "none of those is remembered");
        assert_eq!(
            authenticator.verify_proof(
                &keys,
                HERE,
                &REQUEST,
                answer(nonce(&authenticator, 1, 0)),
                CHALLENGE_MS - 1
            ),
            Ok(())
        );
    }

    /// Only a limited number of open challenges was kept, so strangers who kept asking for challenges displaced the operator's.
    #[test]
    fn strangers_cannot_fill_memory_or_make_a_proof_work_twice() {
        let (authenticator, keys) = (authenticator(), keys(&["the secret of the cluster"]));
        let right = answers(&keys, nonce(&authenticator, 0, 0))[0];
        assert_eq!(authenticator.verify_proof(&keys, HERE, &REQUEST, right, 0), Ok(()));
        for number in 1..2 * USED_CHALLENGES_MAX {
            let there = std::net::Ipv4Addr::from_bits(number as u32).into();
            let wrong = Credentials { nonce: nonce(&authenticator, number, 0), proof: right.proof };
            for _ in 0..2 {
                assert!(authenticator.verify_proof(&keys, there, &REQUEST, wrong, 0).is_err());
            }
        }
        let remembered = |authenticator: &Authenticator| {
            let used = authenticator.used();
            (used.valid.len(), used.invalid.len())
        };
        assert_eq!(remembered(&authenticator), (1, USED_CHALLENGES_MAX));
        assert!(authenticator.verify_proof(&keys, HERE, &REQUEST, right, 0).is_err());
        let later = answers(&keys, nonce(&authenticator, 0, CHALLENGE_MS))[0];
        assert_eq!(authenticator.verify_proof(&keys, HERE, &REQUEST, later, CHALLENGE_MS), Ok(()));
        assert_eq!(remembered(&authenticator), (1, 0));
    }

    #[test]
    fn more_commands_than_can_be_remembered_are_refused() {
        let authenticator = authenticator();
        for number in 0..USED_CHALLENGES_MAX {
            assert_eq!(authenticator.used().mark_valid(nonce(&authenticator, number, 0)), Ok(()));
        }
        let refused = ask(&authenticator, "the one before it", HERE, 0, &REQUEST);
        assert!(matches!(refused, Err(Error::TooMany(_))), "{refused:?}");
        assert_eq!(ask(&authenticator, "the one before it", HERE, CHALLENGE_MS, &REQUEST), Ok(()));
    }

    /// Ten invalid proofs a minute, which anyone behind the operator's address can send, locked the operator out.
    #[test]
    fn many_invalid_proofs_must_wait_and_a_valid_one_still_works() {
        let authenticator = authenticator();
        let there: IpAddr = [192, 0, 2, 1].into();
        let guess = |now_ms| ask(&authenticator, "a guess of the secret", there, now_ms, &REQUEST);
        for _ in 0..FAILURES_MAX {
            assert!(matches!(guess(5), Err(Error::Unauthorized(_))));
        }
        for _ in 0..3 {
            assert!(matches!(guess(5), Err(Error::TooMany(_))));
            assert_eq!(ask(&authenticator, "the one before it", there, 5, &REQUEST), Ok(()));
        }
        assert!(
            matches!(guess(5 + FAILURE_WINDOW_MS), Err(Error::Unauthorized(_))),
            "the count starts over after a while"
        );
    }

    #[test]
    fn the_number_of_tracked_addresses_is_bounded() {
        let authenticator = authenticator();
        for number in 0..FAILING_ADDRESSES_MAX as u32 + 10 {
            authenticator.count_failure(std::net::Ipv4Addr::from_bits(number).into(), "/", u64::from(number));
        }
        let failures = authenticator.failures();
        assert_eq!(failures.len(), FAILING_ADDRESSES_MAX);
        assert!(!failures.contains_key(&IpAddr::from([0, 0, 0, 9])));
    }

    #[test]
    fn credentials_round_trip_and_nothing_else_parses() {
        let credentials = answers(&keys(&["the secret of the cluster"]), nonce(&authenticator(), 3, 0))[0];
        assert_eq!(credentials.to_string().parse(), Ok(credentials));
        let hex = nonce(&authenticator(), 1, 0).to_string();
        for wrong in [
            "".to_owned(),
            "DynaRust".into(),
            format!("Bearer nonce={hex}, proof={hex}"),
            format!("DynaRust nonce={hex}"),
            format!("DynaRust nonce={hex}, proof={}", &hex[1..]),
        ] {
            assert!(matches!(wrong.parse::<Credentials>(), Err(Error::Unauthorized(_))), "{wrong}");
        }
    }

    #[test]
    fn a_bearer_token_is_checked_and_wrong_ones_count_as_invalid_proofs() {
        let folder = tempfile::tempdir().expect("a folder");
        let environment = crate::storage::Environment::new(crate::node::wall_clock());
        let right = AdminToken::read_or_make(folder.path(), &environment).expect("made");
        let text = std::fs::read_to_string(folder.path().join(TOKEN_FILE)).expect("text");
        let authenticator = authenticator();
        let ask = |token: &str| authenticator.verify_token(&right, HERE, &REQUEST, token, 0);
        assert_eq!(ask(bearer(&format!("bearer {text}")).expect("a token")), Ok(()));
        for _ in 0..FAILURES_MAX {
            assert!(matches!(ask("0"), Err(Error::Unauthorized(why)) if why.contains(TOKEN_FILE)));
        }
        assert!(matches!(ask("0"), Err(Error::TooMany(_))));
        assert_eq!(ask(text.trim()), Ok(()), "the right token works despite the guesses");
        assert_eq!((bearer("DynaRust nonce=1"), bearer("Bearer")), (None, None));
    }
}
