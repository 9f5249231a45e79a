//! What the errors of a server of buckets mean for whoever backs up to it.

use std::error::Error as _;

use crate::error::Error;

/// Longest part of an answer that an error quotes.
const QUOTED_MAX: usize = 300;

/// Our error for one of the server's: what it was about, what is wrong, and what to look at.
pub fn explain(bucket: &str, object: &str, error: &object_store::Error) -> Error {
    let text = error.to_string();
    let code = element(&text, "Code").unwrap_or_default();
    let said = || match element(&text, "Message") {
        Some(message) => format!("{code}: {message}"),
        None => quoted(&text),
    };
    match (code, error) {
        ("NoSuchBucket", _) => Error::NotFound(format!("the server has no bucket {bucket}: make it first")),
        (
            "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "AccessDenied" | "ExpiredToken" | "InvalidToken",
            _,
        )
        | (_, object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. }) => {
            Error::Forbidden(format!(
                "{object}: the server refuses the credentials of AWS_ACCESS_KEY_ID, or what they may do: {}",
                said()
            ))
        }
        ("PreconditionFailed", _)
        | (_, object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
            Error::StorageUnusable(format!(
                "{object} was made by somebody else meanwhile, and is not overwritten: name another backup"
            ))
        }
        (_, object_store::Error::NotFound { .. }) => {
            Error::StorageDamaged(format!("{object} is missing: the backup was altered"))
        }
        ("", _) => Error::Io(format!("{object}: {}", root(error))),
        _ => Error::Io(format!("{object}: the server failed: {}", said())),
    }
}

/// The text of an element in the XML that an error quotes.
fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(text, _)| text)
}

/// The error and its first cause, which names what the network did: the texts in between repeat each other.
fn root(error: &object_store::Error) -> String {
    let mut cause = error.source();
    let mut last = None;
    while let Some(found) = cause {
        last = Some(found.to_string());
        cause = found.source();
    }
    let text = error.to_string();
    match last {
        Some(last) if text.contains("169.254.") => {
            format!(
                "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY ({})",
                quoted(&last)
            )
        }
        Some(last) if text.contains(&last) => quoted(&text),
        Some(last) => {
            format!("the server cannot be reached, or broke off: {}. {}", quoted(&last), quoted(&text))
        }
        None => quoted(&text),
    }
}

/// A text in one line, of bounded length.
fn quoted(text: &str) -> String {
    let words: Vec<_> = text.split_whitespace().collect();
    words.join(" ").chars().filter(|letter| !letter.is_control()).take(QUOTED_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(code: &str) -> object_store::Error {
        let body = format!("<?xml?><Error><Code>{code}</Code><Message>It\nsays so.</Message></Error>");
        object_store::Error::Generic { store: "S3", source: body.into() }
    }

    #[test]
    fn what_a_server_answers_says_what_to_look_at() {
        let explained = |error| explain("b", "s3://b/n/id", &error).to_string();
        assert!(explained(answer("NoSuchBucket")).contains("no bucket b"));
        for refused in ["InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied"] {
            let text = explained(answer(refused));
            assert!(text.contains("AWS_ACCESS_KEY_ID") && text.contains(refused), "{text}");
        }
        assert!(explained(answer("SlowDown")).contains("s3://b/n/id: the server failed: SlowDown: It"));
        let gone = object_store::Error::NotFound { path: "n/id".into(), source: "404".into() };
        assert!(explained(gone).contains("is missing"));
        let cut = object_store::Error::Generic { store: "S3", source: std::io::Error::other("reset").into() };
        assert!(explained(cut).contains("reset"));
    }
}
