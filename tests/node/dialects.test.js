// Keeps docs/DIALECTS.md true: each mark links to a test that exists and shows just that.

import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { describe, test } from "node:test";
import { fileURLToPath } from "node:url";

import { KINDS } from "./stage.js";

const HERE = dirname(fileURLToPath(import.meta.url));
const DOCS = join(HERE, "../../docs");
const PAGE = readFileSync(join(DOCS, "DIALECTS.md"), "utf8");
const COLUMNS = ["openai", "anthropic", "gemini", "llama"];
const CELL = /^\[(✓|◐|bytes|estimate|400 `([^`]+)`)\]\(([^)]+)\)$/;
const GOLDEN_LINK = /golden\/([a-z]+)-([a-z]+)\/(\w+)\.json$/;

/** The dialect each section is about, with its rows of features. */
function sections() {
  return PAGE.split(/^## /m).flatMap((section) => {
    const client = /^(\w+) clients\n/.exec(section)?.[1].toLowerCase();
    if (!client) return [];
    const rows = section.split("\n").filter((line) => line.startsWith("| ") && !line.startsWith("| **"));
    const [head, ...features] = rows.map((line) => line.slice(2, -2).split(/ ?\| /).map((cell) => cell.trim()));
    assert.deepEqual(head, ["feature", ...COLUMNS, "official client"]);
    return [{ client, features }];
  });
}

/** What a golden case says of its request. */
function mark(file) {
  const sends = JSON.parse(readFileSync(file, "utf8")).sends ?? {};
  if (sends.refuses) return `400 \`${sends.refuses.param}\``;
  return sends.dropped ? "◐" : "✓";
}

function checkCell(cell, client, kind, title) {
  const [, word, , link] = CELL.exec(cell) ?? assert.fail(`\`${cell}\` is no mark with a link`);
  const file = join(DOCS, link);
  assert.ok(existsSync(file), `${link} does not exist`);
  const golden = GOLDEN_LINK.exec(link);
  if (golden) {
    assert.deepEqual([golden[1], golden[2]], [client, kind], `${link} is about other dialects`);
    assert.equal(word, mark(file), link);
  } else if (word === "bytes") {
    assert.ok(kind === client || (kind === "llama" && client === "openai"), "bytes pass between equal dialects only");
  } else if (link.endsWith(".test.js")) {
    assert.ok(title, "a mark by an official client's test names that test");
  }
}

describe("docs/DIALECTS.md", () => {
  assert.deepEqual([...COLUMNS].sort(), [...KINDS].sort());
  const found = sections();

  test("has a table for each dialect of clients", () => {
    assert.deepEqual(found.map(({ client }) => client), ["openai", "anthropic", "gemini"]);
  });

  for (const { client, features } of found) {
    test(`each mark of ${client} clients agrees with its test`, () => {
      assert.ok(features.length > 20);
      const source = readFileSync(join(HERE, `${client}.test.js`), "utf8").replaceAll("${status}", "429");
      for (const [feature, ...cells] of features) {
        const title = cells[COLUMNS.length];
        if (title) assert.ok(source.includes(title), `${feature}: no test \`${title}\``);
        COLUMNS.forEach((kind, column) => {
          if (cells[column]) checkCell(cells[column], client, kind, title);
        });
      }
    });
  }
});
