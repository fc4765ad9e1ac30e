//! The [`World`] in which stories play: the real programs as processes, real TLS, real mounts, the real S3 protocol.
//!
//! Stories are plain blocking functions: what they do is what a person or a program on a host does. Everything a world
//! starts, mounts or creates is a guard that takes it down again; a world that ends well also checks that no log holds a
//! planted secret or an error nobody announced.

pub mod bystander;
pub mod cgroup;
pub mod control;
pub mod cut;
pub mod disk;
pub mod eventually;
pub mod folder;
pub mod history;
pub mod host;
pub mod machine;
pub mod mounts;
pub mod network;
pub mod packages;
pub mod person;
pub mod process;
pub mod programs;
pub mod store;
pub mod versitygw;
pub mod world;

pub use bystander::Holder;
pub use control::Fault;
pub use disk::SmallDisk;
pub use eventually::eventually;
pub use folder::{Folder, Mount};
pub use host::Host;
pub use machine::Machine;
pub use person::Person;
pub use store::Store;
pub use world::World;
