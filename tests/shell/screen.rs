//! The full screen of `top`, on a terminal that the test holds.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    process::Stdio,
    sync::mpsc,
    thread,
};

use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

use super::Shell;
use crate::harness::{
    DEADLINE,
    fake::{Fake, Reply},
    wait_until,
};

/// Both ends of a terminal: where a test sees and types, and what a program is given.
fn terminal() -> (File, File) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&ours).and_then(|()| unlockpt(&ours)).expect("its other end");
    let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&ours, size).expect("a size");
    let name = ptsname(&ours, Vec::new()).expect("a name").into_string().expect("text");
    let theirs = OpenOptions::new().read(true).write(true).open(name).expect("its other end");
    (File::from(ours), theirs)
}

/// A key was looked for only once the nodes had answered, or 30 s had passed.
#[test]
fn q_ends_the_screen_also_while_a_node_does_not_answer() {
    let node = Fake::start(|_, before| match before {
        0 => Reply::json(200, r#"{"cluster":"c","members":[]}"#),
        _ => Reply::broken().then_silence(),
    });
    let (mut ours, theirs) = terminal();
    let shell = Shell::with_endpoint(Some(node.address().to_owned()));
    let end = || Stdio::from(theirs.try_clone().expect("a handle"));
    // Longer than the test waits.
    let mut command = shell.command(&["top", "--timeout", "600s"]);
    let mut top = command.stdin(end()).stdout(end()).spawn().expect("the binary starts");
    drop((command, theirs));
    // What is not read would hold up the program.
    let mut seen = ours.try_clone().expect("a handle");
    let (sender, shown) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = [0; 4096];
        // An error says that the program has ended.
        while let Ok(read @ 1..) = seen.read(&mut bytes) {
            let _ = sender.send(bytes[..read].to_vec());
        }
    });
    shown.recv_timeout(DEADLINE).expect("a screen");
    wait_until("the node is asked again", DEADLINE, || node.asked().len() > 1);
    ours.write_all(b"q").expect("typed");
    wait_until("it ends", DEADLINE, || top.try_wait().expect("it can be asked").is_some());
    assert!(top.wait().expect("it has ended").success());
}
