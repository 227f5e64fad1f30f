// Small DOM verbs. Text goes in as text nodes only: nothing here, or anywhere on the page, parses HTML.

/** The element with this id. */
export const byId = (id) => document.getElementById(id);

/** A new element with class, attributes and children (strings become text). */
export function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Sets text where it differs, so that an unchanged page costs no layout. */
export function setText(element, text) {
  const wanted = String(text);
  if (element.textContent !== wanted) element.textContent = wanted;
}

/** Sets an attribute where it differs; `null` removes it. */
export function setAttribute(element, name, value) {
  if (value === null) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

const drawn = new WeakMap();

/**
 * Makes `parent` hold one element per item, in order: known keys are updated in place, new ones
 * created, gone ones removed. `create(item)` answers `{ root, update(item) }`; it runs once per key, so
 * whatever changes from draw to draw must come with the item.
 */
export function keep(parent, items, keyOf, create) {
  let known = drawn.get(parent);
  if (!known) {
    known = new Map();
    drawn.set(parent, known);
    parent.replaceChildren();
  }
  const wanted = new Set(items.map(keyOf));
  for (const [key, part] of known) {
    if (!wanted.has(key)) {
      part.root.remove();
      known.delete(key);
    }
  }
  let at = parent.firstChild;
  for (const item of items) {
    const key = keyOf(item);
    let part = known.get(key);
    if (!part) {
      part = create(item);
      known.set(key, part);
    }
    if (part.root === at) at = at.nextSibling;
    else parent.insertBefore(part.root, at);
    part.update(item);
  }
}
