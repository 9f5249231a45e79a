//! The response to a request of HTTP: its body, with what must be held until the last byte of it is written.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::{
    Request, Response,
    body::{Body, Frame, Incoming, SizeHint},
};

use super::service::Service;
use crate::http::request::{
    budget::{self, Reservation},
    connection_state::{ConnectionState, OpenRequest},
    hand_over::{HandOver, Successor},
};

/// A response body, the request that stays open until it is sent, and the memory reserved until its bytes are written.
pub(super) struct Answer<B> {
    pub(super) body: B,
    pub(super) reservation: Option<Arc<Reservation>>,
    pub(super) rest: Rest,
}

/// What follows the head of a response.
pub(super) enum Rest {
    /// The body; the request is open until it is sent.
    Body { _request: OpenRequest },
    /// Somebody else than hyper.
    HandOver(Arc<HandOver>),
}

/// The response to a request on `connection`, which can be handed over to somebody else if there is a `hand_over`.
pub(super) async fn answer(
    request: Request<Incoming>,
    service: &Service,
    connection: &Arc<ConnectionState>,
    hand_over: Option<&Arc<HandOver>>,
) -> Response<Answer<impl Body<Data = Bytes, Error = warp::Error> + Unpin + use<>>> {
    let open = connection.begin_request();
    let (mut response, reservation) = service.answer(request, connection, &open).await;
    let reservation = reservation.map(Arc::new);
    let rest = match hand_over.and_then(|hand_over| Some((hand_over, Successor::detach(&mut response)?))) {
        Some((hand_over, successor)) => {
            hand_over.begin(successor, open);
            Rest::HandOver(Arc::clone(hand_over))
        }
        None => Rest::Body { _request: open },
    };
    response.map(|body| Answer { body, reservation, rest })
}

impl<B: Body<Data = Bytes> + Unpin> Body for Answer<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Self::Error>>> {
        if let Rest::HandOver(hand_over) = &self.rest {
            hand_over.head_buffered();
            return Poll::Pending;
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        Poll::Ready(frame.map(|frame| {
            let reservation = self.reservation.as_ref().filter(|_| frame.as_ref().is_ok_and(Frame::is_data));
            let Some(reservation) = reservation else { return frame };
            // The connection may keep the bytes long after it has finished with the body.
            frame.map(|frame| frame.map_data(|bytes| budget::attach(bytes, Arc::clone(reservation))))
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
