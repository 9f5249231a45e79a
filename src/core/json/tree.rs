//! JSON split into pieces of its own text. Nothing is converted: unchanged pieces are written back letter by letter,
//! and comparisons go by meaning.

use std::{borrow::Cow, collections::HashMap};

use super::{
    DEPTH_MAX, number,
    object::{Member, Object},
    scan,
};

/// A JSON value whose scalars and names are slices of the original text.
#[derive(Clone, Debug)]
pub enum Tree<'a> {
    /// A number, a string with its quotes, `true`, `false` or `null`.
    Scalar(&'a str),
    /// `[...]`
    Array(Vec<Tree<'a>>),
    /// `{...}`. A name may occur twice.
    Object(Object<'a>),
}

impl<'a> Tree<'a> {
    /// Parses compact JSON text. `None` if it is not that, or nests too deep.
    pub fn parse(text: &'a str) -> Option<Self> {
        let mut rest = text;
        let tree = parse_next(&mut rest, DEPTH_MAX)?;
        rest.is_empty().then_some(tree)
    }

    /// The compact JSON text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        self.append_to(&mut text);
        text
    }

    fn append_to(&self, text: &mut String) {
        match self {
            Self::Scalar(scalar) => text.push_str(scalar),
            Self::Array(items) => {
                text.push('[');
                for (place, item) in items.iter().enumerate() {
                    text.push_str(if place == 0 { "" } else { "," });
                    item.append_to(text);
                }
                text.push(']');
            }
            Self::Object(members) => {
                text.push('{');
                for (place, Member { name, value }) in members.iter().enumerate() {
                    text.push_str(if place == 0 { "" } else { "," });
                    text.push_str(name);
                    text.push(':');
                    value.append_to(text);
                }
                text.push('}');
            }
        }
    }

    /// The nesting depth of arrays and objects; 0 for a scalar.
    pub fn depth(&self) -> usize {
        match self {
            Self::Scalar(_) => 0,
            Self::Array(items) => 1 + items.iter().map(Self::depth).max().unwrap_or(0),
            Self::Object(members) => 1 + members.iter().map(|member| member.value.depth()).max().unwrap_or(0),
        }
    }

    /// The length of its text, in bytes.
    pub fn text_bytes(&self) -> usize {
        let commas = |count: usize| count.saturating_sub(1) + 2;
        match self {
            Self::Scalar(text) => text.len(),
            Self::Array(items) => commas(items.len()) + items.iter().map(Self::text_bytes).sum::<usize>(),
            Self::Object(members) => {
                let bytes = |member: &Member<'_>| member.name.len() + 1 + member.value.text_bytes();
                commas(members.iter().count()) + members.iter().map(bytes).sum::<usize>()
            }
        }
    }

    /// Whether both values mean the same: strings by their characters, numbers by value, objects in any member order.
    /// The last of several members with one name counts.
    pub fn equals(&self, other: &Tree<'_>) -> bool {
        match (self, other) {
            (Self::Scalar(here), Tree::Scalar(there)) => here == there || scalars_equal(here, there),
            (Self::Array(here), Tree::Array(there)) => {
                here.len() == there.len() && here.iter().zip(there).all(|(here, there)| here.equals(there))
            }
            (Self::Object(here), Tree::Object(there)) => {
                let (here, there) = (by_name(here), by_name(there));
                let equals = |(name, value): (&Cow<'_, [u8]>, &&Tree<'_>)| {
                    there.get(name).is_some_and(|other| value.equals(other))
                };
                here.len() == there.len() && here.iter().all(equals)
            }
            (Self::Scalar(_) | Self::Array(_) | Self::Object(_), _) => false,
        }
    }
}

fn by_name<'t, 'a>(members: &'t Object<'a>) -> HashMap<Cow<'t, [u8]>, &'t Tree<'a>> {
    members.iter().map(|member| (decode(&member.name), &member.value)).collect()
}

fn scalars_equal(here: &str, there: &str) -> bool {
    match (here.starts_with('"'), there.starts_with('"')) {
        // An escape takes at most six bytes per byte.
        (true, true) => {
            here.len() <= 6 * there.len() && there.len() <= 6 * here.len() && decode(here) == decode(there)
        }
        (false, false) => is_number(here) && is_number(there) && number::equal(here, there),
        (true, false) | (false, true) => false,
    }
}

fn is_number(scalar: &str) -> bool {
    scalar.starts_with(|first: char| first == '-' || first.is_ascii_digit())
}

/// Parses the value at the start of `rest`, and removes it from there.
fn parse_next<'a>(rest: &mut &'a str, depth_left: usize) -> Option<Tree<'a>> {
    match rest.as_bytes().first()? {
        b'[' => {
            let depth_left = depth_left.checked_sub(1)?;
            let mut items = Vec::new();
            parse_list(rest, b']', |rest| {
                items.push(parse_next(rest, depth_left)?);
                Some(())
            })?;
            Some(Tree::Array(items))
        }
        b'{' => {
            let depth_left = depth_left.checked_sub(1)?;
            let mut members = Object::default();
            parse_list(rest, b'}', |rest| {
                let name = split_off_string(rest)?;
                *rest = rest.strip_prefix(':')?;
                members.push(Member { name: Cow::Borrowed(name), value: parse_next(rest, depth_left)? });
                Some(())
            })?;
            Some(Tree::Object(members))
        }
        b'"' => split_off_string(rest).map(Tree::Scalar),
        _ => {
            let end = rest.find([',', ']', '}', ':']).unwrap_or(rest.len());
            (end > 0).then(|| Tree::Scalar(split_off(rest, end)))
        }
    }
}

/// Parses what stands between an opening bracket and its `closing` one, separated by commas.
fn parse_list<'a>(
    rest: &mut &'a str,
    closing: u8,
    mut parse: impl FnMut(&mut &'a str) -> Option<()>,
) -> Option<()> {
    split_off(rest, 1);
    if rest.as_bytes().first() == Some(&closing) {
        split_off(rest, 1);
        return Some(());
    }
    loop {
        parse(rest)?;
        let next = *rest.as_bytes().first()?;
        if next != b',' && next != closing {
            return None;
        }
        split_off(rest, 1);
        if next == closing {
            return Some(());
        }
    }
}

fn split_off<'a>(rest: &mut &'a str, bytes: usize) -> &'a str {
    let (piece, after) = rest.split_at(bytes);
    *rest = after;
    piece
}

fn split_off_string<'a>(rest: &mut &'a str) -> Option<&'a str> {
    let end = if rest.starts_with('"') { scan::string_end(rest.as_bytes(), 1)? } else { return None };
    Some(split_off(rest, end))
}

/// The characters of a quoted JSON string, as UTF-8. UTF-8 cannot express a lone surrogate; it becomes the three bytes
/// of WTF-8, so that it equals only itself.
pub fn decode(string: &str) -> Cow<'_, [u8]> {
    let inner = string.strip_prefix('"').and_then(|string| string.strip_suffix('"')).unwrap_or(string);
    if !inner.contains('\\') {
        return Cow::Borrowed(inner.as_bytes());
    }
    let mut bytes = Vec::with_capacity(inner.len());
    let mut rest = inner;
    while let Some(at) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        let (unit, after) = escape(&rest[at..]);
        rest = after;
        match unit {
            0xd800..=0xdbff => match low_surrogate(rest) {
                Some((low, after)) => {
                    rest = after;
                    push_code_point(&mut bytes, 0x1_0000 + ((unit - 0xd800) << 10) + (low - 0xdc00));
                }
                None => push_code_point(&mut bytes, unit),
            },
            unit => push_code_point(&mut bytes, unit),
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    Cow::Owned(bytes)
}

/// The first lone surrogate in JSON text, as it is written there.
pub fn lone_surrogate(text: &str) -> Option<&str> {
    let mut rest = text;
    // Backslashes occur only in strings.
    while let Some(at) = rest.find('\\') {
        let from = &rest[at..];
        let (unit, after) = escape(from);
        rest = after;
        match unit {
            0xd800..=0xdbff => match low_surrogate(after) {
                Some((_, after)) => rest = after,
                None => return from.get(..6),
            },
            0xdc00..=0xdfff => return from.get(..6),
            _ => {}
        }
    }
    None
}

/// The UTF-16 unit of the escape at the start of `text`, and the rest.
fn escape(text: &str) -> (u32, &str) {
    let mut characters = text.chars();
    characters.next();
    let unit = match characters.next() {
        Some('b') => 0x08,
        Some('f') => 0x0c,
        Some('n') => 0x0a,
        Some('r') => 0x0d,
        Some('t') => 0x09,
        Some('u') => {
            if let Some(unit) = text.get(2..6).and_then(|digits| u32::from_str_radix(digits, 16).ok()) {
                return (unit, &text[6..]);
            }
            u32::from('u')
        }
        Some(itself) => u32::from(itself),
        None => u32::from('\\'),
    };
    (unit, characters.as_str())
}

/// The low half of a surrogate pair, if `text` begins with one.
fn low_surrogate(text: &str) -> Option<(u32, &str)> {
    let (unit, after) = text.starts_with("\\u").then(|| escape(text))?;
    (0xdc00..=0xdfff).contains(&unit).then_some((unit, after))
}

fn push_code_point(bytes: &mut Vec<u8>, code_point: u32) {
    match char::from_u32(code_point) {
        Some(character) => bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        // A lone surrogate.
        None => bytes.extend([
            0xe0 | (code_point >> 12) as u8,
            0x80 | (code_point >> 6 & 0x3f) as u8,
            0x80 | (code_point & 0x3f) as u8,
        ]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(text: &str) -> Tree<'_> {
        Tree::parse(text).expect("JSON")
    }

    #[test]
    fn text_comes_out_as_it_went_in() {
        for text in [
            "1E+2",
            r#""\u0041\/""#,
            "[]",
            "{}",
            r#"{"a":[1,{"b":-0.0},[]],"a":null,"\u0061":"},]\"[\\"}"#,
            r#"["\ud800",true]"#,
        ] {
            assert_eq!(tree(text).text(), text);
            assert_eq!(tree(text).text_bytes(), text.len(), "{text}");
        }
    }

    #[test]
    fn text_that_is_not_json_is_none() {
        for text in
            ["", "[", "[1", "[1,", "[,]", "{\"a\"}", "{\"a\":}", "{1:2}", "\"", "\"\\\"", "1]", "[1}", ":"]
        {
            assert!(Tree::parse(text).is_none(), "{text}");
        }
        assert!(Tree::parse(&"[".repeat(1_000_000)).is_none());
    }

    #[test]
    fn equality_is_by_meaning() {
        for (a, b) in [
            (r#""\u0041\n\/\ud83e\udd80""#, "\"A\\u000a/🦀\""),
            (r#"{"a":1,"b":[2.0]}"#, r#"{"b":[2],"\u0061":1e0}"#),
            (r#"{"a":1,"a":2}"#, r#"{"a":2}"#),
            (r#""\ud800""#, r#""\uD800""#),
        ] {
            assert!(tree(a).equals(&tree(b)) && tree(b).equals(&tree(a)), "{a} = {b}");
        }
        for (a, b) in [
            ("1", "true"),
            ("\"1\"", "1"),
            ("null", "{}"),
            ("[1]", "[1,1]"),
            (r#"{"a":1}"#, r#"{"b":1}"#),
            (r#"{"a":1}"#, r#"{"a":1,"b":1}"#),
            (r#""\ud800""#, r#""\ud801""#),
            ("true", "false"),
        ] {
            assert!(!tree(a).equals(&tree(b)) && !tree(b).equals(&tree(a)), "{a} is not {b}");
        }
    }

    #[test]
    fn a_lone_surrogate_is_found_and_a_pair_is_none() {
        for lone in [r#""\ud800""#, r#"{"\uDFFF":1}"#, r#"["\ud83e\ud83e\udd80"]"#, r#""\ud800\\udc00""#] {
            assert!(lone_surrogate(lone).is_some_and(|found| found.starts_with("\\u")), "{lone}");
        }
        for fine in [r#""\ud83e\udd80\u0041""#, r#""\\ud800""#, "1", "\"\u{ffff}\"", r#""\n\"""#] {
            assert_eq!(lone_surrogate(fine), None, "{fine}");
        }
    }
}
