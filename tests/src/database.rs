//! stub
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection};
/// stub
pub struct PostgresDatabase;
impl PostgresDatabase {
    /// stub
    pub async fn create() -> anyhow::Result<Self> {
        Ok(Self)
    }
    /// stub
    pub fn url(&self) -> String {
        String::new()
    }
    /// stub
    pub async fn connect(&self) -> anyhow::Result<PgConnection> {
        Ok(PgConnectOptions::new().connect().await?)
    }
    /// stub
    pub async fn server_pid(&self) -> anyhow::Result<Option<u32>> {
        Ok(None)
    }
    /// stub
    pub fn address(&self) -> std::net::SocketAddr {
        ([127, 0, 0, 1], 1).into()
    }
    /// stub
    pub fn url_through(&self, _address: std::net::SocketAddr) -> String {
        String::new()
    }
}
