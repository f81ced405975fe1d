//! What we say to systemd over D-Bus, and that something has happened there.

use std::time::Duration;

use zbus::blocking::connection::Builder;
use zbus::blocking::fdo::DBusProxy;
use zbus::blocking::{Connection, MessageIterator};
use zbus::message::{Message, Type};
use zbus::zvariant::{DynamicType, ObjectPath, OwnedObjectPath, OwnedValue, Value};
use zbus::{MatchRule, names::BusName};

use crate::supervise::clock;

const NAME: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const SERVICE: &str = "org.freedesktop.systemd1.Service";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
/// A manager that does not answer within this time is stuck.
const PATIENCE: Duration = Duration::from_secs(10);

/// A systemd whose bus has just been started joins it within this time.
const BOOT: Duration = Duration::from_secs(3);

/// Whose systemd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::supervise) enum Scope {
    /// that of the system
    System,
    /// that of this user
    User,
}

/// systemd, or the bus to it, did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[error("systemd: {0}")]
pub(super) struct BusError(String);

impl From<zbus::Error> for BusError {
    fn from(error: zbus::Error) -> BusError {
        BusError(match error {
            zbus::Error::MethodError(name, text, _) => {
                text.map_or_else(|| name.to_string(), |text| format!("{text} ({name})"))
            }
            other => other.to_string(),
        })
    }
}

impl From<zbus::fdo::Error> for BusError {
    fn from(error: zbus::fdo::Error) -> BusError {
        BusError(error.to_string())
    }
}

impl From<zbus::zvariant::Error> for BusError {
    fn from(error: zbus::zvariant::Error) -> BusError {
        BusError(error.to_string())
    }
}

/// A property of a unit that is to be started.
pub(super) type Property = (&'static str, Value<'static>);

/// A unit in one line of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    /// its name
    pub(super) name: String,
    /// `active`, `failed`, ..
    pub(super) active: String,
    /// `running`, `auto-restart`, ..
    pub(super) sub: String,
    /// something is to be done with it
    pub(super) job: bool,
    /// where its properties are
    pub(super) path: OwnedObjectPath,
}

type Line = (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);

/// A connection to systemd.
#[derive(Clone, Debug)]
pub(super) struct Bus {
    connection: Connection,
}

impl Bus {
    /// Connects to the bus of `scope`, where systemd has its name.
    pub(super) fn open(scope: Scope) -> Result<Bus, BusError> {
        let builder = match scope {
            Scope::System => Builder::system()?,
            Scope::User => Builder::session()?,
        };
        let connection = builder.method_timeout(PATIENCE).build()?;
        let bus = Bus { connection };
        // one that has just brought the bus up is there in a moment
        let deadline = clock::after(BOOT);
        let proxy = DBusProxy::new(&bus.connection)?;
        let name = BusName::try_from(NAME).map_err(zbus::Error::from)?;
        while !proxy.name_has_owner(name.clone())? {
            if clock::until(deadline).is_zero() {
                return Err(BusError("it is not on this bus".to_owned()));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(bus)
    }

    /// Calls `each` from now on, on a thread of its own, with every signal about a unit that is followed, until the
    /// connection is closed; then `over`.
    pub(super) fn watch(
        &self,
        each: impl Fn() + Send + 'static,
        over: impl FnOnce() + Send + 'static,
    ) -> Result<(), BusError> {
        let messages = MessageIterator::from(&self.connection);
        self.manager("Subscribe", &())?;
        std::thread::spawn(move || {
            for message in messages {
                let Ok(message) = message else { break };
                if message.message_type() == Type::Signal {
                    each();
                }
            }
            over();
        });
        Ok(())
    }

    /// Has the signals about the unit `name` sent to us from now on, and no others: what happens to the other units
    /// of the machine wakes nobody.
    pub(super) fn follow(&self, name: &str) -> Result<(), BusError> {
        let proxy = DBusProxy::new(&self.connection)?;
        rules(name)?.into_iter().try_for_each(|rule| Ok(proxy.add_match_rule(rule)?))
    }

    /// The opposite.
    pub(super) fn leave(&self, name: &str) -> Result<(), BusError> {
        let proxy = DBusProxy::new(&self.connection)?;
        rules(name)?.into_iter().try_for_each(|rule| Ok(proxy.remove_match_rule(rule)?))
    }

    /// Ends the connection and whoever watches it.
    pub(super) fn close(&self) {
        let _ = self.connection.clone().close();
    }

    /// Makes the unit `name` of `properties` and has it started.
    pub(super) fn start(&self, name: &str, properties: Vec<Property>) -> Result<(), BusError> {
        let others: Vec<(&str, Vec<Property>)> = Vec::new();
        self.manager("StartTransientUnit", &(name, "fail", properties, others)).map(drop)
    }

    /// Has the unit `name` started, which has been made before: it stays as long as another one names it.
    pub(super) fn start_again(&self, name: &str) -> Result<(), BusError> {
        self.manager("StartUnit", &(name, "replace")).map(drop)
    }

    /// Has the unit stopped as its properties say.
    pub(super) fn stop(&self, name: &str) -> Result<(), BusError> {
        self.manager("StopUnit", &(name, "replace")).map(drop)
    }

    /// Has the unit started now, where it waits for that.
    pub(super) fn restart(&self, name: &str) -> Result<(), BusError> {
        self.manager("RestartUnit", &(name, "replace")).map(drop)
    }

    /// Sends `signal` to the main process of the unit, or to all that are left of it.
    pub(super) fn kill(&self, name: &str, whom: &str, signal: i32) -> Result<(), BusError> {
        self.manager("KillUnit", &(name, whom, signal)).map(drop)
    }

    /// Forgets that the unit has failed, and with that the unit.
    pub(super) fn forget(&self, name: &str) -> Result<(), BusError> {
        self.manager("ResetFailedUnit", &(name,)).map(drop)
    }

    /// The units `names`, also those that are not there.
    pub(super) fn units(&self, names: &[&str]) -> Result<Vec<Listed>, BusError> {
        self.list(&self.manager("ListUnitsByNames", &(names,))?)
    }

    /// The units whose names match `pattern`.
    pub(super) fn units_like(&self, pattern: &str) -> Result<Vec<Listed>, BusError> {
        let states: [&str; 0] = [];
        self.list(&self.manager("ListUnitsByPatterns", &(&states[..], &[pattern][..]))?)
    }

    fn list(&self, message: &Message) -> Result<Vec<Listed>, BusError> {
        let lines: Vec<Line> = message.body().deserialize().map_err(BusError::from)?;
        let line = |(name, _, _, active, sub, _, path, job, _, _): Line| Listed {
            name,
            active,
            sub,
            job: job != 0,
            path,
        };
        Ok(lines.into_iter().map(line).collect())
    }

    /// A property of a service.
    pub(super) fn property<T>(&self, unit: &Listed, name: &str) -> Result<T, BusError>
    where
        T: TryFrom<OwnedValue>,
    {
        self.property_of(unit, SERVICE, name)
    }

    /// A property that every unit has.
    pub(super) fn unit_property<T>(&self, unit: &Listed, name: &str) -> Result<T, BusError>
    where
        T: TryFrom<OwnedValue>,
    {
        self.property_of(unit, UNIT, name)
    }

    fn property_of<T>(&self, unit: &Listed, interface: &str, name: &str) -> Result<T, BusError>
    where
        T: TryFrom<OwnedValue>,
    {
        let path: ObjectPath<'_> = unit.path.as_ref();
        let answer =
            self.connection.call_method(Some(NAME), path, Some(PROPERTIES), "Get", &(interface, name))?;
        let value: OwnedValue = answer.body().deserialize().map_err(BusError::from)?;
        T::try_from(value).map_err(|_| BusError(format!("{}: {name} is of another type", unit.name)))
    }

    /// Which systemd it is: `252` of `252.38-1~deb12u1`.
    pub(super) fn version(&self) -> Result<u32, BusError> {
        let answer =
            self.connection.call_method(Some(NAME), PATH, Some(PROPERTIES), "Get", &(MANAGER, "Version"))?;
        let value: OwnedValue = answer.body().deserialize().map_err(BusError::from)?;
        let text = String::try_from(value).map_err(zbus::Error::from)?;
        let digits: String = text.trim_start_matches('v').chars().take_while(char::is_ascii_digit).collect();
        digits.parse().map_err(|_| BusError(format!("a version {text}")))
    }

    fn manager<B>(&self, method: &str, body: &B) -> Result<Message, BusError>
    where
        B: serde::Serialize + DynamicType,
    {
        Ok(self.connection.call_method(Some(NAME), PATH, Some(MANAGER), method, body)?)
    }
}

/// The signals that tell of the unit `name`: its properties change, or it is gone.
fn rules(name: &str) -> Result<[MatchRule<'static>; 2], BusError> {
    let signal = || MatchRule::builder().msg_type(Type::Signal).sender(NAME);
    let path = format!("/org/freedesktop/systemd1/unit/{}", label(name));
    let changes = signal()?.interface(PROPERTIES)?.member("PropertiesChanged")?.path(path)?;
    let removed = signal()?.interface(MANAGER)?.member("UnitRemoved")?.arg(0, name.to_owned())?;
    Ok([changes.build(), removed.build()])
}

/// A unit's name as part of an object path: everything but letters and digits is `_xx`.
fn label(name: &str) -> String {
    let letter = |byte: u8| match byte {
        b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => char::from(byte).to_string(),
        other => format!("_{other:02x}"),
    };
    name.bytes().map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d2_a_units_name_is_escaped_in_paths() {
        assert_eq!(label("pointsman-a@1"), "pointsman_2da_401");
    }
}
