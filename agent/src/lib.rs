//! The agent of one host: pulls from the catalog what shall be mounted, makes it true, and reports what it sees. It
//! never reads or writes a file of a mount; programs of their own serve them and outlive the agent.
//!
//! The mount's way: [`session`] → [`ledger`] → [`desired`] → [`reconciler`] (with [`observed`] and [`plan`]) →
//! [`mounter`] → a worker; back by [`probe`] → [`status`] → [`session`] and [`local`].
//!
//! Invariants: nothing is acted on before it is in the ledger; only an explicit removal unmounts; the end of the agent,
//! however it comes, touches no mount; no key is on the disk but sealed.

pub mod agent;
pub mod backends;
pub mod backoff;
pub mod ban;
pub mod blocking;
pub mod config;
pub mod desired;
pub mod enroll;
pub mod facts;
pub mod groups;
pub mod host;
pub mod ledger;
pub mod local;
pub mod mounter;
pub mod notify;
pub mod observed;
pub mod offline;
pub mod plan;
pub mod probe;
pub mod reconciler;
pub mod recovery;
pub mod renewal;
pub mod session;
pub mod status;
pub mod table;
