//! A price as the ledger keeps it: whole pico-dollars in JSON, so that a charge can be computed again.

use llm_router_logic::cost::price::{Rates, TIERS_MAX, Tier, TokenPrice};
use llm_router_logic::money::Money;
use serde_json::{Value, json};

fn rates(rates: &Rates) -> Value {
    let pico = |money: Money| i64::try_from(money.pico()).unwrap_or(i64::MAX);
    json!({
        "input": pico(rates.input), "cached_read": pico(rates.cached_read),
        "cache_write": pico(rates.cache_write), "cache_write_1h": pico(rates.cache_write_1h),
        "output": pico(rates.output), "reasoning": pico(rates.reasoning), "image": pico(rates.image),
    })
}

/// The JSON of a price.
pub(super) fn write(price: &TokenPrice) -> Value {
    let tiers: Vec<Value> = price
        .tiers
        .iter()
        .flatten()
        .map(|tier| json!({"above_tokens": tier.above_tokens, "pico_per_token": rates(&tier.rates)}))
        .collect();
    json!({"pico_per_token": rates(&price.rates), "tiers": tiers, "batch_ppm": price.batch_ppm})
}

/// The price of such a JSON; `None` where it is none.
pub(super) fn read(text: &str) -> Option<TokenPrice> {
    let value: Value = serde_json::from_str(text).ok()?;
    let read_rates = |value: &Value| {
        let class = |name: &str| Some(Money::from_pico(value.get(name)?.as_i64()?.into()));
        Some(Rates {
            input: class("input")?,
            cached_read: class("cached_read")?,
            cache_write: class("cache_write")?,
            cache_write_1h: class("cache_write_1h")?,
            output: class("output")?,
            reasoning: class("reasoning")?,
            image: class("image")?,
        })
    };
    let mut tiers: [Option<Tier>; TIERS_MAX] = [None; TIERS_MAX];
    for (place, tier) in tiers.iter_mut().zip(value.get("tiers")?.as_array()?) {
        let above_tokens = tier.get("above_tokens")?.as_u64()?;
        *place = Some(Tier { above_tokens, rates: read_rates(tier.get("pico_per_token")?)? });
    }
    let batch_ppm = value.get("batch_ppm").and_then(Value::as_u64).and_then(|ppm| u32::try_from(ppm).ok());
    Some(TokenPrice { rates: read_rates(value.get("pico_per_token")?)?, tiers, batch_ppm, table: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_price_is_read_as_it_was_written() {
        let rates = Rates::flat(Money::from_pico(150_000), Money::from_pico(600_000));
        let tier = Tier { above_tokens: 200_000, rates: Rates { image: Money::from_pico(7), ..rates } };
        for price in [
            TokenPrice { rates, tiers: [Some(tier), None], batch_ppm: Some(500_000), table: 0 },
            TokenPrice::flat(Money::ZERO, Money::ZERO),
        ] {
            assert_eq!(read(&write(&price).to_string()), Some(price));
        }
        assert_eq!(read("{}"), None);
    }
}
