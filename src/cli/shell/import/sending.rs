//! Pieces on their way to the node. Several are at a time, and the node takes them in any order; so a piece that writes a key again waits
//! until all before it are done, and of several rows of a key the last one wins.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use dynarust_client::{Client, Code, Error as ClientError, Imported};
use futures_util::{StreamExt, stream::FuturesOrdered};
use serde_json::json;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};

use super::{Arguments, failed, place::Place, rows::Piece};
use crate::cli::{Exit, progress::Transfer, remote::CommandError, shell::Outcome};

/// Pieces on their way at a time. The node commits them together.
pub const PIECES_MAX: usize = 8;
/// How long a node may be away before an import gives up: as long as a restart takes.
const AWAY_MAX: Duration = Duration::from_secs(60);
/// The pause before a piece is sent again.
const PAUSE: Duration = Duration::from_millis(500);

/// An import at work.
pub struct Running<'a> {
    arguments: &'a Arguments,
    client: Client,
    /// `None` for standard input, which cannot be read again.
    place: Option<Place>,
    progress: Transfer,
    /// Rows that are done, those of earlier runs included.
    rows: u64,
    imported: Imported,
}

impl<'a> Running<'a> {
    pub fn new(arguments: &'a Arguments, client: Client, place: Option<Place>, progress: Transfer) -> Self {
        let rows = place.as_ref().map_or(0, Place::rows);
        Self { arguments, client, place, progress, rows, imported: Imported::default() }
    }

    /// Sends all pieces.
    pub async fn send(&mut self, mut pieces: mpsc::Receiver<Piece>) -> std::result::Result<(), CommandError> {
        let mut sending = FuturesOrdered::new();
        let mut on_their_way = OnTheirWay::default();
        let mut next = None;
        let mut is_over = false;
        loop {
            let may_take = !is_over && next.is_none() && sending.len() < PIECES_MAX;
            tokio::select! {
                piece = pieces.recv(), if may_take => match piece {
                    Some(piece) => next = Some(piece),
                    None => is_over = true,
                },
                Some(done) = sending.next(), if !sending.is_empty() => {
                    on_their_way.arrived();
                    let done: Sent = done;
                    let (done, imported) = done.map_err(|(piece, error)| self.refused(&piece, error))?;
                    self.count(&done, imported)?;
                }
                else => break,
            }
            if let Some(piece) = next.take_if(|piece| !on_their_way.has_any_of(piece)) {
                on_their_way.left(&piece);
                sending.push_back(send_piece(self.client.clone(), self.arguments, piece));
            }
        }
        Ok(())
    }

    fn count(&mut self, done: &Done, imported: Imported) -> std::result::Result<(), CommandError> {
        self.rows += done.rows;
        self.imported.written += imported.written;
        self.imported.skipped += imported.skipped;
        self.progress.set_at(self.rows, done.read_bytes);
        match &mut self.place {
            Some(place) => place.note(self.rows),
            None => Ok(()),
        }
    }

    /// The error for a piece that the node does not take, with the row in the file.
    fn refused(&self, piece: &Piece, error: ClientError) -> CommandError {
        let line = error.problem().and_then(|problem| problem.members.get("line")?.as_u64());
        // The node commits rows by the thousand, and says how many of this piece it has.
        let taken = taken_of(&error).map_or(0, |taken| taken.written + taken.skipped);
        let done = format!("{} rows are imported", piece.first_row - 1 + taken);
        let CommandError { exit, why } = CommandError::from(error.clone());
        let why = match (line, error.problem()) {
            (Some(line), Some(problem)) => {
                let row = piece.first_row + line - 1;
                format!("row {row} of {}: {}. {done}", self.arguments.file.display(), problem.detail)
            }
            _ => format!("{why}. {done}"),
        };
        CommandError { exit, why }
    }

    /// The error for a file that cannot be read to its end.
    pub fn wrong_file(&self, why: String) -> CommandError {
        failed(format!("{}: {why}. {} rows are imported", self.arguments.file.display(), self.rows))
    }

    /// Says what was done.
    pub fn finish(mut self) -> Outcome {
        if let Some(place) = self.place.take() {
            place.remove();
        }
        let Imported { written, skipped, .. } = self.imported;
        let skipped_text = match skipped {
            0 => String::new(),
            _ => format!(", {skipped} skipped: the same or a later write is there"),
        };
        let total = json!({ "rows": self.rows, "written": written, "skipped": skipped });
        let text = format!("imported {written} rows{skipped_text}");
        self.progress.finish(&text, written + skipped, self.arguments.common.json.then_some(total))?;
        Ok(Exit::Success)
    }
}

/// The keys of the pieces on their way that will be new writes. Rows that keep their versions may arrive in any order.
#[derive(Default)]
struct OnTheirWay {
    pieces: VecDeque<Vec<u64>>,
    /// How many rows each key has in these pieces.
    keys: HashMap<u64, u32>,
}

impl OnTheirWay {
    fn has_any_of(&self, piece: &Piece) -> bool {
        !self.keys.is_empty() && piece.keys.iter().any(|key| self.keys.contains_key(key))
    }

    fn left(&mut self, piece: &Piece) {
        for key in &piece.keys {
            *self.keys.entry(*key).or_default() += 1;
        }
        self.pieces.push_back(piece.keys.clone());
    }

    /// The first of them has arrived.
    fn arrived(&mut self) {
        for key in self.pieces.pop_front().into_iter().flatten() {
            if let Some(rows) = self.keys.get_mut(&key) {
                *rows -= 1;
                if *rows == 0 {
                    self.keys.remove(&key);
                }
            }
        }
    }
}

/// How many rows a piece had, and what became of them; or why the node does not take it.
type Sent = std::result::Result<(Done, Imported), (Piece, ClientError)>;

/// How far a piece brings the import.
struct Done {
    rows: u64,
    read_bytes: u64,
}

/// Sends a piece until the node takes or refuses it.
async fn send_piece(client: Client, arguments: &Arguments, mut piece: Piece) -> Sent {
    let done = Done { rows: piece.rows, read_bytes: piece.read_bytes };
    let mut before = Imported::default();
    // Since the first failure, however long each attempt takes.
    let mut away: Option<Instant> = None;
    loop {
        let mut import = client.import(piece.body.clone());
        if let Some(table) = &arguments.table {
            import = import.table(table);
        }
        if arguments.new {
            import = import.as_new_writes();
        }
        match import.await {
            Ok(mut imported) => {
                imported.written += before.written;
                imported.skipped += before.skipped;
                return Ok((done, imported));
            }
            Err(error)
                if is_passing(&error) && away.get_or_insert_with(Instant::now).elapsed() < AWAY_MAX =>
            {
                // The rest, or if nobody knows how far it came the same rows again: with versions that changes nothing, and without they
                // are written once more. With --new the count has rows that expired before the others were written.
                if let Some(taken) = taken_of(&error).filter(|_| !arguments.new) {
                    piece.cut(taken.written + taken.skipped);
                    before.written += taken.written;
                    before.skipped += taken.skipped;
                }
                sleep(PAUSE).await;
            }
            Err(error) => return Err((piece, error)),
        }
    }
}

/// What the node has of a piece that it did not take whole.
fn taken_of(error: &ClientError) -> Option<Imported> {
    error.problem()?.imported()
}

/// Whether it may work if it is tried again.
fn is_passing(error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable(_) | ClientError::OutcomeUnknown { .. } => true,
        ClientError::Refused(problem) => matches!(
            problem.code,
            Code::Overloaded
                | Code::NotReady
                | Code::Draining
                | Code::NoQuorum
                | Code::TooMany
                | Code::RequestTimeout
        ),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn piece(keys: &[u64]) -> Piece {
        Piece {
            first_row: 1,
            rows: keys.len() as u64,
            keys: keys.to_vec(),
            body: Bytes::new(),
            read_bytes: 0,
        }
    }

    #[test]
    fn a_piece_waits_for_those_before_it_that_write_its_keys() {
        let mut on_their_way = OnTheirWay::default();
        on_their_way.left(&piece(&[1, 2, 2]));
        on_their_way.left(&piece(&[3]));
        for (keys, waits) in [(&[2][..], true), (&[4, 3], true), (&[4], false), (&[], false)] {
            assert_eq!(on_their_way.has_any_of(&piece(keys)), waits, "{keys:?}");
        }
        on_their_way.arrived();
        assert!(!on_their_way.has_any_of(&piece(&[1, 2])) && on_their_way.has_any_of(&piece(&[3])));
        on_their_way.arrived();
        assert!(on_their_way.keys.is_empty());
    }
}
