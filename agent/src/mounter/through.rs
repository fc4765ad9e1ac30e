//! Touching a mount, which may never answer: in a thread of its own, with a deadline. The thread may hang alone; its
//! caller sees to it that a mount has at most one.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

/// What a mount said when it was touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Touched {
    /// It answers.
    Answers,
    /// Nobody serves it (ENOTCONN).
    Disconnected,
    /// It answers with an error.
    Fails(String),
    /// It did not answer in time.
    Silent,
}

/// Asks for the file system's numbers and the root folder's attributes. Blocks for at most `deadline`; `over` is
/// called when the mount has answered at last, however late.
pub fn touch(path: &Path, deadline: Duration, over: impl FnOnce() + Send + 'static) -> Touched {
    let (answer, answered) = mpsc::sync_channel(1);
    let path = PathBuf::from(path);
    let thread = std::thread::Builder::new()
        .name("touch-mount".to_owned())
        .spawn(move || {
            let touched = rustix::fs::statfs(&path)
                .and_then(|_| rustix::fs::stat(&path))
                .map(|_| ());
            // Nobody may be waiting any more.
            let _ = answer.send(touched.map_err(io::Error::from));
            over();
        });
    if let Err(error) = thread {
        return Touched::Fails(format!("no thread for it: {error}"));
    }
    match answered.recv_timeout(deadline) {
        Ok(Ok(())) => Touched::Answers,
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotConnected => Touched::Disconnected,
        Ok(Err(error)) => Touched::Fails(error.to_string()),
        Err(_) => Touched::Silent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_there_answers_and_one_that_is_not_fails() {
        let second = Duration::from_secs(1);
        assert_eq!(touch(Path::new("/"), second, || {}), Touched::Answers);
        assert!(matches!(
            touch(Path::new("/nowhere"), second, || {}),
            Touched::Fails(_)
        ));
    }
}
