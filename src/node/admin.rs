//! Who may tell this node what to do: those who prove that they know the cluster secret, by a keyed hash over a challenge and
//! over their request. The secret never travels, a proof is good for one request, and a challenge for one proof.
//!
//! A node without a secret takes such requests from its own machine, as its links do, but not what a browser or a proxy passes
//! on from elsewhere.
//!
//! Left out: secrecy of the request itself and the identity of the node that answers. Where others can touch the traffic, TLS
//! gives both.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use blake3::Hash;

use tracing::warn;

use super::Node;
use crate::{
    error::{Error, Result},
    replication::secret::Secrets,
};

/// How long a challenge can be answered.
const CHALLENGE_MS: u64 = 30_000;
/// Challenges that can be answered at one time. One more takes the place of the oldest: anyone can ask for one, and so nobody
/// can keep another from getting one.
const CHALLENGES_MAX: usize = 1024;
/// Wrong proofs from one address within a window. More are not looked at.
const FAILURES_MAX: u32 = 10;
/// How long wrong proofs are held against an address.
const FAILURE_WINDOW_MS: u64 = 60_000;
/// Addresses whose wrong proofs are counted at one time. One more takes the place of the oldest.
const FAILING_ADDRESSES_MAX: usize = 1024;
/// The scheme of the `Authorization` header.
const SCHEME: &str = "DynaRust";

/// Keys that prove the right to administer: one for each cluster secret that is accepted. Empty where there is no secret.
#[derive(Clone, Default)]
pub struct AdminKeys(pub Vec<[u8; 32]>);

impl AdminKeys {
    /// The keys of these secrets.
    pub fn of(secrets: &Secrets) -> Self {
        Self(secrets.admin_keys())
    }

    /// Whether there is no secret.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for AdminKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AdminKeys({})", self.0.len())
    }
}

/// What a proof is about: nothing in it can be exchanged afterwards.
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
        // Neither a method nor a path has a zero in it, so that no two requests run together to the same bytes.
        hasher.update(nonce.as_bytes()).update(self.method.as_bytes()).update(&[0]);
        hasher.update(self.path.as_bytes()).update(&[0]).update(blake3::hash(self.body).as_bytes());
        hasher.finalize()
    }
}

/// The challenge that is answered, and the answer: the value of an `Authorization` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    nonce: Hash,
    proof: Hash,
}

impl Credentials {
    /// Answers a challenge by one of the keys.
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

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// The address at the other end of its connection.
    pub address: IpAddr,
    /// Whether it says itself that a browser's page or a proxy passed it on.
    pub passed_on: bool,
}

/// The challenges that wait for an answer, and the addresses that gave wrong ones. Two locks, never held together.
#[derive(Default)]
pub(super) struct Door {
    challenges: Mutex<VecDeque<Challenge>>,
    failures: Mutex<HashMap<IpAddr, Failures>>,
}

struct Challenge {
    nonce: Hash,
    until_ms: u64,
}

struct Failures {
    since_ms: u64,
    count: u32,
}

impl Node {
    /// A challenge, to be answered within half a minute: 32 random bytes.
    ///
    /// # Errors
    /// `Io` where the system gives no randomness.
    pub fn challenge(&self) -> Result<Hash> {
        let mut nonce = [0; 32];
        getrandom::fill(&mut nonce)
            .map_err(|error| Error::Io(format!("the system gives no randomness: {error}")))?;
        self.door.remember(nonce.into(), self.now_ms());
        Ok(nonce.into())
    }

    /// Whether a request may tell this node what to do. Its challenge is spent, whatever the answer is.
    ///
    /// # Errors
    /// `Unauthorized` without proof or with a wrong one, `TooMany` after several wrong ones from one address, `Forbidden` from
    /// elsewhere where there is no secret.
    pub fn authorize(&self, origin: Origin, request: &Request<'_>, credentials: Option<&str>) -> Result<()> {
        let keys = &self.admin_keys;
        if keys.is_empty() {
            return permit_this_machine(origin);
        }
        let credentials = credentials.ok_or_else(|| {
            Error::Unauthorized(
                "this needs the cluster secret: a command of the same name asks with CLUSTER_SECRET from its environment, \
                 a program answers GET /_/admin/challenge"
                    .into(),
            )
        })?;
        self.door.admit(keys, origin.address, request, credentials.parse()?, self.now_ms())
    }
}

fn permit_this_machine(origin: Origin) -> Result<()> {
    if origin.address.to_canonical().is_loopback() && !origin.passed_on {
        return Ok(());
    }
    Err(Error::Forbidden(
        "without a cluster secret this node takes such requests directly from its own machine only: ask there, or give all \
         nodes of the cluster one CLUSTER_SECRET"
            .into(),
    ))
}

impl Door {
    fn remember(&self, nonce: Hash, now_ms: u64) {
        let mut challenges = self.challenges();
        if challenges.len() == CHALLENGES_MAX {
            challenges.pop_front();
        }
        challenges.push_back(Challenge { nonce, until_ms: now_ms + CHALLENGE_MS });
    }

    fn admit(
        &self,
        keys: &AdminKeys,
        from: IpAddr,
        request: &Request<'_>,
        credentials: Credentials,
        now_ms: u64,
    ) -> Result<()> {
        let from = network(from);
        // Spent first: a proof that is not looked at is no second chance.
        let fresh = self.spend(credentials.nonce, now_ms);
        self.refuse_after_failures(from, now_ms)?;
        if !fresh {
            return Err(Error::Unauthorized(
                "the challenge is not open: each serves once, within 30 s; ask for another".into(),
            ));
        }
        // Hashes compare in constant time, and all keys are tried, so that time tells nothing of any.
        let right = keys
            .0
            .iter()
            .fold(false, |right, key| right | (request.proof(key, credentials.nonce) == credentials.proof));
        if !right {
            warn!(%from, path = request.path, "a wrong proof of the cluster secret");
            self.note_failure(from, now_ms);
            return Err(Error::Unauthorized(
                "the proof is wrong: another cluster secret than this node's, or for another request".into(),
            ));
        }
        Ok(())
    }

    /// Takes a challenge out; whether it could still be answered.
    fn spend(&self, nonce: Hash, now_ms: u64) -> bool {
        let mut challenges = self.challenges();
        challenges.retain(|challenge| challenge.until_ms > now_ms);
        let place = challenges.iter().position(|challenge| challenge.nonce == nonce);
        place.and_then(|place| challenges.remove(place)).is_some()
    }

    fn refuse_after_failures(&self, from: IpAddr, now_ms: u64) -> Result<()> {
        let mut failures = self.failures();
        failures.retain(|_, failures| now_ms.saturating_sub(failures.since_ms) < FAILURE_WINDOW_MS);
        match failures.get(&from) {
            Some(failures) if failures.count >= FAILURES_MAX => Err(Error::TooMany(format!(
                "{FAILURES_MAX} wrong proofs from this address within a minute: wait that long"
            ))),
            Some(_) | None => Ok(()),
        }
    }

    fn note_failure(&self, from: IpAddr, now_ms: u64) {
        let mut failures = self.failures();
        if failures.len() == FAILING_ADDRESSES_MAX && !failures.contains_key(&from) {
            let oldest = failures.iter().min_by_key(|(_, failures)| failures.since_ms).map(|(from, _)| *from);
            oldest.and_then(|oldest| failures.remove(&oldest));
        }
        failures.entry(from).or_insert(Failures { since_ms: now_ms, count: 0 }).count += 1;
    }

    // Each change of either is one call that leaves it whole, whatever panics after.
    fn challenges(&self) -> MutexGuard<'_, VecDeque<Challenge>> {
        self.challenges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failures(&self) -> MutexGuard<'_, HashMap<IpAddr, Failures>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What counts as one address: of IPv6 the upper half, as whoever has one address has all of the lower.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address @ IpAddr::V4(_) => address,
    }
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

    fn nonce(number: usize) -> Hash {
        blake3::hash(&number.to_le_bytes())
    }

    /// Asks for a challenge and answers it with the only key of `secret`.
    fn ask(door: &Door, secret: &str, from: IpAddr, now_ms: u64, request: &Request<'_>) -> Result<()> {
        door.remember(nonce(0), now_ms);
        let answer = answers(&keys(&[secret]), nonce(0))[0];
        door.admit(&keys(&["the secret of the cluster", "the one before it"]), from, request, answer, now_ms)
    }

    #[test]
    fn whoever_knows_a_secret_is_let_in_once_a_challenge() {
        let (door, keys) = (Door::default(), keys(&["the secret of the cluster", "the one before it"]));
        for answer in answers(&keys, nonce(1)) {
            door.remember(nonce(1), 0);
            assert_eq!(door.admit(&keys, HERE, &REQUEST, answer, CHALLENGE_MS - 1), Ok(()));
            let again = door.admit(&keys, HERE, &REQUEST, answer, CHALLENGE_MS - 1);
            assert!(matches!(again, Err(Error::Unauthorized(why)) if why.contains("once")));
        }
    }

    #[test]
    fn a_proof_is_for_one_request_and_one_secret() {
        let door = Door::default();
        let other = |method, path, body| Request { method, path, body };
        for request in [
            other("PUT", "/_/admin/leave", b"{}"),
            other("POST", "/_/admin/forget", b"{}"),
            other("POST", "/_/admin/leave", b"{ }"),
        ] {
            let refused = ask(&door, "the secret of the cluster", HERE, 0, &request);
            assert!(matches!(refused, Err(Error::Unauthorized(_))), "{request:?}");
        }
        assert!(matches!(
            ask(&door, "another secret altogether", HERE, 0, &REQUEST),
            Err(Error::Unauthorized(_))
        ));
        assert_eq!(ask(&door, "the one before it", HERE, 0, &REQUEST), Ok(()));
    }

    #[test]
    fn a_challenge_is_open_for_half_a_minute_and_until_many_came_after_it() {
        let (door, keys) = (Door::default(), keys(&["the secret of the cluster"]));
        let answer = |number| answers(&keys, nonce(number))[0];
        door.remember(nonce(0), 0);
        assert!(door.admit(&keys, HERE, &REQUEST, answer(0), CHALLENGE_MS).is_err());
        for number in 0..=CHALLENGES_MAX {
            door.remember(nonce(number), CHALLENGE_MS);
        }
        assert!(door.admit(&keys, HERE, &REQUEST, answer(0), CHALLENGE_MS).is_err());
        assert_eq!(door.admit(&keys, HERE, &REQUEST, answer(1), CHALLENGE_MS), Ok(()));
        assert!(door.challenges().len() < CHALLENGES_MAX);
    }

    #[test]
    fn wrong_proofs_shut_one_address_out_for_a_minute_and_no_other() {
        let door = Door::default();
        let there: IpAddr = [192, 0, 2, 1].into();
        for _ in 0..FAILURES_MAX {
            assert!(matches!(
                ask(&door, "a guess of the secret", there, 5, &REQUEST),
                Err(Error::Unauthorized(_))
            ));
        }
        assert!(matches!(ask(&door, "the one before it", there, 5, &REQUEST), Err(Error::TooMany(_))));
        assert_eq!(ask(&door, "the one before it", HERE, 5, &REQUEST), Ok(()));
        assert_eq!(ask(&door, "the one before it", there, 5 + FAILURE_WINDOW_MS, &REQUEST), Ok(()));
    }

    #[test]
    fn the_addresses_held_in_mind_are_bounded() {
        let door = Door::default();
        for number in 0..FAILING_ADDRESSES_MAX as u32 + 10 {
            door.note_failure(std::net::Ipv4Addr::from_bits(number).into(), u64::from(number));
        }
        let failures = door.failures();
        assert_eq!(failures.len(), FAILING_ADDRESSES_MAX);
        assert!(!failures.contains_key(&IpAddr::from([0, 0, 0, 9])));
    }

    #[test]
    fn one_half_of_an_ipv6_address_is_one_address() {
        let address = |text: &str| network(text.parse().expect("an address"));
        assert_eq!(address("2001:db8::1"), address("2001:db8::ffff:1"));
        assert_ne!(address("2001:db8::1"), address("2001:db8:0:1::1"));
        assert_eq!(address("::ffff:192.0.2.1"), address("192.0.2.1"));
    }

    #[test]
    fn credentials_are_read_as_they_are_written_and_nothing_else_is() {
        let credentials = answers(&keys(&["the secret of the cluster"]), nonce(3))[0];
        assert_eq!(credentials.to_string().parse(), Ok(credentials));
        let hex = nonce(1).to_string();
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
    fn without_a_secret_only_this_machine_itself_is_let_in() {
        let permit = |address: &str, passed_on| {
            permit_this_machine(Origin { address: address.parse().expect("an address"), passed_on })
        };
        for here in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(permit(here, false), Ok(()), "{here}");
            assert!(matches!(permit(here, true), Err(Error::Forbidden(_))), "{here}");
        }
        assert!(
            matches!(permit("192.0.2.1", false), Err(Error::Forbidden(why)) if why.contains("CLUSTER_SECRET"))
        );
    }
}
