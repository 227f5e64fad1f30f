// One colour per backend, the same in every panel: the hue says the cloud or provider, the shade
// tells siblings apart. Colour is never the only sign: each swatch stands beside its name.

const HUES = ["aws", "gcp", "azure", "openai", "anthropic", "gemini"];
const SHADES = 3;

/** Backend name → class names. */
export function tonesOf(backends) {
  const seen = new Map();
  const tones = new Map();
  for (const { name, provider } of backends) {
    const nth = seen.get(provider) ?? 0;
    seen.set(provider, nth + 1);
    const hue = HUES.includes(provider) ? provider : "other";
    tones.set(name, `tone-${hue} shade-${nth % SHADES}`);
  }
  return tones;
}

/** The colour of a tone for the canvas, the same as the stylesheet's swatch. */
export function colourOf(tone = "") {
  const hue = /tone-(\w+)/.exec(tone)?.[1] ?? "other";
  const shade = /shade-(\d)/.exec(tone)?.[1] ?? "0";
  return `var(--${hue}-${shade})`;
}
