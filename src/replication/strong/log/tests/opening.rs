//! What is found when a log is opened: torn ends, missing files and damage.

use super::*;

/// Cuts the file at every byte of its last frame, and spoils every byte of it.
#[tokio::test]
async fn an_end_that_the_power_tore_is_cut_off() {
    let fixture = of_blanks(4).await;
    let bytes = fs::read(fixture.segment(0)).expect("there");
    let frame_bytes = Frame::new(&blank(1, 3)).expect("short").bytes();
    let start = bytes.len() - frame_bytes;
    let torn = fixture.copy();
    for at in start..bytes.len() {
        let mut spoilt = bytes.clone();
        spoilt[at] ^= 0x40;
        let zeros = [&bytes[..at], &vec![0; bytes.len() - at]].concat();
        for content in [&bytes[..at], &spoilt, &zeros] {
            fs::write(torn.segment(0), content).expect("written");
            torn.lower_mark(3);
            if content == bytes {
                continue;
            }
            let mut log = torn.open();
            assert_eq!(indexes(&mut log).await, [0, 1, 2], "byte {at}");
            // The place is used again, and nothing comes back.
            append(&mut log, [blank(2, 3)]).await;
            drop(log);
            assert_eq!(all(&mut torn.open()).await[3].log_id, id(2, 3), "byte {at}");
        }
    }
}

/// A power cut can keep the end of what it spoils: pages are written in any order.
#[tokio::test]
async fn a_torn_group_is_cut_off_where_it_is_torn() {
    let fixture = of_blanks(2).await;
    let start = fs::metadata(fixture.segment(0)).expect("there").len() as usize;
    append(&mut fixture.open(), (2..6).map(|index| blank(1, index))).await;
    fixture.lower_mark(2);
    let mut bytes = fs::read(fixture.segment(0)).expect("there");
    let frame_bytes = (bytes.len() - start) / 4;
    bytes[start + frame_bytes + 20] ^= 1;
    fs::write(fixture.segment(0), bytes).expect("written");
    assert_eq!(indexes(&mut fixture.open()).await, [0, 1, 2]);
}

#[tokio::test]
async fn an_end_that_was_durable_is_missed() {
    let fixture = of_blanks(4).await;
    let bytes = fs::read(fixture.segment(0)).expect("there");
    let frame_bytes = Frame::new(&blank(1, 3)).expect("short").bytes();
    for length in [bytes.len() - 1, bytes.len() - frame_bytes, bytes.len() - frame_bytes - 1] {
        fs::write(fixture.segment(0), &bytes[..length]).expect("written");
        fixture.damage(&fixture.segment(0));
    }
}

#[tokio::test]
async fn a_flipped_byte_in_the_middle_is_damage() {
    let fixture = of_blanks(5).await;
    let bytes = fs::read(fixture.segment(0)).expect("there");
    let last = bytes.len() - Frame::new(&blank(1, 4)).expect("short").bytes();
    fixture.lower_mark(0);
    for at in 0..last {
        let mut spoilt = bytes.clone();
        spoilt[at] ^= 0x10;
        fs::write(fixture.segment(0), &spoilt).expect("written");
        fixture.damage(&fixture.segment(0));
        assert_eq!(fs::read(fixture.segment(0)).expect("there"), spoilt, "nothing is repaired");
    }
    fs::write(fixture.segment(0), &bytes).expect("written");
    assert_eq!(indexes(&mut fixture.open()).await, [0, 1, 2, 3, 4]);
}

/// A frame in a value is no frame: its checksum lacks the salt. Otherwise a client could make an end that the power tore look like damage.
#[tokio::test]
async fn a_frame_of_another_log_is_none() {
    let mut bytes = Vec::new();
    Frame::new(&blank(1, 9)).expect("short").write(1, 9, &mut bytes);
    assert!(frame::read(1, &bytes).is_some());
    assert!(frame::read(2, &bytes).is_none());
    assert!(frame::find(2, &bytes, 0).is_none());
}

#[tokio::test]
async fn a_missing_file_is_damage() {
    let (fixture, firsts) = of_segments().await;
    for file in [STATE_FILE, VOTE_FILE] {
        let without = fixture.copy();
        fs::remove_file(without.path().join(file)).expect("removed");
        without.damage(&without.path().join(file));
    }
    for missing in &firsts {
        let without = fixture.copy();
        fs::remove_file(without.segment(*missing)).expect("removed");
        assert!(matches!(without.try_open().err(), Some(Error::StorageDamaged(_))), "segment {missing}");
    }
    let without = fixture.copy();
    fs::remove_file(without.path().join(MARK_FILE)).expect("removed");
    assert_eq!(indexes(&mut without.open()).await.len(), 10, "the mark is a check and no more");
}

#[tokio::test]
async fn a_vote_that_was_lost_is_missed_even_without_entries() {
    let fixture = Fixture::new();
    fixture.open().save_vote(&Vote::new(7, NodeId(3))).await.expect("saved");
    assert_eq!(fixture.open().read_vote().await.expect("known"), Some(Vote::new(7, NodeId(3))));
    fs::remove_file(fixture.path().join(VOTE_FILE)).expect("removed");
    fixture.damage(&fixture.path().join(VOTE_FILE));
}

#[tokio::test]
async fn a_small_file_with_a_flipped_bit_is_damage() {
    let fixture = of_blanks(2).await;
    for name in [STATE_FILE, VOTE_FILE] {
        let file = fixture.path().join(name);
        let bytes = fs::read(&file).expect("there");
        for at in 0..bytes.len() {
            let mut spoilt = bytes.clone();
            spoilt[at] ^= 2;
            fs::write(&file, &spoilt).expect("written");
            fixture.damage(&file);
        }
        fs::write(&file, &bytes).expect("written");
    }
}

#[tokio::test]
async fn a_creation_that_a_crash_interrupted_is_begun_again() {
    let fixture = of_blanks(0).await;
    fs::remove_file(fixture.path().join(MARK_FILE)).expect("removed");
    fs::remove_file(fixture.path().join(STATE_FILE)).expect("removed");
    record::write_vote(&fixture.path(), None).expect("written");
    append(&mut fixture.copy().open(), [blank(1, 0)]).await;
    fs::write(fixture.segment(0), [1, 2, 3]).expect("written");
    append(&mut fixture.copy().open(), [blank(1, 0)]).await;
    fs::remove_file(fixture.segment(0)).expect("removed");
    append(&mut fixture.copy().open(), [blank(1, 0)]).await;
}

/// Damage of the storage can bring back the id of a group that an operator has replaced.
#[tokio::test]
async fn a_log_of_another_group_is_refused() {
    let fixture = Fixture::new();
    drop(fixture.open().of_group(GroupId(1)).expect("it has no entries"));
    let mut log = fixture.open().of_group(GroupId(2)).expect("that group never started");
    append(&mut log, [blank(1, 0)]).await;
    drop(log);
    let error = fixture.open().of_group(GroupId(1)).err().expect("it is refused");
    assert!(matches!(&error, Error::StorageDamaged(why) if why.contains("another group")), "{error}");
    fixture.open().of_group(GroupId(2)).expect("its own");
}
