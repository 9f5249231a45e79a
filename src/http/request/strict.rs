//! Unknown members of a client's JSON objects: each is an error that names the nearest known member. We ask the type itself which members
//! it reads, so the list cannot differ from the code.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, Visitor, value},
    forward_to_deserialize_any,
};

use crate::{
    core::nearest,
    error::{Error, Result},
};

/// The names of the members that the struct `T` reads.
pub fn fields_of<'a, T: Deserialize<'a>>() -> &'static [&'static str] {
    let mut fields: &'static [&'static str] = &[];
    // This fails, but only after it has named the fields.
    let _ = T::deserialize(FieldsOf(&mut fields));
    fields
}

/// Explains why `T` did not accept the object in `text`: because of an unknown member, or else because of `error`.
pub fn explain<'a, T: Deserialize<'a>>(text: &str, error: &serde_json::Error) -> Error {
    let fields = fields_of::<T>();
    let unknown = if error.is_data() { unknown_member(text, fields) } else { None };
    match unknown {
        Some(name) => Error::BadRequest(nearest::unknown("field", &name, fields)),
        None => Error::BadJson(error.to_string()),
    }
}

/// Refuses members that have no meaning for this operation. `given` tells for each member whether it is there.
///
/// # Errors
/// `BadRequest`, with the allowed members.
pub fn check_members(of: &str, given: &[(&str, bool)], allowed: &[&str]) -> Result<()> {
    match given.iter().find(|(name, is_given)| *is_given && !allowed.contains(name)) {
        None => Ok(()),
        Some((name, _)) if allowed.is_empty() => {
            Err(Error::BadRequest(format!("{name:?} has no meaning for a {of}: leave it out")))
        }
        Some((name, _)) => Err(Error::BadRequest(format!(
            "{name:?} has no meaning for a {of}, which takes {}",
            allowed.join(", ")
        ))),
    }
}

/// The first member of the object in `text` that is not in `fields`.
fn unknown_member(text: &str, fields: &'static [&'static str]) -> Option<String> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    deserializer.deserialize_map(Unknown(fields)).ok().flatten()
}

struct Unknown(&'static [&'static str]);

impl<'de> Visitor<'de> for Unknown {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
        let mut unknown = None;
        while let Some(Name(name)) = map.next_key::<Name<'de>>()? {
            map.next_value::<IgnoredAny>()?;
            if unknown.is_none() && !self.0.contains(&name.as_ref()) {
                unknown = Some(name.into_owned());
            }
        }
        Ok(unknown)
    }
}

#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// A deserializer that only records the fields a struct asks for.
struct FieldsOf<'f>(&'f mut &'static [&'static str]);

impl<'de> Deserializer<'de> for FieldsOf<'_> {
    type Error = value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> std::result::Result<V::Value, Self::Error> {
        Err(value::Error::custom("no value"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> std::result::Result<V::Value, Self::Error> {
        *self.0 = fields;
        Err(value::Error::custom("no value"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Body {
        #[serde(rename = "ttl")]
        _ttl: Option<u64>,
        #[serde(rename = "value")]
        _value: Option<u64>,
    }

    fn explained(text: &str) -> Error {
        explain::<Body>(text, &serde_json::from_str::<Body>(text).expect_err(text))
    }

    #[test]
    fn an_unknown_member_is_named_with_the_nearest_known_one() {
        assert_eq!(fields_of::<Body>(), ["ttl", "value"]);
        for text in [r#"{"value":1,"vaule":2}"#, r#"{"ttl":"wrong","v\u0061ule":1}"#] {
            let Error::BadRequest(why) = explained(text) else { panic!("{text}") };
            assert!(
                why.contains("\"vaule\"") && why.contains("mean \"value\"?") && why.contains("ttl"),
                "{why}"
            );
        }
        for text in [r#"{"ttl":"wrong"}"#, r#"{"ttl":1,"ttl":2}"#, "7", r#"{"vaule":}"#] {
            assert!(matches!(explained(text), Error::BadJson(_)), "{text}");
        }
    }

    #[test]
    fn a_member_without_meaning_is_refused() {
        let given = [("ttl", true), ("force", false)];
        assert_eq!(check_members("put", &given, &["ttl"]), Ok(()));
        let refused = check_members("delete", &given, &["force"]);
        assert!(
            matches!(refused, Err(Error::BadRequest(why)) if why.contains("ttl") && why.contains("force"))
        );
    }
}
