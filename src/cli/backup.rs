//! `DynaRust backup`: stores all rows of a running node, as they are at one instant, in a directory.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use dynarust_client::{Client, Method};
use futures_util::StreamExt;
use serde_json::json;
use tokio::sync::{mpsc, oneshot};

use super::{
    Exit,
    place::Place,
    privacy,
    progress::Progress,
    remote::{self, AdminTarget, CommandError},
    unlock::{self, Unlock},
};
use crate::{
    error::{Error, Result},
    storage::backup::write::{Options, Writer, Written},
};

/// Pieces of the stream that wait for the disk, of about 128 KiB each.
const WAITING_MAX: usize = 32;

/// Which node to back up, and where to.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The directory must not exist yet. Keep its id, which is printed, elsewhere: `DynaRust verify DIR --id ID` \
                        then proves that it is this backup.\n\n\
                        In a build with `--features s3` it may be in a bucket of S3, or of a server like it: s3://BUCKET/NAME. The \
                        environment says where that is and who asks: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, and \
                        AWS_ENDPOINT_URL for another server than Amazon's.\n\nExamples:\n  \
                        DynaRust backup monday\n  \
                        DynaRust backup tuesday --base monday\n  \
                        DynaRust backup s3://backups/node1/monday"
)]
pub struct Arguments {
    /// The directory to create, or s3://BUCKET/NAME
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// An earlier backup of the node: only what differs is written
    ///
    /// The new backup has links to the files of the other, so that either may be removed. On another file system, and in a bucket, they are
    /// copied
    #[arg(long, value_name = "OLD")]
    base: Option<PathBuf>,
    /// Encrypt it with a passphrase, which is asked for
    #[arg(long)]
    encrypt: bool,
    /// Encrypt it for a recipient: only the private key opens it, which is not needed here. `DynaRust backup-key new` makes one
    ///
    /// With a base, --key-file or --passphrase-file opens the base
    #[arg(long, value_name = "KEY", conflicts_with = "encrypt")]
    recipient: Option<String>,
    #[command(flatten)]
    unlock: Unlock,
    #[command(flatten)]
    target: AdminTarget,
}

/// Makes the backup, and prints its id.
pub fn run(arguments: &Arguments) -> Result<Exit> {
    privacy::restrict_new_files();
    let secret = match arguments.unlock.named()? {
        None if arguments.encrypt => Some(unlock::new_passphrase()?),
        named => named,
    };
    let recipient = arguments.recipient.as_deref().map(str::parse).transpose();
    let recipient = recipient.map_err(|error| Error::Config(format!("--recipient is {error}")))?;
    let (node, data) = arguments.target.open()?;
    remote::run_command(async {
        let place = Place::to_make(&arguments.directory).await.map_err(failed)?;
        let base = match &arguments.base {
            Some(base) => Some(Place::of_backup(base).await.map_err(failed)?),
            None => None,
        };
        let path = base.as_ref().map(|base| base.directory().to_owned());
        let options = Options { base: path, secret, recipient, base_key: None };
        let made = make(&node, &data, place.directory(), options).await;
        let written = made.map_err(|error| {
            let why = base.iter().fold(place.named_text(error.why), |why, base| base.named_text(why));
            CommandError { why, ..error }
        })?;
        place.store(base.as_ref()).await.map_err(failed)?;
        let text = match arguments.target.json {
            true => format!("{:#}\n", to_json(&written)),
            false => to_text(&written, &arguments.directory),
        };
        Ok((Exit::Success, text))
    })
}

/// Makes a backup of a node. `data`: the node's data directory, for its admin token.
pub async fn make(
    node: &Client,
    data: &Path,
    directory: &Path,
    options: Options,
) -> std::result::Result<Written, CommandError> {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    let (begun, ready) = oneshot::channel();
    let directory = directory.to_owned();
    let writing = tokio::task::spawn_blocking(move || write(&directory, &options, begun, receiver));
    // The base is checked first: while the node reads a backup, it remembers what changes.
    let sent = if ready.await.is_ok() { send(node, data, sender).await } else { Ok(()) };
    // Also where the node sent only a part: the writer tidies up.
    let written = writing.await.map_err(|stopped| Error::Io(format!("writing the backup: {stopped}")));
    sent?;
    written.and_then(|written| written).map_err(failed)
}

/// Sends the stream of the node to the writer.
async fn send(
    node: &Client,
    data: &Path,
    sender: mpsc::Sender<Bytes>,
) -> std::result::Result<(), CommandError> {
    let answer =
        remote::open_admin(node, (Method::GET, "/_/backup"), Bytes::new(), remote::TIMEOUT, data).await?;
    let mut answer = answer.silence_limit(node.timeout());
    while let Some(piece) = answer.next().await {
        let bytes = piece.map_err(|error| CommandError {
            exit: Exit::Failure,
            why: format!("the node ended the backup before its end ({error}): its log says why"),
        })?;
        if sender.send(bytes).await.is_err() {
            // The writer has ended, and says why.
            return Ok(());
        }
    }
    Ok(())
}

fn write(
    directory: &Path,
    options: &Options,
    begun: oneshot::Sender<()>,
    mut receiver: mpsc::Receiver<Bytes>,
) -> Result<Written> {
    let base = options.open_base()?;
    let mut writer = Writer::create(directory, options, &base)?;
    let _ = begun.send(());
    let progress = Progress::start("rows");
    while let Some(bytes) = receiver.blocking_recv() {
        writer.take(&bytes)?;
        progress.set(writer.rows());
    }
    writer.finish()
}

fn failed(error: Error) -> CommandError {
    let exit = match &error {
        Error::Config(_) => Exit::Usage,
        Error::NotFound(_) => Exit::NotFound,
        _ => Exit::Failure,
    };
    CommandError { exit, why: error.to_string() }
}

fn to_json(written: &Written) -> serde_json::Value {
    json!({
        "id": written.id,
        "keys": written.live,
        "tombstones": written.tombstones,
        "made_ms": written.made_ms,
        "bytes_read": written.bytes_read,
        "bytes_written": written.bytes_written,
        "bytes_shared": written.bytes_shared,
    })
}

fn to_text(written: &Written, directory: &Path) -> String {
    format!(
        "{}: {} keys and {} tombstones, {} bytes written, {} shared with its base\nid {}\n",
        directory.display(),
        written.live,
        written.tombstones,
        written.bytes_written,
        written.bytes_shared,
        written.id
    )
}
