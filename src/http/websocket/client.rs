//! The client of a WebSocket: what it may do, and how often.

use std::{net::IpAddr, sync::Arc};

use hyper::StatusCode;

use super::request::Request;
use crate::{
    error::Result,
    http::{
        access::Principal,
        request::{Call, latencies::RequestCounters, rate_limit::RateLimits},
        response::status_and_code,
    },
};

/// Who opened a connection.
pub struct Client {
    /// Must have the right for each request.
    principal: Principal,
    remote: IpAddr,
    /// Each message counts against them, as a request over HTTP does.
    rate_limits: RateLimits,
    counters: Arc<RequestCounters>,
}

impl Client {
    /// The client of the request that opened the connection.
    pub fn of(call: &Call) -> Self {
        Self {
            principal: call.principal().clone(),
            remote: call.remote.ip(),
            rate_limits: call.connection.options.rate_limits.clone(),
            counters: Arc::clone(call.connection.traffic().requests()),
        }
    }

    /// Who it is.
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// Where its requests are counted.
    pub fn counters(&self) -> &Arc<RequestCounters> {
        &self.counters
    }

    /// The request, if the client has the right for it and does not send too many. What a message is wrong about comes in between: it counts
    /// as well.
    ///
    /// # Errors
    /// `RateLimited`; that of `request`; `NotGranted`.
    pub fn admit(&self, request: Result<Request>) -> Result<Request> {
        self.rate_limits.count_address(self.remote)?;
        self.rate_limits.count_token(&self.principal)?;
        let request = request?;
        match &request {
            Request::Subscribe { topic, .. } => self.principal.check_topic(topic)?,
            Request::Call(operation) => operation.check(&self.principal)?,
            Request::Unsubscribe { .. } => {}
        }
        Ok(request)
    }
}

/// The status that a request would have over HTTP.
pub fn status_of<T>(answer: &Result<T>) -> StatusCode {
    answer.as_ref().map_or_else(|error| status_and_code(error).0, |_| StatusCode::OK)
}
