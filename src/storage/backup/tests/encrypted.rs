//! Backups that are encrypted.

use std::fs;

use super::{Scene, lines, renew_id, rows, rows_of, write};
use crate::{
    error::Error,
    storage::{
        backup::{
            content, read,
            recipient::PrivateKey,
            seal::Secret,
            write::{Options, Writer},
        },
        tests::{close, merge, put, write_rows},
    },
};

#[test]
fn an_encrypted_backup_shows_nothing_and_opens_with_its_secret_only() {
    let scene = Scene::new();
    let store = scene.fixture.open();
    write_rows(&store, 300);
    merge(&store, "a-secret-key", put("\"a-secret-value\"", None, 1));
    let options = Options { secret: Some(Secret::KeyFile(vec![7; 32])), ..Options::default() };
    write(&lines(&store, |_| {}).expect("reads"), &scene.path("1"), &options).expect("writes");
    merge(&store, "new", put("1", None, 9));
    let based = Options { base: Some(scene.path("1")), ..options.clone() };
    write(&lines(&store, |_| {}).expect("reads"), &scene.path("2"), &based).expect("writes");
    for name in ["1", "2"] {
        let checked = read::check(&scene.path(name)).expect("its files can be checked");
        for file in checked.manifest.files().map(String::as_str).chain(["manifest.json"]) {
            let bytes = fs::read(content::file_path(&scene.path(name), file)).expect("reads");
            assert!(!bytes.windows(8).any(|part| part == b"a-secret"), "{file}");
            assert!(file == "manifest.json" || zstd::bulk::decompress(&bytes, 1 << 20).is_err());
        }
        for wrong in [None, Some(Secret::KeyFile(vec![8; 32]))] {
            let checked = read::check(&scene.path(name)).expect("its files can be checked");
            assert!(matches!(checked.open(wrong.as_ref()).map(|it| it.id), Err(Error::Forbidden(_))));
        }
    }
    let second = read::check(&scene.path("2")).expect("sound").open(options.secret.as_ref()).expect("opens");
    assert_eq!(rows(&second), rows_of(&store));
    let plain = Options { base: Some(scene.path("1")), secret: None, ..Options::default() };
    assert!(matches!(plain.open_base().map(|_| ()), Err(Error::Forbidden(_))));
    close(store);
}

/// Whoever makes backups for a recipient cannot open them, but can go on from the one that it has just made. The private key opens both.
#[test]
fn a_backup_for_a_recipient_opens_with_the_private_key_only() {
    let scene = Scene::new();
    let store = scene.fixture.open();
    write_rows(&store, 300);
    let private = PrivateKey::generate();
    let options = Options { recipient: Some(private.recipient()), ..Options::default() };
    let base = options.open_base().expect("none");
    let mut writer = Writer::create(&scene.path("1"), &options, &base).expect("begins");
    writer.take(&lines(&store, |_| {}).expect("reads")).expect("takes");
    let complete = writer.complete().expect("completes");
    assert_eq!(complete.check(), Ok(()));
    let key = complete.key().expect("is encrypted").clone();
    complete.publish().expect("has its name");
    merge(&store, "new", put("1", None, 9));
    let based = Options { base: Some(scene.path("1")), ..options.clone() };
    assert!(
        matches!(based.open_base().map(|_| ()), Err(Error::Forbidden(why)) if why.contains("private key"))
    );
    let based = Options { base_key: Some(key), ..based };
    write(&lines(&store, |_| {}).expect("reads"), &scene.path("2"), &based).expect("writes");
    let opened =
        |name: &str, secret: &Secret| read::check(&scene.path(name)).expect("sound").open(Some(secret));
    assert_eq!(rows(&opened("2", &Secret::PrivateKey(private.clone())).expect("opens")), rows_of(&store));
    for wrong in [Secret::PrivateKey(PrivateKey::generate()), Secret::KeyFile(vec![7; 32])] {
        assert!(matches!(opened("1", &wrong).map(|it| it.id), Err(Error::Forbidden(_))));
    }
    close(store);
}

/// What of an encrypted backup's manifest is readable cannot be altered by whoever has no secret.
#[test]
fn an_encrypted_manifest_is_authenticated() {
    let scene = Scene::new();
    let store = scene.fixture.open();
    write_rows(&store, 5);
    let options = Options { secret: Some(Secret::KeyFile(vec![7; 32])), ..Options::default() };
    let path = scene.path("a");
    write(&lines(&store, |_| {}).expect("reads"), &path, &options).expect("writes");
    close(store);
    let manifest = content::file_path(&path, content::MANIFEST);
    let text = fs::read_to_string(&manifest).expect("reads");
    fs::write(&manifest, text.replace("\"made\": \"20", "\"made\": \"19")).expect("writes");
    renew_id(&path);
    let checked = read::check(&path).expect("its id is right");
    let opened = checked.open(options.secret.as_ref()).map(|it| it.id);
    assert!(matches!(opened, Err(Error::StorageDamaged(_))), "{opened:?}");
}
