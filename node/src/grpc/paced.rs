//! Streams of responses to clients that may not read them.
//!
//! gRPC asks a stream for its next response only when the client has made room for
//! it, so a client that stops reading is noticed by who produces: its place in the
//! channel does not become free. Waiting for it for ever would keep buffers and a place
//! among the requests in work, so it ends with [`ServiceError::SlowReader`].

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use metrics::counter;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;
use tokio_stream::Stream;
use tonic::Status;

use super::status::ServiceError;

pub(crate) const SLOW_READERS: &str = "perennial_slow_readers_total";

/// Responses on their way to a client.
pub(crate) struct Responses<T> {
    state: Arc<Mutex<State<T>>>,
    /// Dropped with the stream.
    _gone: oneshot::Sender<()>,
}

/// Ends the stream of a client that does not read.
pub(crate) struct CutOff<T> {
    state: Arc<Mutex<State<T>>>,
    /// How long it may take to read one response.
    after: Duration,
    /// Completes when nobody is there to read.
    gone: oneshot::Receiver<()>,
}

enum State<T> {
    Flowing(mpsc::Receiver<Result<T, Status>>),
    /// To be told, should the client read again.
    CutOff(Duration),
    Over,
}

/// A channel to a client that takes so many responses ahead, and its end that may be
/// cut off.
pub(crate) fn paced<T>(
    ahead: usize,
    after: Duration,
) -> (mpsc::Sender<Result<T, Status>>, CutOff<T>, Responses<T>) {
    let (sender, receiver) = mpsc::channel(ahead);
    let state = Arc::new(Mutex::new(State::Flowing(receiver)));
    let (_gone, gone) = oneshot::channel();
    let cut_off = CutOff {
        state: Arc::clone(&state),
        after,
        gone,
    };
    (sender, cut_off, Responses { state, _gone })
}

impl<T> CutOff<T> {
    pub(crate) fn after(&self) -> Duration {
        self.after
    }

    /// Drops what the client has not read; all it will be told is why.
    pub(crate) fn cut_off(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*state, State::Flowing(_)) {
            counter!(SLOW_READERS).increment(1);
            *state = State::CutOff(self.after);
        }
    }
}

impl<T: Send + 'static> CutOff<T> {
    /// For when everything is said and the sender is dropped: what the client has not
    /// read is kept as long as it goes on reading.
    pub(crate) fn keep_until_read(self) {
        // Read already, as is usual, it needs nobody.
        if self.unread() > 0 {
            // One for each stream that is open, and it ends with it.
            tokio::spawn(self.until_read());
        }
    }

    async fn until_read(mut self) {
        loop {
            let before = self.unread();
            tokio::select! {
                _ = &mut self.gone => return,
                () = sleep(self.after) => {}
            }
            let unread = self.unread();
            if unread == 0 {
                return;
            }
            if unread == before {
                self.cut_off();
                return;
            }
        }
    }

    /// Responses that the client has not made room for.
    fn unread(&self) -> usize {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &*state {
            State::Flowing(receiver) => receiver.len(),
            State::CutOff(_) | State::Over => 0,
        }
    }
}

impl<T> Stream for Responses<T> {
    type Item = Result<T, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *state {
            State::Flowing(receiver) => receiver.poll_recv(context),
            State::CutOff(after) => {
                let error = ServiceError::SlowReader { after: *after };
                *state = State::Over;
                Poll::Ready(Some(Err(error.into())))
            }
            State::Over => Poll::Ready(None),
        }
    }
}

impl<T> Drop for Responses<T> {
    /// The client is gone: who produces is told by the closed channel, whatever else
    /// still holds the state.
    fn drop(&mut self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = State::Over;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio_stream::StreamExt;
    use tonic::Code;
    use tonic_types::StatusExt;

    use super::*;

    #[tokio::test]
    async fn a_client_that_reads_again_learns_why_it_was_cut_off() {
        let (sender, cut_off, mut responses) = paced(2, Duration::from_secs(7));
        sender.send(Ok(1)).await.unwrap();
        assert_eq!(responses.next().await.unwrap().unwrap(), 1);
        sender.send(Ok(2)).await.unwrap();
        cut_off.cut_off();
        assert!(sender.send(Ok(3)).await.is_err(), "nothing is kept");
        let status = responses.next().await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
        let details = status.get_error_details();
        assert_eq!(details.error_info().unwrap().reason, "SLOW_READER");
        assert!(status.message().contains("7s"), "{}", status.message());
        assert!(responses.next().await.is_none());
    }

    /// I-10: what nobody reads is not kept for ever, also when no more comes.
    #[tokio::test(start_paused = true)]
    async fn i10_who_does_not_read_the_rest_is_cut_off() {
        let after = Duration::from_secs(7);
        let (sender, cut_off, mut responses) = paced(9, after);
        for response in 0..9 {
            sender.send(Ok(response)).await.unwrap();
        }
        drop(sender);
        cut_off.keep_until_read();
        // As long as it reads, however slowly.
        for response in 0..4 {
            sleep(after - Duration::from_secs(1)).await;
            assert_eq!(responses.next().await.unwrap().unwrap(), response);
        }
        sleep(after * 2).await;
        let status = responses.next().await.unwrap().unwrap_err();
        assert_eq!(
            status.get_error_details().error_info().unwrap().reason,
            "SLOW_READER"
        );
        assert!(responses.next().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_the_rest_gets_all_of_it() {
        let after = Duration::from_secs(7);
        let (sender, cut_off, mut responses) = paced(9, after);
        sender.send(Ok(1)).await.unwrap();
        drop(sender);
        cut_off.keep_until_read();
        assert_eq!(responses.next().await.unwrap().unwrap(), 1);
        assert!(responses.next().await.is_none());
        sleep(after * 2).await;
        drop(responses);
    }

    #[tokio::test]
    async fn who_produces_learns_that_the_client_is_gone() {
        let (sender, cut_off, responses) = paced::<u8>(2, Duration::from_secs(7));
        drop(responses);
        assert!(sender.is_closed());
        cut_off.cut_off();
    }
}
