//! Who is connected to the local socket. Anybody on the host may connect, so everything has a limit: connections of one
//! user, of all users but root, and of all. Whoever is beyond it is hung up on at once and may come again.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tonic::transport::server::{Connected, UdsConnectInfo};

use super::Local;

/// A person has a few notebooks and a shell; each holds one connection.
const CONNECTIONS_PER_USER_MAX: u32 = 8;

/// Eight users at their limit. A connection costs a descriptor and some 20 KiB.
const CONNECTIONS_OF_USERS_MAX: u32 = 64;

/// Root has places of its own, so that the operator gets through whatever users do.
const CONNECTIONS_OF_ROOT_MAX: u32 = 16;

/// When the process has no descriptor left, the next accept would fail at once again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How many connections each user has.
#[derive(Clone, Debug, Default)]
pub(super) struct Callers(Arc<Mutex<BTreeMap<u32, u32>>>);

/// A connection that is counted as long as it lives.
#[derive(Debug)]
pub(super) struct Caller {
    stream: UnixStream,
    _place: Place,
}

#[derive(Debug)]
struct Place {
    callers: Callers,
    uid: u32,
}

impl Callers {
    /// The connections that are accepted, for ever.
    pub(super) fn of(self, local: Local) -> impl Stream<Item = io::Result<Caller>> {
        futures::stream::unfold((local, self), |(mut local, callers)| async move {
            let caller = callers.next(&mut local).await;
            Some((Ok(caller), (local, callers)))
        })
    }

    async fn next(&self, local: &mut Local) -> Caller {
        loop {
            let stream = match local.accept().await {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::warn!(%error, "the local socket cannot take a connection just now");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(peer) = stream.peer_cred() else { continue };
            match self.admit(peer.uid()) {
                Some(place) => {
                    return Caller {
                        stream,
                        _place: place,
                    };
                }
                None => {
                    tracing::debug!(
                        uid = peer.uid(),
                        "a caller of the local socket has too many connections"
                    );
                }
            }
        }
    }

    fn admit(&self, uid: u32) -> Option<Place> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = counts.get(&uid).copied().unwrap_or_default();
        let of_users: u32 = counts
            .iter()
            .filter(|(uid, _)| **uid != 0)
            .map(|(_, count)| count)
            .sum();
        let admitted = match uid {
            0 => own < CONNECTIONS_OF_ROOT_MAX,
            _ => own < CONNECTIONS_PER_USER_MAX && of_users < CONNECTIONS_OF_USERS_MAX,
        };
        admitted.then(|| {
            counts.insert(uid, own + 1);
            Place {
                callers: self.clone(),
                uid,
            }
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.callers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.uid);
            }
        }
    }
}

impl Connected for Caller {
    type ConnectInfo = UdsConnectInfo;

    fn connect_info(&self) -> UdsConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Caller {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Caller {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_cannot_take_the_places_of_others_nor_users_those_of_root() {
        let callers = Callers::default();
        let mut places: Vec<Place> = (0..CONNECTIONS_PER_USER_MAX)
            .map(|_| callers.admit(1000).unwrap())
            .collect();
        assert!(callers.admit(1000).is_none());
        places.pop();
        assert!(callers.admit(1000).is_some(), "a place that was left is free");
        for uid in 1001.. {
            match callers.admit(uid) {
                Some(place) => places.push(place),
                None => break,
            }
        }
        assert_eq!(places.len(), CONNECTIONS_OF_USERS_MAX as usize);
        let root: Vec<Option<Place>> = (0..=CONNECTIONS_OF_ROOT_MAX).map(|_| callers.admit(0)).collect();
        assert_eq!(root.iter().flatten().count(), CONNECTIONS_OF_ROOT_MAX as usize);
        drop((places, root));
        assert!(callers.0.lock().unwrap().is_empty());
    }
}
