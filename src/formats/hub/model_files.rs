//! Which files of a repository make a model: those that [`crate::formats::hf_folder`] reads, or one GGUF file.

use std::path::PathBuf;

use super::http::Client;
use super::repository::{Listing, Repository};
use crate::error::{Error, Result};
use crate::formats::hf_folder::{
    CHAT_TEMPLATE, CONFIG, GENERATION_CONFIG, TOKENIZER, TOKENIZER_CONFIG, WEIGHTS, WEIGHTS_INDEX, shard_names,
};
use crate::formats::peft::ADAPTER_CONFIG;

/// Fetched where the repository has them. The last one is not read here; other programs that share the cache look for it.
const OPTIONAL: [&str; 5] = [GENERATION_CONFIG, TOKENIZER, TOKENIZER_CONFIG, CHAT_TEMPLATE, "special_tokens_map.json"];
/// They can run code when they are read.
const PICKLE_ENDINGS: [&str; 5] = [".bin", ".pt", ".pth", ".ckpt", ".pkl"];
/// Names in a hint.
const MAX_LISTED: usize = 20;

/// How sure a cached model has to be.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Completeness {
    /// Nothing that the repository has is missing.
    Certain,
    /// It can be used. Another program may have left out what it did not need.
    Usable,
}

impl Repository<'_> {
    /// The model as the cache has it at a commit, or the names of what is missing.
    pub fn cached_model(&self, commit: &str, wanted: Completeness) -> std::result::Result<PathBuf, Vec<String>> {
        let cache = &self.cache;
        if let Some(file) = &self.address.path {
            return cache.file(commit, file).ok_or_else(|| vec![file.clone()]);
        }
        let is_missing = |name: &str| cache.file(commit, name).is_none();
        let mut missing: Vec<String> = Vec::new();
        missing.extend(is_missing(CONFIG).then(|| CONFIG.to_owned()));
        let asked_for = OPTIONAL.iter().filter(|name| wanted == Completeness::Certain || **name == TOKENIZER);
        let unknown = asked_for.filter(|name| is_missing(name) && !cache.is_absent(commit, name));
        missing.extend(unknown.map(|name| (*name).to_owned()));
        if is_missing(WEIGHTS) {
            match shard_names(&cache.snapshot(commit)) {
                Ok(Some(shards)) => missing.extend(shards.into_iter().filter(|shard| is_missing(shard))),
                Ok(None) => missing.push(WEIGHTS.to_owned()),
                Err(_) => missing.push(WEIGHTS_INDEX.to_owned()),
            }
        }
        if missing.is_empty() { Ok(cache.snapshot(commit)) } else { Err(missing) }
    }

    /// Fetches what the cache lacks of a model.
    ///
    /// # Errors
    /// [`Error::Input`] for a repository without weights that are read; as [`Repository::fetch_all`].
    pub fn fetch_model(&self, client: &Client, listing: &Listing) -> Result<PathBuf> {
        let commit = &listing.commit;
        if let Some(file) = &self.address.path {
            if !listing.files.contains(file) {
                return Err(self.has_no_file(listing, file));
            }
            self.fetch_all(client, commit, std::slice::from_ref(file))?;
            return Ok(self.cache.snapshot(commit).join(file));
        }
        let has = |name: &str| listing.files.contains(name);
        if !has(CONFIG) || !(has(WEIGHTS) || has(WEIGHTS_INDEX)) {
            return Err(self.no_model(listing));
        }
        let weights = if has(WEIGHTS) { WEIGHTS } else { WEIGHTS_INDEX };
        let (there, absent): (Vec<&str>, Vec<&str>) = OPTIONAL.iter().partition(|name| has(name));
        let mut names: Vec<String> =
            [&[CONFIG], &there[..], &[weights]].concat().into_iter().map(str::to_owned).collect();
        let single = if weights == WEIGHTS { names.pop() } else { None };
        self.fetch_all(client, commit, &names)?;
        let weights = match single {
            Some(single) => vec![single],
            None => self.shards(listing)?,
        };
        self.fetch_all(client, commit, &weights)?;
        absent.into_iter().for_each(|name| self.cache.set_absent(commit, name));
        Ok(self.cache.snapshot(commit))
    }

    /// The files that the fetched index names; each is checked to be one of the repository.
    fn shards(&self, listing: &Listing) -> Result<Vec<String>> {
        let shards = shard_names(&self.cache.snapshot(&listing.commit))?.unwrap_or_default();
        match shards.iter().find(|shard| !listing.files.contains(*shard)) {
            Some(shard) => {
                Err(self.refused(format!("names `{shard}`, which the repository does not have")).at(WEIGHTS_INDEX))
            }
            None => Ok(shards),
        }
    }

    fn no_model(&self, listing: &Listing) -> Error {
        let ending_in = |endings: &[&str]| -> Vec<&String> {
            listing.files.iter().filter(|name| endings.iter().any(|ending| name.ends_with(ending))).collect()
        };
        let (gguf, pickle) = (ending_in(&[".gguf"]), ending_in(&PICKLE_ENDINGS));
        if !gguf.is_empty() {
            let addresses: Vec<String> = gguf.iter().map(|name| format!("{}/{name}", self.address)).collect();
            return self
                .refused("the repository has no model in safetensors files, but GGUF files")
                .with_hint(format!("name the file that you want: {}", listed(&addresses)));
        }
        if listing.files.contains(ADAPTER_CONFIG) {
            return self
                .refused("the repository holds an adapter, not a model")
                .with_hint("merge it into its base model with `peft`: model.merge_and_unload().save_pretrained(DIR)");
        }
        if let Some(name) = pickle.first() {
            return self.refused(format!("the repository has its weights in pickle files alone ({name})")).with_hint(
                "pickle files can run code and are never fetched; look on its page for a revision with safetensors \
                 (refs/pr/N), or convert it with `transformers`: \
                 AutoModelForCausalLM.from_pretrained(ID).save_pretrained(DIR)",
            );
        }
        self.refused(format!("the repository has no {CONFIG} with {WEIGHTS} or {WEIGHTS_INDEX}"))
            .with_hint("a model of `transformers` has them; is it one?")
    }

    /// A file was asked for that is not there: those of its kind that are.
    pub fn has_no_file(&self, listing: &Listing, file: &str) -> Error {
        let ending = file.rsplit_once('.').map_or("", |(_, ending)| ending);
        let alike: Vec<String> = listing.files.iter().filter(|name| name.ends_with(ending)).cloned().collect();
        let error = self.refused("no such file or folder here, nor in this repository of the hub");
        match alike.is_empty() {
            true => error,
            false => error.with_hint(format!("it has {}", listed(&alike))),
        }
    }
}

/// The first names, and how many more there are.
pub(super) fn listed(names: &[String]) -> String {
    let shown = names[..names.len().min(MAX_LISTED)].join(", ");
    if names.len() > MAX_LISTED { format!("{shown} and {} more", names.len() - MAX_LISTED) } else { shown }
}
