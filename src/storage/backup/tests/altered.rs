//! Backups that were altered, and those that never were complete.

use std::{fs, path::PathBuf};

use super::{Scene, lines, open, renew_id, write};
use crate::{
    error::{Error, Result},
    storage::{
        backup::{
            content, read,
            write::{Options, Writer},
        },
        tests::{close, write_rows},
    },
};

/// A backup of 50 rows, and where it is.
fn made() -> (Scene, PathBuf) {
    let scene = Scene::new();
    let store = scene.fixture.open();
    write_rows(&store, 50);
    let path = scene.path("a");
    write(&lines(&store, |_| {}).expect("reads"), &path, &Options::default()).expect("writes");
    close(store);
    (scene, path)
}

/// Every byte of every file counts, and so does every name.
#[test]
fn what_was_altered_is_refused() {
    let (scene, path) = made();
    let refused = |what: &str| {
        let found = read::check(&path).map(|checked| checked.id);
        assert!(matches!(found, Err(Error::StorageDamaged(_) | Error::NotFound(_))), "{what}: {found:?}");
    };
    let content = path.join(content::CONTENT);
    for file in [content.join("000001.ndjson.zst"), content.join("manifest.json"), path.join("id")] {
        let bytes = fs::read(&file).expect("reads");
        for at in (0..bytes.len()).step_by(1 + bytes.len() / 50) {
            let mut altered = bytes.clone();
            altered[at] ^= 1;
            fs::write(&file, &altered).expect("writes");
            refused(&format!("byte {at} of {}", file.display()));
        }
        fs::write(&file, [&bytes[..], b"\0"].concat()).expect("writes");
        refused("a longer file");
        fs::write(&file, &bytes).expect("writes");
        assert!(read::check(&path).is_ok());
        let away = scene.path("away");
        fs::rename(&file, &away).expect("renames");
        assert!(read::check(&path).is_err(), "without {}", file.display());
        fs::rename(&away, &file).expect("renames");
    }
    for added in [path.join("more"), content.join("more"), content.join("000002.ndjson.zst")] {
        fs::write(&added, b"").expect("writes");
        refused("something was added");
        fs::remove_file(&added).expect("removes");
    }
    // Its name is not part of its id.
    fs::rename(&path, scene.path("b")).expect("renames");
    assert!(read::check(&scene.path("b")).is_ok());
    assert!(matches!(read::check(&path).map(|it| it.id), Err(Error::NotFound(_))));
}

/// `verify` took the manifest's word for the modes of tables, and for how many rows and bytes a layer has. Whoever alters a manifest can give the
/// backup a new id, and then what a table or a layer lacked was not noticed.
#[test]
fn what_a_manifest_says_is_compared_with_the_rows() {
    let (_scene, path) = made();
    let manifest = content::file_path(&path, content::MANIFEST);
    let text = fs::read_to_string(&manifest).expect("reads");
    let sound = || -> Result<()> {
        renew_id(&path);
        read::check(&path)?.open(None)?.read_all(|_, _, _| Ok(())).map(drop)
    };
    assert_eq!(sound(), Ok(()));
    let bytes = open(&path).manifest.layers[0].bytes;
    for (from, to) in [
        ("\"lines\": 50", "\"lines\": 51".to_owned()),
        (&*format!("\"bytes\": {bytes}"), format!("\"bytes\": {}", bytes - 1)),
        ("\"mode\": \"eventual\"", "\"mode\": \"strong\"".into()),
        ("\"live\": 50", "\"live\": 49".into()),
        ("\"000001.ndjson.zst\"", "\"000001.ndjson.zst\", \"000001.ndjson.zst\"".into()),
        ("\"000001.ndjson.zst\"", "\"../000001.ndjson.zst\"".into()),
    ] {
        assert!(text.contains(from), "{from}: {text}");
        fs::write(&manifest, text.replace(from, &to)).expect("writes");
        let found = sound();
        assert!(matches!(found, Err(Error::StorageDamaged(_))), "{to}: {found:?}");
    }
}

/// What is no plain file is not read, even under a name of the backup: a link shows other files, and a pipe would never end.
#[test]
fn links_and_other_special_files_are_refused() {
    use std::os::unix::{fs::symlink, net::UnixListener};

    let scene = Scene::new();
    let store = scene.fixture.open();
    write_rows(&store, 5);
    let path = scene.path("a");
    write(&lines(&store, |_| {}).expect("reads"), &path, &Options::default()).expect("writes");
    close(store);
    let content = path.join(content::CONTENT);
    for part in
        [path.join(content::ID), content.join("000001.ndjson.zst"), content.join("manifest.json"), content]
    {
        let away = scene.path("away");
        fs::rename(&part, &away).expect("renames");
        symlink(&away, &part).expect("links");
        let found = read::check(&path).map(|it| it.id);
        assert!(matches!(found, Err(Error::StorageDamaged(_))), "{}: {found:?}", part.display());
        fs::remove_file(&part).expect("removes");
        let socket = UnixListener::bind(&part).expect("binds");
        let found = read::check(&path).map(|it| it.id);
        assert!(found.is_err(), "{}", part.display());
        drop(socket);
        fs::remove_file(&part).expect("removes");
        fs::rename(&away, &part).expect("renames");
        assert!(read::check(&path).is_ok());
    }
}

/// A scheduled backup that turned out to be unreadable kept its name: it counted as sound, was the base of the next one, and stayed.
#[test]
fn a_backup_has_no_name_until_it_was_read() {
    let scene = Scene::new();
    let store = scene.fixture.open();
    write_rows(&store, 20);
    let lines = lines(&store, |_| {}).expect("reads");
    close(store);
    let options = Options::default();
    let base = options.open_base().expect("none");
    for is_published in [false, true] {
        let mut writer = Writer::create(&scene.path("a"), &options, &base).expect("begins");
        writer.take(&lines).expect("takes");
        let complete = writer.complete().expect("completes");
        assert!(read::check(complete.directory()).is_ok());
        assert!(!scene.path("a").exists());
        if is_published {
            complete.publish().expect("has its name");
        } else {
            drop(complete);
            assert_eq!(fs::read_dir(scene.directory.path()).expect("reads").count(), 0);
        }
    }
    assert!(read::check(&scene.path("a")).is_ok());
}
