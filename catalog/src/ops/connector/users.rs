//! Who keeps a connector from being changed or deleted, as far as the caller may know: owners of a connector have no
//! right to see the projects that import it, nor every community that it is offered in.

use std::collections::BTreeMap;

use crate::domain::Error;
use crate::domain::names::{ActivationName, ConnectorName, PublicationName, Scope};
use crate::policy::rules::Permission;
use crate::policy::{self, Actor};
use crate::store::Snapshot;

/// Names the users that the caller may see, and counts the others.
pub(super) async fn in_use(
    snapshot: &Snapshot,
    actor: &Actor,
    connector: &ConnectorName,
    activations: &[ActivationName],
    publications: &[PublicationName],
    remedy: &str,
) -> Result<Error, Error> {
    let activations = activations.iter().map(|name| {
        let scope = Scope::Project(name.project().clone());
        (name.to_string(), Permission::ActivationsGet, scope)
    });
    let publications = publications.iter().map(|name| {
        let scope = Scope::Community(name.community().clone());
        (name.to_string(), Permission::PublicationsGet, scope)
    });
    let (mut seen, mut hidden) = (Vec::new(), 0);
    // A project may have an activation for each of its pools: it is asked about once.
    let mut judged: BTreeMap<String, bool> = BTreeMap::new();
    for (name, permission, scope) in activations.chain(publications) {
        let visible = match judged.get(&scope.to_string()) {
            Some(visible) => *visible,
            None => {
                let visible = policy::holds(snapshot, actor.uid, permission, &scope).await?;
                judged.insert(scope.to_string(), visible);
                visible
            }
        };
        if visible {
            seen.push(name);
        } else {
            hidden += 1;
        }
    }
    Ok(Error::in_use_unseen(connector, &seen, hidden, remedy))
}
