//! Frames of links: whatever comes in, an opener opens what its sealer sealed, or says no. It never panics.

use dynarust::{
    core::protocol::message::Message,
    replication::link::noise::{Initiator, Opener, Responder, Sealer},
};
use proptest::{collection::vec, prelude::*};

const KEY: [u8; 32] = [3; 32];
const MESSAGE_BYTES_MAX: usize = 1 << 20;

fn pair() -> (Sealer, Opener) {
    let mut initiator = Initiator::new(&KEY).expect("starts");
    let first = initiator.first(b"").expect("writes");
    let (_, responder) = Responder::new(&[KEY], &first).expect("reads");
    let (second, _, opener) = responder.second(b"").expect("writes");
    let (_, sealer, _) = initiator.second(&second).expect("reads");
    (sealer, opener)
}

proptest! {
    #![proptest_config(crate::cases(64))]

    #[test]
    fn arbitrary_frames_do_not_open(frames in vec(vec(any::<u8>(), 0..300), 1..4)) {
        let (_, mut opener) = pair();
        for frame in frames {
            prop_assert!(opener.open(&frame, MESSAGE_BYTES_MAX).is_err());
        }
    }

    #[test]
    fn arbitrary_first_messages_are_refused(first in vec(any::<u8>(), 0..300)) {
        prop_assert!(Responder::new(&[KEY, [4; 32]], &first).is_err());
    }

    #[test]
    fn a_message_opens_as_it_was_unless_a_byte_of_it_changed(
        message in vec(any::<u8>(), 0..400_000),
        at in any::<prop::sample::Index>(),
        change in any::<u8>(),
    ) {
        let (mut sealer, mut opener) = pair();
        let mut plain = [&[0], &message[..]].concat();
        let (mut frames, mut next) = (Vec::new(), Some(0));
        while let Some(from) = next {
            let (frame, after) = sealer.seal(&mut plain, from).expect("seals");
            frames.push(frame.to_vec());
            next = after;
        }
        let spoilt = at.index(frames.len());
        let byte = at.index(frames[spoilt].len());
        frames[spoilt][byte] ^= change;
        let mut out = Ok(None);
        for frame in &frames {
            out = opener.open(frame, MESSAGE_BYTES_MAX).map(|opened| opened.map(|opened| opened.bytes().to_vec()));
            if out.is_err() {
                break;
            }
        }
        if change == 0 {
            prop_assert!(out == Ok(Some(message)));
        } else {
            prop_assert!(out.is_err());
        }
    }

    #[test]
    fn arbitrary_bytes_decode_to_a_message_or_not(bytes in vec(any::<u8>(), 0..2000)) {
        let _ = postcard::from_bytes::<Message>(&bytes);
    }
}
