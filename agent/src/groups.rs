//! Unix groups of this host: which number a name has, and who is a member.

use std::ffi::CString;
use std::io;

use nix::unistd::{Gid, Group, Uid, User};

/// The number of a group; `None` when this host has no such group.
pub fn gid_of(name: &str) -> io::Result<Option<u32>> {
    Ok(Group::from_name(name)
        .map_err(io::Error::from)?
        .map(|group| group.gid.as_raw()))
}

/// Whether a process of `uid` and `gid` is in the group, by its own group or by a supplementary one. Supplementary
/// groups are those of the user database, not those of the process: a peer's process could be another by the time it
/// is looked at.
pub fn is_member(uid: u32, gid: u32, group: &str) -> bool {
    let Ok(Some(wanted)) = gid_of(group) else {
        return false;
    };
    gid == wanted || supplementary(uid, gid).contains(&wanted)
}

fn supplementary(uid: u32, gid: u32) -> Vec<u32> {
    // A user without an entry, as in many containers, has no supplementary groups here.
    let Ok(Some(user)) = User::from_uid(Uid::from_raw(uid)) else {
        return Vec::new();
    };
    let Ok(name) = CString::new(user.name) else {
        return Vec::new();
    };
    nix::unistd::getgrouplist(&name, Gid::from_raw(gid))
        .map(|groups| groups.into_iter().map(Gid::as_raw).collect())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_in_its_own_group_and_nobody_is_not() {
        assert_eq!(gid_of("root").unwrap(), Some(0));
        assert!(is_member(0, 0, "root"));
        assert!(!is_member(65534, 65534, "root"));
    }

    #[test]
    fn a_group_that_does_not_exist_has_no_members() {
        assert_eq!(gid_of("no-such-group-here").unwrap(), None);
        assert!(!is_member(0, 0, "no-such-group-here"));
    }
}
