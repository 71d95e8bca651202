//! A client that speaks just enough of Postgres's protocol to misbehave: it
//! executes a statement and never says that it is done.

use sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A connection whose last statement was executed and not synced: its transaction
/// stays open, with whatever it has locked.
pub(crate) struct StalledClient {
    stream: TcpStream,
}

impl StalledClient {
    /// Connects under a name, executes the statement, and stalls.
    pub(crate) async fn after(options: &PgConnectOptions, name: &str, sql: &str) -> Self {
        let address = (options.get_host(), options.get_port());
        let mut client = Self {
            stream: TcpStream::connect(address).await.unwrap(),
        };
        let mut startup = 196_608_i32.to_be_bytes().to_vec();
        for text in [
            "user",
            options.get_username(),
            "database",
            options.get_database().unwrap(),
            "application_name",
            name,
            "",
        ] {
            startup.extend(text.as_bytes());
            startup.push(0);
        }
        client.send(None, &startup).await;
        client.until(b'Z').await;
        // An unnamed statement without parameters, bound and executed; H asks for
        // the answers so far and, unlike a sync, ends nothing.
        client
            .send(Some(b'P'), format!("\0{sql}\0\0\0").as_bytes())
            .await;
        client.send(Some(b'B'), &[0; 8]).await;
        client.send(Some(b'E'), &[0; 5]).await;
        client.send(Some(b'H'), &[]).await;
        client.until(b'C').await;
        client
    }

    /// Waits until the server has closed the connection.
    pub(crate) async fn closed(mut self) {
        let mut bytes = [0; 1024];
        while let Ok(1..) = self.stream.read(&mut bytes).await {}
    }

    async fn send(&mut self, kind: Option<u8>, body: &[u8]) {
        let mut message: Vec<u8> = kind.into_iter().collect();
        message.extend((body.len() as i32 + 4).to_be_bytes());
        message.extend(body);
        self.stream.write_all(&message).await.unwrap();
    }

    async fn until(&mut self, kind: u8) {
        loop {
            let found = self.stream.read_u8().await.unwrap();
            let len = self.stream.read_i32().await.unwrap();
            let mut body = vec![0; len as usize - 4];
            self.stream.read_exact(&mut body).await.unwrap();
            let text = String::from_utf8_lossy(&body);
            assert_ne!(found, b'E', "the server refuses: {text}");
            if found == kind {
                return;
            }
        }
    }
}
