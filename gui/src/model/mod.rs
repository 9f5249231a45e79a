//! What the window knows and what it asks for. Messages of the client and wishes of the user come in; commands go out. It has no clock and
//! does nothing itself, so that tests drive it alone.

mod act;
pub mod editor;
pub mod json;
pub mod listing;
mod open;
mod receive;
pub use receive::preview;
pub mod time;
pub mod transaction;
mod value;

use std::{collections::VecDeque, sync::Arc};

use self::{editor::Editor, listing::Listing, transaction::LineError};
use crate::{
    message::{Cluster, Command, Expiry, Outcome, Place, Table},
    settings::{Connection, Settings, is_plain_token},
};

/// Most changes that are kept for the page of changes.
const CHANGES_MAX: usize = 500;
/// How long after the last letter a prefix is listed.
pub const FILTER_PAUSE_MS: u64 = 200;
/// What the page of transactions begins with.
const EXAMPLE: &str = "# All of it happens, or nothing; strong tables only.\ncheck kv greeting absent\nset kv greeting \"hello\"\nelse\nget kv greeting\n";

/// The pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// Tables, keys and the editor.
    Data,
    /// Changes as they happened.
    Changes,
    /// A transaction.
    Transaction,
    /// The nodes.
    Cluster,
}

impl Page {
    /// All, in the order of their tabs.
    pub const ALL: [Self; 4] = [Self::Data, Self::Changes, Self::Transaction, Self::Cluster];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Data => "Data",
            Self::Changes => "Changes",
            Self::Transaction => "Transaction",
            Self::Cluster => "Cluster",
        }
    }
}

/// Whether there is a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// None was asked for.
    Idle,
    /// An address is tried.
    Connecting {
        /// The address.
        address: String,
        /// Why the one before was lost, if there was one.
        after: Option<String>,
    },
    /// There is one.
    Connected {
        /// The address.
        address: String,
    },
    /// There is none; another attempt follows.
    Lost {
        /// The address that was lost, or does not answer.
        address: String,
        /// Why.
        why: String,
        /// When the next attempt is, in Unix milliseconds.
        retry_at_ms: u64,
    },
    /// There is none, and trying again would not help.
    Refused {
        /// The address.
        address: String,
        /// Why.
        why: String,
    },
}

/// The dialog for a connection, while it is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dialog {
    /// The addresses, one a line.
    pub addresses: String,
    /// The token.
    pub token: String,
    /// Whether the nodes speak TLS.
    pub tls: bool,
    /// The file of certificates to trust.
    pub ca_file: String,
    /// The file of this client's certificate.
    pub cert_file: String,
    /// The file of its private key.
    pub key_file: String,
    /// What is wrong.
    pub error: Option<String>,
}

/// The page of transactions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionPage {
    /// The text.
    pub text: String,
    /// The request that runs.
    pub waiting: Option<u64>,
    /// What is wrong with its lines.
    pub errors: Vec<LineError>,
    /// What the last one came to, or why it failed.
    pub outcome: Option<Result<Outcome, String>>,
}

/// A change with the instant at which it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// When, in Unix milliseconds.
    pub at_ms: u64,
    /// Of which key.
    pub place: Place,
    /// What happened to it.
    pub event: Event,
}

/// What happened to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It was set, to a value that begins so: whole values of many changes would take much memory.
    Set(String),
    /// It was deleted.
    Deleted,
    /// It has expired.
    Expired,
}

/// What replaces the editor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Another key.
    Open(Place),
    /// A new key.
    New,
    /// Another connection.
    Connect(Dialog),
    /// Nothing: the window closes.
    Close,
}

/// All of it.
#[derive(Debug)]
pub struct Model {
    /// What is kept between starts.
    pub settings: Settings,
    /// The token, which is not.
    pub token: String,
    /// Now, in Unix milliseconds. Whoever drives the model sets it.
    pub now_ms: u64,
    /// The page that is shown.
    pub page: Page,
    /// Whether there is a connection.
    pub link: Link,
    /// The tables, or why they are not known; `None` at first.
    pub tables: Option<Result<Vec<Table>, String>>,
    /// The cluster, or why it is not known; `None` at first.
    pub cluster: Option<Result<Cluster, String>>,
    /// How long the node took to answer last, in milliseconds.
    pub answer_ms: Option<u64>,
    /// The keys of the table that is open.
    pub listing: Option<Listing>,
    /// What the keys must begin with, as it is typed.
    pub filter: String,
    /// The key that is selected in the tree; `None` is the table itself.
    pub selected: Option<Arc<str>>,
    /// The key that is edited.
    pub editor: Option<Editor>,
    /// What waits until what is in the editor was saved or given up.
    pub next: Option<Next>,
    /// The changes seen last, newest first.
    pub changes: VecDeque<Seen>,
    /// The page of transactions.
    pub transaction: TransactionPage,
    /// The dialog for a connection.
    pub dialog: Option<Dialog>,
    /// Whether the keys of the keyboard are shown.
    pub shows_help: bool,
    /// Whether the window is to close: nothing is left that was not saved.
    pub is_closing: bool,
    /// The result of the last action, for the status line.
    pub notice: String,
    commands: VecDeque<Command>,
    /// What is being written, by the request that writes it.
    writing: Option<(String, Expiry)>,
    last_number: u64,
    /// When the prefix that is typed is listed.
    filter_due_ms: Option<u64>,
    /// The key to open once there is a connection.
    wanted: Option<Place>,
}

impl Model {
    /// With these settings, not connected yet.
    pub fn new(mut settings: Settings, token: String) -> Self {
        if settings.addresses.is_empty() {
            settings.addresses = Settings::default().addresses;
        }
        Self {
            settings,
            token,
            now_ms: 0,
            page: Page::Data,
            link: Link::Idle,
            tables: None,
            cluster: None,
            answer_ms: None,
            listing: None,
            filter: String::new(),
            selected: None,
            editor: None,
            next: None,
            changes: VecDeque::new(),
            transaction: TransactionPage {
                text: EXAMPLE.to_owned(),
                waiting: None,
                errors: Vec::new(),
                outcome: None,
            },
            dialog: None,
            shows_help: false,
            is_closing: false,
            notice: String::new(),
            commands: VecDeque::new(),
            writing: None,
            last_number: 0,
            filter_due_ms: None,
            wanted: None,
        }
    }

    /// The commands since the last call, in order.
    pub fn take_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// Puts a command back that the client had no room for.
    pub fn put_back(&mut self, command: Command) {
        self.commands.push_front(command);
    }

    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    fn send(&mut self, command: Command) {
        self.commands.push_back(command);
    }

    /// Whether there is a connection.
    pub fn is_connected(&self) -> bool {
        matches!(self.link, Link::Connected { .. })
    }

    /// Whether the token is sent to another machine without TLS, where others can read it.
    pub fn sends_token_in_plain_text(&self) -> bool {
        is_plain_token(self.settings.tls, &self.token, &self.settings.addresses)
    }

    /// Connects by the settings.
    pub fn connect(&mut self) {
        let connection: Connection = self.settings.connection(&self.token);
        let address = connection.addresses.first().cloned().unwrap_or_default();
        self.link = Link::Connecting { address, after: None };
        (self.tables, self.cluster, self.answer_ms) = (None, None, None);
        // It may be another cluster.
        self.listing.iter_mut().for_each(Listing::forget_position);
        self.send(Command::Connect(connection));
    }

    /// Tries to connect again at once.
    pub fn retry(&mut self) {
        match self.link {
            Link::Refused { .. } | Link::Idle => self.connect(),
            Link::Connecting { .. } | Link::Connected { .. } | Link::Lost { .. } => self.send(Command::Retry),
        }
    }

    /// Opens a table, and a key of it, as soon as there is a connection.
    pub fn want(&mut self, table: String, key: Option<String>) {
        self.settings.table.clone_from(&table);
        self.wanted = key.map(|key| Place { table, key });
    }

    /// The prefix has changed: it is listed when nothing more was typed for a while.
    pub fn filter_changed(&mut self) {
        self.filter_due_ms = Some(self.now_ms + FILTER_PAUSE_MS);
    }

    /// What only the time brings about. For each frame.
    pub fn tick(&mut self) {
        if self.filter_due_ms.is_some_and(|due_ms| self.now_ms >= due_ms) {
            self.apply_filter();
        }
        if self.page != Page::Data {
            self.keep();
        }
    }

    /// Lists by the prefix that is typed now, if it is another.
    pub fn apply_filter(&mut self) {
        self.filter_due_ms = None;
        let Some(listing) = &self.listing else { return };
        if listing.prefix != self.filter {
            let table = listing.table.clone();
            self.open_table(&table);
        }
    }

    /// Reads everything that is shown again.
    pub fn reload(&mut self) {
        if !self.is_connected() {
            // What is on the screen stays there until there is something newer.
            self.listing.iter_mut().for_each(Listing::forget_position);
            self.retry();
            return;
        }
        self.send(Command::Refresh);
        if let Some(listing) = &self.listing {
            let table = listing.table.clone();
            self.open_table(&table);
        }
        // What was typed stays; what is there is shown beside it.
        if self
            .editor
            .as_ref()
            .is_some_and(|it| it.waiting == editor::Waiting::Nothing && (!it.is_new || it.failure.is_some()))
        {
            self.load_again();
        }
    }

    /// The rows of the tree that are in view, so that what they show is read.
    pub fn look(&mut self, visible: std::ops::Range<usize>) {
        let now_ms = self.now_ms;
        let is_connected = self.is_connected();
        let command = self.listing.as_mut().filter(|_| is_connected).and_then(|it| it.look(visible, now_ms));
        self.commands.extend(command);
    }

    /// The tables; none while they are not known.
    pub fn known_tables(&self) -> &[Table] {
        self.tables.as_ref().and_then(|tables| tables.as_ref().ok()).map(Vec::as_slice).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
