//! A proxy before the catalog that loses replies: what a client asks arrives and is done, and the answer never comes back.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

/// For the catalog to do what it was asked, before the connection breaks.
const DONE_BY: Duration = Duration::from_millis(500);

/// The proxy; its threads end with the process.
pub(super) struct Losses {
    address: String,
    left: Arc<AtomicU32>,
}

impl Losses {
    /// Passes everything on to `catalog`.
    pub(super) fn before(catalog: &str) -> Losses {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let left = Arc::new(AtomicU32::new(0));
        let (catalog, counter) = (catalog.to_owned(), Arc::clone(&left));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(&catalog) else {
                    continue;
                };
                let take = |left: u32| left.checked_sub(1);
                let loses = counter
                    .fetch_update(Ordering::SeqCst, Ordering::SeqCst, take)
                    .is_ok();
                connect(client, server, loses);
            }
        });
        Losses { address, left }
    }

    /// `address:port`.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// The next connections lose what is answered on them.
    pub(super) fn lose(&self, connections: u32) {
        self.left.store(connections, Ordering::SeqCst);
    }

    /// How many of them have not come yet.
    pub(super) fn left(&self) -> u32 {
        self.left.load(Ordering::SeqCst)
    }
}

/// A connection that loses replies still makes its TLS handshake: the client asks only then. Its second flight begins when
/// it has the whole first one of the server, and carries the question with it.
fn connect(client: TcpStream, server: TcpStream, loses: bool) {
    let (answered, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let (seen, sets) = (Arc::clone(&answered), Arc::clone(&asked));
    std::thread::spawn(move || {
        pass(&mut from, &mut to, |_| {
            if seen.load(Ordering::SeqCst) {
                sets.store(true, Ordering::SeqCst);
            }
            true
        });
    });
    let (mut from, mut to) = (server, client);
    std::thread::spawn(move || {
        pass(&mut from, &mut to, |_| {
            answered.store(true, Ordering::SeqCst);
            !(loses && asked.load(Ordering::SeqCst))
        });
    });
}

/// Copies until the end, or until `goes_on` says no; then the connection breaks.
fn pass(from: &mut TcpStream, to: &mut TcpStream, goes_on: impl Fn(&[u8]) -> bool) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        if !goes_on(&bytes[..count]) {
            std::thread::sleep(DONE_BY);
            break;
        }
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
