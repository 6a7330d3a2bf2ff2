// The whole life of imports by a client that openapi-typescript has generated. Prints the number of published rows.
// Arguments: the service's URL, the URL of a valid file, the URL of a file with a bad row.
import assert from "node:assert/strict";
import createClient from "openapi-fetch";
import type { components, paths } from "./schema.js";

type Import = components["schemas"]["Import"];

const [service, source, badSource] = process.argv.slice(2);
assert(service && source && badSource);
const client = createClient<paths>({ baseUrl: service });

async function submit(url: string): Promise<Import> {
  const { data, error } = await client.POST("/imports", { body: { url, mode: "append" } });
  assert(data, JSON.stringify(error));
  assert.equal(data.state, "queued");
  return data;
}

async function untilEnded(found: Import): Promise<Import> {
  while (!["succeeded", "failed", "cancelled"].includes(found.state)) {
    const { data, error } = await client.GET("/imports/{import_id}", {
      params: { path: { import_id: found.id }, query: { wait: 30, after: found.version } },
    });
    assert(data, JSON.stringify(error));
    found = data;
  }
  return found;
}

// An event stream ends with its import.
async function eventsOf(id: string): Promise<Import[]> {
  const { data } = await client.GET("/imports/{import_id}/events", {
    params: { path: { import_id: id } },
    parseAs: "text",
  });
  const text: unknown = data;
  assert(typeof text === "string");
  return [...text.matchAll(/^data: (.*?)\r?$/gm)].map((match) => JSON.parse(match[1] ?? "") as Import);
}

const refused = await client.POST("/imports", { body: { url: "ftp://localhost/trips.csv" } });
assert.equal(refused.response.status, 422);
assert.equal(refused.error?.code, "invalid_url");

const submitted = await submit(source);
const events = await eventsOf(submitted.id);
assert.equal(events.at(-1)?.state, "succeeded");
const succeeded = await untilEnded(submitted);
assert(succeeded.receipt);
assert(!Number.isNaN(Date.parse(succeeded.created_at)));
const tooLate = await client.POST("/imports/{import_id}/cancel", {
  params: { path: { import_id: succeeded.id } },
});
assert.equal(tooLate.error?.state, "succeeded");

const failed = await untilEnded(await submit(badSource));
assert.equal(failed.state, "failed");
assert.equal(failed.error?.code, "bad_row");
const path = { import_id: failed.id };
const retried = await client.POST("/imports/{import_id}/retry", { params: { path } });
assert(retried.data, JSON.stringify(retried.error));
assert.equal(retried.data.state, "queued");
assert.equal((await untilEnded(retried.data)).state, "failed");
const attempts = await client.GET("/imports/{import_id}/attempts", { params: { path } });
assert.equal(attempts.data?.attempts.length, 2);

const rejects = await client.GET("/imports/{import_id}/rejects", {
  params: { path: { import_id: succeeded.id } },
});
assert.deepEqual(rejects.data, []);

const listed: string[] = [];
let cursor: string | null = null;
do {
  const page: { data?: components["schemas"]["ImportPage"] } = await client.GET("/imports", {
    params: { query: cursor === null ? { limit: 1 } : { limit: 1, cursor } },
  });
  assert(page.data);
  listed.push(...page.data.imports.map((each) => each.id));
  cursor = page.data.next_cursor;
} while (cursor !== null);
assert.deepEqual(listed.slice(0, 2), [failed.id, succeeded.id]);

const removed = await client.DELETE("/imports/{import_id}", { params: { path } });
assert.equal(removed.data?.state, "removing");
const kept = await client.DELETE("/imports/{import_id}", { params: { path: { import_id: succeeded.id } } });
assert.equal(kept.error?.code, "has_rows");
const dropped = await client.DELETE("/imports/{import_id}", {
  params: { path: { import_id: succeeded.id }, query: { rows: "drop" } },
});
assert.equal(dropped.data?.state, "removing");
console.log(succeeded.receipt.rows_published);
