//! The members of an object during a patch: in text order, with an index by name. A patch of a thousand operations may
//! meet an object of a hundred thousand members while its key is locked, so no operation searches all members.

use std::{borrow::Cow, collections::HashMap};

use super::tree::{Tree, decode};

/// A member of an object.
#[derive(Clone, Debug)]
pub struct Member<'a> {
    /// Its name, as a JSON string with its quotes.
    pub name: Cow<'a, str>,
    /// Its value.
    pub value: Tree<'a>,
}

/// An object. A name may occur twice; readers see the last one.
#[derive(Clone, Debug, Default)]
pub struct Object<'a> {
    /// `None` for a removed member, so that the others keep their places.
    members: Vec<Option<Member<'a>>>,
    /// Built when a name is first looked up.
    index: Option<Index>,
}

#[derive(Clone, Debug, Default)]
struct Index {
    /// The place of the last member of each name.
    places: HashMap<Vec<u8>, usize>,
    /// Whether a name occurs twice.
    has_duplicates: bool,
}

impl Index {
    fn insert(&mut self, name: &str, place: usize) {
        self.has_duplicates |= self.places.insert(decode(name).into_owned(), place).is_some();
    }
}

impl<'a> Object<'a> {
    /// The members, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Member<'a>> {
        self.members.iter().flatten()
    }

    /// Appends a member.
    pub fn push(&mut self, member: Member<'a>) {
        if let Some(index) = &mut self.index {
            index.insert(&member.name, self.members.len());
        }
        self.members.push(Some(member));
    }

    /// The value that readers see under a name.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Tree<'a>> {
        let place = self.index().places.get(name.as_bytes()).copied()?;
        self.members[place].as_mut().map(|member| &mut member.value)
    }

    /// Removes all members with a name. Returns the value that readers saw.
    pub fn remove(&mut self, name: &str) -> Option<Tree<'a>> {
        let index = self.index();
        let place = index.places.remove(name.as_bytes())?;
        let has_duplicates = index.has_duplicates;
        let removed = self.members[place].take();
        if has_duplicates {
            for member in &mut self.members {
                if member.as_ref().is_some_and(|member| decode(&member.name).as_ref() == name.as_bytes()) {
                    *member = None;
                }
            }
        }
        removed.map(|member| member.value)
    }

    fn index(&mut self) -> &mut Index {
        let members = &self.members;
        self.index.get_or_insert_with(|| {
            let mut index = Index::default();
            for (place, member) in members.iter().enumerate() {
                if let Some(member) = member {
                    index.insert(&member.name, place);
                }
            }
            index
        })
    }
}

impl<'a> FromIterator<Member<'a>> for Object<'a> {
    fn from_iter<I: IntoIterator<Item = Member<'a>>>(members: I) -> Self {
        Self { members: members.into_iter().map(Some).collect(), index: None }
    }
}

impl<'a> IntoIterator for Object<'a> {
    type Item = Member<'a>;
    type IntoIter = std::iter::Flatten<std::vec::IntoIter<Option<Member<'a>>>>;

    fn into_iter(self) -> Self::IntoIter {
        self.members.into_iter().flatten()
    }
}
