//! Opening the tables in the tree.

use super::{Listing, Model};

impl Model {
    /// Lists the keys of a table with the prefix that is typed, and follows them.
    pub fn open_table(&mut self, table: &str) {
        self.open_listing(table, Listing::begin_again);
    }

    /// Goes on with the table that is open, or lists one.
    pub(super) fn go_on_with_table(&mut self, table: &str) {
        let now_ms = self.now_ms;
        self.open_listing(table, |listing, generation| listing.go_on(generation, now_ms));
    }

    /// Opens a table: if it is open already, as `again` has it.
    fn open_listing(&mut self, table: &str, again: impl FnOnce(&mut Listing, u64)) {
        if self.listing.as_ref().is_some_and(|listing| listing.table != table) {
            self.filter.clear();
        }
        self.settings.table = table.to_owned();
        self.filter_due_ms = None;
        let generation = self.next_number();
        match &mut self.listing {
            // The rows that are there stay until all of the new ones are known.
            Some(listing) if listing.table == table && listing.prefix == self.filter => {
                again(listing, generation);
            }
            _ => {
                self.select(None);
                self.listing = Some(Listing::new(generation, table.to_owned(), self.filter.clone()));
            }
        }
        let command = self.listing.as_ref().map(Listing::command);
        self.commands.extend(command);
        // Changes before the new watch may have been missed.
        if self.editor.as_ref().is_some_and(|editor| !editor.is_dirty() && !editor.is_new) {
            self.load_again();
        }
    }

    /// Closes the table that is open in the tree.
    pub fn close_table(&mut self) {
        self.listing = None;
        self.select(None);
        self.settings.table.clear();
        self.filter.clear();
    }
}
