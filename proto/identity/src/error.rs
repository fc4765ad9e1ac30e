//! What can go wrong with keys, certificates and the files they live in. Dialling has its own error,
//! [`crate::DialError`], because its reader is a person at a terminal and not a programmer.

use std::io;
use std::path::PathBuf;

/// A key, certificate, join string or envelope could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried, as a verb: `read`, `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A private key can be read by others than its owner.
    #[error("{} can be read by others (mode {mode:04o}); run: chmod 600 {}", path.display(), path.display())]
    KeyExposed {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Text or bytes are not what they should be.
    #[error("{what} is not valid: {reason}")]
    Malformed {
        /// What was read, as a noun with its article.
        what: &'static str,
        /// What is wrong with it; never holds a secret.
        reason: String,
    },
    /// The private key and the certificate do not belong together.
    #[error("the private key does not belong to the certificate; enrol again")]
    KeyMismatch,
    /// The certificate was not issued by the CA that lies beside it.
    #[error("the certificate was not issued by the CA beside it: {reason}; enrol again")]
    ForeignCertificate {
        /// The verifier's answer.
        reason: String,
    },
    /// A certificate signing request cannot be honoured.
    #[error("the certificate signing request is refused: {reason}")]
    Request {
        /// What is wrong with it.
        reason: String,
    },
    /// The CA could not sign.
    #[error("the CA cannot issue a certificate")]
    Issue(#[source] rcgen::Error),
    /// TLS could not be configured with these certificates.
    #[error("TLS cannot be configured with this certificate")]
    Tls(#[source] rustls::Error),
    /// A sealed envelope does not open: another key, another binding, or damaged bytes. They look alike on purpose.
    #[error("the sealed envelope does not open with this key and binding")]
    Envelope,
    /// The operating system gives no random bytes.
    #[error("the operating system gives no random bytes")]
    Random,
}

impl Error {
    pub(crate) fn malformed(what: &'static str, reason: impl ToString) -> Self {
        Self::Malformed {
            what,
            reason: reason.to_string(),
        }
    }
}
