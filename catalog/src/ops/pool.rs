//! Pools: made by operators; seen by those who may activate on them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Answer, Catalog, Once, field_list};
use crate::domain::audit::{Change, EventKind};
use crate::domain::names::{PoolName, ProjectName, Scope};
use crate::domain::pool::{Admission, AdmissionChange, GroupsChange, NewPool, Pool, PoolChange};
use crate::domain::{Error, Id, Meta, Page, Paged, Violations};
use crate::policy::rules::Permission;
use crate::policy::{self, Action, Actor, Permit};
use crate::store::{self, Snapshot};

macro_rules! pool_action {
    ($(#[$doc:meta])* $action:ident $(($target:ty))?, $rpc:literal, $scopes:expr) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $action $((pub $target))?;

        impl Action for $action {
            const RPC: &'static str = concat!("mooring.v1.HostService/", $rpc);

            fn scopes(&self) -> Vec<Scope> {
                $scopes
            }
        }
    };
}

pool_action!(
    /// Create a pool.
    CreatePool, "CreatePool", vec![Scope::Realm]
);
pool_action!(
    /// Read a pool.
    GetPool(PoolName), "GetPool", Vec::new()
);
pool_action!(
    /// List pools.
    ListPools, "ListPools", Vec::new()
);
pool_action!(
    /// Change a pool.
    UpdatePool(PoolName), "UpdatePool", vec![Scope::Realm]
);
pool_action!(
    /// Delete a pool.
    DeletePool(PoolName), "DeletePool", vec![Scope::Realm]
);

/// The fields that name a pool's projects: where they replace what there was.
const REPLACED: [&str; 2] = ["pool.admitted_projects", "pool.project_groups"];
/// And where they add to it.
const ADJUSTED: [&str; 2] = ["add_admitted_projects", "add_project_groups"];

/// A pool as the caller may see it.
#[derive(Clone, Debug)]
pub struct PoolView {
    /// The pool; of the projects it names only those that the caller may see.
    pub pool: Pool,
    /// How many hosts it has.
    pub host_count: i32,
}

impl Catalog {
    /// Creates a pool.
    pub async fn create_pool(
        &self,
        permit: Permit<CreatePool>,
        id: Option<Id>,
        new: NewPool,
        once: Once<PoolView>,
    ) -> Result<Answer<PoolView>, Error> {
        let writing = self.write().await?;
        let (CreatePool, actor) = permit.spend(&writing).await?;
        if let Some(answer) = once.answered(&writing, &actor).await? {
            return Ok(answer);
        }
        let uid = self.clock.new_uid();
        let name = PoolName::new(id.unwrap_or_else(|| Id::made_of(uid, 'l')));
        if store::pool::find(&writing, &name).await?.is_some() {
            return Err(Error::NameTaken {
                resource: name.to_string(),
                problem: "exists already; choose another id",
            });
        }
        let NewPool {
            texts,
            admission,
            groups,
            offline_max,
        } = new;
        let meta = Meta::new(uid, texts, actor.name.to_string(), writing.now());
        let pool = Pool {
            name,
            meta,
            admission,
            groups,
            offline_max,
        };
        check_projects(&writing, &pool, None, REPLACED).await?;
        store::pool::insert(&writing, &pool).await?;
        let view = PoolView { pool, host_count: 0 };
        once.keep(&writing, &actor, &view).await?;
        writing
            .commit(Change::new(
                &actor.name,
                "CreatePool",
                EventKind::Created,
                &view.pool.name,
                uid,
            ))
            .await?;
        Ok(Answer::New(view))
    }

    /// Reads a pool on which the caller may activate.
    pub async fn get_pool(&self, permit: Permit<GetPool>) -> Result<PoolView, Error> {
        let snapshot = self.read().await?;
        let (GetPool(name), actor) = permit.spend(&snapshot).await?;
        let mut sight = Sight::of(&snapshot, actor).await?;
        let seen = match store::pool::find(&snapshot, &name).await? {
            Some(pool) => sight.see(&snapshot, pool).await?,
            None => None,
        };
        match seen {
            Some(pool) => Ok(views(&snapshot, vec![pool]).await?.remove(0)),
            None if sight.operator => Err(Error::absent(&name)),
            // The same for a pool that is hidden and one that does not exist.
            None => {
                policy::require(&snapshot, &sight.actor, Permission::PoolsManage, &Scope::Realm).await?;
                Err(Error::absent(&name))
            }
        }
    }

    /// Lists the pools on which the caller may activate; operators see all.
    pub async fn list_pools(&self, permit: Permit<ListPools>, page: &Page) -> Result<Paged<PoolView>, Error> {
        let snapshot = self.read().await?;
        let (ListPools, actor) = permit.spend(&snapshot).await?;
        let mut sight = Sight::of(&snapshot, actor).await?;
        let mut seen = Vec::new();
        let mut after = page.after.clone();
        // Pages of rows until a page of what may be seen is full.
        loop {
            let rows = store::pool::list(
                &snapshot,
                &Page {
                    after,
                    size: page.size,
                },
            )
            .await?;
            for pool in rows.items {
                seen.extend(sight.see(&snapshot, pool).await?);
            }
            after = rows.next;
            if after.is_none() || seen.len() > page.size {
                break;
            }
        }
        let Paged { items, next } = Paged::cut(seen, page, |pool| pool.name.id().to_string());
        Ok(Paged {
            items: views(&snapshot, items).await?,
            next,
        })
    }

    /// Changes a pool. Hosts follow a changed Unix group at once; a project that is admitted no longer keeps what it has
    /// active and activates nothing more.
    pub async fn update_pool(
        &self,
        permit: Permit<UpdatePool>,
        change: PoolChange,
    ) -> Result<PoolView, Error> {
        let writing = self.write().await?;
        let (UpdatePool(name), actor) = permit.spend(&writing).await?;
        let mut pool = store::pool::find(&writing, &name)
            .await?
            .ok_or_else(|| Error::absent(&name))?;
        let fields = field_list(change.fields().into_iter());
        let PoolChange {
            texts,
            admission,
            groups,
            offline_max,
            etag,
        } = change;
        pool.meta.check_etag(&etag, &name)?;
        pool.meta.change(texts, writing.now());
        let before = pool.clone();
        let given_by = [
            match &admission {
                Some(AdmissionChange::Adjust { .. }) => ADJUSTED[0],
                Some(AdmissionChange::Replace(_)) | None => REPLACED[0],
            },
            match &groups {
                Some(GroupsChange::Adjust { .. }) => ADJUSTED[1],
                Some(GroupsChange::Replace(_)) | None => REPLACED[1],
            },
        ];
        if let Some(admission) = admission {
            pool.change_admission(admission)?;
        }
        let regrouped = groups.is_some();
        if let Some(groups) = groups {
            pool.change_groups(groups);
        }
        if let Some(offline_max) = offline_max {
            pool.offline_max = offline_max;
        }
        check_projects(&writing, &pool, Some(&before), given_by).await?;
        store::pool::update(&writing, &pool).await?;
        if pool.offline_max != before.offline_max {
            store::host::tell_all_of(&writing, pool.meta.uid).await?;
        }
        if regrouped {
            let live = store::activation::live_of_pool(&writing, pool.meta.uid).await?;
            self.assign_all(&writing, &live).await?;
        }
        let view = views(&writing, vec![pool]).await?.remove(0);
        let change = Change::new(
            &actor.name,
            "UpdatePool",
            EventKind::Updated,
            &name,
            view.pool.meta.uid,
        );
        writing.commit(change.detail("fields", fields)).await?;
        Ok(view)
    }

    /// Deletes a pool without hosts and live activations, and the join tokens for it.
    pub async fn delete_pool(&self, permit: Permit<DeletePool>, etag: &str) -> Result<(), Error> {
        let writing = self.write().await?;
        let (DeletePool(name), actor) = permit.spend(&writing).await?;
        let pool = store::pool::find(&writing, &name)
            .await?
            .ok_or_else(|| Error::absent(&name))?;
        pool.meta.check_etag(etag, &name)?;
        let uid = pool.meta.uid;
        let live = store::activation::live_of_pool(&writing, uid).await?;
        let mut users: Vec<String> = live
            .iter()
            .map(|activation| activation.name.to_string())
            .collect();
        users.extend(
            store::host::of_pool(&writing, uid)
                .await?
                .iter()
                .map(|host| host.name.to_string()),
        );
        if !users.is_empty() {
            return Err(Error::in_use(
                &name,
                &users,
                "have those deactivated and delete its hosts first",
            ));
        }
        store::pool::delete(&writing, uid).await?;
        writing
            .commit(Change::new(
                &actor.name,
                "DeletePool",
                EventKind::Deleted,
                &name,
                uid,
            ))
            .await?;
        Ok(())
    }
}

/// Refuses projects that do not exist: a typo would admit nobody, and say so to nobody. Operators, who alone change
/// pools, may know which projects there are. The fields are those of admission and of groups.
async fn check_projects(
    snapshot: &Snapshot,
    pool: &Pool,
    before: Option<&Pool>,
    [admission, groups]: [&str; 2],
) -> Result<(), Error> {
    // What the pool spoke of before may be gone by now, and is no fault of this call.
    let before = before.map(Pool::named_projects).unwrap_or_default();
    let named: BTreeSet<_> = pool.named_projects().difference(&before).copied().collect();
    let known = store::project::existing(snapshot, named.iter().copied()).await?;
    let mut violations = Violations::default();
    for unknown in named.into_iter().filter(|name| !known.contains(name)) {
        let field = if pool.groups.contains_key(unknown) {
            groups
        } else {
            admission
        };
        violations.add(
            field,
            format!("{unknown} does not exist; see which do with `mooring projects list`"),
        );
    }
    violations.finish()
}

/// What of pools a caller may see.
struct Sight {
    actor: Actor,
    operator: bool,
    developer: HashMap<ProjectName, bool>,
    /// Whether the caller may activate for any project at all; asked once, for pools that admit every project.
    developer_somewhere: Option<bool>,
}

impl Sight {
    async fn of(snapshot: &Snapshot, actor: Actor) -> Result<Self, Error> {
        let operator = policy::holds(snapshot, actor.uid, Permission::PoolsManage, &Scope::Realm).await?;
        Ok(Self {
            actor,
            operator,
            developer: HashMap::new(),
            developer_somewhere: None,
        })
    }

    /// The pool as the caller may see it, if at all.
    async fn see(&mut self, snapshot: &Snapshot, mut pool: Pool) -> Result<Option<Pool>, Error> {
        if self.operator {
            return Ok(Some(pool));
        }
        let mut groups = BTreeMap::new();
        for (project, group) in std::mem::take(&mut pool.groups) {
            if self.may_activate_for(snapshot, &project).await? {
                groups.insert(project, group);
            }
        }
        pool.groups = groups;
        match &mut pool.admission {
            Admission::Every => Ok(self.may_activate_somewhere(snapshot).await?.then_some(pool)),
            Admission::Only(projects) => {
                let mut seen = BTreeSet::new();
                for project in std::mem::take(projects) {
                    if self.may_activate_for(snapshot, &project).await? {
                        seen.insert(project);
                    }
                }
                *projects = seen;
                Ok((!projects.is_empty()).then_some(pool))
            }
        }
    }

    async fn may_activate_for(&mut self, snapshot: &Snapshot, project: &ProjectName) -> Result<bool, Error> {
        if let Some(known) = self.developer.get(project) {
            return Ok(*known);
        }
        let scope = Scope::Project(project.clone());
        let may = policy::holds(snapshot, self.actor.uid, Permission::ActivationsManage, &scope).await?;
        self.developer.insert(project.clone(), may);
        Ok(may)
    }

    async fn may_activate_somewhere(&mut self, snapshot: &Snapshot) -> Result<bool, Error> {
        if let Some(known) = self.developer_somewhere {
            return Ok(known);
        }
        let mut page = Page {
            after: None,
            size: 100,
        };
        let may = loop {
            let projects = store::project::list(snapshot, self.actor.uid, false, &page).await?;
            let mut found = false;
            for project in projects.items {
                found = found || self.may_activate_for(snapshot, &project.name).await?;
            }
            match projects.next {
                Some(next) if !found => page.after = Some(next),
                Some(_) | None => break found,
            }
        };
        self.developer_somewhere = Some(may);
        Ok(may)
    }
}

async fn views(snapshot: &Snapshot, pools: Vec<Pool>) -> Result<Vec<PoolView>, Error> {
    let uids: Vec<_> = pools.iter().map(|pool| pool.meta.uid).collect();
    let counts = store::pool::host_counts(snapshot, &uids).await?;
    let view = |pool: Pool| PoolView {
        host_count: counts.get(&pool.meta.uid).copied().unwrap_or_default(),
        pool,
    };
    Ok(pools.into_iter().map(view).collect())
}
