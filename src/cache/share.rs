//! The responses of all who get one answer: whom it was generated for, who goes along, who comes later.

use super::answer::{Answer, Completion, kept};
use super::flight::{Landed, Reader};
use crate::decisions::AnsweredFrom;
use crate::relay::{Call, Failed, Relay, Repeat};
use axum::body::Body;
use axum::response::Response;
use http::HeaderValue;
use http::header::AGE;
use llm_router_logic::fault::{ApiError, ErrorKind};
use llm_router_logic::time::Moment;
use std::time::Duration;

impl Relay {
    /// The response of whoever a generation was started for.
    pub(crate) async fn first(&self, mut reader: Reader) -> Result<Response, Failed> {
        // The generation keeps the deadline: it began with it.
        let head = reader.head().await.map_err(|failed| Failed::clone(&failed))?;
        let body = if head.streams {
            Body::from_stream(reader.into_stream(self.keep_alive(&head.headers), |_: &Landed| {}))
        } else {
            Body::from(reader.whole().await)
        };
        let mut response = Response::new(body);
        *response.status_mut() = head.status;
        *response.headers_mut() = head.headers.clone();
        Ok(response)
    }

    /// The response of whoever goes along with a generation started for somebody else.
    pub(crate) async fn along(
        &self,
        call: &Call,
        mut reader: Reader,
        from: AnsweredFrom,
        started: Moment,
    ) -> Result<Response, Failed> {
        let head = tokio::time::timeout(self.patience(call), reader.head()).await;
        let head = match head {
            Ok(head) => head.map_err(|failed| Failed { headers: Vec::new(), ..Failed::clone(&failed) })?,
            Err(_) => return Err(Failed::of(too_late())),
        };
        let mut repeat = self.repeat(call, from, head.decision(), started).map_err(|failed| *failed)?;
        let mut response = Response::new(Body::empty());
        *response.status_mut() = head.status;
        *response.headers_mut() = kept(&head.headers);
        repeat.mark(&mut response);
        *response.body_mut() = if head.streams {
            let completion = call.completion.clone();
            let ended = move |landed: &Landed| settle(repeat, completion.as_deref(), landed);
            Body::from_stream(reader.into_stream(self.keep_alive(&head.headers), ended))
        } else {
            let bytes = reader.whole().await;
            let landed = reader.landed().unwrap_or(Landed::Broken);
            settle(repeat, call.completion.as_deref(), &landed);
            Body::from(bytes)
        };
        Ok(response)
    }

    /// The response of whoever gets an answer that is kept.
    pub(crate) fn again(
        &self,
        call: &Call,
        answer: &Answer,
        age: Duration,
        from: AnsweredFrom,
        started: Moment,
    ) -> Result<Response, Box<Failed>> {
        let mut repeat = self.repeat(call, from, answer.decision.clone(), started)?;
        let mut response = answer.response();
        response.headers_mut().insert(AGE, HeaderValue::from(age.as_secs()));
        repeat.mark(&mut response);
        if let Some(completion) = &call.completion {
            completion.tell(answer.whole.clone());
        }
        repeat.served(&answer.whole);
        Ok(response)
    }
}

/// What whoever went along is booked with, and who else is told that the answer is whole.
fn settle(repeat: Repeat, completion: Option<&Completion>, landed: &Landed) {
    if let (Some(completion), Some(whole)) = (completion, landed.whole()) {
        completion.tell(whole.clone());
    }
    repeat.ended(landed.whole());
}

/// What a client is told whose time is over while it waits for another's answer.
pub(super) fn too_late() -> ApiError {
    ApiError::new(ErrorKind::Timeout, "the request's deadline passed").with_code("deadline_exceeded")
}
