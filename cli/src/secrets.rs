//! Secrets on their way in and out: from a file, standard input or a terminal without echo; into a new 0600 file.
//! Never from a flag's value, never onto a screen unasked.

use std::fs::{File, OpenOptions};
use std::io::{IsTerminal, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::arguments::Argument;
use crate::errors::Failure;

/// Longest secret accepted: keys have tens of bytes; what is longer is the wrong file.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// Reads the secret of an argument; `None` when it was neither given nor is required.
pub(crate) fn read(source: Option<&str>, argument: &Argument) -> Result<Option<Zeroizing<String>>, Failure> {
    let flag = argument.shown();
    let terminal = std::io::stdin().is_terminal();
    match source {
        Some("-") if !terminal => standard_input(&flag).map(Some),
        Some("-") => prompt(&argument.help).map(Some),
        Some(path) => file(Path::new(path), &flag).map(Some),
        None if !argument.required => Ok(None),
        None if terminal => prompt(&argument.help).map(Some),
        None => Err(Failure::Usage(format!(
            "{flag} is needed: the file that holds it, or - for standard input"
        ))),
    }
}

/// Reads a secret from a file.
pub(crate) fn file(path: &Path, flag: &str) -> Result<Zeroizing<String>, Failure> {
    let opened = File::open(path)
        .map_err(|error| Failure::Local(format!("{flag}: cannot read {}: {error}", path.display())))?;
    text_of(opened, flag)
}

/// Reads a secret from standard input, to its end.
pub(crate) fn standard_input(flag: &str) -> Result<Zeroizing<String>, Failure> {
    text_of(std::io::stdin().lock(), flag)
}

/// Asks at the terminal, without echo.
pub(crate) fn prompt(what: &str) -> Result<Zeroizing<String>, Failure> {
    let question = format!("{} ", what.trim_end_matches('.'));
    let answer = rpassword::prompt_password(question.trim_end().to_owned() + ": ")
        .map(Zeroizing::new)
        .map_err(|error| Failure::Local(format!("cannot ask at the terminal: {error}")))?;
    if answer.is_empty() {
        return Err(Failure::Usage("nothing was typed".to_owned()));
    }
    Ok(answer)
}

fn text_of(source: impl Read, flag: &str) -> Result<Zeroizing<String>, Failure> {
    let mut bytes = Zeroizing::new(Vec::new());
    source
        .take(SECRET_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::Local(format!("{flag}: cannot read it: {error}")))?;
    let wrong = |reason: &str| Failure::Usage(format!("{flag}: {reason}"));
    if bytes.len() as u64 > SECRET_BYTES_MAX {
        return Err(wrong("it is longer than 64 KiB; is it the right file?"));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| wrong("it is not text; is it the right file?"))?;
    // Editors and echo end a file with a line feed that is no part of the secret.
    let text = text
        .strip_suffix('\n')
        .map_or(text, |text| text.strip_suffix('\r').unwrap_or(text));
    if text.is_empty() {
        return Err(wrong("it is empty"));
    }
    Ok(Zeroizing::new(text.to_owned()))
}

/// Where a secret of an answer goes. Made before the call, so that a secret that is shown only once cannot be lost to
/// a path that cannot be written; removed again when the call fails.
pub(crate) enum Destination {
    /// Standard output, because somebody asked for it with `-`.
    StandardOutput,
    /// A new file, mode 0600.
    File {
        /// The file.
        path: PathBuf,
        /// Open for writing until the secret is in it.
        file: Option<File>,
    },
}

impl Destination {
    /// Makes the file, or fails before anything is called.
    pub(crate) fn prepare(path: &str, flag: &str) -> Result<Self, Failure> {
        if path == "-" {
            return Ok(Self::StandardOutput);
        }
        let path = PathBuf::from(path);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| {
                let reason = match error.kind() {
                    std::io::ErrorKind::AlreadyExists => {
                        "it exists already; choose another, or remove it".to_owned()
                    }
                    _ => error.to_string(),
                };
                Failure::Usage(format!("--{flag}: cannot make {}: {reason}", path.display()))
            })?;
        Ok(Self::File {
            path,
            file: Some(file),
        })
    }

    /// Writes the secret, with a line feed.
    pub(crate) fn write(&mut self, secret: &str) -> Result<(), Failure> {
        match self {
            Self::StandardOutput => crate::output::print(&format!("{secret}\n")),
            Self::File { path, file } => {
                let Some(mut open) = file.take() else {
                    return Ok(());
                };
                writeln!(open, "{secret}")
                    .and_then(|()| open.sync_all())
                    .map_err(|error| {
                        Failure::Local(format!(
                            "cannot write {}: {error}; the secret is lost, make a new one",
                            path.display()
                        ))
                    })
            }
        }
    }
}

impl Drop for Destination {
    /// A file that never got its secret is of no use to anyone.
    fn drop(&mut self) {
        if let Self::File { path, file: Some(_) } = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_feed_at_the_end_is_no_part_of_a_secret() {
        for (bytes, expected) in [
            ("key", "key"),
            ("key\n", "key"),
            ("key\r\n", "key"),
            ("key\n\n", "key\n"),
        ] {
            assert_eq!(*text_of(bytes.as_bytes(), "--x").unwrap(), expected);
        }
        assert!(text_of("\n".as_bytes(), "--x").is_err());
        assert!(text_of([0xff].as_slice(), "--x").is_err());
        assert!(text_of(vec![b'a'; 70_000].as_slice(), "--x").is_err());
    }

    #[test]
    fn a_secret_goes_to_a_new_private_file_or_leaves_none() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gpu.join");
        let text = path.to_str().unwrap();
        drop(Destination::prepare(text, "join-string-file").unwrap());
        assert!(!path.exists());
        Destination::prepare(text, "join-string-file")
            .unwrap()
            .write("planted")
            .unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "planted\n");
        assert!(matches!(
            Destination::prepare(text, "join-string-file"),
            Err(Failure::Usage(_))
        ));
    }
}
