//! The identity's files, read again and again: a certificate is renewed while the node runs.

use super::{Shared, configs};
use crate::identity::{Contents, Identity, IdentityError, IdentityFiles, NodeName};
use std::sync::Arc;
use std::time::Duration;

/// Reads and judges the files off the runtime's threads.
pub(super) async fn load(
    files: IdentityFiles,
    name: NodeName,
) -> Result<(Contents, Identity), IdentityError> {
    let load = move || {
        let contents = Contents::read(&files)?;
        let identity = Identity::new(&contents, &name)?;
        Ok((contents, identity))
    };
    match tokio::task::spawn_blocking(load).await {
        Ok(loaded) => loaded,
        Err(error) => Err(IdentityError::Key(rustls::Error::General(error.to_string()))),
    }
}

/// Puts a changed identity into force. (Looking at what the files hold finds every way of changing them,
/// symbolic links switched by Kubernetes included.) A bad one changes nothing and is said once; it may be
/// one of which only a part is written yet.
pub(super) async fn watch(
    shared: Arc<Shared>,
    files: IdentityFiles,
    name: NodeName,
    mut in_force: Contents,
    interval: Duration,
) {
    let mut told = None;
    loop {
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = shared.stop.cancelled() => return,
        }
        let (read, current) = (files.clone(), in_force.clone());
        let changed = tokio::task::spawn_blocking(move || match Contents::read(&read) {
            Ok(contents) if contents == current => None,
            other => Some(other.map(|_| ())),
        });
        let Ok(Some(changed)) = changed.await else {
            told = None;
            continue;
        };
        let loaded = match changed {
            Ok(()) => load(files.clone(), name.clone()).await,
            Err(error) => Err(error),
        };
        let renewed = loaded.and_then(|(contents, identity)| {
            let (server, client) = configs(&identity)?;
            Ok((contents, identity, server, client))
        });
        match renewed {
            Ok((contents, identity, server, client)) => {
                shared.endpoint.set_server_config(Some(server));
                shared.client.store(Arc::new(client));
                shared.identity.send_modify(|count| *count += 1);
                tracing::info!(serial = identity.serial(), "the new gossip identity is in force");
                shared.current.send_replace(Arc::new(identity));
                shared.tell_expiry();
                (in_force, told) = (contents, None);
            }
            Err(error) => {
                let why = error.to_string();
                if told.as_ref() != Some(&why) {
                    tracing::warn!(
                        error = why,
                        "the new gossip identity cannot be used, the one in force stays"
                    );
                    shared.count("identity_reload");
                    told = Some(why);
                }
            }
        }
    }
}
