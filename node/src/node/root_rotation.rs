//! The root key of a running host is replaced: it names the next one, the children confirm that they
//! hold that, then the next one signs and names the former.
//!
//! Promises that how far the change is follows from the newest grant and the key files: any step that
//! was cut off is found undone, or done.

use super::{Host, setup};
use crate::{
    domain::{
        journal::{Act, Actor},
        rotation::Replaced,
    },
    grpc::status::chain,
    identity::{
        issue,
        keys::{self, RootKey},
    },
    services::{
        error::ErrorKind,
        host::OperationError,
        hosted::Hosted,
        roots,
        rotations::{self, Rotation},
    },
};

/// Name of the act by which the next root key comes into use.
const USED: &str = "node.rotate-key.use";

type Refused = (&'static str, OperationError);

impl Host {
    /// Makes the next root key, and has the one that is there name it.
    pub(super) async fn begin_root(
        &self,
        hosted: &Hosted,
        replaced: &[Replaced],
        by: Actor,
        dry_run: bool,
    ) -> Result<(), Refused> {
        let _turn = self.renewing.lock().await;
        let unit = &hosted.unit;
        if replaced.len() > 1 {
            let text = "the root key is replaced by itself; name `root` alone";
            return Err(("too-many", precondition(text)));
        }
        if unit.parent().is_some() {
            let text =
                "the unit has a parent, and so no root key of its own; go to the root of its tree";
            return Err(("no-root", precondition(text)));
        }
        let rotation = Rotation::load(self.store.as_ref(), &unit.code).await;
        let rotation = rotation.map_err(|error| ("store", failed(&error)))?;
        if rotation.is_some() || unit.trust().names_successor().is_some() {
            let text = "keys of this unit are being changed; see `lianxi node status`, and wait until that is done";
            return Err(("under-way", precondition(text)));
        }
        let place = setup::keys_place(&self.config, &self.lock, &unit.code);
        let RootKey(root) = match RootKey::load(place.clone()) {
            Err(keys::Error::Missing(_)) => {
                let text = "the root key is not on this host: make the next one where it is kept with `lianxi root new`, and follow docs/root-custody.md";
                return Err(("no-root-key", precondition(text)));
            }
            loaded => loaded.map_err(|error| ("keys", failed(&error)))?,
        };
        if dry_run {
            return Ok(());
        }
        let suite = unit.keys().suite();
        // One that was made by a command that was cut off was shown to nobody: it serves as well.
        let RootKey(next) = RootKey::load_or_generate(RootKey::next_place(&place), suite)
            .map_err(|error| ("keys", failed(&error)))?;
        let now = self.clock.now_unix_ms();
        let granted = roots::last_grant(&unit.trust(), &next.verifying_key(), 0, now);
        let granted = granted.map_err(|error| ("order", failed(&error)))?;
        let last = issue::sign(&granted, &root, now);
        let act = Act::done(by, rotations::ACT, format!("{} root", unit.code));
        unit.record(act).await.map_err(|error| ("store", failed(&error)))?;
        unit.learn(&[last]).await.map_err(|error| ("wrong-root", failed(&error)))?;
        Ok(())
    }

    /// Does what can be done of a change of the root key; false if there is none.
    pub(super) async fn advance_root(&self, hosted: &Hosted) -> Result<bool, OperationError> {
        let unit = &hosted.unit;
        let place = setup::keys_place(&self.config, &self.lock, &unit.code);
        let next_place = RootKey::next_place(&place);
        let progress = rotations::of_root(unit).await.map_err(|error| failed(&error))?;
        let next = match RootKey::load(next_place) {
            Err(keys::Error::Missing(_)) => None,
            loaded => Some(loaded.map_err(|error| failed(&error))?.0),
        };
        let Some(progress) = progress else {
            // Cut off between the grant and the file.
            let own = unit.trust().root_key().key_id().to_owned();
            if next.is_some_and(|next| next.key_id() == own) {
                RootKey::take_next_into_use(&place).map_err(|error| failed(&error))?;
            }
            return Ok(false);
        };
        if !progress.facts.missing.is_empty() {
            return Ok(true);
        }
        let Some(next) = next else {
            let text = "every child holds the grant that names the next root key: stop the host, and have its first grant signed with `lianxi root request`, `sign` and `install`";
            return Err(precondition(text));
        };
        let now = self.clock.now_unix_ms();
        let granted = roots::first_grant(&unit.trust(), now).map_err(|error| failed(&error))?;
        let first = issue::sign(&granted, &next, now);
        unit.learn(&[first]).await.map_err(|error| failed(&error))?;
        let act = Act::done(Actor::node(), USED, format!("{} root", unit.code));
        unit.record(act).await.map_err(|error| failed(&error))?;
        RootKey::take_next_into_use(&place).map_err(|error| failed(&error))?;
        tracing::info!(unit = %unit.code, "the next root key is in use");
        Ok(false)
    }
}

fn failed(error: &dyn std::error::Error) -> OperationError {
    OperationError { kind: ErrorKind::Internal, text: chain(error) }
}

fn precondition(text: &str) -> OperationError {
    OperationError { kind: ErrorKind::FailedPrecondition, text: text.to_owned() }
}
