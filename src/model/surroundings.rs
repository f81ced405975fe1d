//! What a program is surrounded by, besides its environment: who it is, how much it may take, where it starts.

use serde::{Deserialize, Serialize};

/// The surroundings of a program, as its pipeline writes them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Surroundings {
    /// the user it runs as, by name or number; `None`: the store's owner
    #[serde(default)]
    pub user: Option<String>,
    /// its group, by name or number; `None`: the user's own
    #[serde(default)]
    pub group: Option<String>,
    /// a group that it has besides those of its user: the one that may read private files
    #[serde(default)]
    pub reads: Option<String>,
    /// the rights that files it makes do not get
    #[serde(default)]
    pub umask: Option<u32>,
    /// where it starts, placeholders unexpanded
    #[serde(default)]
    pub directory: Option<String>,
    /// how many descriptors it may have
    #[serde(default)]
    pub nofile: Option<Bounds>,
    /// how large a core file it may leave, in bytes
    #[serde(default)]
    pub core: Option<Bounds>,
    /// how much memory it may take with its children, in bytes
    #[serde(default)]
    pub memory: Option<u64>,
}

/// A limit of a resource; `None` is unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// what counts
    pub soft: Option<u64>,
    /// how far the program may raise it
    pub hard: Option<u64>,
}

/// Who a program runs as, in the kernel's words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// its user
    pub uid: u32,
    /// its group
    pub gid: u32,
    /// its other groups
    pub groups: Vec<u32>,
    /// what the user is called, where it has a name
    pub name: Option<String>,
    /// its home, where it has one
    pub home: Option<String>,
}

/// Names that no user or group has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// there is no such user
    #[error("user: there is no user `{0}` in /etc/passwd; make it, or name another")]
    NoUser(String),
    /// there is no such group
    #[error("group: there is no group `{0}` in /etc/group; make it, or name another")]
    NoGroup(String),
    /// a number that /etc/passwd does not know says nothing of a group
    #[error("user: {0} is not in /etc/passwd, so its group is not known; write `group:` beside it")]
    NoOwnGroup(u32),
}

impl Surroundings {
    /// Whether it says who the program is.
    pub fn names_somebody(&self) -> bool {
        self.user.is_some() || self.group.is_some()
    }

    /// Who that is, by the texts of `/etc/passwd` and `/etc/group`, for a starter of user `own`; `None` where
    /// nothing is said: then it is whoever starts it.
    ///
    /// # Errors
    /// A name that is not there.
    pub fn identity(&self, passwd: &str, groups: &str, own: u32) -> Result<Option<Identity>, IdentityError> {
        if !self.names_somebody() {
            return Ok(None);
        }
        let wanted = self.user.clone().unwrap_or_else(|| own.to_string());
        let number = wanted.parse::<u32>().ok();
        let fields = |line: &'_ str| line.split(':').map(str::to_owned).collect::<Vec<_>>();
        let account =
            passwd.lines().map(fields).filter(|fields| fields.len() >= 6).find(|fields| match number {
                Some(number) => fields[2].parse() == Ok(number),
                None => fields[0] == wanted,
            });
        let uid = match (&account, number) {
            (Some(fields), _) => fields[2].parse().ok(),
            (None, number) => number,
        };
        let uid = uid.ok_or_else(|| IdentityError::NoUser(wanted.clone()))?;
        let name = account.as_ref().map(|fields| fields[0].clone());
        let own_gid = account.as_ref().and_then(|fields| fields[3].parse::<u32>().ok());
        let gid_of = |group: &String| gid(groups, group).ok_or_else(|| IdentityError::NoGroup(group.clone()));
        let gid = match &self.group {
            Some(group) => gid_of(group)?,
            None => own_gid.ok_or(IdentityError::NoOwnGroup(uid))?,
        };
        let mut others: Vec<u32> = name.iter().flat_map(|name| memberships(groups, name)).collect();
        others.extend(own_gid);
        if let Some(reads) = &self.reads {
            others.push(gid_of(reads)?);
        }
        others.retain(|other| *other != gid);
        others.sort_unstable();
        others.dedup();
        let home = account.map(|fields| fields[5].clone()).filter(|home| !home.is_empty());
        Ok(Some(Identity { uid, gid, groups: others, name, home }))
    }
}

impl Identity {
    /// Whether its processes are in the group `gid`.
    pub fn is_in(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }
}

/// The number of `group`, by the text of `/etc/group`; `None` where there is no such group.
pub(super) fn gid(groups: &str, group: &str) -> Option<u32> {
    if let Ok(gid) = group.parse() {
        return Some(gid);
    }
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (name == group).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

fn memberships(groups: &str, user: &str) -> Vec<u32> {
    let member = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        let [_, _, gid, members] = fields[..] else { return None };
        members.split(',').any(|member| member == user).then(|| gid.parse().ok()).flatten()
    };
    groups.lines().filter_map(member).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/var/www:/bin/false\nbroken:x\n";
    const GROUPS: &str = "root:x:0:\nwww-data:x:33:\nkeys:x:50:a,web\nspare:x:51:webb\n";

    fn who(user: Option<&str>, group: Option<&str>, reads: Option<&str>) -> Result<Option<Identity>, String> {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let surroundings = Surroundings {
            user: owned(user),
            group: owned(group),
            reads: owned(reads),
            ..Surroundings::default()
        };
        surroundings.identity(PASSWD, GROUPS, 0).map_err(|e| e.to_string())
    }

    #[test]
    fn p17_a_user_has_its_groups() {
        assert_eq!(who(None, None, Some("keys")), Ok(None), "nobody is named");
        let web = who(Some("web"), None, None).unwrap().unwrap();
        assert_eq!((web.uid, web.gid, web.groups.as_slice()), (33, 33, [50].as_slice()));
        assert_eq!((web.name.as_deref(), web.home.as_deref()), (Some("web"), Some("/var/www")));
        assert_eq!(who(Some("33"), None, None).unwrap().unwrap(), web);
        let other = who(Some("web"), Some("spare"), None).unwrap().unwrap();
        assert_eq!((other.gid, other.groups.as_slice()), (51, [33, 50].as_slice()));
        let reads = who(Some("web"), None, Some("51")).unwrap().unwrap();
        assert!(reads.is_in(51) && reads.is_in(33) && !reads.is_in(0));
        let own = who(None, Some("keys"), None).unwrap().unwrap();
        assert_eq!((own.uid, own.gid, own.groups.as_slice()), (0, 50, [0].as_slice()));
        let number = who(Some("4711"), Some("50"), None).unwrap().unwrap();
        assert_eq!((number.uid, number.gid, number.name), (4711, 50, None));
        assert!(number.groups.is_empty());
        for (user, group, want) in [
            (Some("nobody-at-all"), None, "there is no user `nobody-at-all` in /etc/passwd"),
            (Some("web"), Some("none"), "there is no group `none` in /etc/group"),
            (Some("4711"), None, "4711 is not in /etc/passwd, so its group is not known"),
        ] {
            assert!(who(user, group, None).unwrap_err().contains(want), "{user:?}");
        }
    }
}
