//! What must not be done: activating anything while the service is frozen, activating what was rolled back from,
//! starting anything while the service is stopped.

use std::collections::HashSet;

use super::error::StoreError;
use super::open::{Store, Writer};
use crate::fsx;
use crate::model::{GenerationId, Veto};

const FROZEN: &str = "frozen";
const STOPPED: &str = "stopped";
const LARGEST: u64 = 64 << 10;

impl Store {
    /// Since when, by whom and why nothing may be activated; `None`: everything may.
    pub fn frozen(&self) -> Result<Option<Veto>, StoreError> {
        self.veto(FROZEN)
    }

    /// Who rolled back from generation `id`, and when; `None`: nobody.
    pub fn rejected(&self, id: GenerationId) -> Result<Option<Veto>, StoreError> {
        self.veto(&format!("rejected/{id}"))
    }

    /// Since when, by whom and why nothing may be started; `None`: everything may.
    pub fn stopped(&self) -> Result<Option<Veto>, StoreError> {
        self.veto(STOPPED)
    }

    /// Every generation that somebody rolled back from, without a look at who and when.
    pub(super) fn rejected_ids(&self) -> Result<HashSet<GenerationId>, StoreError> {
        let names = self.part("rejected")?.names().map_err(StoreError::io("list what was rejected"))?;
        // what is no id is a temporary file
        Ok(names.iter().filter_map(|name| name.to_str()?.parse().ok()).collect())
    }

    fn veto(&self, name: &str) -> Result<Option<Veto>, StoreError> {
        let read = fsx::optional(self.root.read(name, LARGEST)).map_err(StoreError::io("read a veto"))?;
        let Some(text) = read else { return Ok(None) };
        serde_json::from_slice(&text).map(Some).map_err(|e| StoreError::damaged(None, name, &e))
    }
}

impl Writer {
    /// Freezes the service; the latest freeze counts. Durable after `Ok`.
    pub fn freeze(&self, veto: &Veto) -> Result<(), StoreError> {
        self.root.replace_file(FROZEN, &json(veto), 0o644).map_err(StoreError::io("freeze"))
    }

    /// Takes the freeze away; `false` where there was none. Durable after `Ok`.
    pub fn thaw(&self) -> Result<bool, StoreError> {
        self.take_away(FROZEN, "thaw")
    }

    /// Says that nothing may be started; the first stop counts. Durable after `Ok`, also where the disk is full and
    /// space was set aside.
    pub fn stop(&self, veto: &Veto) -> Result<(), StoreError> {
        let io = StoreError::io("stop");
        if self.root.exists(STOPPED).map_err(&io)? {
            return self.root.sync().map_err(io);
        }
        let write = || self.root.replace_file(STOPPED, &json(veto), 0o644);
        self.with_reserve(write).map_err(io)
    }

    /// Takes that away, whatever it says; `false` where it was not there. Durable after `Ok`.
    pub fn unstop(&self) -> Result<bool, StoreError> {
        self.take_away(STOPPED, "take the stop away")
    }

    fn take_away(&self, name: &str, doing: &'static str) -> Result<bool, StoreError> {
        let io = StoreError::io(doing);
        if fsx::optional(self.root.remove_file(name)).map_err(&io)?.is_none() {
            return Ok(false);
        }
        self.root.sync().map(|()| true).map_err(io)
    }

    /// Marks generation `id`, whether it is in the store or not, as one that must not be activated again
    /// without force. Durable after `Ok`.
    pub fn reject(&self, id: GenerationId, veto: &Veto) -> Result<(), StoreError> {
        let rejected = self.part("rejected")?;
        let write = || rejected.replace_file(&id.to_string(), &json(veto), 0o644);
        self.with_reserve(write).map_err(StoreError::io("reject a generation"))
    }

    /// Takes the mark away. Durable after `Ok`.
    pub fn pardon(&self, id: GenerationId) -> Result<(), StoreError> {
        let io = StoreError::io("pardon a generation");
        let rejected = self.part("rejected")?;
        match fsx::optional(rejected.remove_file(id.to_string())).map_err(&io)? {
            Some(()) => rejected.sync().map_err(io),
            None => Ok(()),
        }
    }
}

fn json(veto: &Veto) -> Vec<u8> {
    (serde_json::to_string(veto).expect("vetoes have string keys only") + "\n").into_bytes()
}
