//! The models of a backend: names, aliases, and what the table of models knows of them.

use super::Check;
use crate::config::file::{ModelEntry, ModelFile, PriceFile, RatesFile};
use crate::config::path::Path;
use llm_router_logic::backend::{Kind, ServedModel};
use llm_router_logic::capability::Capabilities;
use llm_router_logic::cost::price::{
    Listed, PriceRow, PriceTable, Rates, TIERS_MAX, Tier, TokenPrice, batch_ppm,
};
use llm_router_logic::request::ANY_MODEL;
use std::collections::BTreeMap;

/// Longest name of a model.
const MODEL_NAME_CHARS_MAX: usize = 256;

impl Check<'_> {
    /// The models of a cluster.
    pub(super) fn cluster_models(
        &mut self,
        at: &Path,
        models: Option<Vec<Option<ModelFile>>>,
    ) -> Vec<ServedModel> {
        let mut served = Vec::new();
        for (at, entry) in self.model_entries(at, models) {
            if entry.price.is_some() {
                self.findings.warning(&at.key("price"), "not used: a cluster costs what `costPerHour` says");
            }
            served.extend(self.model(&at, entry, None));
        }
        served
    }

    /// The models of a provider, each with its price where one is known. `elsewhere` says that it is not
    /// the provider's own address, where others may set the prices.
    pub(super) fn provider_models(
        &mut self,
        at: &Path,
        models: Option<Vec<Option<ModelFile>>>,
        default: Option<&str>,
        kind: Kind,
        prices: &PriceTable,
        elsewhere: bool,
    ) -> Vec<ServedModel> {
        let mut entries = self.model_entries(&at.key("models"), models);
        if let (true, Some(default)) = (entries.is_empty(), default) {
            let entry = ModelEntry { name: Some(default.to_owned()), ..ModelEntry::default() };
            entries.push((at.key("defaultModel"), entry));
        }
        let mut served = Vec::new();
        for (at, entry) in entries {
            let known = entry.name.as_deref().and_then(|name| prices.lookup(kind, name));
            let priced = entry.price.is_some();
            let Some(model) = self.model(&at, entry, known) else {
                continue;
            };
            // A wrong price has been reported: that it is missing then is no news.
            if model.price.is_none() && !priced {
                let name = &model.name;
                self.findings.warning(
                    &at,
                    format!("the price of `{name}` is not known, so it is never chosen on cost (add `price` or a `pricesFile`)"),
                );
            } else if elsewhere && !priced {
                self.findings.warning(
                    &at,
                    format!("`{}` is taken to cost what its maker charges (add `price` if this address charges otherwise)", model.name),
                );
            }
            served.push(model);
        }
        served
    }

    fn model_entries(
        &mut self,
        at: &Path,
        models: Option<Vec<Option<ModelFile>>>,
    ) -> Vec<(Path, ModelEntry)> {
        let mut entries = Vec::new();
        for (index, model) in models.unwrap_or_default().into_iter().enumerate() {
            let at = at.index(index);
            match model {
                Some(ModelFile(entry)) => entries.push((at, entry)),
                None => self.findings.problem(&at, "is empty (fill it in or remove it)"),
            }
        }
        entries
    }

    fn model(&mut self, at: &Path, entry: ModelEntry, known: Option<&PriceRow>) -> Option<ServedModel> {
        let name = self.required(&at.key("name"), entry.name, "llama-3.1-8b")?;
        self.model_name(at, &name);
        let mut aliases = Vec::new();
        for (at, alias) in self.texts(&at.key("aliases"), entry.aliases) {
            self.model_name(&at, &alias);
            aliases.push(alias);
        }
        let context_window = self.count(&at.key("contextWindow"), entry.context_window);
        let price = entry.price.map(|price| self.price(&at.key("price"), &price));
        let stated = self.capabilities(&at.key("capabilities"), entry.capabilities);
        Some(ServedModel {
            name: name.into(),
            aliases,
            context_window: context_window.or(known.and_then(|row| row.context_window)),
            price: price.unwrap_or(known.map(|row| row.price)),
            capabilities: known.map_or(stated.clone(), |row| stated.union(&row.capabilities)),
        })
    }

    fn model_name(&mut self, at: &Path, name: &str) {
        let length = name.chars().count();
        if name.trim() != name
            || length == 0
            || length > MODEL_NAME_CHARS_MAX
            || name.chars().any(char::is_control)
        {
            self.findings.problem(
                at,
                format!("a model's name has 1 to {MODEL_NAME_CHARS_MAX} characters, no outer blanks and no line breaks"),
            );
        } else if name == ANY_MODEL {
            self.findings.problem(
                at,
                format!("`{ANY_MODEL}` leaves the choice to the router and cannot name a model"),
            );
        }
    }

    fn price(&mut self, at: &Path, price: &PriceFile) -> Option<TokenPrice> {
        let rates = self.rates(at, &price.rates());
        let tiers_at = at.key("tiers");
        let entries = price.tiers.as_deref().unwrap_or_default();
        if entries.len() > TIERS_MAX {
            self.findings.problem(&tiers_at, format!("has more than {TIERS_MAX} entries"));
        }
        let mut tiers: [Option<Tier>; TIERS_MAX] = [None; TIERS_MAX];
        let mut above = 0;
        for (index, (place, entry)) in tiers.iter_mut().zip(entries).enumerate() {
            let at = tiers_at.index(index);
            let Some(entry) = entry else {
                self.findings.problem(&at, "is empty (fill it in or remove it)");
                continue;
            };
            let Some(tokens) = self.required(&at.key("aboveTokens"), entry.above_tokens, "200000") else {
                continue;
            };
            if u64::from(tokens) <= above {
                self.findings.problem(&at.key("aboveTokens"), "must rise from one tier to the next");
            }
            above = u64::from(tokens);
            let rates = self.rates(&at, &entry.rates())?;
            *place = Some(Tier { above_tokens: above, rates });
        }
        let batch_ppm = match price.batch.map(batch_ppm).transpose() {
            Ok(share) => share,
            Err(_) => {
                self.findings.problem(&at.key("batch"), "must be a share from 0 to 1");
                None
            }
        };
        Some(TokenPrice { rates: rates?, tiers, batch_ppm, table: 0 })
    }

    fn rates(&mut self, at: &Path, file: &RatesFile) -> Option<Rates> {
        let input = self.required(&at.key("input"), file.input, "0.5");
        let output = self.required(&at.key("output"), file.output, "1.5");
        let classes = [
            ("input", input),
            ("output", output),
            ("cachedRead", file.cached_read),
            ("cacheWrite", file.cache_write),
            ("cacheWrite1h", file.cache_write_1h),
            ("reasoning", file.reasoning),
            ("image", file.image),
        ];
        let mut good = true;
        for (key, usd) in classes {
            good &= usd.is_none() || self.dollars(&at.key(key), usd).is_some();
        }
        let listed = Listed {
            input: input?,
            cached_read: file.cached_read,
            cache_write: file.cache_write,
            cache_write_1h: file.cache_write_1h,
            output: output?,
            reasoning: file.reasoning,
            image: file.image,
        };
        listed.rates().ok().filter(|_| good)
    }

    /// Capability words.
    pub(super) fn capabilities(&mut self, at: &Path, words: Option<Vec<Option<String>>>) -> Capabilities {
        let words = self.texts(at, words);
        for (at, word) in &words {
            self.name(at, word.trim());
        }
        Capabilities::new(words.into_iter().map(|(_, word)| word))
    }

    /// That no two models of one backend answer to the same name, and that the default is one of them.
    pub(super) fn model_names(&mut self, at: &Path, models: &[ServedModel], default: Option<&str>) {
        let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
        for model in models {
            for name in std::iter::once(&*model.name).chain(model.aliases.iter().map(String::as_str)) {
                if let Some(owner) = owners.insert(name, &model.name) {
                    self.findings.problem(
                        &at.key("models"),
                        format!(
                            "the name `{name}` is given twice, at `{owner}` and at `{}` (remove one)",
                            model.name
                        ),
                    );
                }
            }
        }
        if let Some(default) = default
            && !owners.is_empty()
            && !owners.contains_key(default)
        {
            let names: Vec<String> = models.iter().map(|model| format!("`{}`", model.name)).collect();
            self.findings.problem(
                &at.key("defaultModel"),
                format!("`{default}` is not in `models` (add it, or use one of {})", names.join(", ")),
            );
        }
    }
}
