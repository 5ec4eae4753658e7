//! A GET over a plain socket.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::within;

/// Status and body of a page; `None` if nobody answers.
pub(crate) async fn get(address: &str, path: &str) -> Option<(u16, String)> {
    get_as(address, address, path).await
}

/// As `get`, with another name of the host.
pub(crate) async fn get_as(address: &str, host: &str, path: &str) -> Option<(u16, String)> {
    let answer = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer)
    };
    let answer = within(path, answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split_whitespace().nth(1)?.parse().ok()?, body.to_owned()))
}
