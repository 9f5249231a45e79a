//! The members of an object while it is patched: in the order of their text, and found by their names without a search through all, as
//! a patch of a thousand operations may meet an object of a hundred thousand members, under the lock of its key.

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

/// An object. A name may be there twice; the last one is what readers see.
#[derive(Clone, Debug, Default)]
pub struct Object<'a> {
    /// `None` where one was removed: the others keep their places.
    members: Vec<Option<Member<'a>>>,
    /// Made when a name is looked for first.
    index: Option<Index>,
}

#[derive(Clone, Debug, Default)]
struct Index {
    /// The place of the last member of each name.
    places: HashMap<Vec<u8>, usize>,
    /// Whether a name is there twice.
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

    /// Takes all members of a name out. The value that readers saw.
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
