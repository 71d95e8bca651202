//! Why the other side refused a connection whose handshake had seemed to be done.
//!
//! With TLS 1.3 a client is through with the handshake before the server has looked
//! at its certificate: a refusal comes as an alert where the first data were
//! expected, and libraries between here and the caller only say that the connection
//! closed. So the stream itself is listened to. Who puts it into words is
//! `cli/connection.rs`.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use axum::http::Uri;
use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use rustls::AlertDescription;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tower::Service;

/// Whether the latest of some connections was refused before its server had said
/// anything. A server that refuses in this way has read no request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Refusal(Arc<Mutex<Option<AlertDescription>>>);

impl Refusal {
    /// With which alert.
    pub(crate) fn alert(&self) -> Option<AlertDescription> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, alert: Option<AlertDescription>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = alert;
    }
}

/// Makes connections with another connector, and listens to them.
#[derive(Clone)]
pub(crate) struct Listening<C> {
    pub(crate) connector: C,
    pub(crate) refusal: Refusal,
}

impl<C, S> Service<Uri> for Listening<C>
where
    C: Service<Uri, Response = TokioIo<S>>,
    C::Future: Send + 'static,
    C::Error: 'static,
    S: 'static,
{
    type Response = TokioIo<Heard<S>>;
    type Error = C::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.connector.poll_ready(context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.connector.call(uri);
        let refusal = self.refusal.clone();
        Box::pin(async move {
            let stream = connecting.await?.into_inner();
            Ok(TokioIo::new(Heard {
                stream,
                refusal: Some(refusal),
            }))
        })
    }
}

/// A connection that is listened to until its server says something.
pub(crate) struct Heard<S> {
    stream: S,
    refusal: Option<Refusal>,
}

impl<S: AsyncRead + Unpin> Heard<S> {
    /// Reads as far as to know whether the server speaks or refuses.
    fn listen(
        &mut self,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(context, into));
        if let Some(refusal) = self
            .refusal
            .take_if(|_| into.filled().len() > before || read.is_err())
        {
            refusal.set(read.as_ref().err().and_then(alert_in));
        }
        Poll::Ready(read)
    }
}

fn alert_in(error: &io::Error) -> Option<AlertDescription> {
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.listen(context, into)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Heard<S> {
    /// A server that has refused reads no more, so writing can fail before anybody
    /// has read the alert that says why.
    fn after_writing<T>(&mut self, context: &mut Context<'_>, written: &Poll<io::Result<T>>) {
        if matches!(written, Poll::Ready(Err(_))) && self.refusal.is_some() {
            // Whatever else it said is of no use without the connection.
            let _ = self.listen(context, &mut ReadBuf::new(&mut [0]));
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Heard<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.after_writing(context, &written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.after_writing(context, &written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let written = Pin::new(&mut self.stream).poll_flush(context);
        self.after_writing(context, &written);
        written
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, Empty, empty};

    use super::*;

    /// Reads as told, and fails to write.
    struct Broken<R>(R);

    impl<R: AsyncRead + Unpin> AsyncRead for Broken<R> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            into: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(context, into)
        }
    }

    impl<R: AsyncRead + Unpin> AsyncWrite for Broken<R> {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// A read that ends with an alert.
    struct Alert;

    impl AsyncRead for Alert {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let alert = rustls::Error::AlertReceived(AlertDescription::UnknownCA);
            Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, alert)))
        }
    }

    fn heard<R>(read: R) -> (Heard<Broken<R>>, Refusal) {
        let refusal = Refusal::default();
        let stream = Heard {
            stream: Broken(read),
            refusal: Some(refusal.clone()),
        };
        (stream, refusal)
    }

    #[tokio::test]
    async fn an_alert_before_anything_else_is_a_refusal() {
        let (mut stream, refusal) = heard(Alert);
        stream.read_u8().await.unwrap_err();
        assert_eq!(refusal.alert(), Some(AlertDescription::UnknownCA));
    }

    #[tokio::test]
    async fn an_alert_that_nobody_read_before_writing_failed_is_a_refusal() {
        let (mut stream, refusal) = heard(Alert);
        let error = stream.write_u8(1).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(refusal.alert(), Some(AlertDescription::UnknownCA));
    }

    #[tokio::test]
    async fn an_alert_after_an_answer_is_none() {
        let (mut stream, refusal) = heard([7_u8].as_slice().chain(Alert));
        refusal.set(Some(AlertDescription::CertificateExpired));
        assert_eq!(stream.read_u8().await.unwrap(), 7);
        assert_eq!(refusal.alert(), None, "the latest connection was not");
        stream.read_u8().await.unwrap_err();
        stream.write_u8(1).await.unwrap_err();
        assert_eq!(refusal.alert(), None);
    }

    #[tokio::test]
    async fn an_end_without_a_word_is_none() {
        let (mut stream, refusal): (Heard<Broken<Empty>>, _) = heard(empty());
        stream.read_u8().await.unwrap_err();
        stream.write_u8(1).await.unwrap_err();
        assert_eq!(refusal.alert(), None);
    }
}
