//! Tags: names that a person gave to generations.

use std::collections::BTreeMap;

use super::error::StoreError;
use super::open::{Store, Writer};
use crate::fsx;
use crate::model::{GenerationId, Tag};

impl Store {
    /// Every tag and what it names. A tag whose generation is gone is there all the same.
    pub fn tags(&self) -> Result<BTreeMap<Tag, GenerationId>, StoreError> {
        let mut tags = BTreeMap::new();
        for name in self.part("tags")?.names().map_err(StoreError::io("list the tags"))? {
            // what is no tag's name is a temporary file
            if let Some(tag) = name.to_str().and_then(|name| name.parse::<Tag>().ok())
                && let Some(id) = self.tagged(&tag)?
            {
                tags.insert(tag, id);
            }
        }
        Ok(tags)
    }

    /// What `tag` names; `None` where there is no such tag.
    pub(super) fn tagged(&self, tag: &Tag) -> Result<Option<GenerationId>, StoreError> {
        let name = format!("tags/{tag}");
        let Some(text) = fsx::optional(self.root.read(&name, 256)).map_err(StoreError::io("read a tag"))?
        else {
            return Ok(None);
        };
        let id = std::str::from_utf8(&text).ok().and_then(|text| text.strip_suffix('\n')?.parse().ok());
        id.map(Some).ok_or_else(|| StoreError::damaged(None, name, "it does not hold an id and a newline"))
    }
}

impl Writer {
    /// Makes `tag` name generation `id`, whatever it named before. Durable after `Ok`.
    pub fn tag(&self, tag: &Tag, id: GenerationId) -> Result<(), StoreError> {
        let _lock = self.store_lock().map_err(StoreError::io("write a tag"))?;
        if !self.has(id)? {
            return Err(StoreError::NoSuchGeneration { id });
        }
        let text = format!("{id}\n");
        self.part("tags")?
            .replace_file(tag.as_str(), text.as_bytes(), 0o644)
            .map_err(StoreError::io("write a tag"))
    }

    /// Removes `tag`; its generation stays. Durable after `Ok`.
    pub fn untag(&self, tag: &Tag) -> Result<(), StoreError> {
        let tags = self.part("tags")?;
        let io = StoreError::io("remove a tag");
        match fsx::optional(tags.remove_file(tag.as_str())).map_err(&io)? {
            Some(()) => tags.sync().map_err(io),
            None => Err(StoreError::NoSuchTag { name: tag.to_string() }),
        }
    }
}
