//! What a request is answered with where the response cache is on.
//!
//! ```text
//! wish, key ─▶ kept here? ─▶ kept for the region? ─▶ running? ─▶ generate
//!   └ off: generate   └ hit        └ hit                └ hit      └ miss
//! ```
//! Owns the order of these, and the header that says which it was.

use super::flight::{Generated, Landed, launch};
use super::share::too_late;
use super::wish::{HEADER, Wish};
use super::{ResponseCache, Seat};
use crate::decisions::AnsweredFrom;
use crate::relay::{Call, Failed, Relay};
use axum::response::Response;
use http::header::AGE;
use http::{HeaderName, HeaderValue};
use llm_router_logic::cache_key::{Circle, Digest256, Uncacheable, cache_key};
use llm_router_logic::time::Moment;
use std::sync::Arc;
use std::time::Duration;

impl Relay {
    /// What is generated for `call`, or was before for the same request; with who tells its end.
    pub(crate) async fn generate(self: Arc<Self>, call: Call) -> Result<Generated, Failed> {
        match self.cache() {
            Some(cache) => self.cached(cache, call).await,
            None => self.fresh(call).await,
        }
    }

    /// What is generated for `call` and for nobody else.
    async fn fresh(&self, mut call: Call) -> Result<Generated, Failed> {
        let completion = Arc::clone(call.completion.get_or_insert_default());
        let response = self.relay(call).await?;
        Ok(Generated { response, completion })
    }

    async fn cached(self: Arc<Self>, cache: Arc<ResponseCache>, mut call: Call) -> Result<Generated, Failed> {
        let started = cache.clock.now();
        let wish = match Wish::read(&call.headers) {
            Ok(wish) => wish,
            Err(error) => {
                let status = error.status.to_string();
                self.metrics().requests_total.with_label_values(&["none", &status]).inc();
                return Err(Failed::of(error));
            }
        };
        let key = match self.key_of(&cache, &call, wish) {
            Ok(key) => key,
            Err(why) => {
                cache.count(why);
                self.looked(&call, started, "off", Some(why));
                return self.fresh(call).await.map(|generated| said(generated, "off"));
            }
        };
        let completion = Arc::clone(call.completion.get_or_insert_default());
        if !wish.refresh
            && let Some((answer, age)) = cache.find(&key, wish).await
            && self.has_backend(&answer.backend())
        {
            cache.count("hit");
            self.looked(&call, started, "hit", None);
            let from = AnsweredFrom::Cache;
            let response = self.again(&call, &answer, age, from, started).map_err(|failed| *failed)?;
            return Ok(said(Generated { response, completion }, "hit"));
        }
        let seat = cache.seat(key, wish.refresh, |turn| {
            let why = wish.refresh.then_some("refresh");
            self.looked(&call, started, "miss", why);
            let (relay, call, cache) = (Arc::clone(&self), call.clone(), Arc::clone(&cache));
            let room = Arc::clone(&cache.room);
            let generate = async move { relay.fresh(call).await };
            launch(&room, generate, move |landed: &Landed| cache.landed(key, turn, landed))
        });
        match seat {
            Seat::First(reader) => {
                cache.count(if wish.refresh { "refreshed" } else { "miss" });
                let response = self.first(reader).await?;
                Ok(said(Generated { response, completion }, "miss"))
            }
            Seat::Along(mut reader) => {
                match tokio::time::timeout(self.patience(&call), reader.head()).await {
                    Ok(Ok(_)) => {
                        cache.count("joined");
                        self.looked(&call, started, "joined", None);
                        let from = AnsweredFrom::RunningAnswer;
                        let mut response = self.along(&call, reader, from, started).await?;
                        response.headers_mut().insert(AGE, HeaderValue::from(0_u64));
                        Ok(said(Generated { response, completion }, "hit"))
                    }
                    // What became of another's request, with its own limits and deadline, is not this one's fate.
                    Ok(Err(_)) => self.alone(&cache, call, started).await,
                    Err(_) => Err(Failed::of(too_late())),
                }
            }
            Seat::Alone => self.alone(&cache, call, started).await,
        }
    }

    /// Generates for `call` alone, within what is left of its time.
    async fn alone(
        &self,
        cache: &ResponseCache,
        mut call: Call,
        started: Moment,
    ) -> Result<Generated, Failed> {
        cache.count("miss");
        self.looked(&call, started, "miss", Some("alone"));
        let waited = cache.clock.now().since(started);
        let left = self.patience(&call).saturating_sub(waited).max(Duration::from_millis(1));
        call.hints.deadline = Some(left);
        self.fresh(call).await.map(|generated| said(generated, "miss"))
    }

    /// The key of `call`, or why it has none: the metric's word.
    fn key_of(&self, cache: &ResponseCache, call: &Call, wish: Wish) -> Result<Digest256, &'static str> {
        if wish.off {
            return Err("asked");
        }
        // A key is worth its hash only where the answer is dear beside it.
        if call.body.len() > cache.settings.max_entry_bytes {
            return Err("too_large");
        }
        let principal = &call.principal;
        let rights = serde_json::to_string(&*principal.rights).map_err(|_| "ambiguous")?;
        let hints = &call.hints;
        let mut class = vec![
            hints.strategy.map_or("", |strategy| strategy.as_str()).to_owned(),
            hints.backend.as_ref().map(ToString::to_string).unwrap_or_default(),
            call.needs.to_string(),
        ];
        class.extend(self.arms_of(call));
        let circle = Circle { among: cache.settings.scope.words(principal, rights), class };
        let sampled = cache.settings.include_sampled || wish.sampled;
        cache_key(&call.inbound(), &call.inspected, &circle, sampled).map_err(Uncacheable::as_str)
    }
}

/// `generated` with the word for how it came about.
fn said(mut generated: Generated, word: &'static str) -> Generated {
    mark(&mut generated.response, word);
    generated
}

fn mark(response: &mut Response, word: &'static str) {
    response.headers_mut().insert(HeaderName::from_static(HEADER), HeaderValue::from_static(word));
}
