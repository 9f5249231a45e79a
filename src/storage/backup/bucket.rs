//! Backups in a bucket of S3, or of a server that speaks its protocol: the files of a backup are objects below a prefix, with the same names.
//!
//! The object `id` comes last: without it what is there is no backup, so an upload that ends in the middle leaves nothing that looks like one.
//! Where the bucket is, and who asks, is in the environment, by the names that all tools for S3 know: `AWS_ACCESS_KEY_ID`,
//! `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, `AWS_REGION`, `AWS_ENDPOINT_URL`.

mod failure;

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path as FilePath, PathBuf},
    time::Duration,
};

use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use object_store::{
    BackoffConfig, ClientConfigKey, ObjectStore, ObjectStoreExt, PutMode, PutPayload, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey},
    path::Path,
};

use super::{
    content::{CONTENT, FILE_BYTES_MAX, ID, MANIFEST, MANIFEST_BYTES_MAX, Manifest, SCHEME, altered},
    layer::write_file,
    read::ID_BYTES_MAX,
};
use crate::{
    error::{Error, Result},
    storage::unfinished::make_directory,
};

/// The variables that name the server, the most particular first.
const ENDPOINTS: [&str; 3] = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"];
/// Objects that are sent or fetched at once: enough to fill a connection whose answers take long, and 64 MiB of chunks at most.
const AT_ONCE: usize = 4;
/// Objects that a listing may have: more than any backup, of which each is a chunk of 4 MiB of lines.
const OBJECTS_MAX: usize = 1 << 20;
/// A server that is busy, or restarts, is asked again for about this long.
const RETRY_TIMEOUT: Duration = Duration::from_secs(20);
/// How often it is asked again, at most.
const RETRIES_MAX: usize = 8;
/// The longest pause before it is asked again.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(3);
/// How long one object may take.
const OBJECT_TIMEOUT: &str = "120s";

/// The place of a backup in a bucket.
#[derive(Debug)]
pub struct Bucket {
    url: String,
    bucket: String,
    prefix: Path,
    store: AmazonS3,
}

impl Bucket {
    /// The place that `s3://BUCKET/NAME` names, on the server that the environment names.
    ///
    /// # Errors
    /// `Config` if it names none, or if the environment says too little.
    pub fn new(url: &str) -> Result<Self> {
        let (bucket, prefix) = parse(url)?;
        check_credentials(|name| env::var(name).ok().filter(|value| !value.is_empty()))?;
        // As for the links of nodes. If it is set already, it is this one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let is_plain = ENDPOINTS
            .iter()
            .find_map(|name| env::var(name).ok().filter(|endpoint| !endpoint.is_empty()))
            .is_some_and(|endpoint| endpoint.starts_with("http://"));
        let retry = RetryConfig {
            backoff: BackoffConfig { max_backoff: RETRY_PAUSE_MAX, ..BackoffConfig::default() },
            max_retries: RETRIES_MAX,
            retry_timeout: RETRY_TIMEOUT,
        };
        let builder = AmazonS3Builder::from_env()
            .with_bucket_name(bucket)
            .with_allow_http(is_plain)
            .with_config(AmazonS3ConfigKey::Client(ClientConfigKey::Timeout), OBJECT_TIMEOUT)
            .with_retry(retry);
        let store = builder.build().map_err(|error| {
            Error::Config(format!(
                "the environment (AWS_REGION, AWS_ENDPOINT_URL, ...) does not say how to reach {url}: {error}"
            ))
        })?;
        Ok(Self { url: url.to_owned(), bucket: bucket.to_owned(), prefix, store })
    }

    /// Checks that the bucket can be reached, and that no backup has this name.
    ///
    /// # Errors
    /// `StorageUnusable` if there is one, or something else; `NotFound` if there is no such bucket; `Forbidden`; `Io`.
    pub async fn check_free(&self) -> Result<()> {
        self.left_objects().await.map(drop)
    }

    /// What an upload has left that ended in the middle.
    async fn left_objects(&self) -> Result<Vec<Path>> {
        let names = self.names().await?;
        if let Some((name, _)) = names.iter().find(|(name, _)| *name == ID || !is_content(name)) {
            return Err(Error::StorageUnusable(format!(
                "{} exists already (it has {name}): name another one, as a backup is never overwritten",
                self.url
            )));
        }
        Ok(names.iter().map(|(name, _)| self.object(name)).collect())
    }

    /// Copies a backup from a directory. What is in `base` already, in the same bucket, is copied there. `sent` is told how many
    /// files are.
    ///
    /// # Errors
    /// As `check_free`.
    pub async fn upload(
        &self,
        directory: &FilePath,
        base: Option<(&Self, &Manifest)>,
        mut sent: impl FnMut(u64),
    ) -> Result<()> {
        for left in self.left_objects().await? {
            self.store.delete(&left).await.map_err(|error| self.failed(&left, &error))?;
        }
        let base = base.filter(|(base, _)| base.bucket == self.bucket);
        let known: BTreeSet<&String> = base.iter().flat_map(|(_, manifest)| manifest.files()).collect();
        let manifest = Manifest::read(directory)?;
        let content = directory.join(CONTENT);
        let sending = manifest.files().map(|name| {
            let base = base.filter(|_| known.contains(name)).map(|(base, _)| base.content(name));
            let (from, to) = (content.join(name), self.content(name));
            async move {
                match base {
                    Some(base) => {
                        self.store.copy(&base, &to).await.map_err(|error| self.failed(&base, &error))
                    }
                    None => self.put(&from, &to, PutMode::Overwrite).await,
                }
            }
        });
        count(stream::iter(sending).buffer_unordered(AT_ONCE), &mut sent).await?;
        self.put(&content.join(MANIFEST), &self.content(MANIFEST), PutMode::Overwrite).await?;
        // Nobody else has ended a backup of this name meanwhile. If the answer is lost, it is asked again, and then its own id is there.
        match self.put(&directory.join(ID), &self.object(ID), PutMode::Create).await {
            Err(Error::StorageUnusable(_)) if self.has_id_of(directory).await => Ok(()),
            ended => ended,
        }
    }

    /// Whether the id that is there is the one in a directory.
    async fn has_id_of(&self, directory: &FilePath) -> bool {
        let there = match self.store.get(&self.object(ID)).await {
            Ok(got) => got.bytes().await.ok(),
            Err(_) => None,
        };
        there.is_some_and(|there| fs::read(directory.join(ID)).is_ok_and(|own| own == there))
    }

    async fn put(&self, from: &FilePath, to: &Path, mode: PutMode) -> Result<()> {
        let bytes = fs::read(from).map_err(|e| Error::io(format_args!("reading {}", from.display()), &e))?;
        let put = self.store.put_opts(to, PutPayload::from(bytes), mode.into()).await;
        put.map(drop).map_err(|error| self.failed(to, &error))
    }

    /// Copies the backup to a directory, which must not exist yet. Whoever reads it checks it, as any backup. `fetched` is told how many
    /// files are.
    ///
    /// # Errors
    /// `NotFound` if there is none; `StorageDamaged` if there is what is no part of a backup, or a part only; `Forbidden`; `StorageFull`, `Io`.
    pub async fn download(&self, directory: &FilePath, mut fetched: impl FnMut(u64)) -> Result<()> {
        let names = self.names().await?;
        let url = FilePath::new(&self.url);
        if names.is_empty() {
            return Err(Error::NotFound(format!("there is no backup in {}", self.url)));
        }
        if let Some((name, _)) = names.iter().find(|(name, _)| *name != ID && !is_content(name)) {
            return Err(altered(url, &format!("{name} is not part of it")));
        }
        if let Some((name, _)) = names.iter().find(|(name, bytes)| *bytes > bytes_max(name)) {
            return Err(altered(url, &format!("{name} is too long")));
        }
        if !names.iter().any(|(name, _)| name == ID) {
            let why = "its id, which is sent last, is missing: sending it has not ended, or was broken off";
            return Err(altered(url, why));
        }
        if !names.iter().any(|(name, _)| name.ends_with(MANIFEST)) {
            return Err(altered(url, &format!("{MANIFEST} is missing")));
        }
        make_directory(directory)?;
        make_directory(&directory.join(CONTENT))?;
        let fetching = names.iter().map(|(name, _)| self.fetch(name, directory.join(name)));
        count(stream::iter(fetching).buffer_unordered(AT_ONCE), &mut fetched).await
    }

    async fn fetch(&self, name: &str, to: PathBuf) -> Result<()> {
        let object = self.object(name);
        let failed = |error| self.failed(&object, &error);
        let bytes = self.store.get(&object).await.map_err(failed)?.bytes().await.map_err(failed)?;
        write_file(&to, &bytes)
    }

    /// The names of all objects below the prefix, and their lengths.
    async fn names(&self) -> Result<Vec<(String, u64)>> {
        let listed = self.store.list(Some(&self.prefix)).take(OBJECTS_MAX).try_collect::<Vec<_>>().await;
        let listed = listed.map_err(|error| self.failed(&self.prefix, &error))?;
        let names = listed.into_iter().filter_map(|object| {
            let parts: Vec<_> = object.location.prefix_match(&self.prefix)?.collect();
            let parts: Vec<_> = parts.iter().map(AsRef::as_ref).collect();
            Some((parts.join("/"), object.size))
        });
        Ok(names.collect())
    }

    fn content(&self, name: &str) -> Path {
        self.prefix.clone().join(CONTENT).join(name)
    }

    /// The object of a name relative to the prefix.
    fn object(&self, name: &str) -> Path {
        name.split('/').fold(self.prefix.clone(), |path, part| path.join(part))
    }

    fn failed(&self, object: &Path, error: &object_store::Error) -> Error {
        failure::explain(&self.bucket, &format!("{SCHEME}{}/{object}", self.bucket), error)
    }
}

/// Waits for all files, and tells how many are done.
async fn count(files: impl Stream<Item = Result<()>>, done: &mut impl FnMut(u64)) -> Result<()> {
    let mut files = std::pin::pin!(files.enumerate());
    while let Some((before, file)) = files.next().await {
        file?;
        done(before as u64 + 1);
    }
    Ok(())
}

/// The bucket and the prefix of `s3://BUCKET/NAME`.
fn parse(url: &str) -> Result<(&str, Path)> {
    let wrong = |why: &dyn std::fmt::Display| Error::Config(format!("{url} is not s3://BUCKET/NAME: {why}"));
    let rest = url.strip_prefix(SCHEME).ok_or_else(|| wrong(&"it begins otherwise"))?;
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let prefix = prefix.trim_end_matches('/');
    if bucket.is_empty() || prefix.is_empty() {
        return Err(wrong(&"the name of the bucket or of the backup is missing"));
    }
    Ok((bucket, Path::parse(prefix).map_err(|error| wrong(&error))?))
}

/// Checks that the environment has credentials. A machine of Amazon's may get them from its surroundings; at any other server nobody would
/// have them, and the question would only take long.
fn check_credentials(variable: impl Fn(&str) -> Option<String>) -> Result<()> {
    let is_set = |name: &&str| variable(name).is_some();
    match ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"].map(|name| is_set(&name)) {
        [true, true] => return Ok(()),
        [false, false] => {}
        [has_id, _] => {
            let missing = if has_id { "AWS_SECRET_ACCESS_KEY" } else { "AWS_ACCESS_KEY_ID" };
            return Err(Error::Config(format!(
                "{missing} is not set, and the other half of the credentials is"
            )));
        }
    }
    let is_elsewhere = ENDPOINTS.iter().any(is_set);
    let others = [
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_SKIP_SIGNATURE",
    ];
    match is_elsewhere && !others.iter().any(is_set) {
        true => Err(Error::Config(
            "there are no credentials for the bucket: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. Files in ~/.aws are not read".into(),
        )),
        false => Ok(()),
    }
}

fn bytes_max(name: &str) -> u64 {
    match name {
        ID => ID_BYTES_MAX,
        name if name.ends_with(MANIFEST) => MANIFEST_BYTES_MAX,
        _ => FILE_BYTES_MAX,
    }
}

/// Whether a name is one of a file in the directory of a backup's content: nothing else is written to a disk.
fn is_content(name: &str) -> bool {
    let name = name.strip_prefix(CONTENT).and_then(|rest| rest.strip_prefix('/'));
    let number = name.and_then(|name| name.strip_suffix(".ndjson.zst"));
    name == Some(MANIFEST)
        || number
            .is_some_and(|number| !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_files_of_a_backup_are_downloaded() {
        for name in ["content/000001.ndjson.zst", "content/manifest.json"] {
            assert!(is_content(name), "{name}");
        }
        for name in [
            "id",
            "content",
            "content/",
            "content/../id",
            "content/a/000001.ndjson.zst",
            "content/.ndjson.zst",
        ] {
            assert!(!is_content(name), "{name}");
        }
    }

    #[test]
    fn a_place_in_a_bucket_has_a_name() {
        for wrong in
            ["s3://", "s3://bucket", "s3://bucket/", "s3:///name", "https://bucket/name", "s3://bucket/a//b"]
        {
            assert!(matches!(parse(wrong), Err(Error::Config(_))), "{wrong}");
        }
        let (bucket, prefix) = parse("s3://bucket/node 1/monday/").expect("a place");
        assert_eq!((bucket, prefix.as_ref()), ("bucket", "node 1/monday"));
    }

    #[test]
    fn credentials_are_whole_and_are_there_for_a_server_that_is_named() {
        let check = |set: &[&str]| check_credentials(|name| set.contains(&name).then(|| "value".into()));
        for enough in [
            &["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"][..],
            &["AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ENDPOINT_URL"],
            &[],
        ] {
            assert_eq!(check(enough), Ok(()), "{enough:?}");
        }
        for (too_little, why) in [
            (&["AWS_ENDPOINT_URL"][..], "no credentials"),
            (&["AWS_ACCESS_KEY_ID"], "AWS_SECRET_ACCESS_KEY is not set"),
            (&["AWS_SECRET_ACCESS_KEY"], "AWS_ACCESS_KEY_ID is not set"),
        ] {
            let refused = check(too_little).expect_err("too little").to_string();
            assert!(refused.contains(why), "{too_little:?}: {refused}");
        }
    }
}
