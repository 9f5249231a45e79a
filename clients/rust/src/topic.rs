//! What a stream of changes follows.

use crate::{
    error::{Error, Result},
    path,
};

/// What to follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topic {
    /// One key of a table.
    Key(String, String),
    /// The keys of a table that begin so.
    Prefix(String, String),
    /// A whole table.
    Table(String),
    /// All tables, those that are made later included.
    All,
}

/// The path and query that follow these topics.
pub fn target(topics: &[Topic]) -> Result<(String, Vec<(&'static str, String)>)> {
    let table_of = |topic: &Topic| match topic {
        Topic::Key(table, _) | Topic::Prefix(table, _) | Topic::Table(table) => Some(table.clone()),
        Topic::All => None,
    };
    let Some(first) = topics.first() else {
        return Err(Error::Invalid("there is nothing to follow: name a topic".into()));
    };
    let table =
        table_of(first).filter(|table| topics.iter().all(|topic| table_of(topic).as_ref() == Some(table)));
    let Some(table) = table else {
        let topics = topics.iter().map(|topic| topic_text(topic).map(|text| ("topic", text)));
        return Ok(("/_/subscribe".into(), topics.collect::<Result<_>>()?));
    };
    let path = format!("/{}/subscribe", path::segment(&table));
    if topics.iter().any(|topic| matches!(topic, Topic::Table(_))) {
        return Ok((path, Vec::new()));
    }
    let query = topics.iter().filter_map(|topic| match topic {
        Topic::Key(_, key) => Some(("key", key.clone())),
        Topic::Prefix(_, prefix) => Some(("prefix", prefix.clone())),
        Topic::Table(_) | Topic::All => None,
    });
    Ok((path, query.collect()))
}

/// A topic as the nodes read it.
fn topic_text(topic: &Topic) -> Result<String> {
    match topic {
        Topic::Key(_, key) if key.ends_with('*') => Err(Error::Invalid(format!(
            "the key {key:?} ends in *: follow it together with keys of its table only"
        ))),
        Topic::Key(table, key) => Ok(format!("{table}/{key}")),
        Topic::Prefix(table, prefix) => Ok(format!("{table}/{prefix}*")),
        Topic::Table(table) => Ok(format!("{table}/*")),
        Topic::All => Ok("*".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_of_one_table_have_its_path_and_others_are_listed() {
        let key = |table: &str, key: &str| Topic::Key(table.into(), key.into());
        let prefix = |table: &str, prefix: &str| Topic::Prefix(table.into(), prefix.into());
        let line = |topics: &[Topic]| target(topics).map(|(path, query)| path::with_query(&path, &query));
        for (topics, expected) in [
            (vec![Topic::Table("t".into())], "/t/subscribe"),
            (vec![key("t", "a/b*")], "/t/subscribe?key=a%2Fb*"),
            (vec![prefix("t", "a"), key("t", "b")], "/t/subscribe?prefix=a&key=b"),
            (vec![key("t", "a"), Topic::Table("t".into())], "/t/subscribe"),
            (vec![key("t", "a"), prefix("u", "b")], "/_/subscribe?topic=t%2Fa&topic=u%2Fb*"),
            (vec![Topic::All], "/_/subscribe?topic=*"),
        ] {
            assert_eq!(line(&topics).expect("topics"), expected);
        }
        assert!(line(&[]).is_err() && line(&[key("t", "a*"), key("u", "b")]).is_err());
    }
}
