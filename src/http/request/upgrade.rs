//! The handshake that turns a connection into a WebSocket (RFC 6455, section 4.2).

use hyper::{
    header::{self, HeaderName, HeaderValue},
    upgrade::OnUpgrade,
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::Call;
use crate::error::{Error, Result};

/// The only protocol version (RFC 6455).
pub const VERSION: HeaderValue = HeaderValue::from_static("13");

/// Whether the request asks for a WebSocket.
pub fn is_requested(call: &Call) -> bool {
    has_token(call, header::UPGRADE, "websocket")
}

/// Checks the client's half of the handshake. Returns the upgrade, and the answer to the key.
pub fn handshake(call: &Call) -> Result<(OnUpgrade, String)> {
    let bad = |why: &str| {
        Err(Error::BadRequest(format!("this is not a valid WebSocket handshake (RFC 6455): {why}")))
    };
    if !is_requested(call) {
        return bad("send GET over HTTP/1.1 with Connection: Upgrade and Upgrade: websocket");
    }
    if !has_token(call, header::CONNECTION, "upgrade") {
        return bad("the header Connection does not say Upgrade");
    }
    if call.headers.get(header::SEC_WEBSOCKET_VERSION) != Some(&VERSION) {
        return bad("Sec-WebSocket-Version is not 13");
    }
    let Some(key) = call.header(header::SEC_WEBSOCKET_KEY).filter(|key| is_key(key)) else {
        return bad("Sec-WebSocket-Key is not 16 bytes in base64");
    };
    match call.take_upgrade() {
        Some(upgrade) => Ok((upgrade, derive_accept_key(key.as_bytes()))),
        None => bad("use GET over HTTP/1.1; other methods and HTTP/2 cannot be upgraded"),
    }
}

/// Whether a header that holds a list contains a word, in any case.
pub fn has_token(call: &Call, name: HeaderName, token: &str) -> bool {
    let values = call.headers.get_all(name);
    let mut words = values.iter().filter_map(|value| value.to_str().ok()).flat_map(|list| list.split(','));
    words.any(|word| word.trim().eq_ignore_ascii_case(token))
}

/// Sixteen bytes in base64: 22 digits and two of padding.
fn is_key(key: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    key.strip_suffix("==").is_some_and(|digits| digits.len() == 22 && digits.bytes().all(is_digit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_sixteen_bytes_in_base64() {
        assert!(is_key("dGhlIHNhbXBsZSBub25jZQ=="));
        for key in
            ["", "==", "dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZSBub25jZ!==", "dGhlIHNhbXBsZSBub25jZQAA=="]
        {
            assert!(!is_key(key), "{key}");
        }
    }
}
