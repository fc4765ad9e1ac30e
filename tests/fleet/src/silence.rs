//! Connections that never say anything, as scanners and broken machines make them: they must keep no host out.

use std::net::Ipv4Addr;

use tokio::net::{TcpSocket, TcpStream};

/// Opens so many, each from an address of its own. They last as long as the answer.
pub(crate) async fn keep(count: usize, address: (Ipv4Addr, u16)) -> anyhow::Result<Vec<TcpStream>> {
    let mut silent = Vec::with_capacity(count);
    for number in 0..count {
        let [_, _, high, low] = u32::try_from(number)?.to_be_bytes();
        let socket = TcpSocket::new_v4()?;
        socket.bind((Ipv4Addr::new(127, 200, high, low), 0).into())?;
        silent.push(socket.connect(address.into()).await?);
    }
    Ok(silent)
}
