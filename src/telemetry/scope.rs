//! Which request is being worked on, so that each log line of it names its trace and its decision.
//!
//! Kept beside the task and not in a `tracing` span, which would cost every request more than its whole
//! trace does.

use crate::trace::Context;
use std::future::Future;
use std::sync::Arc;

tokio::task_local! {
    static REQUEST: Arc<Context>;
}

/// What `work` logs, whenever it is polled, is of the request of `context`.
pub(crate) fn within<F: Future>(context: Arc<Context>, work: F) -> impl Future<Output = F::Output> {
    REQUEST.scope(context, work)
}

/// What `work` logs is of the request of `context`.
pub(crate) fn of<T>(context: &Arc<Context>, work: impl FnOnce() -> T) -> T {
    REQUEST.sync_scope(Arc::clone(context), work)
}

/// The request that is worked on here, where one is.
pub(super) fn current<T>(read: impl FnOnce(&Context) -> T) -> Option<T> {
    REQUEST.try_with(|context| read(context)).ok()
}
